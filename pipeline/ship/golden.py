"""Golden examples: made-up inputs with the outputs to expect, for an app to test its own preparation and runtime.

They are drawn from a fixed seed and hold nobody's data.
"""

from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.numpy import save

from device_runtime.arrays import Inputs
from device_runtime.examples.images import MODES, decode_image
from device_runtime.examples.source import normalize
from device_runtime.specs import ExampleSpec
from pipeline.ship.network import Outputs

TENSORS, NUM_GOLDEN = "golden.safetensors", 3
_SEED = 20


def image_name(index: int) -> str:
    """Of the golden image with this index, in the bundle."""
    return f"golden-{index}.png"


def write_golden_images(spec: ExampleSpec, folder: Path) -> tuple[str, ...]:
    """Write golden images as an app would meet them, before resizing and cropping; none where x is no image."""
    if spec.colour not in MODES:
        return ()
    rng = np.random.default_rng(_SEED)
    names = tuple(image_name(i) for i in range(NUM_GOLDEN))
    for name in names:
        Image.fromarray(_smooth_pixels(spec, rng)).save(folder / name)
    return names


def golden_raw(spec: ExampleSpec, images: tuple[Path, ...]) -> Inputs:
    """The golden examples before scaling [n, *shape]: the images as training decodes them, or drawn values."""
    if images:
        return np.stack([decode_image(path, spec) for path in images])
    return _drawn_raw(spec, NUM_GOLDEN, np.random.default_rng(_SEED))


def random_inputs(spec: ExampleSpec, num_examples: int) -> Inputs:
    """Inputs f32[n, *shape] over all of the range that the specification gives, the first two at its ends."""
    raw = _drawn_raw(spec, num_examples, np.random.default_rng(_SEED + 1))
    raw[0], raw[1] = raw.min(), raw.max()
    return normalize(raw, spec)


def golden_tensors(raw: Inputs, x: Inputs, expected: Outputs) -> bytes:
    """`golden.safetensors`: `raw` [n, *shape], `x` f32[n, *shape], `logits` and `probabilities` f32[n, classes]."""
    outputs = {name: values.astype(np.float32) for name, values in expected.by_name().items()}
    return save({"raw": raw, "x": x, **outputs})


def _smooth_pixels(spec: ExampleSpec, rng: np.random.Generator) -> Inputs:
    # Smooth, since ways to resize agree on such images to a grey level or two; noise would tell them apart for nothing.
    height, width = _raw_size(spec)
    coarse = rng.integers(0, _largest(spec) + 1, (4, 4, 3), np.uint8)
    mode = MODES[spec.colour]
    smooth = Image.fromarray(coarse, "RGB").resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(smooth if mode == "RGB" else smooth.getchannel(0), np.uint8)


def _raw_size(spec: ExampleSpec) -> tuple[int, int]:
    """Height and width of a golden image: half as large again where it will be resized, with a margin for a crop."""
    height, width = spec.resize or spec.shape[-2:]
    if spec.resize:
        return height * 3 // 2, width * 3 // 2
    return (height + 4, width + 4) if spec.crop else (height, width)


def _drawn_raw(spec: ExampleSpec, num_examples: int, rng: np.random.Generator) -> Inputs:
    shape = (num_examples, *spec.shape)
    if spec.colour in MODES:
        return rng.integers(0, _largest(spec) + 1, shape, np.uint8)
    per_channel = (-1, *[1] * (len(spec.shape) - 1))
    mean, deviation = (np.reshape(values, per_channel) for values in (spec.mean, spec.deviation))
    raw: Inputs = ((rng.standard_normal(shape) * deviation + mean) / spec.scale).astype(np.float32)
    return raw


def _largest(spec: ExampleSpec) -> int:
    """Largest stored value of a pixel: what the scale takes to 1."""
    return min(255, round(1 / spec.scale)) if 0 < spec.scale < 1 else 255
