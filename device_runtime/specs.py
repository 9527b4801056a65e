"""What the artifact says about itself: input and label specification, parameter layout, manifest."""

import re
from dataclasses import dataclass, field, fields
from math import prod
from typing import Any, Literal

import numpy as np

DType = Literal["float32", "int64"]
Colour = Literal["none", "grey", "rgb"]
Target = Literal["class", "values"]
_PREPARATION = ("colour", "resize", "crop", "scale", "mean", "deviation")


@dataclass(frozen=True)
class InputSpec:
    """One of several inputs of a network: the graphs call it `x.NAME`.

    Attributes:
        name: Letters, digits and `_`, no digit first.
        shape: Of one example, without the batch; () for one number an example.
    """

    name: str
    shape: tuple[int, ...]
    dtype: DType = "float32"

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", self.name):
            raise ValueError(f"an input's name must be of letters, digits and _, no digit first, got {self.name!r}")
        if min(self.shape, default=1) < 1:
            raise ValueError(f"shape of input {self.name!r} must have sizes >= 1, got {self.shape}")


@dataclass(frozen=True)
class ExampleSpec:
    """How raw examples become the network's input, and what the labels mean; the same JSON in manifest and bundle.

    Attributes:
        shape: One example, without the batch: (channels, height, width) for images; () where there are several inputs.
        dtype: Of x.
        labels: Class names in index order, or names of the K values.
        colour: Channel order of images; `none` when x is not an image.
        resize: (height, width) an image is resized to (bilinear, antialiased), None for as it is.
        crop: (height, width) cut from the centre after resizing, None for all of it.
        scale: Factor from stored to unit range, applied first: x = (raw * scale - mean) / deviation.
        mean, deviation: Per channel.
        version: Changed by the author when the meaning changes and nothing else here does.
        inputs: Two or more, in the order in which the network takes them, or none: then x is one array. They are taken
            as they are stored: all that prepares an x keeps its default.
        target: `class`: y is a class index, int64; `values`: y is K numbers, float32.
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
        _check_inputs(self)
        _check_labels(self)
        if min(self.deviation) <= 0:
            raise ValueError(f"deviation must be > 0, got {self.deviation}")

    def row_dtype(self) -> np.dtype[Any]:
        """Of one example: `np.zeros(n, row_dtype)` is an x of n examples.

        One input: a plain type with `shape`. Several: a structure with a field an input, so that x is one array of n
        rows here too and only the session takes it apart.
        """
        if self.inputs:
            return np.dtype([(one.name, one.dtype, one.shape) for one in self.inputs])
        return np.dtype((self.dtype, self.shape))


def _check_inputs(spec: ExampleSpec) -> None:
    if not spec.inputs:
        if not spec.shape or min(spec.shape) < 1:
            raise ValueError(f"shape must have sizes >= 1, got {spec.shape}")
        if spec.dtype == "int64":
            _check_unprepared(spec, "with dtype int64: whole numbers are taken as they are")
        return
    names = [one.name for one in spec.inputs]
    if len(names) == 1 or len(set(names)) != len(names):
        raise ValueError(f"inputs must be two or more of distinct names, got {names}; a single one is shape and dtype")
    if spec.shape:
        raise ValueError(f"shape must be () beside several inputs, which have their own, got {spec.shape}")
    _check_unprepared(spec, "beside several inputs: they are taken as they are")
    if spec.dtype != "float32":
        raise ValueError(f"dtype must be left out beside several inputs, which have their own, got {spec.dtype!r}")


def _check_unprepared(spec: ExampleSpec, why: str) -> None:
    defaults = {field.name: field.default for field in fields(spec)}
    for name in _PREPARATION:
        if getattr(spec, name) != defaults[name]:
            raise ValueError(f"{name} must be left out {why}, got {getattr(spec, name)!r}")


def _check_labels(spec: ExampleSpec) -> None:
    if spec.target == "class" and len(spec.labels) < 2:
        raise ValueError(f"labels must name at least 2 classes, got {list(spec.labels)}; a classifier needs two")
    if not spec.labels:
        raise ValueError("labels must name at least 1 value, got none")
    if len(set(spec.labels)) != len(spec.labels):
        raise ValueError("labels must be distinct")


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

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
            raise ValueError(f"sha256 must be 64 hexadecimal digits, got {self.sha256!r:.80}")
        if not self.shapes:
            raise ValueError("shapes must name at least one tensor, got none")
        for name, shape in self.shapes.items():
            if not name or min(shape, default=1) < 1:
                raise ValueError(f"a frozen tensor must have a name and sizes >= 1, got {name!r} {shape}")


@dataclass(frozen=True)
class Manifest:
    """`manifest.json`; its sha256 is the artifact id, so it holds no hyper-parameter, weight, date or measurement.

    Attributes:
        architecture: The architecture record as plain data; opaque to a device.
        architecture_id: Key of the compile cache.
        loss: Name of the loss, e.g. `cross_entropy`.
        label_smoothing: Of cross-entropy; 0 for none.
        frozen: Tensors that are not trained and too large for the graphs: their inputs `frozen.NAME`; None without any.
        num_ids: Of each integer input that looks up a table: ids are below this; by the graph's names.
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
    num_ids: dict[str, int] = field(default_factory=dict)
    schema: int = 1

    @property
    def segment_sizes(self) -> dict[str, int]:
        """Values of each segment, in the order of `segments`."""
        sizes = dict.fromkeys(self.segments, 0)
        for entry in self.layout:
            sizes[entry.segment] += prod(entry.shape)
        return sizes
