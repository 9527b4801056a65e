"""Pictures of the benches, in the report's style and colours: the same bytes for the same rows."""

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path

from matplotlib.axes import Axes

from pipeline.command_line.report import PICTURES
from pipeline.report import plots
from pipeline.report.plots import LIGHT, write_picture

INK, BLUE, ORANGE, GREY = (LIGHT[name] for name in (plots.INK, plots.SERIES, plots.MARK, plots.MUTED))


def add_plot_option(parser: ArgumentParser, what: str) -> None:
    """The option of a bench that can draw its rows."""
    parser.add_argument("--plot", type=Path, metavar="FILE", help=f"draw {what}, as .svg or .png")


def check_plot_option(parser: ArgumentParser, arguments: Namespace) -> None:
    """End with an error where the file's name says no format: now, and not after hours."""
    if arguments.plot is not None and arguments.plot.suffix not in PICTURES:
        parser.error(f"--plot must end in .svg or .png, got {arguments.plot}")


def save_picture(draw: Callable[[Axes], None], file: Path, size: tuple[float, float] = (5.4, 3.8)) -> None:
    """Draw as SVG or PNG, whichever the file's name says.

    Args:
        size: Inches.
    """
    write_picture(file, lambda figure: draw(figure.add_subplot()), size)
