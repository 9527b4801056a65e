"""Pictures of a profile: predictions beside measurements, kernels by family, how steady the runs were."""

from collections.abc import Sequence
from math import exp
from statistics import median

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

from device_runtime.timing import MAX_SPREAD
from pipeline.report.formats import significant
from pipeline.report.plots import INK, LEAF, LIMIT, MARK, MUTED, SERIES, VIOLET, Plot, draw_svg
from pipeline.report.profile_facts import WITHIN, Example, Pair
from profiles.schema import DeviceProfile, Direction, KernelTime, NetworkTime

COLOURS: dict[Direction, str] = {"forward": SERIES, "evaluate": LEAF, "gradient": MARK}
_FAMILY_COLOURS = (SERIES, MARK, LEAF, VIOLET, LIMIT, MUTED)
_MOST = 4.0  # ratio that is drawn; what is farther lies on the edge
_COARSE, _FINE = (0.25, 0.5, 0.75, 1, 1.5, 2, 3, 4), (0.5, 0.6, 0.7, 0.8, 0.9, 1, 1.1, 1.25, 1.5, 2)
_MOST_SPREAD, _MOST_COURSE = 1.0, 2.0  # likewise
_ROW_IN, _FRAME_IN = 0.28, 0.9  # height of a family's row, and of what is around the rows


def draw_pairs(pairs: Sequence[Pair]) -> Plot | None:
    """Predictions over measurements, with 80% intervals; None without networks."""
    if not pairs:
        return None

    def draw(axes: Axes) -> None:
        known = [pair.network.median_ms for pair in pairs]
        _log_axis(axes, "x", min(known), max(known))
        axes.axhspan(1 / (1 + WITHIN), 1 + WITHIN, color=MUTED, alpha=0.15, linewidth=0)
        axes.axhline(1, color=MUTED, linewidth=1)
        for direction, colour in COLOURS.items():
            some = [pair for pair in pairs if pair.network.direction == direction]
            if some:
                _draw_direction(axes, some, colour, direction)
        farthest = max(abs(pair.log_error) for pair in pairs)
        edge = min(max(exp(1.15 * farthest), 1.5), _MOST)
        axes.set_ylim(1 / edge, edge)
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(FixedLocator(_COARSE if edge > 2 else _FINE))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("measured, ms")
        axes.set_ylabel("predicted / measured")
        axes.figure.legend(loc="outside upper left", ncols=3, frameon=False, labelcolor=INK, fontsize=9)

    within = sum(abs(pair.predicted_ms / pair.network.median_ms - 1) <= WITHIN for pair in pairs)
    alt = f"Predicted over measured time of {len(pairs)} networks; {within} of them lie within 10% of it."
    return Plot(draw_svg("pairs", draw, 3.6), alt)


def _draw_direction(axes: Axes, pairs: Sequence[Pair], colour: str, name: str) -> None:
    x = [pair.network.median_ms for pair in pairs]
    low, high = ([pair.interval80_ms[end] / pair.network.median_ms for pair in pairs] for end in (0, 1))
    axes.vlines(x, low, high, color=colour, alpha=0.3, linewidth=1)
    y = [pair.predicted_ms / pair.network.median_ms for pair in pairs]
    axes.scatter(x, np.clip(y, 1 / _MOST, _MOST), s=14, color=colour, alpha=0.8, linewidths=0, label=name)


def draw_families(times: Sequence[KernelTime]) -> Plot | None:
    """Times of all kernels by family and direction; None where no kernel is known."""
    families = sorted({time.kernel.family for time in times}, key=lambda name: -_median_of(times, name))
    if not families:
        return None

    def draw(axes: Axes) -> None:
        directions = [one for one in COLOURS if any(time.direction == one for time in times)]
        for row, direction in enumerate(directions):
            some = [time for time in times if time.direction == direction and time.median_ms > 0]
            shift = (row - (len(directions) - 1) / 2) * 0.24
            places = [families.index(time.kernel.family) + shift for time in some]
            style = {"s": 11, "color": COLOURS[direction], "alpha": 0.55, "linewidths": 0}
            axes.scatter([time.median_ms for time in some], places, label=direction, **style)  # type: ignore[arg-type]
        axes.set_yticks(range(len(families)), [name.replace("_", " ") for name in families])
        axes.set_ylim(len(families) - 0.4, -0.6)
        known = [time.median_ms for time in times if time.median_ms > 0]
        _log_axis(axes, "x", min(known), max(known))
        axes.set_xlabel("ms of one run")
        axes.figure.legend(loc="outside upper left", ncols=3, frameon=False, labelcolor=INK, fontsize=9)

    dearest = families[0].replace("_", " ")
    alt = f"Times of {len(times)} kernels in {len(families)} families; the median kernel of {dearest} takes longest."
    return Plot(draw_svg("families", draw, _FRAME_IN + _ROW_IN * max(len(families), 3) * 1.3), alt)


