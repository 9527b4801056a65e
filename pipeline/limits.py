"""Whether each model of a run keeps the limits of the platforms that it is for, as predicted from their profiles."""

from collections.abc import Callable
from dataclasses import dataclass

from pipeline.run_result import ClassCost, ModelResult, RunResult
from search.budget import DEFAULT

_FIELDS = {  # of a cost, by the name of its limit
    "latency_ms": "latency_ms",
    "training_step_ms": "training_step_ms",
    "memory_mib": "peak_memory_mib",
    "size_kib": "size_kib",
}
WORDS = {
    "latency_ms": "latency {} ms",
    "training_step_ms": "training step {} ms",
    "memory_mib": "peak memory {} MiB",
    "size_kib": "size {} KiB",
}


@dataclass(frozen=True)
class Need:
    """What a model is predicted to need of one limit.

    Attributes:
        limit: Its name in the run file.
        allowed: None where the platform has no such limit.
    """

    limit: str
    needed: float
    allowed: float | None

    @property
    def is_met(self) -> bool:
        """Whether it is within the limit, or there is none."""
        return self.allowed is None or self.needed <= self.allowed


@dataclass(frozen=True)
class PlatformNeeds:
    """A model on one of its platforms."""

    platform: str
    device_class: str
    needs: tuple[Need, ...]

    @property
    def is_met(self) -> bool:
        """Whether every limit is."""
        return all(need.is_met for need in self.needs)


def needs_of(result: RunResult, model: ModelResult) -> tuple[PlatformNeeds, ...]:
    """What a model needs on each platform that it is for; empty in a run without profiles."""
    costs = {cost.profile: cost for cost in result.trial(model.trial).costs}
    return tuple(_on(result, costs[name]) for name in model.platforms)


def limits_in_words(platform: PlatformNeeds) -> str:
    """As in `meets its limits on pixel-4: yes (predicted latency 0.31 of 2 ms, …)`."""
    limited = [need for need in platform.needs if need.allowed is not None]
    if not limited:
        return f"meets its limits on {platform.platform}: it has none"
    told = ", ".join(WORDS[need.limit].format(f"{need.needed:.3g} of {need.allowed:g}") for need in limited)
    return f"meets its limits on {platform.platform}: {'yes' if platform.is_met else 'NO'} (predicted {told})"


def broken_limits(result: RunResult) -> tuple[str, ...]:
    """A warning for every model and platform whose limits are broken."""
    found = [(model, platform) for model in result.models for platform in needs_of(result, model)]
    return tuple(f"trial {model.trial} {limits_in_words(where)}" for model, where in found if not where.is_met)


def over_memory(result: RunResult, compiled_mib: Callable[[int], float]) -> tuple[str, ...]:
    """A warning for every model and platform whose compiled training step takes more memory than its limit.

    Limits are held by what is predicted of a network before it is compiled, which can be wrong by a tenth.

    Args:
        compiled_mib: Of the values of a trial's step as its graph tells them; asked for where a limit holds alone.
    """
    held = [
        (model.trial, where.platform, need.needed, need.allowed)
        for model in result.models
        for where in needs_of(result, model)
        for need in where.needs
        if need.limit == "memory_mib" and need.allowed is not None and need.is_met
    ]
    taken = {trial: compiled_mib(trial) for trial in {trial for trial, *_ in held}}
    return tuple(
        f"trial {trial} on {platform}: its compiled training step takes {taken[trial]:.3g} MiB, over memory_mib = "
        f"{allowed:g} (predicted of the network: {needed:.3g}): search again with a lower memory_mib"
        for trial, platform, needed, allowed in held
        if taken[trial] > allowed
    )


def _on(result: RunResult, cost: ClassCost) -> PlatformNeeds:
    limits = result.budgets.get(cost.device_class, result.budgets.get(DEFAULT, {}))
    needs = tuple(Need(name, getattr(cost, field), limits.get(name)) for name, field in _FIELDS.items())
    return PlatformNeeds(cost.profile, cost.device_class, needs)
