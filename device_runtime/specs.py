"""What the artifact says about itself: input and label specification, parameter layout, manifest."""

from dataclasses import dataclass
from typing import Any, Literal

DType = Literal["float32", "int64"]
Colour = Literal["none", "grey", "rgb"]
Target = Literal["class", "values"]


@dataclass(frozen=True)
class InputSpec:
    """One of several inputs of a network: the graphs call it `x.NAME`.

    Attributes:
        shape: Of one example, without the batch.
    """

    name: str
    shape: tuple[int, ...]
    dtype: DType = "float32"


@dataclass(frozen=True)
class ExampleSpec:
    """How raw examples become the network's input, and what the labels mean; the same JSON in manifest and bundle.

    Attributes:
        shape: One example, without the batch: (channels, height, width) for images.
        dtype: Of x; labels are int64 class indices.
        labels: Class names in index order.
        colour: Channel order of images; `none` when x is not an image.
        resize: (height, width) an image is resized to (bilinear, antialiased), None for as it is.
        crop: (height, width) cut from the centre after resizing, None for all of it.
        scale: Factor from stored to unit range, applied first: x = (raw * scale - mean) / deviation.
        mean, deviation: Per channel.
        version: Changed by the author when the meaning changes and nothing else here does.
    """

    shape: tuple[int, ...]
    labels: tuple[str, ...]
    dtype: DType = "float32"
    colour: Colour = "none"
    resize: tuple[int, int] | None = None
    crop: tuple[int, int] | None = None
    scale: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    deviation: tuple[float, ...] = (1.0,)
    version: str = "1"
    inputs: tuple[InputSpec, ...] = ()
    target: Target = "class"
    schema: int = 1

    def __post_init__(self) -> None:
        if not self.shape or min(self.shape) < 1:
            raise ValueError(f"shape must have sizes >= 1, got {self.shape}")
        if len(self.labels) < 2:
            raise ValueError(f"labels must name at least 2 classes, got {list(self.labels)}; a classifier needs two")
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("labels must be distinct")
        if min(self.deviation) <= 0:
            raise ValueError(f"deviation must be > 0, got {self.deviation}")


@dataclass(frozen=True)
class LayoutEntry:
    """Where one parameter lies in the flat vector: values [offset, offset + size of shape)."""

    name: str
    shape: tuple[int, ...]
    offset: int
    segment: str


@dataclass(frozen=True)
class FrozenTensors:
    """What of a network is not trained, in a file that artifacts share (`frozen.safetensors`, float32).

    Attributes:
        sha256: Of the file.
        shapes: By name.
    """

    sha256: str
    shapes: dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Manifest:
    """`manifest.json`; its sha256 is the artifact id, so it holds no hyper-parameter, weight, date or measurement.

    Attributes:
        architecture: The architecture record as plain data; opaque to a device.
        architecture_id: Key of the compile cache.
        loss: Name of the loss, e.g. `cross_entropy`.
        label_smoothing: Of cross-entropy; 0 for none.
        frozen: Tensors that are not trained and too large for the graphs: their inputs `frozen.NAME`; None without any.
        segments: Names of the S parts of the layout, in the order of `segment_weight`.
        batch_size: B, the fixed batch of both graphs.
        num_parameters: P.
        metrics: Names of the M columns of `evaluate.onnx`'s metrics, each in [0, 1].
        operators: Operator types of both graphs, sorted.
        minimum_runtime: Smallest ONNX Runtime version that runs them.
        compiler: Versions of compiler, torch and ORT Training.
    """

    architecture: dict[str, Any]
    architecture_id: str
    spec: ExampleSpec
    loss: str
    layout: tuple[LayoutEntry, ...]
    segments: tuple[str, ...]
    batch_size: int
    num_parameters: int
    metrics: tuple[str, ...]
    operators: tuple[str, ...]
    opset: int
    minimum_runtime: str
    gradient_sha256: str
    evaluate_sha256: str
    compiler: dict[str, str]
    label_smoothing: float = 0.0
    frozen: FrozenTensors | None = None
    schema: int = 1