def draw_examples(examples: Sequence[Example]) -> Plot:
    """Known models, their time shared out to families of kernels."""
    families = list(dict.fromkeys(name for example in examples for name, _ in example.family_ms))

    def draw(axes: Axes) -> None:
        ends = [0.0] * len(examples)
        for i, family in enumerate(families):
            widths = [dict(example.family_ms).get(family, 0.0) for example in examples]
            colour, alpha = _FAMILY_COLOURS[i % len(_FAMILY_COLOURS)], 0.85 if i < len(_FAMILY_COLOURS) else 0.45
            label = family.replace("_", " ")
            axes.barh(range(len(examples)), widths, left=ends, height=0.6, color=colour, alpha=alpha, label=label)
            ends = [end + width for end, width in zip(ends, widths, strict=True)]
        axes.set_yticks(range(len(examples)), [example.model.replace("_", " ") for example in examples])
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("ms of one image, its kernels added up")
        axes.figure.legend(loc="outside upper left", ncols=3, frameon=False, labelcolor=INK, fontsize=9)

    told = (f"{one.model} {significant(one.median_ms)} ms, most of it {one.family_ms[0][0]}" for one in examples)
    return Plot(
        draw_svg("examples", draw, 2.3), f"Predicted time of known models by family of kernels: {'; '.join(told)}."
    )


def draw_spreads(times: Sequence[KernelTime]) -> Plot | None:
    """How far the runs of each kernel spread; None where none was timed."""
    timed = [time for time in times if time.repetitions > 1 and time.median_ms > 0]
    if not timed:
        return None

    def draw(axes: Axes) -> None:
        for direction, colour in COLOURS.items():
            if not (some := [time for time in timed if time.direction == direction]):
                continue
            x = [time.median_ms for time in some]
            y = [100 * min(time.spread, _MOST_SPREAD) for time in some]
            axes.scatter(x, y, s=11, color=colour, alpha=0.6, linewidths=0, label=direction)
        axes.axhline(100 * MAX_SPREAD, color=LIMIT, linewidth=1, linestyle="--")
        known = [time.median_ms for time in timed]
        _log_axis(axes, "x", min(known), max(known))
        axes.set_ylim(0, 100 * min(max(1.1 * max(time.spread for time in timed), 0.3), 1.02 * _MOST_SPREAD))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}%"))
        axes.set_xlabel("ms of one run")
        axes.set_ylabel("spread")
        axes.figure.legend(loc="outside upper left", ncols=3, frameon=False, labelcolor=INK, fontsize=9)

    wide = sum(time.spread > MAX_SPREAD for time in timed)
    alt = f"Distance of the quartiles by the median of {len(timed)} kernels; {wide} of them exceed {MAX_SPREAD:.0%}."
    return Plot(draw_svg("spreads", draw, 2.8), alt)


def draw_courses(networks: Sequence[NetworkTime]) -> Plot | None:
    """Runs of whole networks over their median as the session went on; None where no runs were kept."""
    kept = [network for network in networks if len(network.samples_ms) > 2]
    if not kept:
        return None
    bins = 24
    places = np.concatenate([np.arange(len(one.samples_ms)) / len(one.samples_ms) for one in kept])
    ratios = np.concatenate([np.array(one.samples_ms) / one.median_ms for one in kept])
    within = [ratios[(bins * places).astype(int) == i] for i in range(bins)]
    told = [(i, np.percentile(some, [10, 50, 90])) for i, some in enumerate(within) if len(some)]

    def draw(axes: Axes) -> None:
        x = [100 * (i + 0.5) / bins for i, _ in told]
        low, middle, high = np.array([values for _, values in told]).T
        axes.fill_between(x, low, high, color=SERIES, alpha=0.2, linewidth=0, label="10 to 90% of runs")
        axes.plot(x, middle, color=SERIES, linewidth=1.5, label="median")
        axes.axhline(1, color=MUTED, linewidth=0.8)
        axes.set_xlim(0, 100)
        axes.set_ylim(max(0.98 * low.min(), 1 / _MOST_COURSE), min(1.02 * high.max(), _MOST_COURSE))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}%"))
        axes.set_xlabel("of the session")
        axes.set_ylabel("run / its median")
        axes.legend(loc="best", frameon=False, labelcolor=INK, fontsize=9)

    drift = max(values[1] for _, values in told) / min(values[1] for _, values in told) - 1
    alt = f"Runs of {len(kept)} networks over their medians through the session, which differs by {drift:.1%} at most."
    return Plot(draw_svg("courses", draw, 2.8), alt)


def pictures_of(profile: DeviceProfile) -> dict[str, Plot | None]:
    """What only measured devices have, by name."""
    return {
        "families": draw_families(profile.kernels),
        "spreads": draw_spreads(profile.kernels),
        "courses": draw_courses(profile.networks),
    }


def _log_axis(axes: Axes, which: str, low: float, high: float) -> None:
    axis = axes.xaxis if which == "x" else axes.yaxis
    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    steps = (1.0, 2.0, 5.0) if high < 100 * low else (1.0,)
    axis.set_major_locator(LogLocator(subs=steps))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def _median_of(times: Sequence[KernelTime], family: str) -> float:
    return median(time.median_ms for time in times if time.kernel.family == family)
