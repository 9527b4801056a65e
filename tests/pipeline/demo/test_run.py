from importlib.resources import files

import pytest

from pipeline.demo.run import RUNS, DemoError, run_demo
from pipeline.run_file import parse_run_file
from pipeline.searching.loop import Unwatched
from pipeline.searching.schedule import check_schedule


@pytest.mark.parametrize("name", RUNS)
def test_the_embedded_run_files_are_in_order_and_what_they_plan_fits(name):
    run_file = parse_run_file((files("pipeline.demo") / f"{name}.toml").read_text(encoding="utf-8"))
    schedule = check_schedule(run_file)
    assert (schedule is None) == (run_file.privacy is None)
    assert run_file.data.clients == 30


def test_a_folder_that_is_no_earlier_demo_is_left_alone(tmp_path):
    (tmp_path / "digits").mkdir()
    (tmp_path / "digits" / "thesis.txt").write_text("years of work", encoding="utf-8")
    with pytest.raises(DemoError, match="is not of an earlier demo"):
        run_demo(tmp_path, lambda _: Unwatched())
    assert (tmp_path / "digits" / "thesis.txt").read_text(encoding="utf-8") == "years of work"
