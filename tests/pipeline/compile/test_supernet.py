"""A supernet of cells compiles to the same artifact as any network, with a segment for its architecture weights."""

import numpy as np
import pytest
import torch

from device_runtime.specs import ExampleSpec
from device_runtime.vectors import read_parameters
from pipeline.compile.artifact import CompileRequest, compile_architecture, initial_parameters
from pipeline.compile.export import export_forward
from pipeline.compile.segments import layout_of
from pipeline.network import build_module
from search.architecture import Operation
from search.cell_space import CellSpace
from search.cells import probabilities
from search.layers import layers_of
from search.options import HyperParameterOptions

SPEC = ExampleSpec((1, 6, 6), ("a", "b", "c"), colour="grey")


def space(*operations: Operation, depth: int = 1, nodes: int = 2, strides: tuple[int, ...] = (2,)) -> CellSpace:
    training = HyperParameterOptions((0.1,))
    return CellSpace(SPEC.shape, 3, ("none", *operations), nodes, 4, strides, training, depth, depth)


SMALL = space("skip", "max_pool", "separable_3", depth=2)


def test_choices_that_are_all_alike_stay_parameters_of_their_own():
    module = build_module(layers_of(SMALL.supernet()))
    forward = export_forward(module, {"x": torch.zeros(2, *SPEC.shape)})
    held = {initializer.name for initializer in forward.model.graph.initializer}
    choices = [name for name in forward.parameters if ".choices." in name]
    assert len(choices) == 2 + 3
    assert set(forward.parameters) <= held


@pytest.mark.parametrize("moved", [{"architecture"}, {"weights"}, {"architecture", "weights"}], ids=sorted)
def test_segments_step_alone_or_together_though_cells_share_their_choices(compile_module, draw_batch, moved):
    module = build_module(layers_of(space("skip", "conv_3", depth=2, nodes=1).supernet()))
    torch.manual_seed(0)
    for name, value in module.named_parameters():
        if ".choices." in name:
            torch.nn.init.normal_(value)
    forward = export_forward(module, {"x": torch.zeros(3, *SPEC.shape)})
    layout = layout_of(forward, {"architecture": "stages.*.choices.*"})
    compiled = compile_module(module, (3, *SPEC.shape), layout.segment_of)
    x, y = draw_batch((3, *SPEC.shape), 3)
    truth, columns = compiled.truth(x, y), sum(compiled.columns(segment) for segment in moved)
    clip = float(np.median(np.linalg.norm(truth.gradients * columns, axis=1)))
    segment_weight = [float(segment in moved) for segment in compiled.layout.segments]
    total, _, norms = compiled.gradient(x, y, None, clip, segment_weight)
    expected_norms, expected = truth.clipped(np.ones(3), clip, columns)
    np.testing.assert_allclose(norms, expected_norms, rtol=1e-4)
    np.testing.assert_allclose(total, expected, rtol=1e-4, atol=1e-6)


LARGE = space(
    "skip", "average_pool", "max_pool", "conv_1", "conv_3", "separable_5", "dilated_3", nodes=3, strides=(1, 2)
)


@pytest.mark.slow
@pytest.mark.parametrize("made", [SMALL, LARGE], ids=["small", "large"])
def test_a_supernet_gets_its_certificate_and_its_segments(tmp_path, made):
    supernet = made.supernet()
    artifact = compile_architecture(CompileRequest(supernet, SPEC, 4), tmp_path / "artifact")  # or it would raise
    manifest = artifact.manifest
    assert manifest.segments == ("architecture", "weights")
    choices = [entry for entry in manifest.layout if entry.segment == "architecture"]
    vector = read_parameters(tmp_path / "artifact" / "parameters.safetensors", manifest)
    np.testing.assert_array_equal(vector, initial_parameters(supernet, 0))
    architecture_weights = np.concatenate([vector[entry.offset :][: entry.shape[0]] for entry in choices])
    assert not architecture_weights.any()
    told = probabilities(supernet, architecture_weights)
    assert [entry.name for entry in choices] == [
        f"stages.{one.stage}.choices.{one.node}-{one.source}.weight" for one in told
    ]


def test_a_network_without_choices_has_one_segment(tmp_path, unmeasured):
    network = space("skip", nodes=1).sample(np.random.default_rng(0)).architecture
    manifest = compile_architecture(CompileRequest(network, SPEC, 2), tmp_path / "artifact").manifest
    assert manifest.segments == ("weights",)
