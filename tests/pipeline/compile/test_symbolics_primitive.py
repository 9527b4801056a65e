import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from pipeline.compile.export import export_plain, gradient_graph

LAYERS = [
    nn.GroupNorm(2, 4, 1e-2),
    nn.GroupNorm(2, 4, affine=False),
    nn.InstanceNorm2d(4, affine=True),
    nn.RMSNorm(5),
    nn.RMSNorm([6, 5], 1e-2, elementwise_affine=False),
    nn.Hardswish(),
    nn.Hardsigmoid(),
]


@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_a_layer_in_primitive_operators_is_torchs_and_can_be_differentiated(layer):
    for value in layer.parameters():
        nn.init.uniform_(value, -2, 2)
    module = nn.Sequential(nn.Conv2d(4, 4, 1), layer)
    x = torch.randn(3, 4, 6, 5)
    forward = export_plain(module, {"x": x})
    assert {node.domain for node in forward.model.graph.node} == {""}
    session = onnxruntime.InferenceSession(forward.model.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": x.numpy()})
    np.testing.assert_allclose(found, module(x).detach().numpy(), rtol=1e-4, atol=1e-5)
    computed = {name for node in gradient_graph(forward).graph.node for name in node.output}
    assert {f"{name}_grad" for name in forward.parameters} <= computed
