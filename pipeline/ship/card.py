"""The model card: what the model is, what it was made from, what that cost in privacy, and how far to trust it.

It reads what was released, never `RunResult.emulator_only` nor the curves: those are exact figures that no phone told.
"""

from collections.abc import Mapping
from importlib.resources import files

from jinja2 import Environment, StrictUndefined

from pipeline.limits import limits_in_words, needs_of
from pipeline.privacy_spent import epsilon_text
from pipeline.run_result import FinishedRun
from pipeline.ship.parity import Parity
from profiles.catalogue.reading import UnknownProfileError, load_profile
from profiles.predict import predict_kernels
from profiles.records import RecordError, to_plain
from search.architecture import Architecture
from search.cost import kernels_of

CARD = "MODEL_CARD.md"
_METHODS = {
    "measured": "sum of layers, each measured on the phone",
    "regression": "layers between those measured on the phone",
    "transferred": "another phone's layers, scaled by what was measured on both",
    "scaled": "sum of layers, some scaled from the nearest one measured",
    "throughput": "sum of layers, from the phone's throughput",
}
_NOT_AT_HAND = "sum of layers"  # the profile was a file that is not there any more


def write_card(run: FinishedRun, parity: Parity, sizes: Mapping[str, int]) -> str:
    """The card as Markdown.

    Args:
        sizes: Bytes of the bundle's files by name.
    """
    environment = Environment(  # noqa: S701  (Markdown, and what stands in tables goes through `cell`)
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters.update(cell=_cell, percent=_percent, figure=_figure, epsilon=epsilon_text)
    template = environment.from_string((files("pipeline.ship") / f"{CARD}.j2").read_text(encoding="utf-8"))
    result, winning = run.result, run.trial
    costs = [cost for cost in winning.costs if not run.model.platforms or cost.profile in run.model.platforms]
    return template.render(
        result=result,
        model=run.model,
        winning=winning,
        architecture=winning.candidate.architecture,
        hyper_parameters=to_plain(winning.candidate.hyper_parameters),
        latencies=[(cost, latency_method(cost.profile, winning.candidate.architecture)) for cost in costs],
        limits=[limits_in_words(platform) for platform in needs_of(result, run.model)],
        parity=parity,
        sizes=sizes,
    )


def latency_method(profile: str, architecture: Architecture) -> str:
    """In words, how the latency on a profile was predicted, by the least sure of its layers."""
    try:
        return _METHODS[predict_kernels(load_profile(profile), kernels_of(architecture), 1, "forward").method]
    except (UnknownProfileError, RecordError):
        return _NOT_AT_HAND


def _cell(value: object) -> str:
    """Text that cannot leave its cell of a table."""
    return " ".join(str(value).split()).replace("|", "\\|")


def _percent(value: float) -> str:
    return f"{100 * value:.1f}%"


def _figure(value: float) -> str:
    return f"{value:.3g}"
