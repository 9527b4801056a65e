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
    Kernel("conv", (4, 6, 5), (8, 3, 3), 3, 2, dilation=2),
    Kernel("max_pool", (4, 6, 5), (4, 3, 3), 3, 2),
    Kernel("max_pool", (4, 6, 5), (4, 6, 5), 3, 1),
    Kernel("average_pool", (4, 6, 5), (4, 3, 3), 3, 2),
    Kernel("global_average", (4, 4, 4), (4,)),
    Kernel("linear", (12,), (5,)),
]


def torch_layer(kernel: Kernel, x: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
    outputs = kernel.output_shape[0]
    weights, bias = parameters[: parameters.numel() - outputs], parameters[parameters.numel() - outputs :]
    if kernel.kind in {"conv", "first_conv"}:
        shape = (outputs, kernel.input_shape[0] // kernel.groups, kernel.kernel, kernel.kernel)
        dilation = kernel.dilation
        padding = dilation * (kernel.kernel // 2)
        return functional.conv2d(x, weights.reshape(shape), bias, kernel.stride, padding, dilation, kernel.groups)
    if kernel.kind == "max_pool":
        return functional.max_pool2d(x, kernel.kernel, kernel.stride, kernel.kernel // 2)
    if kernel.kind == "average_pool":
        return functional.avg_pool2d(x, kernel.kernel, kernel.stride, kernel.kernel // 2, count_include_pad=False)
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


@pytest.mark.parametrize("num_inputs", [2, 3, 5])
def test_an_addition_of_several_sums_all_of_them_both_ways(num_inputs):
    session = open_graph(Kernel("add", (2, 3, 3), (2, 3, 3), num_inputs=num_inputs), "gradient")
    inputs = draw_inputs(session)
    found = run(session, inputs)
    for output, kind in (("y", ("x", "other")), ("dx", ("dy",))):
        summands = [value for name, value in inputs.items() if name.startswith(kind)]
        assert len(summands) == num_inputs
        np.testing.assert_allclose(found[output], sum(summands), rtol=1e-5)


MIX = Kernel("mix", (4, 3, 3), (4, 3, 3), num_inputs=3)
CONCAT = Kernel("concat", (4, 3, 3), (12, 3, 3), num_inputs=3)


@pytest.mark.parametrize("direction", ["forward", "evaluate", "gradient"])
def test_a_mix_weighs_its_inputs_by_the_softmax_of_its_parameters(direction):
    session = open_graph(MIX, direction)
    inputs = draw_inputs(session)
    parameters = torch.from_numpy(inputs.get("parameters", np.full(3, 0.01, np.float32))).requires_grad_()
    values = [torch.from_numpy(inputs[f"x{i}"]).requires_grad_() for i in range(3)]
    y = sum(share * value for share, value in zip(torch.softmax(parameters, 0), values, strict=True))
    found = run(session, inputs)
    np.testing.assert_allclose(found["y"], y.detach().numpy(), rtol=1e-5, atol=1e-6)
    if direction != "gradient":
        return
    dy = torch.from_numpy(inputs["dy"])
    each = [torch.autograd.grad((y * dy)[i].sum(), parameters, retain_graph=True)[0].numpy() for i in range(BATCH)]
    np.testing.assert_allclose(found["squared_norms"], np.square(each).sum(axis=1), rtol=1e-4, atol=1e-6)
    clipped = inputs["segment_weight"] * (inputs["factors"] @ np.array(each))
    np.testing.assert_allclose(found["gradient_sum"], clipped, rtol=1e-4, atol=1e-5)
    of_source = sum(torch.autograd.grad((y * dy).sum(), values))  # what all operations of an edge give back to it
    np.testing.assert_allclose(found["dx"], of_source.numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("direction", ["forward", "evaluate", "gradient"])
def test_all_channels_of_several_are_put_together_and_their_gradients_apart(direction):
    session = open_graph(CONCAT, direction)
    inputs = draw_inputs(session)
    found = run(session, inputs)
    np.testing.assert_array_equal(found["y"], np.concatenate([inputs[f"x{i}"] for i in range(3)], axis=1))
    if direction == "gradient":
        np.testing.assert_array_equal(np.concatenate([found[f"dx{i}"] for i in range(3)], axis=1), inputs["dy"])


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
