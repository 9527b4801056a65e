"""Generated tests draw the same examples on every machine and assert no times; architectures that several draw."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st

from search.architecture import Architecture, Stage, Stem

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


@pytest.fixture(scope="session")
def architectures() -> st.SearchStrategy[Architecture]:
    """Every option of the space: both block kinds, heads, normalisations and activations, odd sizes, strides to 3."""
    return draw_architecture()
