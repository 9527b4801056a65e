"""What each platform of a run gets: its model, what that is predicted to need beside the limits, how good it is."""

from dataclasses import dataclass

from pipeline.limits import Need, PlatformNeeds, needs_of
from pipeline.report.formats import significant
from pipeline.report.networks import network_in_words
from pipeline.run_result import ModelResult, RunResult


@dataclass(frozen=True)
class PlatformRow:
    """One platform with the model that is for it."""

    model: ModelResult
    network: str
    needs: PlatformNeeds

    @property
    def latency_ms(self) -> float:
        """Predicted, of one example."""
        return next(need.needed for need in self.needs.needs if need.limit == "latency_ms")


def platforms_of(result: RunResult) -> tuple[PlatformRow, ...]:
    """One row a platform, those of the main model first; none in a run without profiles."""
    return tuple(
        PlatformRow(model, network_in_words(result.trial(model.trial).candidate.architecture), needs)
        for model in result.models
        for needs in needs_of(result, model)
    )


def beside_its_limit(need: Need) -> str:
    """As in `0.31 of 2`; the need alone where there is no limit."""
    told = significant(need.needed)
    return told if need.allowed is None else f"{told} of {need.allowed:g}"
