import re
import tomllib

import pytest

from device_runtime.accounting import Budget, Release, epsilon_of_schedule
from pipeline.run_sections import RunFile
from pipeline.searching.schedule import Schedule, ScheduleError, budget_of, check_schedule, plan_schedule, terms_of
from pipeline.section import Section
from tests.pipeline.searching.conftest import CLIENTS_PRIVATE, FEDNAS, ORDINARY, PRIVACY, PRIVATE

CURE = re.compile(r"privacy\.(\w+)\.noise_multiplier from \S+ to ([0-9.]+)")


def run_file(text: str) -> RunFile:
    return RunFile.model_validate(tomllib.loads(text))


def planned_of(run: RunFile) -> Schedule:
    schedule = plan_schedule(run)
    assert schedule is not None
    return schedule


def counts_of(schedule: Schedule) -> dict[tuple[str, str, str], int]:
    return {(entry.phase, entry.release.kind, entry.release.split): entry.count for entry in schedule.planned}


def test_a_run_without_privacy_has_no_schedule_and_no_budget():
    assert plan_schedule(run_file(ORDINARY)) is None
    assert budget_of(run_file(ORDINARY)) is None
    assert terms_of(None, "update", 5) is None


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
    schedule = planned_of(run_file(text))
    assert counts_of(schedule) == {
        ("search", "update", "train"): 6,
        ("search", "metrics", "validation"): 3,
        ("final", "update", "train"): 1,
        ("test", "metrics", "test"): 1,
    }
    assert len(schedule.releases()) == 11


class Joint(Section):
    """A search that releases everything there is, in both phases and several parts."""

    algorithm: str = "joint"

    def planned(self, run_file):
        return (
            ("search", "update", 3),
            ("search", "update", 4),
            ("search", "architecture", 5),
            ("search", "reward", 6),
            ("search", "metrics", 0),
            ("final", "update", 2),
            ("final", "reward", 7),
        )


MORE = """
architecture = { sample_rate = 0.6, noise_multiplier = 1.3 }
reward = { sample_rate = 0.7, noise_multiplier = 1.4, loss_bound = 3.0 }
"""
JOINT = run_file((PRIVATE + MORE).replace("local_steps = 1", "local_steps = [2, 4]"))
JOINT = JOINT.model_copy(update={"search": Joint()})


def test_a_plan_adds_up_what_a_search_says_of_a_phase_and_kind_and_the_final_training():
    assert counts_of(planned_of(JOINT)) == {
        ("search", "update", "train"): 7,
        ("search", "architecture", "validation"): 5,
        ("search", "reward", "validation"): 6,
        ("final", "update", "train"): 2 + 1,
        ("final", "reward", "validation"): 7,
        ("test", "metrics", "test"): 1,
    }


def test_each_release_of_a_plan_costs_what_its_table_says_and_steps_count_each():
    releases = {entry.table: entry.release for entry in planned_of(JOINT).planned}
    assert releases == {
        "update": Release("update", "train", 0.5, 1.0, 4),
        "architecture": Release("architecture", "validation", 0.6, 1.3, 4),
        "reward": Release("reward", "validation", 0.7, 1.4),
        "test": Release("metrics", "test", 0.9, 1.2),
    }


def test_a_schedule_of_the_client_unit_is_one_account_and_nobody_takes_part_too_often():
    run = run_file(CLIENTS_PRIVATE.replace("trials = 2\nrounds = 1", "trials = 2\nrounds = 5"))
    schedule = planned_of(run)
    assert counts_of(schedule) == {
        ("search", "update", "train"): 3,  # max_participations
        ("search", "metrics", "validation"): 2,
        ("final", "update", "train"): 1,
        ("test", "metrics", "test"): 1,
    }
    assert {(r.unit, r.sample_rate, r.num_steps) for r in schedule.releases()} == {("client", 1.0, 1)}
    total = sum(n / (2 * noise**2) for n, noise in ((4, 3.0), (2, 4.0), (1, 5.0))) * schedule.order
    expected = Budget(8.0, schedule.delta, schedule.order).epsilon_spent(total)
    assert schedule.epsilon_by_split == pytest.approx(dict.fromkeys(("train", "validation", "test"), expected))
    assert budget_of(run) == Budget(8.0, schedule.delta, schedule.order, "client")


