import numpy as np
import pytest
from torch import nn

from pipeline.compile.builder import CompileError, GraphBuilder
from pipeline.compile.rules_layers import RULES
from pipeline.compile.values import CouplingError, Plain


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


def test_weights_that_depend_on_the_examples_are_refused(make_node):
    graph = GraphBuilder()
    inputs = [batched(graph, "x", 2, 3, 5, 5), batched(graph, "w", 2, 3, 3, 3)]
    with pytest.raises(CouplingError, match=r"layer 'layer' .Conv. takes weights that depend on the examples"):
        RULES["Conv"](graph, make_node("Conv"), inputs)
    with pytest.raises(CompileError, match="does not convolve examples with shared weights"):
        RULES["ConvGrad"](graph, make_node("ConvGrad"), [batched(graph, "dy", 2, 2, 3, 3), *inputs])
