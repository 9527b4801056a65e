"""Generated tests draw the same examples on every machine and assert no times; architectures that several draw."""

from typing import get_args

import pytest
from hypothesis import settings
from hypothesis import strategies as st

from search.architecture import Architecture, Cell, Edge, Operation, Stage, Stem

settings.register_profile("handheld", deadline=None, derandomize=True, max_examples=25)
settings.load_profile("handheld")


@st.composite
def draw_stage(draw) -> Stage:
    kind = draw(st.sampled_from(["depthwise", "inverted"]))
    return Stage(
        kind=kind,
        width=draw(st.integers(1, 9)),
        depth=draw(st.integers(1, 2)),
        kernel=draw(st.sampled_from([1, 3, 5])),
        stride=draw(st.integers(1, 3)),
        expansion=draw(st.integers(1, 3)) if kind == "inverted" else 1,
    )


@st.composite
def draw_architecture(draw) -> Architecture:
    return Architecture(
        input_shape=(draw(st.sampled_from([1, 3])), draw(st.integers(5, 20)), draw(st.integers(5, 20))),
        num_classes=draw(st.integers(2, 5)),
        stem=Stem(draw(st.integers(1, 9)), draw(st.sampled_from([1, 3, 5])), draw(st.integers(1, 3))),
        stages=tuple(draw(st.lists(draw_stage(), max_size=2))),
        head=draw(st.sampled_from(["flatten", "global_average"])),
        normalization=draw(st.sampled_from(["none", "group"])),
        activation=draw(st.sampled_from(["relu", "hard_swish"])),
    )


@st.composite
def draw_cell(draw) -> Cell:
    """Edges of one operation and mixed ones; sources that no edge reads."""
    few = st.lists(st.sampled_from(get_args(Operation)), min_size=1, max_size=3, unique=True)
    operations = few.filter(lambda drawn: drawn != ["none"]).map(tuple)

    def draw_edges(node: int) -> tuple[Edge, ...]:
        sources = draw(st.lists(st.integers(0, 1 + node), min_size=1, max_size=3, unique=True))
        return tuple(Edge(source, draw(operations)) for source in sorted(sources))

    return Cell(tuple(draw_edges(node) for node in range(draw(st.integers(1, 3)))))


@st.composite
def draw_cell_stage(draw) -> Stage:
    width, depth = draw(st.integers(1, 9)), draw(st.integers(1, 3))
    return Stage("cell", width, depth, stride=draw(st.integers(1, 2)), cell=draw(draw_cell()))


@st.composite
def draw_cell_network(draw) -> Architecture:
    return Architecture(
        input_shape=(draw(st.sampled_from([1, 3])), draw(st.integers(3, 9)), draw(st.integers(3, 9))),
        num_classes=draw(st.integers(2, 5)),
        stem=Stem(draw(st.integers(1, 9)), stride=draw(st.integers(1, 2))),
        stages=tuple(draw(st.lists(st.one_of(draw_cell_stage(), draw_stage()), min_size=1, max_size=3))),
        head=draw(st.sampled_from(["flatten", "global_average"])),
        normalization=draw(st.sampled_from(["none", "group"])),
        activation=draw(st.sampled_from(["relu", "hard_swish"])),
    )


@pytest.fixture(scope="session")
def cell_networks() -> st.SearchStrategy[Architecture]:
    """Supernets of cells and networks found in them, between and behind other blocks too."""
    return draw_cell_network()


@pytest.fixture(scope="session")
def architectures() -> st.SearchStrategy[Architecture]:
    """Every option of the space: both block kinds, heads, normalisations and activations, odd sizes, strides to 3."""
    return draw_architecture()