def test_a_table_that_is_missing_is_named():
    privacy = JOINT.privacy.model_copy(update={"reward": None})
    with pytest.raises(ScheduleError, match=r"lacks the table \[privacy.reward\]"):
        plan_schedule(JOINT.model_copy(update={"privacy": privacy}))


def test_a_search_that_cannot_say_what_it_releases_is_not_planned():
    fednas = run_file(FEDNAS + PRIVACY)
    with pytest.raises(ScheduleError, match=r"what fednas will release cannot be planned: remove \[privacy\]"):
        plan_schedule(fednas)


def test_the_total_is_the_largest_split_at_the_order_that_makes_it_smallest():
    schedule = planned_of(run_file(PRIVATE))
    assert schedule.epsilon == max(schedule.epsilon_by_split.values())
    # With orders chosen for each split alone the total can only be smaller; for the worst split it is the same order.
    assert schedule.epsilon == pytest.approx(epsilon_of_schedule(schedule.releases(), schedule.delta))


@pytest.mark.parametrize("kind", ["update", "metrics", "test"])
def test_leaving_any_kind_of_release_out_of_the_plan_would_show(kind):
    before, after = planned_of(run_file(PRIVATE)), planned_of(run_file(with_noise(PRIVATE, kind, "0.3")))
    assert after.epsilon > 2 * before.epsilon


@pytest.mark.parametrize("table", ["architecture", "reward"])
def test_leaving_a_further_kind_out_of_the_plan_would_show(table):
    section = getattr(JOINT.privacy, table).model_copy(update={"noise_multiplier": 0.3})
    after = planned_of(JOINT.model_copy(update={"privacy": JOINT.privacy.model_copy(update={table: section})}))
    assert after.epsilon > 2 * planned_of(JOINT).epsilon


def cured(run: RunFile) -> tuple[set[str], RunFile]:
    """The tables that the error names, and the run file with the noise that it asks for there."""
    with pytest.raises(ScheduleError) as caught:
        check_schedule(run)
    noises = {table: float(noise) for table, noise in CURE.findall(str(caught.value))}
    tables = {
        table: section.model_copy(update={"noise_multiplier": noises[table]})
        for table, section in run.privacy.tables().items()
        if table in noises
    }
    return set(noises), run.model_copy(update={"privacy": run.privacy.model_copy(update=tables)})


@pytest.mark.parametrize("table", ["update", "architecture", "reward", "metrics", "test"])
def test_the_cure_names_the_table_that_spends_most_and_fits(table):
    # All others are so quiet that one table alone decides.
    sections = {
        name: section.model_copy(update={"noise_multiplier": 0.5 if name == table else 60.0})
        for name, section in JOINT.privacy.tables().items()
    }
    privacy = JOINT.privacy.model_copy(update={**sections, "target_epsilon": 2.0})
    search = JOINT.search if table != "metrics" else run_file(PRIVATE).search
    named, mended = cured(JOINT.model_copy(update={"privacy": privacy, "search": search}))
    assert named == {table}
    assert check_schedule(mended).epsilon == pytest.approx(2.0, rel=0.01)


@pytest.mark.parametrize("text", [PRIVATE, CLIENTS_PRIVATE], ids=["example", "client"])
def test_where_one_table_is_not_enough_the_cure_names_all_that_are(text):
    run = run_file(text.replace("target_epsilon = 8.0", "target_epsilon = 0.5"))
    named, mended = cured(run)
    assert len(named) > 1
    assert check_schedule(mended).epsilon == pytest.approx(0.5, rel=0.01)


def test_no_noise_cures_a_target_that_conversion_alone_exceeds():
    with pytest.raises(ScheduleError, match=r"\(delta 1e-05\): raise privacy\.target_epsilon, or plan fewer"):
        check_schedule(run_file(PRIVATE.replace("target_epsilon = 8.0", "target_epsilon = 0.001")))


def with_noise(text: str, kind: str, noise: str) -> str:
    """The run file with another noise multiplier for one kind of release."""
    return re.sub(rf"(?m)^({kind} = .* noise_multiplier = )[0-9.]+", rf"\g<1>{noise}", text)
