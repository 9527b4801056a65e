"""A search of several platforms, one of which has too few clients for a race of its own."""

from pipeline.report.page import render_report
from pipeline.run_result import read_finished_run
from pipeline.searching.loop import Unwatched
from pipeline.searching.scenes import SearchRequest
from pipeline.searching.session import run_search
from profiles.catalogue import load_profile
from tests.pipeline.searching.conftest import FEDNAS

# Phones take turns at the profiles, of which one is there twice: three pixel-4 and two redmi-8.
RACE = (
    FEDNAS.replace("clients = 4", "clients = 5")
    .replace('"redmi-8"]', '"redmi-8", "pixel-4"]')
    .replace('algorithm = "fednas"\ngroups = 2\npretrain_rounds = 2\nkeep = 1\nrounds = 1\nfirst_reduction = 0.3', "")
    .replace("[search]", '[search]\nalgorithm = "nested_race"\nentrants = 2\nrounds = 1')
    .replace("strides = [2]", "strides = [1]")
)


def test_a_platform_of_few_phones_ships_a_model_and_the_result_says_that_nobody_scored_it(tmp_path, write_run_file):
    result = run_search(SearchRequest(write_run_file(RACE), tmp_path / "run"), Unwatched())
    assert result.fleet == {"pixel-4": 3, "redmi-8": 2}
    assert sum(line.startswith("pixel-4: ") for line in result.warnings) == len(load_profile("pixel-4").warnings) > 0
    few = read_finished_run(tmp_path / "run", "redmi-8")
    assert (few.trial.rounds, few.trial.num_clients, bool(few.trial.failed)) == (0, None, True)
    assert few.model.accuracy.value > 0
    assert any(line.startswith("no race for redmi-8: fewer than 3 clients each") for line in result.warnings)
    assert not read_finished_run(tmp_path / "run", "pixel-4").trial.failed
    assert "no race for redmi-8" in render_report(few)
