"""One trainer over rounds that are made up: what it asks for, and what it makes of the answers."""

import tomllib
from math import sqrt

import pytest

from device_runtime.wire import SPLITS
from pipeline.coordinator.plans import Run
from pipeline.coordinator.rounds import RoundResult
from pipeline.coordinator.store import Store
from pipeline.digits import SPEC
from pipeline.run_result import Z_95
from pipeline.run_sections import RunFile
from pipeline.searching.artifacts import Artifacts
from pipeline.searching.session import released_accuracy
from pipeline.searching.trials import Part, RoundFailedError, Score, Trainer
from search.architecture import Architecture, Stem
from search.candidate import Candidate, HyperParameters
from tests.pipeline.searching.conftest import ORDINARY, PRIVATE

CANDIDATE = Candidate(
    Architecture((1, 8, 8), 10, Stem(2, 3, 3)), HyperParameters(0.1, local_steps=1, max_grad_norm=0.5)
)


class ScriptedRounds:
    """Answers every plan from a list, and remembers the plans."""

    def __init__(self, blobs, results):
        self.store, self.blobs, self.run = Store("sqlite://"), blobs, Run("run", "emulated", "spec", 0)
        self.plans, self._results = [], iter(results)

    def hold(self, plan):
        self.plans.append(plan)
        return next(self._results)

    def close(self):
        self.store.close()


@pytest.fixture
def make_trainer(tmp_path):
    from pipeline.coordinator.blobs import BlobFolder  # noqa: PLC0415

    def make(text, results):
        run_file = RunFile.model_validate(tomllib.loads(text))
        rounds = ScriptedRounds(BlobFolder(tmp_path / "blobs"), results)
        artifacts = Artifacts(tmp_path / "artifacts", SPEC, 16)
        return Trainer(run_file, rounds, artifacts, dict.fromkeys(SPLITS, 6), 0, lambda *_: None)

    return make


@pytest.mark.parametrize(("split", "rate", "noise"), [("validation", 0.8, 1.1), ("test", 0.9, 1.2)])
def test_each_split_is_scored_by_its_own_terms_over_the_examples_that_were_drawn(make_trainer, split, rate, noise):
    trainer = make_trainer(PRIVATE, [RoundResult("r", "closed", 6, 100, metric_sums={"accuracy": 36.0})])
    score = trainer.evaluate(Part("test"), trainer.start(CANDIDATE), split)
    terms = trainer.rounds.plans[0].evaluate
    assert (terms.split, terms.privacy.sample_rate, terms.privacy.noise_multiplier) == (split, rate, noise)
    assert score.accuracy == pytest.approx(36 / (rate * 100))


def test_a_round_that_fails_is_held_again_and_given_up_after_three_times(make_trainer):
    failed = RoundResult("r", "failed", reason="1 of at least 3 reports came")
    closed = RoundResult("r", "closed", 6, 100, metric_sums={"accuracy": 50.0})
    trainer = make_trainer(ORDINARY, [failed, closed, failed, failed, failed])
    model = trainer.start(CANDIDATE)
    assert trainer.evaluate(Part("search", 0), model, "validation").accuracy == 0.5
    keys = [plan.round_key for plan in trainer.rounds.plans]
    assert keys == ["search/0/evaluate/validation", "search/0/evaluate/validation/attempt 2"]
    with pytest.raises(RoundFailedError, match=r"failed 3 times: 1 of at least 3 .*bring more clients and resume"):
        trainer.evaluate(Part("search", 1), model, "validation")


def test_the_interval_of_a_released_accuracy_knows_how_often_noise_was_added():
    private = RunFile.model_validate(tomllib.loads(PRIVATE))
    on_sum = RunFile.model_validate(tomllib.loads(PRIVATE.replace('"device"', '"sum"')))
    score = Score(0.5, 10_000_000, 9)  # so many examples that only the noise is left
    for run_file, num_draws in ((private, 9), (on_sum, 1)):
        accuracy = released_accuracy(run_file, score)
        deviation = 1.2 * sqrt(num_draws) / (0.9 * 10_000_000)
        sampling = sqrt(0.25 / 9_000_004)
        assert accuracy.high - accuracy.value == pytest.approx(Z_95 * sqrt(deviation**2 + sampling**2), rel=1e-3)
    assert released_accuracy(private, Score(0.5, 10, 9)).high > released_accuracy(on_sum, Score(0.5, 10, 9)).high
