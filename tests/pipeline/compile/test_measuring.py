import numpy as np
import pytest
from onnx import TensorProto, helper

from pipeline.compile import measuring
from pipeline.compile.measuring import measured_memory, median_ms

ROW = 2**18  # float32 numbers: 1 MiB


def graph_of(mib: int) -> bytes:
    """Holds a tensor of that size while another one is made of it."""
    nodes = [
        helper.make_node("Expand", ["x", "shape"], ["first"]),
        helper.make_node("Exp", ["first"], ["second"]),
        helper.make_node("ReduceSum", ["first"], ["one"]),
        helper.make_node("ReduceSum", ["second"], ["other"]),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, ROW])]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1]) for name in ("one", "other")]
    shape = helper.make_tensor("shape", TensorProto.INT64, [2], [mib, ROW])
    graph = helper.make_graph(nodes, "graph", inputs, outputs, [shape])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def memory_of(graph: bytes) -> float:
    with measured_memory(graph, {"x": np.zeros((1, ROW), np.float32)}) as memory_mib:
        return memory_mib()


def test_memory_is_that_of_the_tensors_alive_at_once_whatever_this_process_holds():
    held = np.ones((300, ROW), np.float32)
    small, large = memory_of(graph_of(1)), memory_of(graph_of(40))
    assert held.all()
    assert 2 < small < 40
    assert 78 <= large - small <= 120  # two of 40 MiB, and what the runtime's arena adds


def test_a_graph_that_cannot_run_is_told_in_the_runtimes_words():
    with pytest.raises(RuntimeError, match=r"measuring the step's memory failed: .*(protobuf|Protobuf)"):
        memory_of(b"no graph")


def test_nobody_waits_for_a_measurement_that_is_not_asked_for():
    with measured_memory(graph_of(1), {"x": np.zeros((1, ROW), np.float32)}):
        pass


def test_time_is_the_median_of_five_runs(monkeypatch):
    ticks = iter([0, 1, 0, 2, 0, 100, 0, 3, 0, 2])
    monkeypatch.setattr(measuring.time, "perf_counter", lambda: next(ticks))
    assert median_ms(lambda: None) == 2000
