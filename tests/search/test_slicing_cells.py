"""Networks found in a supernet are parts of it by the names of their edges and operations."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.network import build_module
from search.architecture import Architecture, Cell, Edge, Stage, Stem
from search.cell_space import CellSpace
from search.layers import layers_of, num_parameters
from search.options import HyperParameterOptions
from search.slicing import SlicingError, inherit, is_part, places

SPACE = CellSpace(
    input_shape=(2, 7, 7),
    num_classes=3,
    operations=("none", "skip", "max_pool", "conv_3", "separable_3"),
    nodes=2,
    width=4,
    strides=(1, 2),
    hyper_parameters=HyperParameterOptions((0.1,)),
    depth=2,
    final_depth=2,
)
SUPERNET = SPACE.supernet()
DECIDED = 60.0  # of a softmax beside zeros


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """On a busy machine torch's threads wait for each other."""
    torch.set_num_threads(1)


def named(network: Architecture, parameters: np.ndarray) -> dict[str, np.ndarray]:
    """Views of a vector of parameters."""
    parts, offset = {}, 0
    for layer in layers_of(network):
        for name, shape in layer.parameter_shapes().items():
            parts[name] = parameters[offset : offset + int(np.prod(shape))].reshape(shape)
            offset += parts[name].size
    return parts


def logits(network: Architecture, parameters: np.ndarray, x: torch.Tensor) -> np.ndarray:
    module = build_module(layers_of(network))
    module.load_state_dict({name: torch.tensor(part) for name, part in named(network, parameters).items()})
    with torch.no_grad():
        return module(x).numpy()


def decide(parameters: np.ndarray, network: Architecture) -> None:
    """Push each choice to the one operation that the network has on its edge, and to none where it has no edge."""
    parts = named(SUPERNET, parameters)
    for i, stage in enumerate(network.stages):
        for name, weights in parts.items():
            if name.startswith(f"stages.{i}.choices."):
                node, source = map(int, name.split(".")[3].split("-"))
                chosen = {edge.source: edge.operations[0] for edge in stage.cell.nodes[node]}.get(source, "none")
                weights[:] = 0
                weights[SPACE.operations.index(chosen)] = DECIDED


@pytest.mark.parametrize("keep", ["first", "strongest"])
@pytest.mark.parametrize("seed", range(2))
def test_a_found_network_computes_what_its_decided_supernet_does(keep, seed):
    rng = np.random.default_rng(seed)
    network = SPACE.sample(rng).architecture
    parameters = rng.normal(0, 0.3, num_parameters(SUPERNET)).astype(np.float32)
    decide(parameters, network)
    x = torch.tensor(rng.normal(size=(3, 2, 7, 7)).astype(np.float32))
    found = logits(network, inherit(SUPERNET, parameters, network, keep), x)
    np.testing.assert_allclose(found, logits(SUPERNET, parameters, x), rtol=1e-4, atol=1e-5)
    assert found.std() > 0.01


def test_parameters_are_inherited_by_their_names():
    network = SPACE.sample(np.random.default_rng(0)).architecture
    where = places(SUPERNET, network, "first")
    large = named(SUPERNET, np.arange(num_parameters(SUPERNET)))
    for name, part in named(network, where).items():
        np.testing.assert_array_equal(part, large[name], err_msg=name)


def test_architecture_weights_stay_by_operation_where_an_edge_keeps_some():
    def network(*operations: str) -> Architecture:
        return Architecture((1, 4, 4), 2, Stem(4), (Stage("cell", 4, cell=Cell(((Edge(1, operations),),))),))

    large, small = network("conv_1", "none", "skip", "max_pool"), network("max_pool", "conv_1")
    kept = named(small, places(large, small, "first"))["stages.0.choices.0-1.weight"]
    everything = named(large, np.arange(num_parameters(large)))["stages.0.choices.0-1.weight"]
    np.testing.assert_array_equal(kept, everything[[3, 0]])
    assert not is_part(small, large)


def test_a_narrower_cell_keeps_the_same_channels_of_all_that_is_summed():
    narrow = replace(SUPERNET, stages=(replace(SUPERNET.stages[0], width=2), SUPERNET.stages[1]))
    weights = named(SUPERNET, np.zeros(num_parameters(SUPERNET), np.float32))
    rng = np.random.default_rng(0)
    for weight in weights.values():
        weight[:] = rng.normal(size=weight.shape)
    weights["stages.0.1.edges.1-0.conv_3.weight"][[1, 3]] *= 100  # stronger than all others together
    parameters = np.concatenate([weight.ravel() for weight in weights.values()])
    parts = named(narrow, inherit(SUPERNET, parameters, narrow, "strongest"))
    in_first_node = "stages.0.1.edges.0-0.separable_3.pointwise.weight"
    np.testing.assert_array_equal(parts[in_first_node], weights[in_first_node][np.ix_([1, 3], [1, 3])])
    reading = "stages.1.1.inputs.1.weight"  # all nodes of a cell of full width
    np.testing.assert_array_equal(parts[reading], weights[reading])
    of_narrow = "stages.1.0.inputs.1.weight"  # reads both nodes of the last narrow cell: channels 1 and 3 of each
    np.testing.assert_array_equal(parts[of_narrow], weights[of_narrow][:, [1, 3, 5, 7]])


EDGES = (Edge(0, ("conv_3",)), Edge(1, ("max_pool",)))


@pytest.mark.parametrize(
    ("changes", "layer"),
    [
        ({"cell": Cell(((Edge(0, ("skip",)), EDGES[1]),))}, "edges.0-0.skip"),  # though it has no weights
        ({"cell": Cell(((EDGES[0], Edge(1, ("average_pool",))),))}, "edges.0-1.average_pool"),
        ({"cell": Cell((EDGES, (Edge(2, ("skip",)),)))}, "edges.1-2.skip"),
        ({"stride": 2}, "edges.0-0.conv_3"),
        ({"width": 9}, "inputs.0"),
    ],
)
def test_other_edges_and_operations_are_no_part(changes, layer):
    stage = Stage("cell", 4, cell=Cell((EDGES,)))
    large = Architecture((1, 6, 6), 2, Stem(4), (stage,))
    small = replace(large, stages=(replace(stage, **changes),))
    with pytest.raises(SlicingError, match=f"stages.0.0.{layer} is no part of the larger network"):
        places(large, small, "first")


def test_fewer_nodes_are_no_part_as_what_reads_a_cell_reads_all_of_them():
    nodes = (EDGES, EDGES, EDGES)
    large = Architecture((1, 6, 6), 2, Stem(4), (Stage("cell", 4, cell=Cell(nodes)),), "global_average")
    small = replace(large, stages=(Stage("cell", 4, cell=Cell(nodes[:2])),))
    assert not is_part(large, small)


def test_cells_that_read_other_blocks_than_the_supernets_are_no_part_of_it():
    shallow = replace(SPACE, final_depth=1).sample(np.random.default_rng(0)).architecture
    with pytest.raises(SlicingError, match=r"stages.1.0.inputs.0 is no part"):
        places(SUPERNET, shallow, "first")
    one_stage = replace(SPACE, strides=(1,))
    found = replace(one_stage, final_depth=1).sample(np.random.default_rng(0)).architecture
    assert is_part(one_stage.supernet(), found)
