"""A small space, two phones with round figures, and spaces of every kind to generate."""

from collections.abc import Callable
from itertools import permutations

import pytest
from hypothesis import strategies as st

from profiles.schema import DeviceClass, DeviceProfile, Figure, Rates, Runtime, Throughput
from search.cell_space import CellSpace
from search.options import HyperParameterOptions, StageOptions, StemOptions
from search.space import SearchSpace

# What pruning and racing begin with: one network, whose widths and stages alone may shrink.
ONE_NETWORK = SearchSpace(
    input_shape=(1, 8, 8),
    num_classes=10,
    stem=StemOptions((32,)),
    stages=StageOptions(("depthwise",), (32,)),
    hyper_parameters=HyperParameterOptions((0.1,), local_steps=(1,)),
    max_stages=3,
    heads=("global_average",),
)


@pytest.fixture(scope="session")
def cell_space() -> CellSpace:
    """Two stages of cells of two nodes, five operations, a hundred learning rates."""
    return CellSpace(
        input_shape=(1, 8, 8),
        num_classes=10,
        operations=("skip", "average_pool", "conv_1", "conv_3", "none"),
        nodes=2,
        width=4,
        strides=(1, 2),
        hyper_parameters=HyperParameterOptions(
            tuple(i / 100 for i in range(1, 101)),
            local_steps=(1,),
            architecture_learning_rate=(0.1,),
            architecture_weight_decay=(0.01,),
        ),
    )


@pytest.fixture(scope="session")
def small_space() -> SearchSpace:
    """2 stems, 4 stages of which at most one is taken, 2 heads, 3 learning rates: 60 candidates."""
    return SearchSpace(
        input_shape=(1, 8, 8),
        num_classes=10,
        stem=StemOptions((4, 8), strides=(2,)),
        stages=StageOptions(("depthwise", "inverted"), (4, 8)),
        hyper_parameters=HyperParameterOptions((0.1, 0.3, 1.0), local_steps=(1,)),
        max_stages=1,
        heads=("flatten", "global_average"),
    )


@pytest.fixture(scope="session")
def large_space() -> SearchSpace:
    return SearchSpace(
        input_shape=(1, 8, 8),
        num_classes=10,
        stem=StemOptions((4, 8, 16), (3, 5), (1, 2)),
        stages=StageOptions(("depthwise", "inverted"), (8, 16, 32), (1, 2), (3, 5), (1, 2), (1, 2, 4)),
        hyper_parameters=HyperParameterOptions((0.1, 0.2, 0.4, 0.8), local_steps=(1, 2), momentum=(0.0, 0.5, 0.9)),
        max_stages=3,
        normalizations=("none", "group"),
    )


@pytest.fixture(scope="session")
def make_profile() -> Callable[[str, DeviceClass, float], DeviceProfile]:
    """A phone of a name, a class and a speed, 1e9 multiply-accumulates a second."""

    def make(name: str, device_class: DeviceClass, gmac_s: float) -> DeviceProfile:
        rates = Rates(figure(gmac_s, "GMAC/s"), figure(1e6, "GB/s"), figure(0, "ms"))
        return DeviceProfile(
            name=name,
            device_class=device_class,
            soc="test",
            clusters=(),
            ram_mib=figure(1024, "MiB"),
            abi="arm64-v8a",
            os="Android 10",
            runtime=Runtime("onnxruntime", "1.19.2"),
            threads=1,
            throughput=Throughput(rates, rates, rates, call_overhead_ms=figure(0.5, "ms")),
        )

    return make


def figure(value: float, unit: str) -> Figure:
    return Figure(value, unit, "estimated", "made up for a test")


@pytest.fixture(scope="session")
def spaces() -> st.SearchStrategy[SearchSpace]:
    """Every kind of space, most of them small."""
    return draw_space()


@st.composite
def draw_space(draw) -> SearchSpace:
    def options(*values):
        return draw(st.sampled_from([(value,) for value in values] + list(permutations(values, 2))))

    min_stages = draw(st.integers(0, 2))
    return SearchSpace(
        input_shape=(draw(st.sampled_from([1, 3])), draw(st.integers(1, 9)), draw(st.integers(1, 9))),
        num_classes=draw(st.integers(2, 5)),
        stem=StemOptions(options(2, 8, 4), options(3, 1), options(1, 2)),
        stages=StageOptions(
            options("depthwise", "inverted"),
            options(2, 8, 4),
            options(2, 1),
            options(3, 1),
            options(1, 2),
            options(1, 2, 4),
        ),
        hyper_parameters=HyperParameterOptions(
            options(0.3, 0.1, 1.0), local_steps=options(4, 1), max_grad_norm=draw(st.sampled_from([(), (0.5, 0.25)]))
        ),
        max_stages=min_stages + draw(st.integers(0, 2)),
        min_stages=min_stages,
        heads=options("flatten", "global_average"),
        normalizations=options("none", "group"),
        activations=options("relu", "hard_swish"),
    )
