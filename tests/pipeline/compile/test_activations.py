from math import inf

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pipeline.compile.activations import Pen
from pipeline.compile.builder import GraphBuilder
from pipeline.compile.rules_activations import RULES
from pipeline.compile.values import Plain

EDGES = np.float32([-50, -6, -3, -1, -0.5, -1e-30, 0, 1e-30, 0.5, 1, 2.999, 3, 3.001, 6, 7, 50, 1e4, -1e4])
LAYERS = {
    "HardSwish": (nn.Hardswish(), {}),
    "HardSigmoid": (nn.Hardsigmoid(), {}),
    "HardTanh": (nn.ReLU6(), {"low": 0.0, "high": 6.0}),
    "Clamp": (lambda x: x.clamp(-0.5, 6), {"low": -0.5, "high": 6.0}),
    "Silu": (nn.SiLU(), {}),
    "Gelu": (nn.GELU(), {}),
    "GeluTanh": (nn.GELU("tanh"), {}),
    "Mish": (nn.Mish(), {}),
    "Softplus": (nn.Softplus(1.5), {"beta": 1.5}),
    "LogSigmoid": (nn.LogSigmoid(), {}),
    "Elu": (nn.ELU(0.7), {"alpha": 0.7, "scale": 1.0, "input_scale": 1.0}),
    "LeakyRelu": (nn.LeakyReLU(0.2), {"alpha": 0.2}),
}
OF_OUTPUT = {"Relu": torch.relu, "Sigmoid": torch.sigmoid, "Tanh": torch.tanh}


def run(graph: GraphBuilder, outputs: dict, inputs: dict) -> list[np.ndarray]:
    model = graph.to_model({name: value.tensor for name, value in outputs.items()}, "test").SerializeToString()
    return onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, inputs)


def truth(function, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    leaf = torch.from_numpy(x.astype(np.float64)).requires_grad_()
    y = function(leaf)
    y.sum().backward()
    return y.detach().numpy(), leaf.grad.numpy()


@pytest.mark.parametrize("name", LAYERS)
def test_an_activation_and_its_slope_are_torchs_far_out_and_around_its_edges(make_node, name):
    function, attributes = LAYERS[name]
    # Where the slope jumps it is torch's choice: only at 0 do networks meet an edge exactly (after a ReLU, or padding).
    x = EDGES[~np.isin(EDGES, [-3, 3])] if name == "HardSwish" else EDGES
    graph = GraphBuilder()
    value, dy = (Plain(graph.input(i, x.shape), is_batched=True) for i in ("x", "dy"))
    (y,) = RULES[name](graph, make_node(name, **attributes), [value])
    (dx,) = RULES[f"{name}Grad"](graph, make_node(f"{name}Grad", **attributes), [dy, value])
    found_y, found_dx = run(graph, {"y": y, "dx": dx}, {"x": x, "dy": np.full_like(x, 2)})
    expected_y, slope = truth(function, x)
    np.testing.assert_allclose(found_y, expected_y, rtol=2e-6, atol=2e-7)
    np.testing.assert_allclose(found_dx, 2 * slope, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("name", OF_OUTPUT)
def test_a_slope_from_the_output_is_torchs(make_node, name):
    y, slope = truth(OF_OUTPUT[name], EDGES)
    graph = GraphBuilder()
    value, dy = (Plain(graph.input(i, y.shape), is_batched=True) for i in ("y", "dy"))
    (dx,) = RULES[f"{name}Grad"](graph, make_node(f"{name}Grad"), [dy, value])
    (found,) = run(graph, {"dx": dx}, {"y": y.astype(np.float32), "dy": np.ones(y.shape, np.float32)})
    np.testing.assert_allclose(found, slope, rtol=2e-6, atol=2e-7)


@settings(max_examples=30)
@given(st.floats(-1e6, 1e6, width=32))
def test_a_step_is_exact_from_one_float_to_the_next(make_node, threshold):
    # Denormal numbers are zeros to many a processor; the smallest normal one is not.
    threshold = np.float32(threshold) if abs(threshold) > 1e-30 else np.float32(0)
    tiny = np.finfo(np.float32).tiny
    below, above = (np.nextafter(threshold, end * np.float32(inf)) if threshold else end * tiny for end in (-1, 1))
    x = np.float32([-3e38, below, threshold, above, 3e38])
    graph = GraphBuilder()
    pen, value = Pen(graph, make_node("Step")), graph.input("x", (5,))
    steps = {"above": pen.above(value, float(threshold)), "below": pen.below(value, float(threshold))}
    found = run(graph, {name: Plain(step, is_batched=True) for name, step in steps.items()}, {"x": x})
    assert [step.tolist() for step in found] == [[0, 0, 0, 1, 1], [1, 1, 0, 0, 0]]


class Gate(nn.Module):
    """Activations of parameters, and slopes that are parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.randn(4, 1, 1))
        self.one, self.each = nn.PReLU(), nn.PReLU(4, 0.1)

    def forward(self, x):
        return self.each(self.one(x * torch.sigmoid(self.gate)) - 0.2) * nn.functional.silu(self.gate)


@pytest.mark.parametrize("batch", [1, 3])
def test_a_parameter_may_go_through_an_activation_and_be_a_slope(check_step, sandwich, batch):
    torch.manual_seed(0)
    check_step(sandwich(Gate()), (batch, 1, 4, 4), 3)


@pytest.mark.parametrize("slope", [-0.5, 0.0, 1.5])
def test_leaky_relu_takes_any_slope(check_step, sandwich, slope):
    check_step(sandwich(nn.LeakyReLU(slope)), (2, 1, 4, 4), 3)


def test_selu_and_celu_are_kinds_of_elu(check_step, sandwich):
    check_step(sandwich(nn.Sequential(nn.SELU(), nn.CELU(0.5))), (2, 1, 4, 4), 3)
