from dataclasses import replace

import pytest

from device_runtime.accounting import Budget
from device_runtime.specs import ExampleSpec
from device_runtime.terms import PrivacyTerms
from device_runtime.work import releases_of
from pipeline.coordinator.plans import Run, check_plan
from profiles.records import decode_record, encode_record, record_id


def test_records_survive_writing_and_reading(world):
    for record in (world.plan(eligible=("a", "b"), trial=3), world.run(budget=Budget(8.0, 1e-5, 8))):
        assert decode_record(type(record), encode_record(record)) == record


@pytest.mark.parametrize("run_id", ["", "../up", "a b", "x" * 81])
def test_a_run_id_must_fit_into_a_path(run_id):
    with pytest.raises(ValueError, match="run_id must be at most 80 letters"):
        Run(run_id, "emulated", "s", 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"min_reports": 0}, r"min_reports must be in \[1, cohort_size = 3\], got 0"),
        ({"min_reports": 4}, "min_reports must be in"),
        ({"deadline_s": 0.0}, "deadline_s and lease_s must be > 0"),
        ({"lease_s": -1.0}, "deadline_s and lease_s must be > 0"),
        ({"over_selection": 0.9}, "over_selection must be >= 1, got 0.9"),
        ({"train": None}, "a round of kind 'train' must carry exactly its own terms"),
        ({"kind": "evaluate", "evaluate": None}, "a round of kind 'evaluate' must carry exactly its own terms"),
    ],
)
def test_an_impossible_plan_is_refused(world, changes, message):
    with pytest.raises(ValueError, match=message):
        world.plan(**changes)


def test_noise_on_the_sum_needs_weights_by_examples(world):
    with pytest.raises(ValueError, match="weighting must be 'examples'"):
        world.plan(**world.private_training("sum") | {"weighting": "uniform"})


@pytest.mark.parametrize("is_private", [True, False])
def test_a_plan_is_private_exactly_where_its_run_is(world, is_private):
    run = Run("run", "emulated", record_id(world.manifest().spec), 0, None if is_private else Budget(8.0, 1e-5, 8))
    plan = world.plan(**world.private_training()) if is_private else world.plan()
    with pytest.raises(ValueError, match="must both be private or both not"):
        check_plan(run, plan, world.manifest())


def test_no_server_chooses_the_split_of_a_real_phone(world):
    with pytest.raises(ValueError, match="rotation must be 0 in a real run, got 2"):
        check_plan(world.run(kind="real"), world.plan(rotation=2), world.manifest())


def test_an_artifact_of_another_specification_is_refused(world):
    manifest = world.manifest(spec=ExampleSpec((3,), ("no", "yes")))
    with pytest.raises(ValueError, match="compile it for the run's data"):
        check_plan(world.run(), world.plan(), manifest)


def test_an_unknown_metric_is_refused(world):
    with pytest.raises(ValueError, match=r"release asks for \['accuracy'\], the artifact has loss, recall"):
        check_plan(world.run(), world.plan(**world.evaluation()), world.manifest(metrics=("recall",)))


@pytest.mark.parametrize("split", ["validation", "test"])
def test_server_and_phone_charge_the_same_release(world, split):
    privacy = PrivacyTerms("device", 0.5, 3.0)
    for terms in (
        world.private_training(local_steps=7),
        world.private_training("sum"),
        world.evaluation(privacy, split),
        world.evaluation(None, split),
        {},
    ):
        plan = world.plan(**terms)
        assert plan.releases == releases_of(plan.assignment("id", 1.0))
    assert replace(world.plan(**world.private_training(local_steps=7))).releases[0].num_steps == 7


def test_a_plan_reads_the_split_of_its_terms(world):
    assert world.plan().min_examples == {"train": 1}
    assert world.plan(min_train_examples=8).min_examples == {"train": 8}
    evaluate = world.plan(min_train_examples=8, **world.evaluation(split="test"))
    assert evaluate.min_examples == {"test": 1}


def test_the_update_has_the_name_that_says_what_it_is(world):
    assert world.plan().update_name == "parameter_update"
    assert world.plan(**world.private_training("device")).update_name == "parameter_update"
    assert world.plan(**world.private_training("sum")).update_name == "gradient_sum"
