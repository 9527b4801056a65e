import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from pipeline.compile.builder import CompileError, GraphBuilder
from pipeline.compile.export import export_forward
from pipeline.compile.graphs import Layout, gradient_model
from pipeline.compile.losses import Loss
from pipeline.compile.modules import prepare_module
from pipeline.compile.rules_products import RULES
from pipeline.compile.values import CouplingError, Moved, Outer, Place, Plain
from tests.pipeline.compile.nets import Net

torch.manual_seed(0)  # parameters in the tables below are drawn as they are read
SIZE = st.integers(1, 5)
BATCH = st.sampled_from([1, 2, 4])


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("batch", [1, 4])
def test_linear_layers_differentiate_as_in_torch(check_step, batch):
    check_step(nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)), (batch, 1, 2, 3), 3)


@settings(max_examples=20, deadline=None)
@given(batch=BATCH, inner=st.lists(SIZE, min_size=1, max_size=2), sizes=st.tuples(SIZE, SIZE), bias=st.booleans())
def test_linear_layers_at_several_positions_differentiate_as_in_torch(check_step, batch, inner, sizes, bias):
    axes = tuple(range(1, len(inner) + 1))
    first, last = nn.Linear(sizes[0], sizes[1], bias=bias), nn.Linear(sizes[1], 3, bias=not bias)
    net = Net(lambda self, x: self.last(self.first(x).sigmoid()).mean(axes), first=first, last=last)
    check_step(net, (batch, *inner, sizes[0]), 3)


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # torch's vmap, of its own attention
@settings(max_examples=20, deadline=None)
@given(shape=st.tuples(BATCH, SIZE, SIZE), heads=SIZE, others=SIZE, causal=st.booleans())
def test_attention_differentiates_as_in_torch(check_step, shape, heads, others, causal):
    width = shape[2]

    def attend(self, x):
        q, k = (layer(x).unflatten(2, (heads, -1)).transpose(1, 2) for layer in (self.q, self.k))
        v = self.v(x).unflatten(2, (heads, -1)).transpose(1, 2)
        mixed = scaled_dot_product_attention(q, k, v, is_causal=causal)
        return self.out(mixed.transpose(1, 2).flatten(2)).mean(1)

    layers = {name: nn.Linear(width, heads * 2) for name in "qk"}
    net = Net(attend, **layers, v=nn.Linear(width, heads * others), out=nn.Linear(heads * others, 3))
    check_step(net, shape, 3)


NEVER = torch.triu(torch.full((4, 4), -torch.inf), 1)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(
    "mask",
    [
        pytest.param(lambda x: NEVER, id="constant"),
        pytest.param(lambda x: NEVER == 0, id="bool"),
        pytest.param(lambda x: x[:, None, :, 0], id="of each example"),
        pytest.param(lambda x: (x[:, None, :, 0] > 5).logical_not(), id="bool of each example"),
    ],
)
def test_attention_masks_leave_finite_gradients_equal_to_torchs(check_step, batch, mask):
    net = Net(
        lambda self, x: scaled_dot_product_attention(self.q(x), self.k(x), x, attn_mask=mask(x)).mean(1),
        q=nn.Linear(3, 3),
        k=nn.Linear(3, 3),
    )
    check_step(net, (batch, 4, 3), 3)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_an_encoder_layer_differentiates_as_in_torch(check_encoder, batch, norm_first, activation):
    check_encoder(batch, norm_first=norm_first, activation=activation)


@pytest.fixture
def check_encoder(check_step):
    def check(batch: int, **options) -> None:
        layer = prepare_module(nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True, **options))
        check_step(Net(lambda self, x: self.layer(x)[:, 0], layer=layer), (batch, 5, 8), 8, 5e-5)

    return check


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(
    "attend",
    [
        pytest.param(lambda self, x: self.attention(x, x, x, need_weights=False)[0], id="itself"),
        pytest.param(lambda self, x: self.attention(x, x, x)[0], id="with weights"),
        pytest.param(lambda self, x: self.attention(x, self.layer(x), x + 1, need_weights=False)[0], id="another"),
    ],
)
def test_multi_head_attention_differentiates_as_in_torch(check_step, batch, attend):
    attention, layer = nn.MultiheadAttention(4, 2, batch_first=True), nn.Linear(4, 4)
    check_step(Net(lambda self, x: attend(self, x).mean(1), attention=attention, layer=layer), (batch, 5, 4), 3)


