"""The table of what can be compiled; `python -m pipeline.compile.operators` prints docs/operators.md."""

import sys
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812  # torch's own abbreviation

from pipeline.compile.operator_examples import Example, LookUp, Recurrent, SelfAttention, SqueezeAndExcite

SUPPORTED = "supported"
REWRITTEN = "rewritten"  # ORT Training has no gradient for it, or one of many nodes: it is ours
REFUSED = "refused"


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        note: Into what it is rewritten, why it is refused and what to do instead; a part of the error's text then.
    """

    name: str
    status: str
    example: Example
    note: str = ""


def _rows(status: str, examples: dict[str, Example], note: str = "") -> tuple[Row, ...]:
    return tuple(Row(name, status, example, note) for name, example in examples.items())


_LAYERS = {
    "Conv2d": Example(lambda: nn.Conv2d(4, 3, 3)),
    "Conv2d, strided": Example(lambda: nn.Conv2d(4, 3, 3, stride=2, padding=1)),
    "Conv2d, dilated": Example(lambda: nn.Conv2d(4, 3, (3, 2), dilation=(2, 1), padding=2)),
    "Conv2d, grouped": Example(lambda: nn.Conv2d(4, 6, 3, groups=2)),
    "Conv2d, depthwise": Example(lambda: nn.Conv2d(4, 4, 3, stride=2, padding=1, groups=4)),
    "Conv2d, padding='same'": Example(lambda: nn.Conv2d(4, 3, (2, 3), padding="same")),
    "Conv2d, padding_mode='reflect', 'replicate', 'circular'": Example(
        lambda: nn.Sequential(
            *(nn.Conv2d(4, 4, 3, padding=1, padding_mode=mode) for mode in ("reflect", "replicate", "circular"))
        )
    ),
    "Conv1d": Example(lambda: nn.Conv1d(4, 3, 3, stride=2, padding=1), "series"),
    "Linear, on any number of axes": Example(lambda: nn.Linear(8, 4), "tokens"),
    "Embedding": Example(LookUp, "tokens"),
    "scaled_dot_product_attention": Example(lambda: lambda x: F.scaled_dot_product_attention(x, x, x), "tokens"),
    "MultiheadAttention": Example(SelfAttention, "tokens"),
    "TransformerEncoderLayer": Example(
        lambda: nn.TransformerEncoderLayer(8, 2, 6, dropout=0.0, batch_first=True), "tokens"
    ),
    "matmul": Example(lambda: lambda x: x @ x.transpose(1, 2), "tokens"),
    "Squeeze-and-excite": Example(SqueezeAndExcite),
}
_ELEMENTWISE = {
    "add, sub, mul, div": Example(lambda: lambda x: (x + x / 3) * (2 - x) / (1 + x * x)),
    "neg, abs, exp, log, sqrt, rsqrt, reciprocal": Example(
        lambda: (
            lambda x: torch.log(1 + torch.exp(-x.abs())) + torch.sqrt(1 + x * x).reciprocal() + torch.rsqrt(1 + x * x)
        )
    ),
    "pow (constant exponent), square, erf, sin, cos, log1p": Example(
        lambda: lambda x: x**3 + torch.erf(x) + torch.sin(x) * torch.cos(x) + torch.log1p(x.square())
    ),
    "minimum, maximum, where, masked_fill": Example(
        lambda: (
            lambda x: (
                torch.minimum(x, x * x) * torch.maximum(x, x**3)
                + torch.where(x > 0.1, x, 0.3 * x).masked_fill(x > 0.5, 2)
            )
        )
    ),
    "sum, mean, var, std, norm, normalize, logsumexp": Example(
        lambda: (
            lambda x: (
                F.normalize(x, dim=1) * x.logsumexp(1, keepdim=True)
                + x.var((2, 3), keepdim=True) * x.sum(2, keepdim=True)
                + x.std((2, 3), keepdim=True) * x.norm(dim=3, keepdim=True) * x.mean(1, keepdim=True)
            )
        )
    ),
    "Softmax, LogSoftmax": Example(lambda: lambda x: torch.softmax(x, 1) + torch.log_softmax(x, -1)),
    "ReLU": Example(nn.ReLU),
    "Sigmoid, Tanh": Example(lambda: lambda x: torch.sigmoid(x) + torch.tanh(x)),
    "Softsign, Tanhshrink, Softshrink, Hardshrink, GLU": Example(
        lambda: (
            lambda x: (
                F.softsign(x) + F.tanhshrink(x) + F.softshrink(x) + F.hardshrink(x) + F.glu(torch.cat([x, x * x], 1), 1)
            )
        )
    ),
}
_SHAPES = {
    "reshape, flatten, squeeze, unsqueeze, permute, transpose": Example(
        lambda: (
            lambda x: (
                x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, 4).unsqueeze(1).transpose(2, 3).squeeze(1).flatten(1)
            )
        )
    ),
    "slicing with steps, select, narrow": Example(
        lambda: lambda x: x[:, 1:, ::2] * x.narrow(1, 0, 1)[:, :, ::2] + x.select(1, 2)[:, None, 1::2]
    ),
    "cat, stack, split, chunk, unbind": Example(
        lambda: (
            lambda x: (
                torch.cat(x.chunk(2, 1)[::-1], 1) * torch.split(x, [1, 3], 1)[0] + torch.stack(x.unbind(1)[::-1], 1)
            )
        )
    ),
    "expand, repeat, flip, roll": Example(
        lambda: lambda x: x.flip(2) * x[:, :, :1].repeat(1, 1, 6, 1) + x.roll(1, 3) * x[:, :1].expand(-1, 4, -1, -1)
    ),
    "pad by a constant, negative widths": Example(lambda: lambda x: F.pad(x, (1, 2, -1, 0), value=0.5)),
    "PixelShuffle, PixelUnshuffle, ChannelShuffle": Example(
        lambda: nn.Sequential(nn.PixelShuffle(2), nn.PixelUnshuffle(2), nn.ChannelShuffle(2))
    ),
    "MaxPool1d, MaxPool2d": Example(lambda: nn.Sequential(nn.MaxPool2d(2), nn.Flatten(2), nn.MaxPool1d(2))),
    "MaxPool, overlapping, dilated, padded, ceil_mode": Example(
        lambda: nn.MaxPool2d(3, 2, 1, dilation=(1, 2), ceil_mode=True)
    ),
    "AdaptiveAvgPool to 1, mean over positions": Example(
        lambda: lambda x: F.adaptive_avg_pool2d(x, 1).flatten(1) * (x * x).mean((2, 3))
    ),
    "AdaptiveMaxPool, sizes that divide": Example(lambda: nn.AdaptiveMaxPool2d((3, 1))),
}
_NORMALISATIONS = {
    "GroupNorm": Example(lambda: nn.GroupNorm(2, 4)),
    "InstanceNorm1d, InstanceNorm2d": Example(
        lambda: nn.Sequential(nn.InstanceNorm2d(4, affine=True), nn.Softsign(), nn.Flatten(2), nn.InstanceNorm1d(4))
    ),
    "LayerNorm": Example(lambda: nn.LayerNorm(8), "tokens"),
    "RMSNorm": Example(lambda: nn.RMSNorm(8), "tokens"),
}
_ACTIVATIONS = {
    "ReLU6, Hardtanh": Example(lambda: nn.Sequential(nn.ReLU6(), nn.Hardtanh(-0.5, 0.3))),
    "clamp": Example(lambda: lambda x: x.clamp(-0.2, 0.4) + x.clamp(min=0.1)),
    "LeakyReLU": Example(nn.LeakyReLU),
    "PReLU": Example(lambda: nn.PReLU(4)),
    "ELU, SELU, CELU": Example(lambda: nn.Sequential(nn.ELU(0.5), nn.SELU(), nn.CELU(2.0))),
    "Hardswish": Example(nn.Hardswish),
    "Hardsigmoid": Example(nn.Hardsigmoid),
    "SiLU": Example(nn.SiLU),
    "GELU, both kinds": Example(lambda: nn.Sequential(nn.GELU(), nn.GELU("tanh"))),
    "Mish": Example(nn.Mish),
    "Softplus, LogSigmoid": Example(lambda: nn.Sequential(nn.Softplus(2.0), nn.LogSigmoid())),
}
_MATRICES = {
    "AvgPool1d, AvgPool2d": Example(
        lambda: nn.Sequential(
            nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False), nn.Flatten(2), nn.AvgPool1d(3, 2, 1)
        )
    ),
    "AdaptiveAvgPool1d, AdaptiveAvgPool2d": Example(
        lambda: nn.Sequential(nn.AdaptiveAvgPool2d((4, 3)), nn.Flatten(2), nn.AdaptiveAvgPool1d(5))
    ),
    "Upsample, interpolate: nearest, linear, bilinear": Example(
        lambda: (
            lambda x: (
                (F.interpolate(x, size=(7, 9), mode="bilinear") + F.interpolate(x, size=(7, 9))).flatten(2)
                * F.interpolate(x.flatten(2), size=63, mode="linear")
            )
        )
    ),
    "pad by reflection, replication, circular": Example(
        lambda: (
            lambda x: (
                F.pad(x, (1, 2, 2, 0), mode="reflect") * F.pad(x, (1, 2, 2, 0), mode="replicate")
                + F.pad(x, (1, 2, 2, 0), mode="circular")
            )
        )
    ),
}
_EXTREMES = {
    "amax, amin": Example(lambda: lambda x: x * x.amax((2, 3), keepdim=True) + x.amin(1, keepdim=True)),
    "max, min along an axis": Example(
        lambda: lambda x: x * x.max(1, keepdim=True).values + x.min(2, keepdim=True).values
    ),
}
_GATE = "clipping and noise regularise already"
_REFUSALS = (
    Row("BatchNorm in training mode", REFUSED, Example(lambda: nn.BatchNorm2d(4)),
        "normalises with the statistics of the batch; convert it to GroupNorm (--replace-batchnorm), or freeze it: "
        ".eval() on it folds its running statistics"),
    Row("InstanceNorm with running statistics", REFUSED,
        Example(lambda: nn.InstanceNorm2d(4, track_running_stats=True)),
        "keeps running statistics; make it with track_running_stats=False, or call .eval() on it"),
    Row("Dropout in training mode", REFUSED, Example(nn.Dropout),
        f"drops values at random; set p=0 or call .eval() on it: {_GATE}"),
    Row("MultiheadAttention with dropout", REFUSED,
        Example(lambda: nn.TransformerEncoderLayer(8, 2, 6, batch_first=True), "tokens"),
        f"drops values at random; set dropout=0 or call .eval() on it: {_GATE}"),
    Row("GRU, LSTM, RNN", REFUSED, Example(Recurrent, "tokens"),
        "is recurrent; replace it by a convolution or attention over the sequence"),
    Row("ConvTranspose", REFUSED, Example(lambda: nn.ConvTranspose2d(4, 3, 2)),
        "has no rule for each example's weight gradient; upsample (nn.Upsample or nn.PixelShuffle) and convolve"),
    Row("einsum", REFUSED, Example(lambda: lambda x: torch.einsum("bchw,bchv->bcwv", x, x)),
        "has no gradient in ONNX Runtime Training; write it with matmul, transpose and sum"),
    Row("cumsum", REFUSED, Example(lambda: lambda x: x.cumsum(1)),
        "has no gradient in ONNX Runtime Training; multiply by a triangular matrix of ones"),
    Row("prod", REFUSED, Example(lambda: lambda x: x.prod(1)),
        "has no gradient in ONNX Runtime Training; multiply the parts, or sum their logarithms"),
    Row("topk, sort", REFUSED, Example(lambda: lambda x: x.topk(2, 1).values),
        "has no gradient in ONNX Runtime Training; use amax or a pooling layer"),
    Row("AdaptiveMaxPool, other sizes", REFUSED, Example(lambda: nn.AdaptiveMaxPool2d(4)),
        "pools [6, 5] to [4, 4]; use sizes that divide, or adaptive average pooling"),
    Row("whatever mixes examples", REFUSED, Example(lambda: lambda x: x - x.mean(0)),
        "averages over the batch, so it mixes the examples of a batch; use a layer that works on each example alone"),
    Row("whatever ONNX has no word for", REFUSED, Example(lambda: torch.expm1),
        "cannot be written as ONNX; replace that layer"),
)  # fmt: skip
TABLE: tuple[Row, ...] = (
    *_rows(SUPPORTED, _LAYERS | _ELEMENTWISE | _SHAPES),
    *_rows(REWRITTEN, _NORMALISATIONS, "one operator, its gradient in closed form"),
    *_rows(REWRITTEN, _ACTIVATIONS, "one operator, its gradient in the fewest passes"),
    *_rows(REWRITTEN, _MATRICES, "one constant matrix an axis"),
    *_rows(REWRITTEN, _EXTREMES, "a mask of where the extreme is"),
    *_REFUSALS,
)


def to_markdown() -> str:
    """The page docs/operators.md."""
    lines = [
        "# What can be compiled",
        "",
        "Made by `python -m pipeline.compile.operators`. The tests compile a small network for every row. One that is",
        "supported or rewritten uses all that its row names, and its losses, norms and clipped sums are compared with",
        "torch; one that is refused raises an error with its layer's name and the text below.",
        "",
        "- *supported*: differentiated by ONNX Runtime Training and lowered to standard operators.",
        "- *rewritten*: it has no gradient there, or one of many nodes; ours is exact too.",
        "- *refused*: compiling stops before anything is written.",
        "",
        "| layer or function | status | note |",
        "|---|---|---|",
    ]
    return "\n".join([*lines, *(f"| {row.name} | {row.status} | {row.note} |" for row in TABLE), ""])


if __name__ == "__main__":
    sys.stdout.write(to_markdown())
