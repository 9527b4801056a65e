"""What a kernel is told of its neighbours is what ONNX Runtime does: reordered values, and sums in convolutions."""

import platform
from collections import Counter
from pathlib import Path

import onnx
import onnxruntime
import pytest

from device_runtime.node_times import find_shares, read_nodes
from pipeline.packs.networks import network_graphs
from search.architecture import Architecture, Cell, Edge, Stage, Stem
from search.cost import kernels_of

ROW = (Stage("depthwise", 16), Stage("inverted", 16, 2, 3, 1, 2), Stage("inverted", 32, 2, 5, 2, 3))
NARROW = (Stage("depthwise", 8), Stage("inverted", 8, 2, 3, 1, 2), Stage("inverted", 24, 2, 5, 2, 3))
CELL = Cell(((Edge(0, ("conv_3",)), Edge(1, ("skip",))), (Edge(1, ("max_pool",)), Edge(2, ("separable_3",)))))
NETWORKS = {
    "relus": Architecture((3, 8, 8), 4, Stem(16), ROW, "flatten", "none", "relu"),
    "relus, averaged": Architecture((3, 8, 8), 4, Stem(32), ROW, "global_average", "none", "relu"),
    "hard swishes": Architecture((3, 8, 8), 4, Stem(16), ROW, "global_average", "none", "hard_swish"),
    "normalised": Architecture((3, 8, 8), 4, Stem(16), ROW, "flatten", "group", "relu"),
    "cells": Architecture((3, 8, 8), 4, Stem(16), (Stage("cell", 16, cell=CELL),), "global_average", "none", "relu"),
}
NARROW_NETWORKS = {
    "relus": Architecture((3, 8, 8), 4, Stem(8), NARROW, "flatten", "none", "relu"),
    "hard swishes": Architecture((3, 8, 8), 4, Stem(8), NARROW, "global_average", "none", "hard_swish"),
}
pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="other processors have other layouts")


def has_large_blocks() -> bool:
    """Blocks of 16 channels: of 8, narrow values are in blocks too, and a label says less than there is."""
    file = Path("/proc/cpuinfo")
    return file.exists() and " avx512f " in file.read_text(encoding="utf-8")


def operators_by_kernel(network: Architecture, folder: Path) -> list[Counter[str]]:
    """Of each kernel the nodes of the optimised model, by operator; `Sum` for one in a convolution."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    model = network_graphs(network, 2)["forward"].SerializeToString()
    onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    data = (folder / "optimised.onnx").read_bytes()
    kernels = kernels_of(network)
    shares = find_shares(read_nodes(data), kernels)
    found: list[Counter[str]] = [Counter() for _ in kernels]
    for node in onnx.load_from_string(data).graph.node:
        (place,) = shares[node.name]
        found[place][node.op_type] += 1
        found[place]["Sum"] += node.op_type == "Conv" and len(node.input) > 3 and bool(node.input[3])
    return found


def check(network: Architecture, folder: Path) -> None:
    kernels = kernels_of(network)
    for place, (kernel, operators) in enumerate(zip(kernels, operators_by_kernel(network, folder), strict=True)):
        told = f"kernel {place}: {kernel}, {dict(operators)}"
        if kernel.kind == "conv":
            reads_blocks = kernel.groups > 1 or kernel.input_shape[0] >= 16
            is_given_them = kernel.beside.startswith(("before", "both"))
            assert operators["ReorderInput"] == (reads_blocks and not is_given_them), told
            assert operators["ReorderOutput"] == (kernel.beside in ("", "before")), told
            assert operators["Sum"] == kernel.beside.endswith("sum"), told
        elif kernel.kind == "add":
            assert operators["Add"] == ("sum" not in kernel.beside), told
            assert operators["ReorderOutput"] == (kernel.beside in ("sum", "before")), told


@pytest.mark.parametrize("name", NETWORKS)
def test_kernels_know_where_values_are_reordered(name, tmp_path):
    check(NETWORKS[name], tmp_path)


@pytest.mark.skipif(not has_large_blocks(), reason="blocks of 8 channels")
@pytest.mark.parametrize("name", NARROW_NETWORKS)
def test_kernels_of_few_channels_know_it_too(name, tmp_path):
    check(NARROW_NETWORKS[name], tmp_path)
