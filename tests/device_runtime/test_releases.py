"""What working by given terms releases, and that it is all of it: a kind that nobody charged would show here."""

from dataclasses import replace

import pytest

from device_runtime.accounting import (
    Budget,
    BudgetExceededError,
    Release,
    check_fits,
    epsilon_of_schedule,
    planned_order,
    rdp_by_split,
    rdp_by_split_max,
    releases_of_terms,
)
from device_runtime.loaded import LoadedAssignment
from device_runtime.private_random import PrivateRandom
from device_runtime.scoring import evaluate
from device_runtime.terms import (
    ArchitectureTerms,
    ClientPrivacyTerms,
    EvaluateTerms,
    PrivacyTerms,
    RewardTerms,
    TrainTerms,
)
from device_runtime.training import train
from tests.device_runtime.softmax_regression import PARAMETERS, draw_examples

SPLITS = {"train": draw_examples(10, 1), "validation": draw_examples(7, 2)}
OF_UPDATE, OF_STEPS = PrivacyTerms("device", 0.25, 1.5), PrivacyTerms("device", 0.5, 3.0)
OF_REWARD, OF_METRICS = PrivacyTerms("device", 0.75, 6.0), PrivacyTerms("device", 1.0, 9.0)
OF_CLIENT = ClientPrivacyTerms("device", 5.0, 20)
REWARD = RewardTerms("gain", 2.0, OF_REWARD)
PRIVATE = TrainTerms(0.1, local_steps=3, max_grad_norm=1.0, privacy=OF_UPDATE)
ALTERNATE = replace(PRIVATE, moves="alternate", architecture=ArchitectureTerms(0.1, 0.0, 0.5, OF_STEPS))
ALONE = TrainTerms(
    0.1, local_steps=3, privacy=OF_STEPS, moves="architecture", architecture=ArchitectureTerms(0.1, max_grad_norm=0.5)
)
BY_CLIENT = TrainTerms(0.1, local_epochs=2, batch_size=4, privacy=replace(OF_CLIENT, max_norm=1.0))
CLIENT_REWARD = RewardTerms("loss", 2.0, replace(OF_CLIENT, noise_multiplier=7.0))
METRICS = EvaluateTerms("validation", ("loss", "accuracy"), 2.0, OF_METRICS)

UPDATE = Release("update", "train", 0.25, 1.5, 3)
ARCHITECTURE = Release("architecture", "validation", 0.5, 3.0, 3)
REWARDED = Release("reward", "validation", 0.75, 6.0)
SCORED = Release("metrics", "validation", 1.0, 9.0)
CLIENTS_UPDATE = Release("update", "train", 1.0, 5.0, unit="client")
CLIENTS_STEPS = Release("architecture", "validation", 1.0, 5.0, unit="client")
CLIENTS_REWARD = Release("reward", "validation", 1.0, 7.0, unit="client")
CLIENTS_METRICS = Release("metrics", "test", 1.0, 5.0, unit="client")

TABLE = {
    "update": (PRIVATE, (UPDATE,)),
    "update and reward": (replace(PRIVATE, reward=REWARD), (UPDATE, REWARDED)),
    "weights": (replace(PRIVATE, moves="weights"), (UPDATE,)),
    "all": (replace(PRIVATE, architecture=ArchitectureTerms(0.1)), (UPDATE,)),
    "in turns": (ALTERNATE, (UPDATE, ARCHITECTURE)),
    "in turns and reward": (replace(ALTERNATE, reward=REWARD), (UPDATE, ARCHITECTURE, REWARDED)),
    "architecture": (ALONE, (ARCHITECTURE,)),
    "architecture and reward": (replace(ALONE, reward=REWARD), (ARCHITECTURE, REWARDED)),
    "client": (BY_CLIENT, (CLIENTS_UPDATE,)),
    "client in turns": (replace(BY_CLIENT, moves="alternate", architecture=ArchitectureTerms(0.1)), (CLIENTS_UPDATE,)),
    "client's architecture": (
        replace(BY_CLIENT, moves="architecture", architecture=ArchitectureTerms(0.1)),
        (CLIENTS_STEPS,),
    ),
    "client and reward": (replace(BY_CLIENT, reward=CLIENT_REWARD), (CLIENTS_UPDATE, CLIENTS_REWARD)),
    "metrics": (METRICS, (SCORED,)),
    "client's metrics": (EvaluateTerms("test", ("accuracy",), privacy=OF_CLIENT), (CLIENTS_METRICS,)),
}
by_terms = pytest.mark.parametrize(("terms", "releases"), TABLE.values(), ids=TABLE)


