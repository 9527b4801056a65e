from importlib.resources import files
from pathlib import Path

import pytest

from device_runtime.console import run_program
from pipeline.command_line import PROGRAM
from pipeline.demo import run as demo
from pipeline.demo.run import RUNS, DemoError, DemoModel, DemoRun, run_demo
from pipeline.digits import open_digits
from pipeline.run_file import parse_run_file
from pipeline.searching.choices import algorithm_of
from pipeline.searching.loop import Unwatched
from pipeline.searching.rounds import RunClient
from pipeline.searching.schedule import check_schedule
from profiles.catalogue import load_profile
from tests.pipeline.searching.conftest import FEDNAS


def embedded(name: str):
    return parse_run_file((files("pipeline.demo") / f"{name}.toml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", RUNS)
def test_the_embedded_run_files_are_in_order_and_what_they_plan_fits(name):
    run_file = embedded(name)
    schedule = check_schedule(run_file)
    assert (schedule is None) == (run_file.privacy is None)
    assert run_file.data.clients == 30


def test_the_plain_search_prunes_for_two_phones_whose_limits_can_be_met_one_after_the_other():
    run_file = embedded("digits")
    profiles = tuple(load_profile(name) for name in run_file.fleet.profiles)
    clients = [RunClient(str(i), {"train": 30}, profiles[i % 2].name) for i in range(30)]
    search = algorithm_of(run_file, open_digits().spec, profiles, clients)
    (first,) = search.ask(search.init(0), 10)
    loads = [limits.load(first.candidate.architecture) for limits in search.feasibility.platforms.values()]
    assert 1 < min(loads) < max(loads)  # both have to be pruned for, the second further


def test_a_folder_that_is_no_earlier_demo_is_left_alone(tmp_path):
    (tmp_path / "digits").mkdir()
    (tmp_path / "digits" / "thesis.txt").write_text("years of work", encoding="utf-8")
    with pytest.raises(DemoError, match="is not of an earlier demo"):
        run_demo(tmp_path, lambda _: Unwatched())
    assert (tmp_path / "digits" / "thesis.txt").read_text(encoding="utf-8") == "years of work"


def test_the_command_shows_every_model_with_its_phones_and_its_bundle(monkeypatch, capsys):
    models = tuple(
        DemoModel((phone,), accuracy, accuracy, {"model.onnx": accuracy}, f"demo/digits/{bundle}")
        for phone, accuracy, bundle in (("pixel-4", 0.9, "bundle"), ("redmi-8", 0.8, "bundle-redmi-8"))
    )
    runs = (DemoRun("digits", models, None, None, None, "demo/digits/report.html"),)
    monkeypatch.setattr(demo, "run_demo", lambda *_: runs)
    with pytest.raises(SystemExit) as left:
        run_program(PROGRAM, ["demo"])
    shown = capsys.readouterr().out
    assert left.value.code == 0
    for words in ("pixel-4", "redmi-8", "90.0%", "80.0%", "bundle: demo/digits/bundle-redmi-8"):
        assert words in shown


@pytest.mark.slow
def test_every_model_of_a_run_is_shipped_and_checked_and_an_earlier_demo_is_replaced(tmp_path, monkeypatch):
    (tmp_path / "small.toml").write_text(FEDNAS.replace('"pruned"', '"digits-small"'), encoding="utf-8")
    monkeypatch.setattr(demo, "files", lambda _: tmp_path)
    monkeypatch.setattr(demo, "RUNS", ("small",))
    old = tmp_path / "demo" / "small"
    old.mkdir(parents=True)
    (old / "run.toml").write_text('name = "digits-small"', encoding="utf-8")
    (run,) = run_demo(tmp_path / "demo", lambda _: Unwatched())
    assert sorted(model.platforms for model in run.models) == [("pixel-4",), ("redmi-8",)]
    main, other = run.models
    assert Path(main.bundle).name == "bundle"
    assert Path(other.bundle).name == f"bundle-{other.platforms[0]}"
    assert all(Path(model.bundle, "model.onnx").is_file() for model in run.models)
    assert Path(run.report).is_file()
    monkeypatch.setattr(demo, "TOLERANCE", -1.0)
    with pytest.raises(DemoError, match=r"model\.onnx reaches .* do not ship it"):
        demo._ship(old, demo.read_finished_run(old, main.platforms[0]).model, *demo.pooled_test_examples(old))
