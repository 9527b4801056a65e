"""What is refused by name, with the reason and the cure; `operators.py` lists it."""

from pipeline.compile.builder import CompileError
from pipeline.compile.values import CouplingError

_UNDIFFERENTIATED = "has no gradient in ONNX Runtime Training"
_RECURRENT = ("is recurrent, and its gradient has no rule", "use a convolution or attention over the sequence")
REASONS: dict[str, tuple[str, str]] = {
    # ORT Training would silently rewrite it to batch statistics.
    "BatchNormalization": ("normalises with the statistics of the batch, so it mixes its examples", "use GroupNorm"),
    "ConvTranspose": (
        "has no rule for each example's weight gradient",
        "upsample (nn.Upsample or nn.PixelShuffle) and convolve",
    ),
    "CumSum": (_UNDIFFERENTIATED, "multiply by a triangular matrix of ones"),
    "Dropout": ("drops values at random, which a graph cannot repeat on every runtime", "set p=0 or leave it out"),
    "Einsum": (_UNDIFFERENTIATED, "write it with matmul, transpose and sum"),
    "GRU": _RECURRENT,
    "LSTM": _RECURRENT,
    "RNN": _RECURRENT,
    "Loop": ("depends on values that are not known when compiling", "write the loop out"),
    "ReduceProd": (_UNDIFFERENTIATED, "multiply the parts, or sum their logarithms"),
    "Resize": ("resizes in a way that is not linear in each axis", "use nearest or bilinear upsampling"),
    "ScatterND": (_UNDIFFERENTIATED, "build the value with cat or where instead of writing into it"),
    "TopK": (_UNDIFFERENTIATED, "use amax or a pooling layer"),
}


def refusal(op_type: str, layer: str) -> CompileError:
    """The error for a layer whose operator is in `REASONS`."""
    reason, cure = REASONS[op_type]
    kind = CouplingError if op_type == "BatchNormalization" else CompileError
    return kind(f"layer {layer!r} ({op_type}) {reason}; {cure}")
