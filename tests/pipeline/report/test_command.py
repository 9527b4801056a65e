import hashlib
import json
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from device_runtime.console import build_app, run_program
from pipeline.command_line import PROGRAM
from pipeline.limits import needs_of
from pipeline.report.costs import costs_of, thrown_away
from pipeline.report.formats import percent
from profiles.records import to_plain
from search.algorithm import TuningHistory


def run(*arguments: object):
    result = CliRunner().invoke(build_app(PROGRAM), ["report", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def fail(capsys, *arguments: object) -> tuple[int, str]:
    with pytest.raises(SystemExit) as left:
        run_program(PROGRAM, ["report", *map(str, arguments)])
    captured = capsys.readouterr()
    assert captured.out == ""
    return left.value.code, " ".join(captured.err.split())


def test_it_tells_where_the_page_is_and_what_it_lacks(made, tmp_path):
    made.write_run(tmp_path / "run", made.result())
    told = " ".join(run(tmp_path / "run").split())
    assert (tmp_path / "run" / "report.html").is_file()
    assert "report.html" in told.replace(" ", "")  # a long path is broken
    assert "nothing was shipped yet" in told


def test_json_agrees_with_the_file(made, tmp_path):
    result = made.write_run(tmp_path / "run", made.result())
    written = json.loads(run(tmp_path / "run", "-o", tmp_path / "page.html", "--json"))
    page = (tmp_path / "page.html").read_bytes()
    assert written == {
        "file": str(tmp_path / "page.html"),
        "sha256": hashlib.sha256(page).hexdigest(),
        "size_bytes": len(page),
        "has_bundle": False,
        "platforms": [to_plain(needs) for needs in needs_of(result, result.main)],
    }


@pytest.mark.parametrize("name", ["missing", "empty"])
def test_a_folder_without_a_finished_run_is_wrong_usage(tmp_path, capsys, name):
    (tmp_path / "empty").mkdir()
    code, told = fail(capsys, tmp_path / name)
    assert code == 2
    assert f"{name} has no result.json: name the folder of a finished run" in told


def test_a_bundle_that_is_not_there_is_wrong_usage(made, tmp_path, capsys):
    made.write_run(tmp_path / "run", made.result())
    code, told = fail(capsys, tmp_path / "run", "--bundle", tmp_path / "nowhere")
    assert code == 2
    assert "ship the run with `handheld ship" in told
    assert not (tmp_path / "run" / "report.html").exists()


def test_the_cost_alone_is_a_table_by_phase_and_no_page(made, tmp_path):
    made.write_run(tmp_path / "run", made.result())
    told = [
        [cell.strip() for cell in line.strip("│ ").split("│")] for line in run(tmp_path / "run", "--cost").split("\n")
    ]
    assert ["search", "training", "30", "0", "6.00", "6.00 KiB", "12.0 KiB"] in told
    assert ["test", "", "0", "10", "0.500", "2.00 KiB", "4.00 KiB"] in told
    assert ["all", "", "40", "10", "36.5", "10.0 KiB", "20.0 KiB"] in told
    assert not (tmp_path / "run" / "report.html").exists()


def test_table_and_page_tell_what_bytes_are_counted(made, tmp_path):
    made.write_run(tmp_path / "run", made.result())
    table = " ".join(run(tmp_path / "run", "--cost").split())
    run(tmp_path / "run")
    page = " ".join((tmp_path / "run" / "report.html").read_text(encoding="utf-8").split())
    for told in (table, page):
        assert "that reached the server whole, late, refused and repeated ones too" in told
        assert "check-ins with the assignments that answer them, and aborts are counted nowhere" in told


def test_where_nobody_told_the_time_there_is_a_dash(made, tmp_path):
    made.write_run(tmp_path / "run", made.private_result(kind="real", emulator_only=None))
    told = run(tmp_path / "run", "--cost")
    (row,) = (line for line in told.split("\n") if "training" in line and "│" in line)
    assert [cell.strip() for cell in row.strip("│ ").split("│")][2:5] == ["30", "0", "-"]
    assert "private reports carry no time" in " ".join(told.split())
    assert json.loads(run(tmp_path / "run", "--cost", "--json"))["total"]["client_seconds"] is None
    run(tmp_path / "run")
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert '<td class="number">-</td>' in page
    assert "private reports carry no time" in page


def test_the_rows_of_the_cost_are_json(made, tmp_path):
    result = made.write_run(tmp_path / "run", made.result())
    costs = costs_of(result)
    rows = json.loads(run(tmp_path / "run", "--cost", "--json"))
    assert rows == {
        "stages": to_plain(costs.stages),
        "total": to_plain(costs.total),
        "savings": [],
        "thrown_away": None,
    }


@pytest.mark.parametrize(
    ("is_fresh", "words"),
    [(False, "is in a later trial or in a model"), (True, "No model has any of the rest either: final training began")],
)
def test_the_cost_of_a_joint_search_tells_what_was_thrown_away(made, tmp_path, is_fresh, words):
    tried = made.result().trials[0].candidate.hyper_parameters
    tuned = made.result(tuning=TuningHistory((tried,), ((1.0,),), ("end",)), models=(made.model(is_fresh=is_fresh),))
    result = made.write_run(tmp_path / "run", tuned)
    told = " ".join(run(tmp_path / "run", "--cost").split())
    assert f"{percent(thrown_away(result))} of the client-rounds of training were thrown away: " in told
    assert words in told
    assert json.loads(run(tmp_path / "run", "--cost", "--json"))["thrown_away"] == thrown_away(result)


def test_the_cost_alone_goes_into_no_page(made, tmp_path, capsys):
    made.write_run(tmp_path / "run", made.result())
    code, told = fail(capsys, tmp_path / "run", "--cost", "-o", tmp_path / "page.html")
    assert code == 2
    assert "--cost draws a picture: -o must end in .svg or .png" in told
    assert not (tmp_path / "page.html").exists()
    code, told = fail(capsys, tmp_path / "run", "--cost", "--bundle", tmp_path)
    assert (code, "--cost writes no page: leave --bundle out" in told) == (2, True)


@pytest.mark.parametrize(("name", "begins"), [("cost.svg", b"<?xml"), ("cost.png", b"\x89PNG")])
def test_the_cost_is_drawn_into_the_file_that_is_named(made, tmp_path, name, begins):
    made.write_run(tmp_path / "run", made.result())
    picture = tmp_path / "new" / name
    told = run(tmp_path / "run", "--cost", "-o", picture)
    assert f"picture:{picture}" in "".join(told.split())  # a long path is broken
    first = picture.read_bytes()
    assert first.startswith(begins)
    assert json.loads(run(tmp_path / "run", "--cost", "-o", picture, "--json"))["picture"] == str(picture)
    assert picture.read_bytes() == first


def test_no_header_of_the_cost_is_cut_in_80_columns(made, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    costs = (made.cost("search", 1, 123_456.0), made.cost("search", 2, 1.0, "evaluate"))
    large = tuple(replace(cost, num_assignments=123_456, bytes_up=12**9, bytes_down=13**9) for cost in costs)
    made.write_run(tmp_path / "run", made.result(costs=large))
    told = run(tmp_path / "run", "--cost")
    assert "…" not in told
    assert "123,456" in told


def test_the_help_has_an_example_of_the_picture():
    assert "handheld report runs/digits --cost -o cost.svg" in " ".join(run("--help").split())


def test_it_tells_whether_the_limits_are_met(made, tmp_path):
    made.write_run(tmp_path / "run", made.result())
    told = " ".join(run(tmp_path / "run").split())
    assert "meets its limits on cheap: yes (predicted latency 4 of 6 ms)" in told
    assert "meets its limits on dear: yes (predicted latency 1 of 900 ms, size 1.5 of 48 KiB)" in told
