"""What is refused by name, with the reason and the cure; `operators.py` lists it."""

from collections.abc import Sequence

from pipeline.compile.builder import CompileError, GraphBuilder
from pipeline.compile.lower import Node, Rule
from pipeline.compile.values import Value

_UNDIFFERENTIATED = "has no gradient in ONNX Runtime Training"
REASONS: dict[str, tuple[str, str]] = {
    "ConvTranspose": (
        "has no rule for each example's weight gradient",
        "upsample (nn.Upsample or nn.PixelShuffle) and convolve",
    ),
    "CumSum": (_UNDIFFERENTIATED, "multiply by a triangular matrix of ones"),
    "Dropout": ("drops values at random, which a graph cannot repeat on every runtime", "set p=0 or leave it out"),
    "Einsum": (_UNDIFFERENTIATED, "write it with matmul, transpose and sum"),
    "GRU": ("is recurrent, and its gradient has no rule", "use a convolution or attention over the sequence"),
    "LSTM": ("is recurrent, and its gradient has no rule", "use a convolution or attention over the sequence"),
    "RNN": ("is recurrent, and its gradient has no rule", "use a convolution or attention over the sequence"),
    "Loop": ("depends on values that are not known when compiling", "write the loop out"),
    "ReduceProd": (_UNDIFFERENTIATED, "multiply the parts, or sum their logarithms"),
    "Resize": ("resizes in a way that is not linear in each axis", "use nearest or bilinear upsampling"),
    "ScatterND": (_UNDIFFERENTIATED, "build the value with cat or where instead of writing into it"),
    "TopK": (_UNDIFFERENTIATED, "use amax or a pooling layer"),
}


def refuse(graph: GraphBuilder, node: Node, inputs: Sequence[Value | None]) -> tuple[Value]:
    """Refuse an operator with its reason and cure."""
    reason, cure = REASONS[node.op_type]
    raise CompileError(f"layer {node.layer!r} ({node.op_type}) {reason}; {cure}")


RULES: dict[str, Rule] = dict.fromkeys(REASONS, refuse)
