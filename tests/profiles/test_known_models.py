from dataclasses import replace

import pytest

from profiles.known_models import KNOWN_MODELS
from search.architecture import Architecture, Stage, Stem
from search.cost import kernels_of


def test_mobilenet_v1_is_the_network_of_its_paper():
    widths = [(64, 1, 1), (128, 2, 2), (256, 2, 2), (512, 6, 2), (1024, 2, 2)]
    stages = tuple(Stage("depthwise", width, depth, 3, stride) for width, depth, stride in widths)
    ours = kernels_of(Architecture((3, 224, 224), 1000, Stem(32, 3, 2), stages, "global_average"))
    assert KNOWN_MODELS["mobilenet_v1"] == ours


def test_mobilenet_v2_is_the_network_of_its_paper_up_to_its_last_convolution():
    rows = [(16, 1, 1, 1), (24, 2, 2, 6), (32, 3, 2, 6), (64, 4, 2, 6), (96, 3, 1, 6), (160, 3, 2, 6), (320, 1, 1, 6)]
    stages = tuple(Stage("inverted", width, depth, 3, stride, factor) for width, depth, stride, factor in rows)
    *ours, last, _, _ = kernels_of(Architecture((3, 224, 224), 1000, Stem(32, 3, 2), stages, "global_average"))
    theirs = KNOWN_MODELS["mobilenet_v2"]
    assert theirs[: len(ours)] == tuple(ours)
    assert theirs[len(ours)] == replace(last, beside="both")  # another convolution follows
    assert [kernel.kind for kernel in theirs[len(ours) + 1 :]] == [
        "conv",
        "fused_relu",
        "global_average",
        "linear",
    ]


@pytest.mark.parametrize(("name", "macs"), [("mobilenet_v1", 569e6), ("mobilenet_v2", 301e6)])
def test_known_models_have_the_published_work(name, macs):
    assert sum(kernel.multiply_accumulates() for kernel in KNOWN_MODELS[name]) == pytest.approx(macs, rel=0.01)
