"""Which SoC a board has: boards are what Linux and Android tell of a phone, SoCs are what publications are about.

Source of the table: mlcommons/mobile_app_open, flutter/assets/android-boards/database.json (MIT), without the counts of
cores that dumps of phones contradict; numbers of later Snapdragons and of Tensor from kdrag0n/freqbench (MIT),
results/README.md; platforms of Kirin from pytorch/cpuinfo (BSD), test/build.prop.
"""

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files


@dataclass(frozen=True)
class Board:
    """A board's SoC.

    Attributes:
        num_cores: All of the SoC's CPU cores; None where the table does not tell.
    """

    soc: str
    num_cores: int | None


def find_soc(names: Iterable[str], num_cores: int) -> str | None:
    """The SoC of the first name in the table whose SoC has that many cores; None where there is none.

    Kernels call a whole family of chips by its first member (`msm8960` has two cores, its sister APQ8064 four), so a
    name alone is not enough.

    Args:
        names: Of the board, chip or platform, in any case; the surest first.
        num_cores: That the device has.
    """
    for name in names:
        board = known_boards().get(name.strip().lower())
        if board and board.num_cores in {num_cores, None}:
            return board.soc
    return None


@cache
def known_boards() -> dict[str, Board]:
    """The table, by name in small letters."""
    text = files("profiles.catalogue").joinpath("boards.csv").read_text(encoding="utf-8")
    return {
        row["board"]: Board(row["soc"], int(row["num_cores"] or 0) or None) for row in csv.DictReader(text.splitlines())
    }
