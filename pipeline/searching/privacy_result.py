"""What a run spent, read from the server's privacy ledger, and how sure its released accuracy is."""

from dataclasses import replace
from math import sqrt

from pipeline.coordinator.privacy_ledger import epsilon_spent, spending_by_phase
from pipeline.privacy_sections import PrivacySection
from pipeline.privacy_spent import PhaseSpent, PrivacyResult, adversary_of, neighbours_of
from pipeline.run_result import Accuracy, accuracy_of
from pipeline.searching.rounds import Rounds
from pipeline.searching.trials import Score


def privacy_result(privacy: PrivacySection | None, rounds: Rounds) -> PrivacyResult | None:
    """The ledger's totals with unit, neighbours and adversary; None for a run without privacy."""
    budget = rounds.run.budget
    if privacy is None or budget is None:
        return None
    by_split = epsilon_spent(rounds.store, rounds.run.run_id)
    rows = spending_by_phase(rounds.store, rounds.run.run_id)
    return PrivacyResult(
        unit=privacy.unit,
        neighbours=neighbours_of(privacy.unit),
        noise_at=privacy.noise_at,
        adversary=adversary_of(privacy.noise_at),
        delta=budget.delta,
        target_epsilon=budget.epsilon,
        order=budget.order,
        epsilon=max(by_split.values(), default=0.0),
        epsilon_by_split={str(split): epsilon for split, epsilon in by_split.items()},
        phases=tuple(PhaseSpent(r.phase, r.account, r.kind, r.num_releases, r.rdp, r.epsilon) for r in rows),
    )


def released_accuracy(privacy: PrivacySection | None, score: Score) -> Accuracy:
    """A test score with its interval, of sampling and of the noise that was added."""
    if privacy is None:
        return accuracy_of(score.accuracy, score.num_examples, 0.0, "the clients' plain sums")
    deviation = privacy.test.noise_multiplier * sqrt(score.num_reports if privacy.noise_at == "device" else 1)
    where = "on each device" if privacy.noise_at == "device" else "on the sum, by the server"
    how = f"released once, with noise {where}"
    if score.expected_reports is not None:
        # A mean of clients' means varies as much as if each client were one example, at most.
        how = f"{how}; a mean over {score.expected_reports} clients, of whom who did not report counts as 0"
        accuracy = accuracy_of(score.accuracy, score.num_reports, deviation / score.expected_reports, how)
        return replace(accuracy, num_examples=score.num_examples)
    num_drawn = (privacy.test.sample_rate or 1.0) * score.num_examples
    return accuracy_of(score.accuracy, max(1, round(num_drawn)), deviation / num_drawn, how)
