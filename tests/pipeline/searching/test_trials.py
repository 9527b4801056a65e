"""One trainer over rounds that are made up: what it asks for, and what it makes of the answers."""

import re
import tomllib
from dataclasses import replace
from math import sqrt

import numpy as np
import pytest

from device_runtime.vectors import write_vector
from device_runtime.wire import SPLITS
from pipeline.coordinator.plans import Run
from pipeline.coordinator.rounds import RoundResult
from pipeline.coordinator.store import Store
from pipeline.digits import SPEC
from pipeline.run_result import Z_95
from pipeline.run_sections import RunFile
from pipeline.searching import attempts
from pipeline.searching.choices import space_of
from pipeline.searching.privacy_result import released_accuracy
from pipeline.searching.rounds import RunClient
from pipeline.searching.trials import Job, Part, Score, Trainer
from search.architecture import Architecture, Stem
from search.candidate import Candidate, HyperParameters
from tests.pipeline.searching.conftest import CLIENTS_PRIVATE, ORDINARY, PRIVATE

CANDIDATE = Candidate(
    Architecture((1, 8, 8), 10, Stem(2, 3, 3)), HyperParameters(0.1, local_steps=1, max_grad_norm=0.5)
)
ORDINARY_CANDIDATE = replace(CANDIDATE, hyper_parameters=HyperParameters(0.1, local_steps=1, batch_size=4))
CLIENTS = {  # the last holds nothing to test with
    name: RunClient(name, {"train": 12, "validation": 4, "test": 0 if name == "d" else 4}) for name in "abcd"
}


class ScriptedRounds:
    """Answers every plan from a list, and remembers the plans."""

    def __init__(self, blobs, results):
        self.store, self.blobs, self.run = Store("sqlite://"), blobs, Run("run", "emulated", "spec", 0)
        self.plans, self._results = [], iter(results)

    def hold_all(self, plans):
        self.plans += plans
        return [next(self._results) for _ in plans]

    def close(self):
        self.store.close()


@pytest.fixture
def make_trainer(artifacts, tmp_path):
    from pipeline.coordinator.blobs import BlobFolder  # noqa: PLC0415

    def make(text, results):
        run_file = RunFile.model_validate(tomllib.loads(text))
        rounds = ScriptedRounds(BlobFolder(tmp_path / "blobs"), results)
        return Trainer(run_file, rounds, artifacts, dict.fromkeys(SPLITS, 6), CLIENTS, 0, lambda *_: None)

    return make


@pytest.mark.parametrize(("split", "rate", "noise"), [("validation", 0.8, 1.1), ("test", 0.9, 1.2)])
def test_each_split_is_scored_by_its_own_terms_over_the_examples_that_were_drawn(make_trainer, split, rate, noise):
    trainer = make_trainer(PRIVATE, [RoundResult("r", "closed", 6, 100, metric_sums={"accuracy": 36.0})])
    (score,) = trainer.evaluate([Job(Part("test", 0), trainer.start(CANDIDATE))], split)
    terms = trainer.rounds.plans[0].evaluate
    assert (terms.split, terms.privacy.sample_rate, terms.privacy.noise_multiplier) == (split, rate, noise)
    assert score.accuracy == pytest.approx(36 / (rate * 100))


def test_a_round_that_fails_is_held_again_and_given_up_after_three_times(make_trainer):
    failed = RoundResult("r", "failed", reason="1 of at least 3 reports came")
    closed = RoundResult("r", "closed", 6, 100, metric_sums={"accuracy": 50.0})
    trainer = make_trainer(ORDINARY, [failed, closed, failed, failed, failed])
    model = trainer.start(CANDIDATE)
    (score,) = trainer.evaluate([Job(Part("search", 0), model)], "validation")
    assert score.accuracy == 0.5
    keys = [plan.round_key for plan in trainer.rounds.plans]
    assert keys == ["search/0/evaluate/validation", "search/0/evaluate/validation/attempt 2"]
    (why,) = trainer.evaluate([Job(Part("search", 1), model)], "validation")
    assert re.search(r"failed 3 times: 1 of at least 3 .*; begin anew with a longer round.deadline_s", why)


