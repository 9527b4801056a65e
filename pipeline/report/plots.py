"""Draw a plot as SVG for the page, or into a file: one style, the page's colours, the same bytes for the same data."""

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

# Stand-ins that matplotlib takes for colours; the page's style sheet says what they are in light, in dark, on paper.
_NAMES = ("ink", "muted", "grid", "series", "mark", "limit", "leaf", "violet", "paper", "panel")
_VARIABLES = {f"#{i:02x}{i:02x}{i:02x}": name for i, name in enumerate(_NAMES, start=1)}
INK, MUTED, GRID, SERIES, MARK, LIMIT, LEAF, VIOLET, PAPER, PANEL = _VARIABLES
# What the page's style sheet says of them in light, for files that no style sheet colours.
LIGHT = {
    INK: "#1c2530",
    MUTED: "#5d6b7a",
    GRID: "#dde3e9",
    SERIES: "#0b62b0",
    MARK: "#c4480a",
    LIMIT: "#a3195b",
    LEAF: "#1f7a2e",
    VIOLET: "#6b3fc0",
    PAPER: "#ffffff",
    PANEL: "#f4f6f8",
}
_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "handheld",
    "svg.fonttype": "none",  # text stays text: small, found by a search, read aloud
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib: measured alike on every machine
    "font.size": 10.0,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
}
_NOT_FOR_A_PAGE = re.compile(
    r"<\?xml.*?\?>|<!DOCTYPE.*?>|<!--.*?-->|<metadata>.*?</metadata>|<style.*?</style>|<defs>\s*</defs>", re.DOTALL
)
_SIZE = re.compile(r'(?<=\s)(?:width|height)="[^"]*"\s')
_NAME = re.compile(r'(\bid="|href="#|url\(#)')
_DOTS_PER_INCH = 200  # of a PNG
_LOG_FROM, _SAME = 8.0, 1.25  # largest over smallest value


@dataclass(frozen=True)
class Plot:
    """A drawing with its text.

    Attributes:
        alt: What it shows, for whoever does not see it.
        width_in: As it was drawn, inches.
    """

    svg: str
    alt: str
    width_in: float = 4.6


@dataclass(frozen=True)
class Line:
    """How a line among several is drawn, in plot and key.

    Attributes:
        style: As of matplotlib: "-", "--" or ":".
    """

    colour: str
    style: str

    @property
    def variable(self) -> str:
        """Name of the colour in the page's style sheet."""
        return _VARIABLES[self.colour]

    @property
    def dashes(self) -> str:
        """As SVG wants them, for the key."""
        return {"-": "none", "--": "6 3", ":": "2 3"}[self.style]


# Five colours that are told apart by most eyes, then again with dashes.
LINES = tuple(Line(colour, style) for style in ("-", "--") for colour in (SERIES, MARK, LEAF, LIMIT, VIOLET))


def draw_svg(name: str, draw: Callable[[Axes], None], height_in: float = 3.0) -> str:
    """Draw on one pair of axes.

    Args:
        name: Unique in the page, letters and digits: what the drawing defines is named by it.
        height_in: Height where the width is 4.6, inches.
    """

    def draw_axes(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.patch.set_visible(False)
        draw(axes)

    return draw_figure(name, draw_axes, (4.6, height_in))


def draw_figure(name: str, draw: Callable[[Figure], None], size_in: tuple[float, float]) -> str:
    """Draw on an empty figure.

    Args:
        name: As of `draw_svg`.
        size_in: Width and height, inches; text is as large as in other plots where a page shows 4.6 as 500 pixels.
    """
    return _fit_page(_drawn(draw, size_in, _STYLE, "svg").decode(), name)


def write_picture(file: Path, draw: Callable[[Figure], None], size_in: tuple[float, float]) -> None:
    """Draw on an empty figure, in colours of `LIGHT`, and write it as SVG or PNG by the file's ending.

    Args:
        size_in: Width and height, inches.
    """
    style = {name: LIGHT.get(value, value) if isinstance(value, str) else value for name, value in _STYLE.items()}
    style["figure.constrained_layout.w_pad"] = 0.1  # a page has margins of its own

    def draw_on_paper(figure: Figure) -> None:
        figure.patch.set(visible=True, facecolor=LIGHT[PAPER])
        draw(figure)

    file.write_bytes(_drawn(draw_on_paper, size_in, style, "png" if file.suffix == ".png" else "svg"))


def _drawn(
    draw: Callable[[Figure], None], size_in: tuple[float, float], style: dict[Any, Any], kind: Literal["svg", "png"]
) -> bytes:
    with mpl.rc_context():
        mpl.rcdefaults()  # a user's own settings would change the bytes
        mpl.rcParams.update(style)
        figure = Figure(figsize=size_in, layout="constrained")
        figure.patch.set_visible(False)
        FigureCanvasSVG(figure)  # the figure keeps it; without, matplotlib picks one by the process's settings
        draw(figure)
        written = io.BytesIO()
        metadata = {"Date": None} if kind == "svg" else {"Software": None}
        figure.savefig(written, format=kind, metadata=metadata, dpi=_DOTS_PER_INCH)
    return written.getvalue()


def percent_axis(axes: Axes) -> None:
    """Write accuracies as percent, for shares along y."""
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g}%"))


def spread_axis(axes: Axes, low: float, high: float) -> None:
    """Make x logarithmic where it spans much, with readable numbers, and wider where it spans next to nothing."""
    if low > 0 and high < low * _SAME:  # latencies that are alike have to look alike
        middle = (low + high) / 2
        axes.set_xlim(middle / _SAME, middle * _SAME)
    if not 0 < low * _LOG_FROM < high:
        return
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())


def whole_axis(axes: Axes) -> None:
    """Write only whole numbers along x."""
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _fit_page(svg: str, name: str) -> str:
    svg = _NOT_FOR_A_PAGE.sub("", svg)
    head, tag, rest = svg.partition("<g ")
    svg = _SIZE.sub("", head) + tag + rest  # the page sizes it, by its viewBox
    svg = _NAME.sub(rf"\g<1>{name}-", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var(--{variable})")
    return "\n".join(line.rstrip() for line in svg.splitlines() if line.strip())
