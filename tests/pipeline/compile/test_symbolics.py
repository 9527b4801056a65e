import io
import warnings

import onnx
import pytest
import torch
from torch import nn

from pipeline.compile.builder import CompileError
from pipeline.compile.export import EXPORT_OPSET, export_forward
from pipeline.compile.symbolics import layers_as_operators


def plain_export(module: nn.Module) -> list[str]:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, (torch.zeros(2, 4, 3, 3),), buffer, dynamo=False, opset_version=EXPORT_OPSET)
    return [node.op_type for node in onnx.load_from_string(buffer.getvalue()).graph.node]


def test_layers_are_operators_of_ours_with_their_shapes_and_names():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Sequential(nn.GroupNorm(2, 4), nn.GELU()))

        def forward(self, x):
            return self.block(x).amax(1)

    graph = export_forward(Net(), {"x": torch.zeros(2, 4, 3, 3)}).model.graph
    assert [(node.op_type, node.domain) for node in graph.node] == [
        ("Conv", ""),
        ("GroupNorm", "handheld"),
        ("Gelu", "handheld"),
        ("ReduceMax", "handheld"),
    ]
    shapes = {value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in graph.value_info}
    assert shapes[graph.node[1].output[0]] == shapes[graph.node[2].output[0]] == [2, 4, 3, 3]


def test_the_exporter_is_left_as_it_was():
    before = plain_export(nn.Hardswish())
    with layers_as_operators(EXPORT_OPSET), pytest.raises(ZeroDivisionError):
        raise ZeroDivisionError
    export_forward(nn.Sequential(nn.Hardswish()), {"x": torch.zeros(2, 4, 3, 3)})
    assert plain_export(nn.Hardswish()) == before == ["HardSwish"]


class Inside(nn.Module):
    """A function under a path of two names."""

    def __init__(self, function) -> None:
        super().__init__()
        self.outer = nn.Sequential(nn.ReLU(), _Function(function))

    def forward(self, x):
        return self.outer(x)


class _Function(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: nn.functional.dropout(x, 0.5), r"\(dropout\) drops values at random.*; set p=0"),
        (lambda x: nn.functional.adaptive_max_pool2d(x, 2), r"pools \[3, 3\] to \[2, 2\]; use sizes that divide"),
        (lambda x: x.clamp(x.mean(), x.max()), r"\(clamp\) clamps by bounds that are computed; use torch.minimum"),
        (lambda x: nn.functional.pad(x, (-1, -2, 0, 0)), r"\(\w+\) leaves nothing of \[2, 4, 3, 3\]; cut off less"),
        (
            lambda x: nn.functional.softplus(x, 1.0, 5.0),
            r"\(softplus\) is linear from threshold=5 on.*; leave threshold",
        ),
        (lambda x: nn.functional.softplus(x, 0.0), r"\(softplus\) divides by beta=0; give another beta"),
        (
            lambda x: nn.functional.scaled_dot_product_attention(x, x[:, :2], x[:, :2], enable_gqa=True),
            r"\(scaled_dot_product_attention\) shares heads .*; repeat the heads of key and value",
        ),
        (lambda x: x.norm(p=3, dim=1), r"\(linalg_vector_norm\) is a norm of order 3.0; use order 1 or 2"),
        (
            lambda x: nn.functional.pad(x, (1, 1, 1, 1, 1, 1), mode="replicate"),
            r"\(pad\) pads 3 axes by replicate; pad the axes behind",
        ),
        (
            lambda x: nn.functional.max_pool2d(x.repeat(1, 1, 2, 2)[..., :5, :5], 2, 3, 0, 3, ceil_mode=True),
            r"\(max_pool2d\) has a window that lies half outside",
        ),
    ],
)
def test_what_cannot_be_exported_is_refused_by_the_layers_path(function, message):
    with pytest.raises(CompileError, match=rf"layer 'outer.1' .*{message}"):
        export_forward(Inside(function), {"x": torch.zeros(2, 4, 3, 3)})


def test_what_forward_itself_calls_is_refused_as_forwards():
    with pytest.raises(CompileError, match=r"layer 'forward' \(softplus\)"):
        export_forward(_Function(lambda x: nn.functional.softplus(x, 1.0, 5.0)), {"x": torch.zeros(2, 3)})


def test_attention_that_shares_heads_is_compiled_with_the_heads_repeated(check_step):
    def attend(x):
        shared = x.narrow(1, 0, 2).unsqueeze(2).expand(-1, -1, 2, -1, -1).flatten(1, 2)
        return nn.functional.scaled_dot_product_attention(x, shared, shared)

    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 3), _Function(attend), nn.Flatten(), nn.Linear(4 * 5 * 3, 3))
    check_step(net, (2, 4, 5, 3), 3)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: x.clamp(max=2.5), r"\(clamp\) clamps whole numbers by 2.5; use a whole number"),
        (
            lambda x: nn.functional.hardtanh(x, 0, 4),
            r"\(hardtanh\) takes numbers of type torch.int64 where float32 is needed; cast them with .float\(\)",
        ),
    ],
)
def test_whole_numbers_are_refused_where_there_is_no_operator_for_them(function, message):
    with pytest.raises(CompileError, match=rf"layer 'outer.1' .*{message}"):
        export_forward(Inside(function), {"x": torch.zeros(2, 4, dtype=torch.int64)})
