"""A pack's graphs are those that phones run, and every node of them belongs to a kernel."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from device_runtime.node_times import find_shares, read_nodes
from pipeline.compile.export import export_forward
from pipeline.compile.graphs import evaluate_model, gradient_model
from pipeline.compile.losses import Loss
from pipeline.compile.segments import layout_of
from pipeline.network import build_module
from pipeline.packs.networks import call_graph, network_graphs
from search.architecture import Architecture, Stage, Stem
from search.cell_space import CellSpace
from search.cost import evaluation_kernels_of, kernels_of, training_kernels_of
from search.layers import layers_of
from search.options import HyperParameterOptions

BATCH = 3
KERNELS_OF = {"forward": kernels_of, "evaluate": evaluation_kernels_of, "gradient": training_kernels_of}
CELLS = CellSpace((1, 8, 8), 10, ("none", "skip", "max_pool"), 2, 4, (1, 2), HyperParameterOptions((0.1,)))
NETWORKS = {
    "plain": Architecture((1, 8, 8), 4, Stem(4, 3, 2), (Stage("depthwise", 8),)),
    "normalised": Architecture(
        (3, 8, 8), 4, Stem(4), (Stage("inverted", 4, 2, 3, 1, 2),), "global_average", "group", "hard_swish"
    ),
    "supernet": CELLS.supernet(),
}


@pytest.fixture(scope="module", params=NETWORKS)
def network(request) -> tuple[Architecture, dict[str, onnx.ModelProto]]:
    architecture = NETWORKS[request.param]
    return architecture, network_graphs(architecture, BATCH)


def run(model: onnx.ModelProto, folder) -> tuple[list[np.ndarray], bytes]:
    """What the graph gives for drawn inputs, and the optimised graph."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(folder / "optimised.onnx"), 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    inputs = {}
    for value in session.get_inputs():
        shape = [1 if isinstance(size, str) else size for size in value.shape]
        is_label = value.type == "tensor(int64)"
        inputs[value.name] = np.zeros(shape, np.int64) if is_label else np.asarray(rng.random(shape, np.float32))
    return session.run(None, inputs), (folder / "optimised.onnx").read_bytes()


@pytest.mark.parametrize("direction", KERNELS_OF)
def test_every_kernel_and_nothing_else_has_the_graphs_time(network, direction, tmp_path):
    architecture, graphs = network
    kernels = KERNELS_OF[direction](architecture)
    _, optimised = run(graphs[direction], tmp_path)
    nodes = read_nodes(optimised)
    shares = find_shares(nodes, kernels)
    assert len({node.name for node in nodes}) == len(nodes) == len(shares)
    assert all(sum(share.values()) == pytest.approx(1) for share in shares.values())
    owned = {place for share in shares.values() for place in share}
    assert owned <= set(range(len(kernels)))
    missing = {kernels[place].kind for place in set(range(len(kernels))) - owned}
    # Both inputs of a first cell are the stem: what two of its edges compute of it alike is computed once.
    assert missing <= ({"max_pool", "mix", "add"} if architecture.is_supernet else {"fused_relu"})


@pytest.mark.parametrize("direction", ["evaluate", "gradient"])
def test_graphs_are_those_of_an_artifact_but_for_names(network, direction, tmp_path):
    architecture, graphs = network
    module = build_module(layers_of(architecture))
    forward = export_forward(module, {"x": torch.zeros(BATCH, *architecture.input_shape)})
    layout = layout_of(forward, {})
    artifacts = {"evaluate": evaluate_model, "gradient": gradient_model}[direction](forward, layout, Loss())
    artifacts = getattr(artifacts, "model", artifacts)
    assert [node.op_type for node in graphs[direction].graph.node] == [node.op_type for node in artifacts.graph.node]
    assert not any(node.name.startswith(("k", "loss", "parameters")) for node in artifacts.graph.node)
    for mine, its in zip(run(graphs[direction], tmp_path)[0], run(artifacts, tmp_path)[0], strict=True):
        np.testing.assert_array_equal(mine, its)


def test_a_shipped_models_parameters_are_filled_in_when_it_is_loaded(network, tmp_path):
    architecture, graphs = network
    model = graphs["forward"]
    assert len(model.SerializeToString()) < 40_000
    assert max((int(np.prod(one.dims)) for one in model.graph.initializer), default=0) <= 64
    logits, probabilities = run(model, tmp_path)[0]
    assert logits.shape == probabilities.shape == (1, architecture.num_classes)
    assert np.isfinite(logits).all()


def test_the_same_network_gives_the_same_bytes():
    first, again = (network_graphs(NETWORKS["plain"], BATCH) for _ in range(2))
    for direction in KERNELS_OF:
        assert first[direction].SerializeToString(deterministic=True) == again[direction].SerializeToString(
            deterministic=True
        )


def test_a_call_does_nothing(tmp_path):
    outputs, _ = run(call_graph(), tmp_path)
    assert [output.shape for output in outputs] == [(1, 1)]
