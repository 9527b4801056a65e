import numpy as np
import pytest
import torch
from torch import nn

from pipeline.compile.builder import CompileError, GraphBuilder
from pipeline.compile.rules_layers import RULES
from pipeline.compile.values import CouplingError, Outer, Plain


@pytest.mark.parametrize("batch", [1, 4])
def test_linear_layers_differentiate_as_in_torch(check_step, batch):
    check_step(nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)), (batch, 1, 2, 3), 3)


class ScaledProduct(nn.Module):
    """A Gemm with factors of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(6, 3)), nn.Parameter(torch.randn(3))

    def forward(self, x):
        return torch.addmm(self.bias, x.flatten(1), self.weight, alpha=2.5, beta=0.5)


def test_the_factors_of_a_gemm_scale_its_gradients(check_step):
    torch.manual_seed(0)
    check_step(ScaledProduct(), (4, 1, 2, 3), 3)


@pytest.mark.parametrize("num_classes", [2, 7])
@pytest.mark.parametrize("scale", [0.0, 1.0, 30.0])
def test_the_loss_is_torchs_cross_entropy(compile_module, draw_batch, num_classes, scale):
    module = nn.Sequential(nn.Flatten(), nn.Linear(4, num_classes))
    x, y = draw_batch((5, 1, 2, 2), num_classes)
    compiled = compile_module(module, x.shape)
    losses, _ = compiled.evaluate(x * np.float32(scale), y)
    np.testing.assert_allclose(losses, compiled.truth(x * np.float32(scale), y).losses, rtol=1e-5, atol=1e-5)


def batched(graph: GraphBuilder, name: str, *shape: int) -> Plain:
    return Plain(graph.input(name, shape), is_batched=True)


def test_a_product_of_examples_with_examples_is_refused(make_node):
    graph = GraphBuilder()
    with pytest.raises(CouplingError, match=r"layer 'layer' .Gemm. multiplies or adds examples to each other"):
        RULES["Gemm"](graph, make_node("Gemm", transB=1), [batched(graph, "a", 4, 3), batched(graph, "b", 4, 3)])


def test_the_gradient_of_a_linear_layer_is_never_written_out(make_node):
    graph = GraphBuilder()
    inputs = [batched(graph, "dy", 4, 3), batched(graph, "x", 4, 5)]
    (found,) = RULES["Gemm"](graph, make_node("Gemm", transA=1), inputs)
    assert isinstance(found, Outer)
    assert found.shape == (3, 5)


def test_weights_that_depend_on_the_examples_are_refused(make_node):
    graph = GraphBuilder()
    inputs = [batched(graph, "x", 2, 3, 5, 5), batched(graph, "w", 2, 3, 3, 3)]
    with pytest.raises(CouplingError, match=r"layer 'layer' .Conv. takes weights that depend on the examples"):
        RULES["Conv"](graph, make_node("Conv"), inputs)
    with pytest.raises(CompileError, match="does not convolve examples with shared weights"):
        RULES["ConvGrad"](graph, make_node("ConvGrad"), [batched(graph, "dy", 2, 2, 3, 3), *inputs])
