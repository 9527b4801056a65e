from device_runtime.node_times import GraphNode, find_shares
from profiles.kernel import Kernel

CONV = Kernel("conv", (3, 8, 8), (8, 8, 8), kernel=3)
POINTWISE = Kernel("conv", (8, 8, 8), (8, 8, 8))
RELU, ADD = (Kernel(kind, (8, 8, 8), (8, 8, 8)) for kind in ("relu", "add"))


def node(name: str, reads: str, gives: str) -> GraphNode:
    return GraphNode(name, (reads,), (gives,))


def test_a_node_of_a_convolution_and_what_was_fused_into_it_is_the_convolutions():
    nodes = [
        node("/network/k1/Relu_output_0_nchwc", "x", "reorder_token_1"),
        node("/network/k3/Add_output_0_nchwc", "reorder_token_1", "reorder_token_2"),
        node("ReorderOutput", "reorder_token_2", "/network/k3/Add_output_0"),
    ]
    shares = find_shares(nodes, [CONV, RELU, POINTWISE, ADD])
    assert shares == {nodes[0].name: {0: 1.0}, nodes[1].name: {2: 1.0}, "ReorderOutput": {2: 1.0}}


def test_an_activation_beside_a_convolution_keeps_its_node():
    nodes = [node("/network/k0/Conv_output_0_nchwc", "x", "y"), node("/network/k1/Relu", "y", "z")]
    shares = find_shares(nodes, [CONV, RELU])
    assert shares == {nodes[0].name: {0: 1.0}, nodes[1].name: {1: 1.0}}
