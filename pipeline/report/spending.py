"""Epsilon by split, by what was released from each, and what accuracy it bought."""

from dataclasses import dataclass

from matplotlib.axes import Axes

from device_runtime.accounting import epsilon_of
from pipeline.privacy_spent import PhaseSpent, PrivacyResult, epsilon_text
from pipeline.report.costs import PHASES
from pipeline.report.curves import Curve, final_lines
from pipeline.report.formats import percent
from pipeline.report.plots import INK, LIMIT, SERIES, Plot, draw_svg, percent_axis

_RELEASED = {"architecture": "update of the architecture weights", "reward": "reward of hyper-parameters"}


@dataclass(frozen=True)
class SplitSpent:
    """What one split of the clients' examples spent.

    Attributes:
        epsilon: Of all its releases together, on the client that spent most.
        left: Of the target, at least 0.
        share: Of the target, for a bar; at most 1.
        rows: By phase and kind of release, in the order of the run.
        is_total: Whether the run's epsilon is this split's.
    """

    split: str
    epsilon: float
    left: float
    share: float
    rows: tuple[PhaseSpent, ...]
    is_total: bool


def splits_of(privacy: PrivacyResult) -> tuple[SplitSpent, ...]:
    """Every split that released something, the one that spent most first."""
    ordered = sorted(privacy.epsilon_by_split.items(), key=lambda item: (-item[1], item[0]))
    return tuple(
        SplitSpent(
            split,
            epsilon,
            max(0.0, privacy.target_epsilon - epsilon),
            min(1.0, epsilon / privacy.target_epsilon),
            _rows(privacy, split),
            i == 0,
        )
        for i, (split, epsilon) in enumerate(ordered)
    )


def draw_spending(privacy: PrivacyResult | None, curves: tuple[Curve, ...]) -> Plot | None:
    """Each model's accuracy against what its clients had spent by then; None without privacy or final training."""
    final = final_lines(curves)
    if privacy is None or not final:
        return None
    spent = epsilon_by_round(privacy, max(len(curve.points) for curve, _ in final))
    whose = "a client" if privacy.unit == "client" else "training examples"

    def draw(axes: Axes) -> None:
        for curve, style in final:
            accuracies = [point.accuracy for point in curve.points]
            name = f"trial {curve.trial}" if len(final) > 1 else None
            axes.plot(spent[: len(accuracies)], accuracies, style, color=SERIES, linewidth=2.0, label=name)
        axes.axvline(privacy.target_epsilon, color=LIMIT, linestyle=":", label="target")
        axes.set_xlim(left=0)
        percent_axis(axes)
        axes.set_xlabel(f"epsilon of {whose}, the search included")
        axes.set_ylabel("accuracy, emulator only")
        axes.legend(loc="lower left", labelcolor=INK, framealpha=0.0)

    first, last = (final[0][0].points[i].accuracy for i in (0, -1))
    told = f"{percent(first)} at epsilon {epsilon_text(spent[0])}, {percent(last)} at {epsilon_text(spent[-1])}"
    return Plot(draw_svg("spending", draw), f"Accuracy against epsilon in final training: {told}.")


def epsilon_by_round(privacy: PrivacyResult, num_rounds: int) -> list[float]:
    """Epsilon of whatever final training reads, after each of its rounds; what was spent there before comes first.

    A search may release in the final phase too: its last updates are the rounds, and all others came before.
    """
    rows = [row for row in privacy.phases if row.split in {"train", "all"} and row.phase != "test"]
    own = (row for row in rows if (row.phase, row.kind) == ("final", "update"))
    updates = sum(row.rdp * min(1.0, num_rounds / row.num_releases) for row in own)
    before = sum(row.rdp for row in rows) - updates
    return [
        epsilon_of(before + updates * number / num_rounds, privacy.order, privacy.delta)
        for number in range(1, num_rounds + 1)
    ]


def released_in_words(kind: str) -> str:
    """What a release of a kind tells."""
    return _RELEASED.get(kind, kind)


def _rows(privacy: PrivacyResult, split: str) -> tuple[PhaseSpent, ...]:
    rows = (row for row in privacy.phases if row.split == split)
    place = {phase: i for i, phase in enumerate(PHASES)}
    return tuple(sorted(rows, key=lambda row: (place.get(row.phase, len(place)), row.phase, row.kind)))
