"""Models that everybody has times of: their kernels, for one image of 224x224 pixels, with float32 and biases."""

from collections.abc import Iterator

from profiles.kernel import Kernel
from profiles.placement import placed

_V1 = ((64, 1, 1), (128, 2, 2), (256, 2, 2), (512, 6, 2), (1024, 2, 2))
_V2 = ((16, 1, 1, 1), (24, 2, 2, 6), (32, 3, 2, 6), (64, 4, 2, 6), (96, 3, 1, 6), (160, 3, 2, 6), (320, 1, 1, 6))
_STEM, _CLASSES = 32, 1000


def _pointwise(width: int, channels: int, side: int) -> Kernel:
    return Kernel("conv", (channels, side, side), (width, side, side))


def _depthwise(channels: int, side: int, stride: int) -> Kernel:
    y = (channels, side // stride, side // stride)
    return Kernel("conv", (channels, side, side), y, 3, stride, channels)


def _stem() -> tuple[Kernel, Kernel]:
    return _with_relu(Kernel("conv", (3, 224, 224), (_STEM, 112, 112), 3, 2))


def _with_relu(conv: Kernel) -> tuple[Kernel, Kernel]:
    return conv, Kernel("fused_relu", conv.output_shape, conv.output_shape)


def _head(channels: int) -> tuple[Kernel, Kernel]:
    return Kernel("global_average", (channels, 7, 7), (channels,)), Kernel("linear", (channels,), (_CLASSES,))


def _mobilenet_v1() -> Iterator[Kernel]:
    """arXiv:1704.04861, table 1."""
    yield from _stem()
    channels, side = _STEM, 112
    for width, depth, first_stride in _V1:
        for i in range(depth):
            stride = first_stride if i == 0 else 1
            yield from _with_relu(_depthwise(channels, side, stride))
            side //= stride
            yield from _with_relu(_pointwise(width, channels, side))
            channels = width
    yield from _head(channels)


def _mobilenet_v2() -> Iterator[Kernel]:
    """arXiv:1801.04381, table 2."""
    yield from _stem()
    channels, side = _STEM, 112
    for width, depth, first_stride, expansion in _V2:
        for i in range(depth):
            stride, inner = (first_stride if i == 0 else 1), channels * expansion
            if expansion > 1:
                yield from _with_relu(_pointwise(inner, channels, side))
            yield from _with_relu(_depthwise(inner, side, stride))
            side //= stride
            yield _pointwise(width, inner, side)
            if stride == 1 and channels == width:
                yield Kernel("add", (width, side, side), (width, side, side))
            channels = width
    yield from _with_relu(_pointwise(1280, channels, side))
    yield from _head(1280)


KNOWN_MODELS: dict[str, tuple[Kernel, ...]] = {
    "mobilenet_v1": placed(tuple(_mobilenet_v1())),
    "mobilenet_v2": placed(tuple(_mobilenet_v2())),
}


def known_model_in(text: str) -> str | None:
    """The known model that a file's name speaks of, as `mobilenet_v1_1.0_224.tflite`; None for another variant."""
    plain = text.lower().replace("-", "_").replace("mobilenetv", "mobilenet_v")
    found = [name for name in KNOWN_MODELS if name in plain]
    is_other = any(
        part in plain for part in ("quant", "int8", "0.25", "0.5", "0.75", "1.4", "_128", "_160", "_192", "ssd")
    )
    return found[0] if found and not is_other else None
