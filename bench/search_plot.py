"""Accuracy of what searches found against what they cost the clients, one point a method."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from bench.pictures import BLUE, GREY, ORANGE
from bench.search_rows import Row
from pipeline.report.plots import percent_axis

_MARKERS = "os^DvPX*<>dphH8"  # enough for each colour's methods
LEAST_S = 0.1  # of an axis that knows no zero


def draw_costs(axes: Axes, rows: Sequence[Row], ours: str, controls: Sequence[str]) -> None:
    """Draw rows of `search_comparison.summary`: the median of the seeds and their quartiles, which no failed one moves.

    Args:
        ours: Methods whose names begin so are in one colour, the controls in another, FedNAS and what it is compared
            with in a third.
    """
    counts = dict.fromkeys((BLUE, GREY, ORANGE), 0)
    for row in rows:
        colour = BLUE if row["method"].startswith(ours) else GREY if row["method"] in controls else ORANGE
        marker = _MARKERS[counts[colour] % len(_MARKERS)]
        counts[colour] += 1
        low, median, high = np.quantile([run["models"][0]["test_accuracy"] for run in row["runs"]], (0.25, 0.5, 0.75))
        axes.errorbar(
            max(LEAST_S, row["client_seconds"]),
            median,
            [[median - low], [high - median]],
            color=colour,
            marker=marker,
            markersize=5,
            capsize=2,
            elinewidth=0.8,
            linestyle="none",
            label=row["method"],
        )
    axes.set_xscale("log")
    percent_axis(axes)
    axes.set_xlabel("client-seconds of the search, on emulated phones")
    axes.set_ylabel("test accuracy after equal final training,\nmedian and quartiles of the seeds")
    axes.figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=7)
