import json

import numpy as np
import pytest
from onnx import TensorProto, helper

from device_runtime.node_times import (
    AttributionError,
    GraphNode,
    find_shares,
    kernel_times,
    node_counts,
    read_nodes,
    read_runs,
)
from profiles.kernel import Kernel

CONV = Kernel("conv", (1, 4, 4), (2, 4, 4), 3)
RELU = Kernel("relu", (2, 4, 4), (2, 4, 4))
LINEAR = Kernel("linear", (32,), (3,))
LOSS = Kernel("cross_entropy", (3,), (1,))
KERNELS = (CONV, RELU, LINEAR, LOSS)


def event(name, dur, cat="Node"):
    """In the profiler's own order."""
    arguments = {"provider": "CPUExecutionProvider", "name": "k7/Other_kernel_time"}
    return {"cat": cat, "pid": 1, "tid": 1, "dur": dur, "ts": 0, "ph": "X", "name": name, "args": arguments}


def test_a_node_is_its_kernels_by_its_own_name_whatever_stands_before_it():
    names = ["k0/Conv_3", "/network/k0/Conv", "fused k0/Conv_1", "k0/Relu_2_nchwc", "k0_7/Flatten"]
    nodes = [GraphNode(name, (), (f"{name}_out",)) for name in names]
    assert set(map(str, find_shares(nodes, KERNELS).values())) == {"{0: 1.0}"}


def test_a_node_of_several_kernels_counts_in_equal_parts():
    (shares,) = find_shares([GraphNode("k0k2/Softmax_1", (), ("y",))], KERNELS).values()
    assert shares == {0: 0.5, 2: 0.5}


def test_the_parameters_vector_counts_by_size_and_the_loss_with_the_last_kernel():
    nodes = [GraphNode("parameters/Split_0", (), ("a",)), GraphNode("loss/Sqrt_9", (), ("b",))]
    shares = find_shares(nodes, KERNELS)
    assert shares["loss/Sqrt_9"] == {3: 1.0}
    conv, linear = CONV.num_parameters(), LINEAR.num_parameters()
    assert shares["parameters/Split_0"] == {0: conv / (conv + linear), 2: linear / (conv + linear)}


def test_what_the_runtime_adds_is_for_who_gives_reads_or_made_the_value():
    nodes = [
        GraphNode("k0/Conv_output_nchwc", ("x",), ("blocked",)),
        GraphNode("ReorderOutput", ("blocked",), ("/network/k0/Conv_output",)),
        GraphNode("ReorderInput", ("/network/k0/Conv_output",), ("again",)),
        GraphNode("Cast_1", ("again",), ("cast",)),
        GraphNode("/network/k1/Relu", ("cast",), ("/network/k1/y",)),
        GraphNode("/Softmax", ("/network/k1/y",), ("probabilities",)),
    ]
    owners = {name: next(iter(shares)) for name, shares in find_shares(nodes, KERNELS).items()}
    assert owners == {
        "k0/Conv_output_nchwc": 0,
        "ReorderOutput": 0,  # by the value that it gives
        "ReorderInput": 1,  # by who reads it, one further
        "Cast_1": 1,
        "/network/k1/Relu": 1,
        "/Softmax": 1,  # nobody reads it: by who made what it reads
    }


def test_a_node_that_leads_nowhere_is_an_error_and_not_lost():
    with pytest.raises(AttributionError, match=r"node 'Mystery_1' is of no kernel; compile the pack again"):
        find_shares([GraphNode("k0/Conv", (), ("y",)), GraphNode("Mystery_1", ("a",), ("b",))], KERNELS)


def test_runs_are_told_apart_and_only_the_nodes_own_time_counts():
    profile = [
        event("model_loading", 9000, "Session"),
        event("k0/Conv_fence_before", 3),
        event("k0/Conv_kernel_time", 10),
        event("k1/Relu_kernel_time", 2),
        event("model_run", 15, "Session"),
        event("k0/Conv_kernel_time", 12),
        event("k1/Relu_kernel_time", 3),
        event("model_run", 17, "Session"),
    ]
    written = "[\n" + ",\n".join(map(json.dumps, profile)) + "\n]\n"
    assert read_runs(written, 2) == [{"k0/Conv": 10, "k1/Relu": 2}, {"k0/Conv": 12, "k1/Relu": 3}]
    assert read_runs(written, 1) == [{"k0/Conv": 12, "k1/Relu": 3}]
    with pytest.raises(AttributionError, match="wrote of 2 runs, there were 3"):
        read_runs(written, 3)


def test_all_of_a_runs_time_goes_to_kernels():
    nodes = [
        GraphNode(name, (), (f"{i}",))
        for i, name in enumerate(["k0/Conv", "k0k1/Mul", "parameters/Split", "loss/Exp", "k2/Gemm"])
    ]
    shares = find_shares(nodes, KERNELS)
    run = {node.name: 10 + i for i, node in enumerate(nodes)}
    times = kernel_times([run, run], shares, len(KERNELS))
    assert times.shape == (2, 4)
    np.testing.assert_allclose(times.sum(axis=1), sum(run.values()) / 1e3)
    assert times[0, 0] > 15e-3  # its own 10, half of 11 and of the parameters' vector its share
    assert node_counts(shares, [*run], len(KERNELS)).sum() == pytest.approx(len(nodes))


def test_a_node_that_the_graph_does_not_have_is_an_error():
    with pytest.raises(AttributionError, match="the profiler names 'HardSigmoid_9', which is no node"):
        kernel_times([{"HardSigmoid_9": 5}], {"k0/Conv": {0: 1.0}}, 1)


def test_nodes_are_read_out_of_an_onnx_file():
    nodes = [
        helper.make_node("Relu", ["x"], ["a"], "k0/Relu"),
        helper.make_node("Split", ["a"], ["b", "c"], "k1/Split", num_outputs=2),
        helper.make_node("Add", ["b", "c"], ["y"]),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in "xy"]
    model = helper.make_model(helper.make_graph(nodes, "graph", values[:1], values[1:]))
    assert read_nodes(model.SerializeToString()) == (
        GraphNode("k0/Relu", ("x",), ("a",)),
        GraphNode("k1/Split", ("a",), ("b", "c")),
        GraphNode("", ("b", "c"), ("y",)),
    )
