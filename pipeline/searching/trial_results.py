"""Trials as a run's result tells of them."""

from pipeline.run_result import ClassCost, TrialResult
from profiles.schema import DeviceProfile
from search.candidate import Observation
from search.cost import cost_of
from search.layers import num_parameters


def trial_result(
    observation: Observation, is_noisy: bool, profiles: tuple[DeviceProfile, ...], batch_size: int
) -> TrialResult:
    """An observation with its predicted costs, for the result."""
    candidate = observation.trial.candidate
    costs = [(profile, cost_of(candidate.architecture, profile, batch_size)) for profile in profiles]
    return TrialResult(
        index=observation.trial.index,
        candidate=candidate,
        num_parameters=num_parameters(candidate.architecture),
        accuracy=observation.accuracy,
        is_noisy=is_noisy,
        num_examples=observation.num_examples,
        rounds=observation.trial.rounds,
        start_from=observation.trial.start_from,
        is_shared=observation.trial.supernet is not None,
        num_clients=None if observation.trial.clients is None else len(observation.trial.clients),
        failed=observation.failed,
        phase=observation.trial.phase,
        moves=observation.trial.moves,
        is_kept=observation.trial.is_kept,
        merged=observation.trial.merged,
        metrics=observation.metrics,
        num_rewarded=observation.num_rewarded,
        architecture_weights=observation.architecture_weights,
        costs=tuple(
            ClassCost(
                profile.name,
                profile.device_class,
                cost.latency_ms,
                cost.training_step_ms,
                cost.peak_memory_mib,
                cost.size_kib,
            )
            for profile, cost in costs
        ),
    )
