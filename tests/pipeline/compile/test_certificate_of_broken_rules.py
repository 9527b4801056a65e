"""Every check of the certificate finds the broken rule that it is there for."""

import contextlib
from itertools import product

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.compile import cases, certificate
from pipeline.compile.artifact import compile_artifact
from pipeline.compile.builder import CompileError
from pipeline.compile.steady_points import CertificateError
from tests.pipeline.compile.broken import break_rule, compile_broken, scaled


@pytest.mark.usefixtures("unmeasured")
@pytest.mark.parametrize("layer", ["stem", "body.0", "head"])
def test_a_wrong_forward_blames_the_layer_itself(tmp_path, monkeypatch, layer):
    def change(graph, node, tensor):
        return scaled(graph, tensor, 1.01) if node.layer.endswith(layer) else tensor

    class Three(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.body = nn.Conv2d(1, 2, 3), nn.Sequential(nn.Conv2d(2, 2, 3), nn.Tanh())
            self.head = nn.Linear(8, 3)

        def forward(self, x):
            return self.head(self.body(torch.tanh(self.stem(x))).flatten(1))

    for op_type in ("Conv", "Gemm"):
        break_rule(monkeypatch, op_type, 0, change)
    with pytest.raises(CertificateError, match=rf"the output of '{layer}' is the first in forward that differs"):
        compile_artifact(Three(), torch.zeros(1, 6, 6), 3, tmp_path / "artifact", batch_size=3)


@pytest.mark.usefixtures("unmeasured")
def test_a_gate_at_zero_is_opened_by_moving_the_parameters(tmp_path, monkeypatch):
    # What stands behind a gate that starts at 0 has no gradient at the first parameters.
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.skip, self.inner, self.gate = nn.Linear(3, 2), nn.Linear(3, 2), nn.Parameter(torch.zeros(1))

        def forward(self, x):
            return self.skip(x) + self.gate * torch.tanh(self.inner(x))

    break_rule(monkeypatch, "TanhGrad", 0, lambda graph, _, tensor: scaled(graph, tensor, 1.01))
    with pytest.raises(CertificateError, match=r"gradient of 'inner.(weight|bias)' differs from torch"):
        compile_artifact(Gated(), torch.zeros(3), 2, tmp_path / "artifact", batch_size=4)


@pytest.mark.usefixtures("unmeasured")
def test_a_wrong_input_gradient_blames_the_layer_before_it(tmp_path, monkeypatch):
    def change(graph, node, tensor):
        return scaled(graph, tensor, 0.99) if "pointwise" in node.layer else tensor

    break_rule(monkeypatch, "ConvGrad", 0, change)
    with pytest.raises(
        CertificateError,
        match=r"'stages.0.0.depthwise.bias' .* from the loss backwards; forward gives what torch does; replace",
    ):
        compile_broken(tmp_path)


@pytest.mark.usefixtures("unmeasured")
def test_a_wrong_weight_gradient_blames_its_layer(tmp_path, monkeypatch):
    break_rule(monkeypatch, "ConvGrad", 1, lambda graph, _, tensor: scaled(graph, tensor, 1.001))
    with pytest.raises(CertificateError, match=r"gradient of 'stages.0.0.(pointwise|depthwise).weight' differs"):
        compile_broken(tmp_path)


class EveryRule(nn.Module):
    """One network for many rules."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.GroupNorm(2, 4)
        self.branch = nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        hidden = torch.relu(self.norm(self.stem(x)))
        hidden = nn.functional.max_pool2d(hidden + torch.sigmoid(self.branch(hidden)) * torch.tanh(hidden), 3)
        return self.head(hidden.flatten(1))


# Rules of the forward graph, and outputs of those of the gradient.
BREAKABLE = [(name, 0) for name in ("Conv", "GroupNorm", "Relu", "MaxPool", "Mul", "Sigmoid", "Gemm")]
BREAKABLE += product(("ConvGrad", "GroupNormGrad", "MaxPoolGrad"), (0, 1))
BREAKABLE += [(name, 0) for name in ("ReluGrad", "SigmoidGrad", "TanhGrad")]


@pytest.mark.usefixtures("unmeasured")
@pytest.mark.parametrize("change", [pytest.param("scaled", marks=pytest.mark.slow), "shifted along the batch"])
def test_no_broken_rule_of_a_network_passes(tmp_path, monkeypatch, change):
    num_broken = 0

    def changed(graph, _node, tensor):
        if change == "scaled":
            return scaled(graph, tensor, 1.01)
        size = tensor.shape[0]
        return graph.op("Gather", tensor, graph.constant(np.roll(np.arange(size), 1)), axis=0)

    for op_type, output in BREAKABLE:
        with monkeypatch.context() as patch:
            broken = break_rule(patch, op_type, output, changed)
            torch.manual_seed(0)
            with contextlib.suppress(CompileError):
                compile_artifact(EveryRule(), torch.zeros(1, 6, 6), 3, tmp_path / "artifact", batch_size=3)
                assert not broken, f"output {output} of {op_type} at {broken} was {change}, and nobody saw"
            num_broken += bool(broken)
    assert num_broken >= 10


@pytest.mark.usefixtures("unmeasured")
def test_a_norm_that_depends_on_other_examples_is_found_by_replacing_one(tmp_path, monkeypatch):
    def change(graph, _node, tensor):
        return graph.op("Sub", tensor, graph.op("ReduceMean", tensor, axes=[0], keepdims=1))

    break_rule(monkeypatch, "Conv", 0, change)
    monkeypatch.setattr(cases, "_complaint", lambda _: None)
    with pytest.raises(CertificateError, match="the compiled step's independence error is"):
        compile_broken(tmp_path)


@pytest.mark.usefixtures("unmeasured")
def test_examples_next_to_a_kink_are_counted_and_a_step_that_met_none_is_wrong(tmp_path, monkeypatch):
    asked = []

    def never(_self, _point, norms):
        asked.append(norms)

    monkeypatch.setattr(certificate.SteadyPoints, "redraw", never)
    break_rule(monkeypatch, "ConvGrad", 1, lambda graph, _, tensor: scaled(graph, tensor, 1.001))
    with pytest.raises(CertificateError, match="differs from torch"):
        compile_broken(tmp_path)
    assert [norms.shape for norms in asked] == [(4,)]
