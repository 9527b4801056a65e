import json
from itertools import count

import pytest

from bench.measuring import Bar, Result, describe_machine, new_result, print_result, spread_of, time_interleaved


def test_methods_take_turns_and_each_begins_some_rounds():
    calls: list[str] = []
    methods = {name: lambda name=name: calls.append(name) for name in "abc"}
    time_interleaved(methods, rounds=3, warm_up=0)
    assert "".join(calls) == "abc" + "bca" + "cab"


def test_warm_up_calls_are_not_timed():
    calls: list[str] = []
    times = time_interleaved({"a": lambda: calls.append("a")}, rounds=2, warm_up=4)
    assert len(calls) == 6
    assert len(times["a"]) == 2


def test_a_method_settles_before_each_timed_call():
    calls: list[str] = []
    methods = {name: lambda name=name: calls.append(name) for name in "ab"}
    times = time_interleaved(methods, rounds=1, warm_up=0, settle=2)
    assert "".join(calls) == "aaabbb"
    assert {name: len(own) for name, own in times.items()} == {"a": 1, "b": 1}


def test_times_are_milliseconds_of_the_clock():
    ticks = count()
    times = time_interleaved({"a": lambda: next(ticks), "b": int}, 2, warm_up=0, clock=lambda: next(ticks) / 1000)
    assert times["a"] == pytest.approx([2, 2])
    assert times["b"] == pytest.approx([1, 1])


def test_a_spread_is_median_quartiles_and_extremes():
    assert spread_of([5, 1, 2, 4, 3]) == {"median_ms": 3, "min_ms": 1, "p25_ms": 2, "p75_ms": 4, "max_ms": 5}


def test_a_kept_result_names_the_options_that_say_what_was_measured_and_no_path(tmp_path, monkeypatch):
    given = ["--work", "/some/where", "--methods", "uniform width", "fednas", "--processes", "2", "--seeds", "3"]
    monkeypatch.setattr("sys.argv", ["demo", *given, "-o", "out.json", "--quick"])
    print_result(Result("demo", {}, {}, [], []), [], tmp_path / "out.json")
    kept = json.loads((tmp_path / "out.json").read_text())
    assert kept["command"] == "python -m bench.demo --methods 'uniform width' fednas --seeds 3 --quick"


def test_the_machine_and_versions_are_told():
    assert {"processor", "cores", "system", "python", "load_average_1min"} == set(describe_machine())
    assert set(new_result("b", ["numpy", "no-such-distribution"]).versions) == {"numpy"}


def test_the_last_line_is_one_json_object_and_the_table_goes_to_standard_error(tmp_path, capsys):
    rows = [{"name": "x", "median_ms": 1.25, "times_ms": [1.0, 1.5]}]
    result = Result("demo", {}, {"cores": 2}, rows, [Bar("fast enough", 1.25, 2.0, met=True)])
    print_result(result, ["name", "median_ms"], tmp_path / "out.json")
    captured = capsys.readouterr()
    plain = json.loads(captured.out.splitlines()[-1])
    assert list(plain) == ["bench", "versions", "machine", "rows", "bars"]
    assert plain["bars"] == [{"name": "fast enough", "value": 1.25, "bar": 2.0, "met": True}]
    kept = json.loads((tmp_path / "out.json").read_text())
    assert kept.pop("command").startswith("python -m bench.demo")
    assert len(kept.pop("date")) == len("2026-11-21")
    assert kept == plain
    assert "1.25" in captured.err
    assert "times_ms" not in captured.err
    assert "missed" not in captured.err


def test_a_file_may_leave_columns_out_that_are_printed(tmp_path, capsys):
    result = Result("demo", {}, {}, [{"name": "a", "raw": [1]}, {"name": "b", "raw": [2]}], [])
    print_result(result, ["name"], tmp_path / "out.json", lambda row, name: (row["name"], name) != ("a", "raw"))
    assert json.loads((tmp_path / "out.json").read_text())["rows"] == [{"name": "a"}, {"name": "b", "raw": [2]}]
    assert json.loads(capsys.readouterr().out)["rows"] == result.rows


def test_missed_bars_are_told_on_standard_error(capsys):
    bars = [Bar("small [MiB]", 1.5004, 1.5, met=False), Bar("quick", 3.0, 2.0, met=True), Bar("many", 4, 5, met=False)]
    print_result(Result("demo", {}, {}, [], bars), ["name"])
    captured = capsys.readouterr()
    told = [line for line in captured.err.splitlines() if "missed" in line]
    assert told == ["missed: small [MiB]: 1.5004, bar 1.5", "missed: many: 4, bar 5"]
    assert [bar["met"] for bar in json.loads(captured.out)["bars"]] == [False, True, False]
