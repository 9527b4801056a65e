"""Whom a final training asks: nobody trains a network over the limits of training of its own profile."""

import tomllib

import pytest

from pipeline.run_sections import RunFile
from pipeline.searching.choices import feasibility_of
from pipeline.searching.loop import Unwatched
from pipeline.searching.rounds import RunClient
from pipeline.searching.scenes import SearchRequest
from pipeline.searching.session import run_search
from pipeline.searching.trainees import NoTraineesError, Trainees, check_all_known, trainees_of
from profiles.catalogue import load_profile
from search.architecture import Architecture, Stem
from search.budget import Feasibility, Limits
from search.cost import cost_of
from tests.pipeline.searching.conftest import ORDINARY, PRIVATE
from tests.pipeline.searching.test_few_clients import RACE
from tests.pipeline.searching.test_session import plans_of

HIGH, ENTRY = load_profile("pixel-4"), load_profile("redmi-8")
NETWORK = Architecture((1, 8, 8), 10, Stem(8, 3, 2))
NEEDED = cost_of(NETWORK, ENTRY, 16)
COUNTS = {"train": 12, "validation": 4, "test": 4}
CLIENTS = tuple(RunClient(f"{i}", COUNTS, (HIGH, ENTRY)[i % 2].name) for i in range(6))
EVERYBODY = "cohort_size = 5\nmin_reports = 3"
RUN_FILE = RunFile.model_validate(tomllib.loads(ORDINARY))
MEMORY, STEP = {"memory_mib": 0.9 * NEEDED.peak_memory_mib}, {"training_step_ms": 0.9 * NEEDED.training_step_ms}


def limits(**of_class):
    return Feasibility((HIGH, ENTRY), {name: Limits(**its) for name, its in of_class.items()}, 16)


def divided(feasibility, clients=CLIENTS, run_file=RUN_FILE):
    return trainees_of(run_file, feasibility, clients, NETWORK)


@pytest.mark.parametrize("limit", [MEMORY, STEP])
def test_whose_memory_or_time_for_a_step_is_too_small_is_left_out(limit):
    found = divided(limits(entry=limit))
    assert found.eligible == ("0", "2", "4")
    (warning,) = found.warnings(7)
    assert warning.startswith("3 of 6 clients took no part in the final training of trial 7, which is over their own")
    assert warning.endswith("3 of redmi-8")


@pytest.mark.parametrize(
    "of_class",
    [
        {},
        {"entry": {"latency_ms": 1e-3, "size_kib": 1e-3}},  # of what is shipped: that network is for others
        {"entry": {"memory_mib": NEEDED.peak_memory_mib, "training_step_ms": NEEDED.training_step_ms}},
        {"flagship": MEMORY},  # nobody's
    ],
)
def test_with_no_limit_of_training_broken_everybody_is_asked_as_before(of_class):
    assert divided(limits(**of_class)) == Trainees(None)
    assert divided(limits(**of_class)).warnings(7) == ()


def test_of_whom_nothing_is_known_takes_part_but_for_those_of_a_limited_class_without_a_target():
    strangers = tuple(RunClient(name, COUNTS, "", name) for name in ("", "mid", "flagship"))
    found = divided(limits(mid=MEMORY), strangers + CLIENTS)
    assert [one.device_class for one in found.left_out] == ["mid"]
    assert found.warnings(0)[0].endswith("1 of class mid")


def test_few_train_what_the_others_may_not_and_nobody_is_an_error_with_a_cure():
    assert divided(limits(entry=MEMORY), CLIENTS[:4]).eligible == ("0", "2")  # fewer than min_reports of all
    with pytest.raises(NoTraineesError, match=r"no client may .* of 3 of pixel-4, 3 of redmi-8; begin anew"):
        divided(limits(default=MEMORY))


def test_a_private_run_trains_with_everybody_or_not_at_all():
    private = RunFile.model_validate(tomllib.loads(PRIVATE))
    assert divided(limits(entry={"latency_ms": 1e-3}), run_file=private) == Trainees(None)
    with pytest.raises(NoTraineesError, match="a private run trains with all its clients"):
        divided(limits(entry=MEMORY), run_file=private)
    check_all_known(limits(entry=MEMORY), CLIENTS)
    check_all_known(limits(mid={"latency_ms": 1.0}), (RunClient("a", COUNTS, "", "mid"),))
    with pytest.raises(
        ValueError, match=r"no \[run\] targets are of the device class of 1 of class mid, whose budgets"
    ):
        check_all_known(limits(mid=MEMORY), (*CLIENTS, RunClient("a", COUNTS, "", "mid")))


def test_the_chunk_that_limits_are_of_is_the_run_files():
    assert feasibility_of(RUN_FILE, (HIGH,)).batch_size == RUN_FILE.training.artifact_batch_size


def test_a_search_trains_each_model_with_phones_that_it_fits_and_tests_it_with_all(tmp_path, write_run_file):
    text = RACE.replace("size_kib = 1.1", "memory_mib = 0.5").replace("[final]", '[final]\nstart = "fresh"')
    text = text.replace("entrants = 2", "entrants = 1").replace("cohort_size = 4\nmin_reports = 3", EVERYBODY)
    result = run_search(SearchRequest(write_run_file(text), tmp_path / "run"), Unwatched())
    models = {model.platforms: model.trial for model in result.models}
    small, large = models["redmi-8",], models["pixel-4",]
    plans = {(plan["phase"], plan["trial"]): plan for plan in plans_of(tmp_path / "run") if plan["phase"] != "search"}
    own = plans["final", large]
    assert (len(own["eligible"]), own["cohort_size"], own["min_reports"]) == (3, 3, 2)
    assert plans["final", small]["eligible"] is None
    assert (plans["test", large]["eligible"], plans["test", large]["cohort_size"]) == (None, 5)
    (warning,) = (line for line in result.warnings if "final training of trial" in line)
    assert warning.startswith(f"2 of 5 clients took no part in the final training of trial {large}, which is over")
    assert warning.endswith("2 of redmi-8")