@pytest.mark.parametrize(("kind", "num_attempts"), [("emulated", 3), ("real", 5)])
def test_attempts_of_before_a_resumption_count_where_no_phone_is_real(make_trainer, monkeypatch, kind, num_attempts):
    held = {"search/0/evaluate/validation", "search/0/evaluate/validation/attempt 2"}
    monkeypatch.setattr(attempts, "_is_held", lambda _, key: key in held)
    trainer = make_trainer(ORDINARY, [RoundResult("r", "failed", reason="nobody came")] * 9)
    trainer.rounds.run = replace(trainer.rounds.run, kind=kind)
    (why,) = trainer.evaluate([Job(Part("search", 0), trainer.start(CANDIDATE))], "validation")
    assert "failed 3 times: nobody came; then: nobody came; then: nobody came;" in why
    assert len(trainer.rounds.plans) == num_attempts
    assert ("bring more clients and resume" in why) == (kind == "real")  # emulated, all would fail again


def test_the_interval_of_a_released_accuracy_knows_how_often_noise_was_added():
    private = RunFile.model_validate(tomllib.loads(PRIVATE))
    on_sum = RunFile.model_validate(tomllib.loads(PRIVATE.replace('"device"', '"sum"')))
    score = Score(0.5, 10_000_000, 9)  # so many examples that only the noise is left
    for run_file, num_draws in ((private, 9), (on_sum, 1)):
        accuracy = released_accuracy(run_file.privacy, score)
        deviation = 1.2 * sqrt(num_draws) / (0.9 * 10_000_000)
        sampling = sqrt(0.25 / 9_000_004)
        assert accuracy.high - accuracy.value == pytest.approx(Z_95 * sqrt(deviation**2 + sampling**2), rel=1e-3)
    few = Score(0.5, 10, 9)
    assert released_accuracy(private.privacy, few).high > released_accuracy(on_sum.privacy, few).high


@pytest.mark.parametrize(("noise_at", "num_draws"), [("device", 9), ("sum", 1)])
def test_the_interval_of_a_client_units_accuracy_is_of_clients_and_of_the_constant_that_it_was_divided_by(
    noise_at, num_draws
):
    privacy = RunFile.model_validate(tomllib.loads(CLIENTS_PRIVATE.replace('"sum"', f'"{noise_at}"'))).privacy
    accuracy = released_accuracy(privacy, Score(0.5, 1000, 9, expected_reports=12))
    deviation = sqrt((5.0 * sqrt(num_draws) / 12) ** 2 + 0.25 / (9 + 4))
    assert accuracy.num_examples == 1000
    assert (accuracy.low, accuracy.high) == (max(0, 0.5 - Z_95 * deviation), min(1, 0.5 + Z_95 * deviation))


class TrainedRounds(ScriptedRounds):
    """Closes every round of training with an update of ones, but those of some trials, which fail."""

    def __init__(self, blobs, num_parameters, failing):
        super().__init__(blobs, ())
        self._update = blobs.put(write_vector("parameter_update", np.ones(num_parameters, np.float32)))
        self._failing = failing

    def hold_all(self, plans):
        self.plans += plans
        return [self._hold(plan) for plan in plans]

    def _hold(self, plan):
        if plan.trial in self._failing:
            return RoundResult("r", "failed", reason="nobody came")
        return RoundResult("r", "closed", 5, 70, aggregate_sha256=self._update)


def train_three(make_trainer, text):
    """Trials of 2, 1 and 2 rounds side by side, the second of which fails."""
    trainer = make_trainer(text, [])
    model = trainer.start(ORDINARY_CANDIDATE)
    trainer = replace(trainer, rounds=TrainedRounds(trainer.rounds.blobs, len(model.parameters), failing={1}))
    jobs = [Job(Part("search", i), model, rounds) for i, rounds in enumerate((2, 1, 2))]
    return trainer, model, trainer.train(jobs)


def test_of_jobs_side_by_side_one_fails_and_the_others_go_on(make_trainer):
    trainer, model, (first, failed, last) = train_three(make_trainer, ORDINARY)
    for one in (first, last):
        assert np.array_equal(one.model.parameters, model.parameters + 1 + 1)
        assert (one.weight, one.failed) == (70.0, "")
    assert np.array_equal(failed.model.parameters, model.parameters)
    assert failed.weight == 0
    assert failed.failed.startswith("round search/1/train/0 failed 3 times: nobody came; then: nobody came; then:")
    keys = [plan.round_key for plan in trainer.rounds.plans]
    assert keys == [
        *(f"search/{i}/train/0" for i in range(3)),
        "search/1/train/0/attempt 2",
        "search/1/train/0/attempt 3",
        "search/0/train/1",
        "search/2/train/1",
    ]