@by_terms
def test_terms_release(terms, releases):
    assert releases_of_terms(terms) == releases


@pytest.mark.parametrize("terms", [replace(PRIVATE, local_steps=1), replace(ALONE, local_steps=1), BY_CLIENT, METRICS])
def test_where_the_noise_is_added_changes_no_release(terms):
    on_sum = replace(terms, privacy=replace(terms.privacy, noise_at="sum"))
    assert releases_of_terms(on_sum) == releases_of_terms(terms) != ()


@pytest.mark.parametrize(
    "terms", [None, replace(METRICS, privacy=None), TrainTerms(0.1, 1, batch_size=1, reward=RewardTerms("gain"))]
)
def test_without_privacy_there_is_no_release(terms):
    assert releases_of_terms(terms) == ()


class Counting(PrivateRandom):
    """Counts the noise draws."""

    num_noises = 0

    def normals(self, purpose, step, count):
        self.num_noises += 1
        return super().normals(purpose, step, count)


@by_terms
def test_every_noise_that_a_device_draws_is_a_step_of_a_release(searched_session, terms, releases):
    random = Counting(bytes(32))
    assignment = LoadedAssignment(searched_session, PARAMETERS, terms)
    if isinstance(terms, TrainTerms):
        train(assignment, SPLITS, random)
    else:
        evaluate(assignment, SPLITS["validation"], random)
    assert random.num_noises == sum(release.num_steps for release in releases)


class TestUnits:
    def test_what_protects_a_client_counts_on_every_split(self):
        spent = rdp_by_split([UPDATE, CLIENTS_UPDATE, REWARDED], 5)
        of_client = 5 / (2 * 5.0**2)
        assert spent == {
            "train": UPDATE.rdp(5) + of_client,
            "validation": of_client + REWARDED.rdp(5),
            "test": of_client,
        }
        assert rdp_by_split_max([CLIENTS_UPDATE, CLIENTS_REWARD], 5) == pytest.approx(of_client + 5 / (2 * 7.0**2))

    def test_a_plan_of_clients_adds_up_over_what_it_releases_of_any_split(self):
        mixed = [CLIENTS_UPDATE, CLIENTS_REWARD, CLIENTS_METRICS]
        alike = [replace(release, split="train", unit="example") for release in mixed]
        assert epsilon_of_schedule(mixed, 1e-5) == epsilon_of_schedule(alike, 1e-5)
        assert planned_order(mixed, 1e-5) == planned_order(alike, 1e-5)
        assert epsilon_of_schedule(mixed, 1e-5) > epsilon_of_schedule(mixed[:2], 1e-5)

    def test_nothing_amplifies_a_clients_release(self):
        with pytest.raises(ValueError, match=r"sample_rate must be 1 in the client unit: .* got 0\.5"):
            replace(CLIENTS_UPDATE, sample_rate=0.5)


class TestTogether:
    """The releases of an assignment fit together, or none may be made."""

    def budget(self, *releases):
        order = planned_order(releases, 1e-5)
        return Budget(epsilon_of_schedule(releases, 1e-5, [order]), 1e-5, order, releases[0].unit)

    def test_all_that_was_planned_fits_and_one_more_does_not(self):
        budget = self.budget(UPDATE, ARCHITECTURE, REWARDED)
        check_fits(budget, {}, (UPDATE, ARCHITECTURE, REWARDED))
        spent = rdp_by_split((UPDATE, ARCHITECTURE, REWARDED), budget.order)
        with pytest.raises(BudgetExceededError):
            check_fits(budget, spent, (UPDATE, ARCHITECTURE, REWARDED))

    def test_what_fits_alone_may_not_fit_beside_another(self):
        budget = self.budget(ARCHITECTURE)
        for alone in ((ARCHITECTURE,), (REWARDED,)):
            check_fits(budget, {}, alone)
        with pytest.raises(BudgetExceededError, match="one more reward on the validation split would spend epsilon"):
            check_fits(budget, {}, (ARCHITECTURE, REWARDED))

    @pytest.mark.parametrize("split", ["train", "validation", "test"])
    def test_a_clients_release_is_refused_where_any_split_is_full(self, split):
        budget = self.budget(CLIENTS_UPDATE)
        check_fits(budget, {}, (CLIENTS_UPDATE,))
        with pytest.raises(BudgetExceededError, match=f"one more update on the {split} split"):
            check_fits(budget, {split: 0.5 * budget.rdp()}, (CLIENTS_UPDATE,))
