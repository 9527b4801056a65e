"""Epsilon by split, by what was released from each, and what accuracy it bought."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from matplotlib.axes import Axes

from device_runtime.accounting import epsilon_of
from pipeline.privacy_spent import PhaseSpent, PrivacyResult, epsilon_text
from pipeline.report.costs import PHASES
from pipeline.report.curves import Curve, final_lines
from pipeline.report.formats import percent
from pipeline.report.plots import INK, LIMIT, MUTED, SERIES, Plot, draw_svg, percent_axis
from pipeline.run_result import RunResult, TrialResult

_OWN = "the search's own"
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


@dataclass(frozen=True)
class SpentLine:
    """Accuracies of one training in the final phase, each with the epsilon that was spent by then."""

    name: str
    style: str
    epsilons: tuple[float, ...]
    accuracies: tuple[float, ...]

    @property
    def in_words(self) -> str:
        """Where it begins and ends."""
        first, last = ((percent(self.accuracies[i]), epsilon_text(self.epsilons[i])) for i in (0, -1))
        return f"{first[0]} at epsilon {first[1]}, {last[0]} at {last[1]}"


def draw_spending(result: RunResult, curves: tuple[Curve, ...]) -> Plot | None:
    """Accuracy in the final phase against what the clients had spent by then; None without privacy or such training."""
    privacy = result.privacy
    lines = () if privacy is None else spent_lines(privacy, result.trials, curves)
    if privacy is None or not lines:
        return None
    whose = "a client" if privacy.unit == "client" else "training examples"

    def draw(axes: Axes) -> None:
        for line in lines:
            colour = MUTED if line.name == _OWN and len(lines) > 1 else SERIES
            name = line.name if len(lines) > 1 else None
            (drawn,) = axes.plot(line.epsilons, line.accuracies, line.style, color=colour, linewidth=2.0, label=name)
            drawn.set_marker("o" if len(line.epsilons) == 1 else "")  # a single point has no line
        axes.axvline(privacy.target_epsilon, color=LIMIT, linestyle=":", label="target")
        axes.set_xlim(left=0)
        percent_axis(axes)
        axes.set_xlabel(f"epsilon of {whose}, the search included")
        axes.set_ylabel("accuracy, emulator only")
        axes.legend(loc="lower left", labelcolor=INK, framealpha=0.0)

    own = "".join(f" In training by the search: {line.in_words}." for line in lines if line.name == _OWN)
    final = "".join(f" In final training: {line.in_words}." for line in lines if line.name != _OWN)
    return Plot(draw_svg("spending", draw), f"Accuracy against epsilon.{own}{final}")


def spent_lines(
    privacy: PrivacyResult, trials: Sequence[TrialResult], curves: tuple[Curve, ...]
) -> tuple[SpentLine, ...]:
    """The search's own line first, where it trains in the final phase: of the trials whose weights were kept."""
    own = [trial for trial in trials if trial.phase == "final"]
    final = final_lines(curves)
    by_trial, by_round = epsilon_by_step(privacy, own, max((len(curve.points) for curve, _ in final), default=0))
    known = {curve.trial: curve.points[-1].accuracy for curve in curves if curve.phase == "search"}
    kept = [i for i, trial in enumerate(own) if trial.is_kept and trial.index in known]
    lines = [
        SpentLine(_OWN, "-", tuple(by_trial[i] for i in kept), tuple(known[own[i].index] for i in kept)),
        *(
            SpentLine(f"trial {curve.trial}", style, by_round[: len(curve.points)], _accuracies(curve))
            for curve, style in final
        ),
    ]
    return tuple(line for line in lines if line.epsilons)


def epsilon_by_step(
    privacy: PrivacyResult, own: Sequence[TrialResult], num_rounds: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Epsilon of whatever final training reads, after each trial and each round of the final phase.

    What was spent before the phase comes first. Releases of a kind are taken to have cost alike.

    Args:
        own: Trials of the search itself in that phase, in their order; final training comes after them.
        num_rounds: Of final training.
    """
    rows = [row for row in privacy.phases if row.split in {"train", "all"} and row.phase != "test"]
    before = sum(row.rdp for row in rows if row.phase != "final")
    by_trial, by_round = [0.0] * len(own), 0.0
    for row in rows:
        if row.phase != "final":
            continue
        counts = [_releases(row.kind, trial) for trial in own]
        rounds = num_rounds if row.kind == "update" else 0
        total = sum(counts) + rounds
        if total == 0:
            before += row.rdp
            continue
        by_trial = [spent + row.rdp * count / total for spent, count in zip(by_trial, counts, strict=True)]
        by_round += row.rdp / total if rounds else 0.0
    steps = accumulate([*by_trial, *[by_round] * num_rounds], initial=before)
    epsilons = tuple(epsilon_of(rdp, privacy.order, privacy.delta) for rdp in steps)[1:]
    return epsilons[: len(own)], epsilons[len(own) :]


def released_in_words(kind: str) -> str:
    """What a release of a kind tells."""
    return _RELEASED.get(kind, kind)


def _releases(kind: str, trial: TrialResult) -> int:
    """Of a kind, that a client makes in a trial that it takes part in."""
    if kind == "reward":
        return int(trial.num_rewarded > 0)
    return int(not trial.failed) if kind == "metrics" else trial.rounds


def _accuracies(curve: Curve) -> tuple[float, ...]:
    return tuple(point.accuracy for point in curve.points)


def _rows(privacy: PrivacyResult, split: str) -> tuple[PhaseSpent, ...]:
    rows = (row for row in privacy.phases if row.split == split)
    place = {phase: i for i, phase in enumerate(PHASES)}
    return tuple(sorted(rows, key=lambda row: (place.get(row.phase, len(place)), row.phase, row.kind)))
