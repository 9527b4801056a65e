"""What a table [search] is made in, and what one that may be private says of itself."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

from device_runtime.accounting import ReleaseKind
from search.budget import Feasibility
from search.cell_space import CellSpace
from search.clients import Client
from search.space import SearchSpace, Space

if TYPE_CHECKING:
    from pipeline.run_sections import RunFile

ALL_AT_ONCE = 10**6  # no step of a search has as many trials
# Phase, kind of release, and how often at most a client makes it there.
Times = tuple[Literal["search", "final"], ReleaseKind, int]


@runtime_checkable
class CanBePlanned(Protocol):
    """A search that says before it begins what each client will release, so that it may be private."""

    def planned(self, run_file: "RunFile") -> tuple[Times, ...]:
        """What a client releases at most if it takes part in everything; of a phase and kind several entries add up.

        What `[final]` trains and the last test come on top. An update is of training examples; `architecture` of the
        steps by validation examples that `moves` = `architecture` and, in the example unit, `alternate` take.
        """
        ...


@runtime_checkable
class NamesClients(Protocol):
    """A search some of whose rounds name their clients, so that each client is asked as often as was planned."""

    @property
    def named_kinds(self) -> frozenset[ReleaseKind]:
        """What is released in those rounds of the search phase; the other rounds take whoever comes."""
        ...


@dataclass(frozen=True)
class Problem:
    """What every algorithm searches in."""

    space: Space
    feasibility: Feasibility
    clients: tuple[Client, ...]

    @property
    def blocks(self) -> SearchSpace:
        """The space of a search that knows networks of blocks alone.

        Raises:
            TypeError: It is one of cells.
        """
        if not isinstance(self.space, SearchSpace):
            raise TypeError("this search knows networks of blocks alone: put [space] in the place of [cells]")
        return self.space

    @property
    def cells(self) -> CellSpace:
        """The space of a search that knows supernets of cells alone.

        Raises:
            TypeError: It is one of blocks.
        """
        if not isinstance(self.space, CellSpace):
            raise TypeError("this search knows supernets of cells alone: put [cells] in the place of [space]")
        return self.space