def test_attention_with_the_batch_second_is_followed(check_step):
    net = Net(
        lambda self, x: self.attention(*[x.transpose(0, 1)] * 3)[0].mean(0), attention=nn.MultiheadAttention(4, 2)
    )
    check_step(net, (3, 5, 4), 3)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(
    ("function", "parts", "x_shape"),
    [
        pytest.param(lambda self, x: self.l(self.l(x).tanh()).mean(1), {"l": nn.Linear(3, 3)}, (4, 3), id="twice"),
        pytest.param(
            lambda self, x: self.l(x).tanh().mean(1) @ self.l.weight + self.l.weight.sum() + self.l(x[:, 0]),
            {"l": nn.Linear(3, 3)},
            (4, 3),
            id="in several kinds of products",
        ),
        pytest.param(lambda self, x: (self.w @ x).mean(2), {"w": torch.randn(3, 4)}, (4, 5), id="on the left"),
        pytest.param(lambda self, x: (self.w @ x.t()).t(), {"w": torch.randn(3, 4)}, (4,), id="on the left of rows"),
        pytest.param(
            lambda self, x: self.l(x @ self.w), {"w": torch.randn(3), "l": nn.Linear(4, 3)}, (4, 3), id="vector"
        ),
        pytest.param(
            lambda self, x: (x @ self.w).mean((1, 2)), {"w": torch.randn(2, 3, 4)}, (2, 5, 3), id="each head's"
        ),
        pytest.param(
            lambda self, x: self.l((x @ x.transpose(1, 2)).tanh()).mean(1), {"l": nn.Linear(4, 3)}, (4, 2), id="gram"
        ),
        pytest.param(
            lambda self, x: torch.addmm(self.l(x), x, self.w, alpha=2.5, beta=0.5),
            {"w": torch.randn(4, 3), "l": nn.Linear(4, 3)},
            (4,),
            id="addmm",
        ),
        pytest.param(
            lambda self, x: torch.addmm(self.b, x, self.w, alpha=2.5, beta=0.5),
            {"w": torch.randn(4, 3), "b": torch.randn(3)},
            (4,),
            id="addmm of a row",
        ),
        pytest.param(
            lambda self, x: self.l(x.transpose(0, 1).reshape(-1, 3)).reshape(4, -1, 3).softmax(0)[1],
            {"l": nn.Linear(3, 3)},
            (4, 3),
            id="merged with positions",
        ),
        pytest.param(
            lambda self, x: (self.l(x) * self.g).tanh().mean(1),
            {"l": nn.Linear(3, 3), "g": torch.tensor(1.5)},
            (4, 3),
            id="scalar",
        ),
    ],
)
def test_products_and_shared_parameters_differentiate_as_in_torch(check_step, batch, function, parts, x_shape):
    check_step(Net(function, **parts), (batch, *x_shape), 3)


def test_each_layers_form_is_chosen_from_its_static_shapes(forms_of):
    net = Net(lambda self, x: self.narrow(self.wide(x).relu().mean(1)), wide=nn.Linear(16, 64), narrow=nn.Linear(64, 3))
    forms = forms_of(net, (2, 8, 16))
    assert (forms["wide.weight"], forms["narrow.weight"]) == ("materialised", "ghost norm")


@pytest.fixture
def forms_of():
    def forms(module: nn.Module, x_shape: tuple[int, ...]) -> dict[str, str]:
        forward = export_forward(module, {"x": torch.zeros(x_shape)})
        layout = Layout(forward.parameters, ("weights",), dict.fromkeys(forward.parameters, "weights"))
        return gradient_model(forward, layout, Loss()).forms

    return forms


@pytest.mark.parametrize(
    ("function", "operator"),
    [
        pytest.param(lambda self, x: self.l(x @ x.t()), "MatMul", id="rows with rows"),
        pytest.param(lambda self, x: self.l(x.t()), "Gemm", id="over the examples"),
        pytest.param(lambda self, x: self.l(torch.ones(4, 4) @ x), "MatMul", id="mixed by a constant"),
    ],
)
def test_products_of_examples_with_each_other_are_refused_by_name(compile_module, function, operator):
    with pytest.raises(CouplingError, match=f"layer .* .{operator}. multiplies or adds examples to each other"):
        compile_module(Net(function, l=nn.Linear(4, 3)), (4, 4))


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


def test_positions_merged_with_the_examples_are_the_positions_of_the_gradient(make_node):
    graph = GraphBuilder()
    dy, x = (Moved(graph.input(name, (4, 6, size)), (24, size), Place(0, 1, 6)) for name, size in (("dy", 3), ("x", 5)))
    (found,) = RULES["Gemm"](graph, make_node("Gemm", transA=1), [dy, x])
    assert isinstance(found, Outer)
    assert (found.left.shape, found.right.shape) == ((4, 6, 3), (4, 6, 5))


def test_weights_of_more_axes_than_the_examples_are_refused(make_node):
    graph = GraphBuilder()
    weights = Plain(graph.input("w", (2, 3, 5)), is_batched=False)
    with pytest.raises(CompileError, match=r"layer 'layer' .MatMul. multiplies by shared weights \[2, 3, 5\]"):
        RULES["MatMul"](graph, make_node("MatMul"), [batched(graph, "x", 4, 3), weights])
    with pytest.raises(CompileError, match="transposes the batches of a product"):
        RULES["FusedMatMul"](graph, make_node("FusedMatMul", transBatchA=1), [batched(graph, "y", 4, 3, 2), weights])
