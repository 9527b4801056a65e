"""What the run cost its clients: by phase, and the search by trial."""

from collections.abc import Iterable
from dataclasses import dataclass

from matplotlib.axes import Axes

from pipeline.report.formats import significant
from pipeline.report.plots import MARK, MUTED, Plot, draw_svg, whole_axis
from pipeline.run_result import PhaseCostResult, RunResult

PHASES = ("search", "final", "test")


@dataclass(frozen=True)
class CostRow:
    """One line of a table of costs.

    Attributes:
        name: A phase, or a trial's number.
        is_winner: Whether it is the chosen trial.
    """

    name: str
    num_assignments: int
    client_seconds: float
    bytes_up: int
    bytes_down: int
    examples: int
    is_winner: bool = False


@dataclass(frozen=True)
class Costs:
    """Both tables of costs.

    Attributes:
        total: Sums over all phases.
        dearest: The largest of the trials, column by column.
    """

    phases: tuple[CostRow, ...]
    trials: tuple[CostRow, ...]
    total: CostRow
    dearest: CostRow


def costs_of(result: RunResult) -> Costs:
    """Sum the cost ledger by phase, search first, and the search by trial."""
    names = {cost.phase for cost in result.costs}
    ordered = [*(name for name in PHASES if name in names), *sorted(names.difference(PHASES))]
    phases = tuple(_sum(name, (cost for cost in result.costs if cost.phase == name)) for name in ordered)
    search = [cost for cost in result.costs if cost.phase == "search"]
    indices = sorted({cost.trial for cost in search if cost.trial is not None})
    trials = tuple(_sum(str(i), (cost for cost in search if cost.trial == i), i == result.main.trial) for i in indices)
    return Costs(phases, trials, _sum("all", result.costs), _largest(trials))


def draw_trials(costs: Costs) -> Plot | None:
    """Client-seconds of each trial; None where there is one trial or none."""
    if len(costs.trials) < 2:
        return None
    x = [int(row.name) for row in costs.trials]
    seconds = [row.client_seconds for row in costs.trials]
    colours = [MARK if row.is_winner else MUTED for row in costs.trials]

    def draw(axes: Axes) -> None:
        axes.bar(x, seconds, width=0.8, color=colours, linewidth=0)
        whole_axis(axes)
        axes.grid(visible=False, axis="x")
        axes.set_xlabel("trial")
        axes.set_ylabel("client-seconds")

    alt = (
        f"Client-seconds of {len(x)} trials of the search: from {significant(min(seconds))} to "
        f"{significant(max(seconds))}, {significant(sum(seconds))} together."
    )
    return Plot(draw_svg("trialcosts", draw, 2.1), alt)


def _largest(rows: tuple[CostRow, ...]) -> CostRow:
    return CostRow(
        "dearest",
        max((row.num_assignments for row in rows), default=0),
        max((row.client_seconds for row in rows), default=0.0),
        max((row.bytes_up for row in rows), default=0),
        max((row.bytes_down for row in rows), default=0),
        max((row.examples for row in rows), default=0),
    )


def _sum(name: str, costs: Iterable[PhaseCostResult], is_winner: bool = False) -> CostRow:
    rows = tuple(costs)
    return CostRow(
        name,
        sum(row.num_assignments for row in rows),
        sum(row.device_seconds for row in rows),
        sum(row.bytes_up for row in rows),
        sum(row.bytes_down for row in rows),
        sum(row.examples for row in rows),
        is_winner,
    )