def test_a_trained_jobs_weight_is_its_reports_where_all_clients_weigh_alike(make_trainer):
    _, _, (first, _, _) = train_three(make_trainer, ORDINARY.replace('"examples"', '"uniform"'))
    assert first.weight == 5.0


def test_a_jobs_clients_are_asked_and_nobody_else(make_trainer):
    trainer = make_trainer(ORDINARY, [RoundResult("r", "closed", 3, 8, metric_sums={"accuracy": 4.0})] * 3)
    model = trainer.start(ORDINARY_CANDIDATE)
    trainer.evaluate([Job(Part("search", 0), model, clients=("a", "b", "d"))], "validation")
    trainer.evaluate([Job(Part("test", 0), model, clients=("a", "b", "d"))], "test")
    trainer.evaluate([Job(Part("test", 1), model)], "test")
    some, tested, everybody = trainer.rounds.plans
    assert some.eligible == ("a", "b", "d")
    # The share of [round] min_reports of cohort_size, 3 of 5, rounded up.
    assert (some.cohort_size, some.min_reports) == (3, 2)
    assert (tested.cohort_size, tested.min_reports) == (2, 2)  # d holds nothing of the test split
    assert (everybody.eligible, everybody.cohort_size, everybody.min_reports) == (None, 6, 4)


def test_a_jobs_clients_train_without_over_selection(make_trainer):
    trainer = make_trainer(ORDINARY, [RoundResult("r", "failed", reason="nobody came")] * 6)
    model = trainer.start(ORDINARY_CANDIDATE)
    trainer.train([Job(Part("search", 0), model, 1, ("a", "b"))])
    trainer.train([Job(Part("search", 1), model, 1)])
    own, everybody = trainer.rounds.plans[0], trainer.rounds.plans[-1]
    assert (own.eligible, own.cohort_size, own.min_reports, own.over_selection) == (("a", "b"), 2, 2, 1.0)
    assert (everybody.eligible, everybody.cohort_size, everybody.over_selection) == (None, 5, 1.2)


def test_a_cohort_of_the_usual_size_is_drawn_from_those_who_are_eligible(make_trainer):
    text = ORDINARY.replace("cohort_size = 5", "cohort_size = 2").replace("min_reports = 3", "min_reports = 1")
    trainer = make_trainer(text, [RoundResult("r", "failed", reason="nobody came")] * 3)
    trainer.train([Job(Part("final", 0), trainer.start(ORDINARY_CANDIDATE), 1, eligible=("a", "b", "d"))])
    plan = trainer.rounds.plans[0]
    assert (plan.eligible, plan.cohort_size, plan.min_reports, plan.over_selection) == (("a", "b", "d"), 2, 1, 1.2)


def test_the_run_files_optimiser_and_pull_are_those_that_train(make_trainer):
    text = ORDINARY.replace("[final]", 'proximal = [0.25]\nserver_optimizer = "fedadam"\nserver_epsilon = 0.5\n[final]')
    space = space_of(RunFile.model_validate(tomllib.loads(text)), SPEC)
    hyper = space.sample(np.random.default_rng(0)).hyper_parameters
    trainer = make_trainer(text, [])
    model = trainer.start(replace(CANDIDATE, hyper_parameters=hyper))
    trainer = replace(trainer, rounds=TrainedRounds(trainer.rounds.blobs, len(model.parameters), failing=set()))
    (trained,) = trainer.train([Job(Part("search", 0), model, 1)])
    assert trainer.rounds.plans[0].train.proximal == 0.25
    step = 1 / (np.sqrt(0.99 * 0.25 + 0.01) + 0.5)  # of an update of ones
    np.testing.assert_allclose(trained.model.parameters, model.parameters + step, rtol=1e-5, atol=1e-6)


def test_the_servers_optimiser_remembers_the_rounds_before(make_trainer):
    hyper = replace(ORDINARY_CANDIDATE.hyper_parameters, server_momentum=0.5)
    trainer, seen = make_trainer(ORDINARY, []), []
    model = trainer.start(replace(CANDIDATE, hyper_parameters=hyper))
    rounds = TrainedRounds(trainer.rounds.blobs, len(model.parameters), failing=set())
    trainer = replace(trainer, rounds=rounds, watch=lambda _part, _num_rounds, after: seen.append(after.parameters))
    trainer.train([Job(Part("search", 0), model, 2), Job(Part("search", 1), model, 2)])
    first, second = model.parameters + 1, model.parameters + 1 + 1.5  # updates of ones; half of the last step again
    np.testing.assert_allclose(seen, [first, first, second, second], rtol=1e-6)


