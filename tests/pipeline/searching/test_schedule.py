import re
import tomllib

import pytest

from device_runtime.accounting import epsilon_of_schedule
from pipeline.run_sections import RunFile
from pipeline.searching.schedule import ScheduleError, budget_of, check_schedule, plan_schedule, terms_of
from tests.pipeline.searching.conftest import ORDINARY, PRIVATE


def run_file(text: str) -> RunFile:
    return RunFile.model_validate(tomllib.loads(text))


def test_a_run_without_privacy_has_no_schedule_and_no_budget():
    assert plan_schedule(run_file(ORDINARY)) is None
    assert budget_of(run_file(ORDINARY)) is None
    assert terms_of(None, "update") is None


@pytest.mark.parametrize(
    "settings",
    [
        'algorithm = "random_search"',
        'algorithm = "regularized_evolution"\npopulation_size = 2\ntournament_size = 1',
        'algorithm = "nsga2"\npopulation_size = 2',
    ],
)
def test_the_plan_counts_every_release_of_every_phase(settings):
    text = PRIVATE.replace('algorithm = "random_search"\ntrials = 2\nrounds = 1', f"{settings}\ntrials = 3\nrounds = 2")
    schedule = plan_schedule(run_file(text))
    assert schedule is not None
    counts = {(entry.phase, entry.release.kind, entry.release.split): entry.count for entry in schedule.planned}
    assert counts == {
        ("search", "update", "train"): 6,
        ("search", "metrics", "validation"): 3,
        ("final", "update", "train"): 1,
        ("test", "metrics", "test"): 1,
    }
    assert len(schedule.releases()) == 11


def test_the_total_is_the_largest_split_at_the_order_that_makes_it_smallest():
    schedule = plan_schedule(run_file(PRIVATE))
    assert schedule is not None
    assert schedule.epsilon == max(schedule.epsilon_by_split.values())
    # With orders chosen for each split alone the total can only be smaller; for the worst split it is the same order.
    assert schedule.epsilon == pytest.approx(epsilon_of_schedule(schedule.releases(), schedule.delta))


@pytest.mark.parametrize("kind", ["update", "metrics", "test"])
def test_leaving_any_kind_of_release_out_of_the_plan_would_show(kind):
    before, after = plan_schedule(run_file(PRIVATE)), plan_schedule(run_file(with_noise(PRIVATE, kind, "0.3")))
    assert before is not None
    assert after is not None
    assert after.epsilon > 2 * before.epsilon


def test_what_the_cures_name_fits_in_the_end():
    text = PRIVATE.replace("target_epsilon = 8.0", "target_epsilon = 2.0")
    for _ in range(3):  # one cure a split
        with pytest.raises(ScheduleError) as caught:
            check_schedule(run_file(text))
        found = re.search(r"raise privacy\.(\w+)\.noise_multiplier from \S+ to ([0-9.]+),", str(caught.value))
        assert found is not None
        text = with_noise(text, *found.groups())
    schedule = check_schedule(run_file(text))
    assert schedule is not None
    assert schedule.epsilon == pytest.approx(2.0, rel=0.01)


def with_noise(text: str, kind: str, noise: str) -> str:
    """The run file with another noise multiplier for one kind of release."""
    return re.sub(rf"(?m)^({kind} = .* noise_multiplier = )[0-9.]+", rf"\g<1>{noise}", text)
