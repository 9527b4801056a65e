"""Each kernel's graph against torch: a kernel that computes something else would also take another time."""

import numpy as np
import onnxruntime
import pytest
import torch
from torch.nn import functional

from pipeline.compile.builder import CompileError
from pipeline.packs.kernel_graphs import CALL, kernel_graph
from profiles.schema import Kernel

BATCH = 3
LAYERS = [
    Kernel("conv", (4, 6, 5), (8, 3, 3), 3, 2),
    Kernel("conv", (4, 6, 5), (4, 6, 5), 3, 1, 4),
    Kernel("conv", (4, 6, 5), (6, 6, 5)),
    Kernel("group_norm", (8, 4, 4), (8, 4, 4), groups=4),
    Kernel("relu", (4, 4, 4), (4, 4, 4)),
    Kernel("hard_swish", (4, 4, 4), (4, 4, 4)),
    Kernel("global_average", (4, 4, 4), (4,)),
    Kernel("linear", (12,), (5,)),
]


def torch_layer(kernel: Kernel, x: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
    outputs = kernel.output_shape[0]
    weights, bias = parameters[: parameters.numel() - outputs], parameters[parameters.numel() - outputs :]
    if kernel.kind in {"conv", "first_conv"}:
        shape = (outputs, kernel.input_shape[0] // kernel.groups, kernel.kernel, kernel.kernel)
        return functional.conv2d(x, weights.reshape(shape), bias, kernel.stride, kernel.kernel // 2, 1, kernel.groups)
    if kernel.kind == "linear":
        return functional.linear(x, weights.reshape(outputs, -1), bias)
    if kernel.kind == "group_norm":
        return functional.group_norm(x, kernel.groups, weights, bias)
    if kernel.kind == "global_average":
        return x.mean((2, 3))
    return {"relu": functional.relu, "hard_swish": functional.hardswish}[kernel.kind](x)


def open_graph(kernel: Kernel, direction: str) -> onnxruntime.InferenceSession:
    model = kernel_graph(kernel, BATCH, direction)
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def draw_inputs(session: onnxruntime.InferenceSession) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {value.name: rng.standard_normal(value.shape).astype(np.float32) for value in session.get_inputs()}


def run(session: onnxruntime.InferenceSession, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


@pytest.mark.parametrize("kernel", LAYERS, ids=lambda kernel: kernel.family)
def test_an_evaluation_computes_the_layer(kernel):
    session = open_graph(kernel, "evaluate")
    inputs = draw_inputs(session)
    parameters = torch.from_numpy(inputs.get("parameters", np.zeros(kernel.output_shape[0], np.float32)))
    expected = torch_layer(kernel, torch.from_numpy(inputs["x"]), parameters)
    np.testing.assert_allclose(run(session, inputs)["y"], expected.numpy(), atol=1e-4)


@pytest.mark.parametrize("kernel", LAYERS, ids=lambda kernel: kernel.family)
def test_a_forward_graph_has_its_parameters_in_it(kernel):
    session = open_graph(kernel, "forward")
    inputs = draw_inputs(session)
    assert set(inputs) == {"x"}
    parameters = torch.full((max(kernel.num_parameters(), kernel.output_shape[0]),), 0.01)
    expected = torch_layer(kernel, torch.from_numpy(inputs["x"]), parameters)
    np.testing.assert_allclose(run(session, inputs)["y"], expected.numpy(), atol=1e-4)


@pytest.mark.parametrize("kernel", LAYERS, ids=lambda kernel: kernel.family)
def test_a_gradient_computes_dx_norms_and_the_clipped_sum(kernel):
    session = open_graph(kernel, "gradient")
    inputs = draw_inputs(session)
    found = run(session, inputs)
    x, dy = (torch.from_numpy(inputs[name]) for name in ("x", "dy"))
    parameters = torch.from_numpy(inputs.get("parameters", np.zeros(kernel.output_shape[0], np.float32)))
    gradients, dx = [], []
    for example, upstream in zip(x, dy, strict=True):
        own, flat = example[None].requires_grad_(), parameters.clone().requires_grad_()
        torch_layer(kernel, own, flat).backward(upstream[None])
        dx.append(own.grad[0])
        gradients.append(flat.grad if flat.grad is not None else torch.zeros_like(flat))
    np.testing.assert_allclose(found["dx"], torch.stack(dx).numpy(), atol=1e-3)
    if kernel.num_parameters():
        each = torch.stack(gradients).numpy()
        clipped = inputs["segment_weight"] * (inputs["factors"] @ each)
        np.testing.assert_allclose(found["squared_norms"], (each**2).sum(axis=1), rtol=1e-3)
        np.testing.assert_allclose(found["gradient_sum"], clipped, rtol=1e-3, atol=1e-3)


def test_the_first_convolution_gives_no_gradient_of_the_examples():
    kernel = Kernel("first_conv", (1, 6, 6), (4, 6, 6), 3)
    names = {value.name for value in open_graph(kernel, "gradient").get_outputs()}
    assert names == {"y", "squared_norms", "gradient_sum"}


def test_an_addition_sums_both_ways():
    session = open_graph(Kernel("add", (2, 3, 3), (2, 3, 3)), "gradient")
    inputs = draw_inputs(session)
    found = run(session, inputs)
    np.testing.assert_allclose(found["y"], inputs["x"] + inputs["other"])
    np.testing.assert_allclose(found["dx"], inputs["dy"] + inputs["dy_other"])


def test_the_loss_is_cross_entropy_and_its_gradient_with_clip_factors():
    session = open_graph(Kernel("cross_entropy", (5,), (1,)), "gradient")
    rng, labels = np.random.default_rng(0), np.array([0, 4, 2])
    logits, mask = rng.standard_normal((BATCH, 5)).astype(np.float32), np.array([1, 0, 1], np.float32)
    squares, clip = np.array([4.0, 1.0, 0.25], np.float32), np.array(1.0, np.float32)
    inputs = {"logits": logits, "y": labels, "mask": mask, "squared_norms": squares, "max_grad_norm": clip}
    found = run(session, inputs)
    wanted = torch.from_numpy(logits).requires_grad_()
    losses = functional.cross_entropy(wanted, torch.from_numpy(labels), reduction="none")
    losses.sum().backward()
    np.testing.assert_allclose(found["dlogits"], wanted.grad.numpy(), atol=1e-6)
    np.testing.assert_allclose(found["loss_sum"], (losses.detach().numpy() * mask).sum(), rtol=1e-5)
    np.testing.assert_allclose(found["norms"], [2.0, 0.0, 0.5])
    np.testing.assert_allclose(found["factors"], [0.5, 0.0, 1.0])


def test_an_empty_call_gives_back_what_it_got():
    session = open_graph(CALL, "forward")
    inputs = draw_inputs(session)
    np.testing.assert_array_equal(run(session, inputs)["y"], inputs["x"])


@pytest.mark.parametrize(
    ("kind", "direction"), [("lstm", "forward"), ("call", "gradient"), ("cross_entropy", "forward")]
)
def test_an_unknown_kernel_is_refused_by_name(kind, direction):
    with pytest.raises(CompileError, match=rf"kernel kind must be one of add, .*got '{kind}' \({direction}\)"):
        kernel_graph(Kernel(kind, (4,), (4,)), 1, direction)