REWARDS = """
reward = { sample_rate = 0.5, noise_multiplier = 1.4, loss_bound = 3.0 }
"""


def rewarded(make_trainer, text, candidate, asked="gain", **changes):
    """What a round of training with a reward came to, and its plan."""
    trainer = make_trainer(text, [])
    model = trainer.start(candidate)
    sha256 = trainer.rounds.blobs.put(write_vector("parameter_update", np.ones(len(model.parameters), np.float32)))
    result = RoundResult("r", "closed", 4, 70, sha256, {asked: 6.0}, num_scored=20)
    trainer.rounds._results = iter([result])
    (trained,) = trainer.train([Job(Part("search", 0), model, 1, reward=asked, **changes)])
    return trained, trainer.rounds.plans[0]


@pytest.mark.parametrize(
    ("text", "candidate", "mean", "weight"),
    [
        (ORDINARY, ORDINARY_CANDIDATE, 6 / 20, 70),
        (PRIVATE + REWARDS, CANDIDATE, 6 / (0.5 * 20), 70),
        (CLIENTS_PRIVATE + REWARDS.replace("sample_rate = 0.5, ", ""), ORDINARY_CANDIDATE, 6 / 5, 5),
    ],
    ids=["ordinary", "by example", "by client"],
)
def test_a_reward_is_a_mean_in_units_of_the_loss(make_trainer, text, candidate, mean, weight):
    """A bounded loss comes as what is left of its bound."""
    for asked, of_bound in (("gain", mean), ("loss", 1 - mean)):
        trained, plan = rewarded(make_trainer, text, candidate, asked)
        reward = mean if text == ORDINARY else 3.0 * of_bound
        assert (trained.reward, trained.num_rewarded, trained.weight) == (pytest.approx(reward), 20, weight)
        assert plan.train.reward.release == asked
    assert np.array_equal(trained.update, np.ones(len(trained.model.parameters), np.float32))


def test_a_round_of_the_client_unit_expects_its_cohort_and_waits_for_its_deadline(make_trainer):
    closed = RoundResult("r", "closed", 4, 8, metric_sums={"accuracy": 3.0})
    trainer = make_trainer(CLIENTS_PRIVATE, [closed] * 2)
    model = trainer.start(ORDINARY_CANDIDATE)
    (score,) = trainer.evaluate([Job(Part("search", 0), model)], "validation")
    trainer.evaluate([Job(Part("search", 0), model, clients=("a", "b", "d"))], "test")
    everybody, some = trainer.rounds.plans
    assert (everybody.cohort_size, some.cohort_size) == (5, 2)  # [round] cohort_size; those who can test
    for plan in (everybody, some):
        assert plan.evaluate.privacy.expected_reports == plan.cohort_size
        assert (plan.is_at_deadline, plan.weighting, plan.max_participations) == (True, "uniform", 3)
    assert (score.accuracy, score.expected_reports) == (pytest.approx(3 / 5), 5)


def test_a_round_of_examples_closes_when_its_cohort_is_complete(make_trainer):
    trainer = make_trainer(PRIVATE, [RoundResult("r", "closed", 6, 100, metric_sums={"accuracy": 36.0})])
    trainer.evaluate([Job(Part("test", 0), trainer.start(CANDIDATE))], "test")
    (plan,) = trainer.rounds.plans
    assert (plan.is_at_deadline, plan.max_participations) == (False, None)


def test_a_reward_wants_clients_with_something_to_score(make_trainer):
    trained, plan = rewarded(make_trainer, ORDINARY, ORDINARY_CANDIDATE, clients=("a", "b"))
    assert (plan.cohort_size, plan.min_examples) == (2, {"train": 1, "validation": 1})
    trainer = replace(make_trainer(ORDINARY, [RoundResult("r", "failed", reason="nobody came")] * 3))
    trainer = replace(trainer, num_clients={"train": 6, "validation": 3, "test": 6})
    trainer.train([Job(Part("search", 0), trained.model, 1, reward="gain")])
    assert trainer.rounds.plans[0].cohort_size == 3
