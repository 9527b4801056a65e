"""What a run spent, read from the server's privacy ledger."""

from pipeline.coordinator.privacy_ledger import epsilon_spent, spending_by_phase
from pipeline.privacy_spent import PhaseSpent, PrivacyResult, adversary_of
from pipeline.run_sections import PrivacySection
from pipeline.searching.rounds import Rounds


def privacy_result(privacy: PrivacySection | None, rounds: Rounds) -> PrivacyResult | None:
    """The ledger's totals with unit, neighbours and adversary; None for a run without privacy."""
    budget = rounds.run.budget
    if privacy is None or budget is None:
        return None
    by_split = epsilon_spent(rounds.store, rounds.run.run_id)
    rows = spending_by_phase(rounds.store, rounds.run.run_id)
    return PrivacyResult(
        unit=privacy.unit,
        neighbours="zero-out: one example is replaced by a null record; counts are public",
        noise_at=privacy.noise_at,
        adversary=adversary_of(privacy.noise_at),
        delta=budget.delta,
        target_epsilon=budget.epsilon,
        order=budget.order,
        epsilon=max(by_split.values(), default=0.0),
        epsilon_by_split={str(split): epsilon for split, epsilon in by_split.items()},
        phases=tuple(PhaseSpent(r.phase, r.split, r.kind, r.num_releases, r.rdp, r.epsilon) for r in rows),
    )
