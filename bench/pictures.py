"""Pictures of the benches: the report's colours on paper, the same bytes for the same rows."""

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK, BLUE, ORANGE, GREY = "#1c2530", "#0b62b0", "#c4480a", "#5c6b7a"
_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "handheld",
    "text.color": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": "#dde3e9",
}


def add_plot_option(parser: ArgumentParser, what: str) -> None:
    """The option of a bench that can draw its rows."""
    parser.add_argument("--plot", type=Path, metavar="FILE", help=f"draw {what}, as .svg or .png")


def check_plot_option(parser: ArgumentParser, arguments: Namespace) -> None:
    """End with an error where the file's name says no format: now, and not after hours."""
    if arguments.plot is not None and arguments.plot.suffix not in {".svg", ".png"}:
        parser.error(f"--plot must end in .svg or .png, got {arguments.plot}")


def save_picture(draw: Callable[[Axes], None], file: Path, size: tuple[float, float] = (5.4, 3.8)) -> None:
    """Draw as SVG or PNG, whichever the file's name says.

    Args:
        size: Inches.
    """
    with mpl.rc_context():
        mpl.rcdefaults()  # a user's own settings would change the picture
        mpl.rcParams.update(_STYLE)
        figure = Figure(figsize=size, layout="constrained")
        draw(figure.add_subplot())
        figure.savefig(file, dpi=200, metadata={"Date": None} if file.suffix == ".svg" else None)
