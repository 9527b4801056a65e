"""Run an artifact's two graphs on plain ONNX Runtime, one thread, over any number of examples."""

from collections.abc import Callable, Iterator
from math import ceil, inf

import numpy as np
import onnxruntime

from device_runtime.arrays import Flags, Inputs, Labels, Vector
from device_runtime.artifact import Artifact, ArtifactError
from device_runtime.external_data import fault_of
from device_runtime.specs import ExampleSpec, Manifest

GRADIENT_OUTPUTS = ("gradient_sum", "loss_sum", "norms")
EVALUATE_OUTPUTS = ("losses", "metrics")
Outputs = list[Vector]
Run = Callable[[Inputs, Labels, Vector], tuple[Outputs, Flags]]


class StepSession:
    """Owns the sessions of one artifact; it holds no trained parameters, so one serves all clients of the artifact.

    Examples come in any number n and go through the graphs in ceil(n / B) chunks; n = 0 runs nothing and sums to zero.
    An example whose result is not finite counts as zero: it is masked, and its chunk run again without it. A masked
    row and a place that no example takes hold a copy of a row that counts, since a factor of 0 alone would leave
    0 * inf. Zeros would not do: with parameters that overflow at zero, who sent them would learn from a step that fails
    whether some row was masked.

    Attributes:
        gradient_graph, evaluate_graph: The artifact's graphs as they are, one thread each.
    """

    def __init__(self, artifact: Artifact) -> None:
        self.manifest = artifact.manifest
        self._frozen = {f"frozen.{name}": tensor for name, tensor in artifact.frozen.items()}
        x = example_inputs(np.zeros(0, self.manifest.spec.row_dtype()))
        inputs = ("parameters", *x, "y", "mask", *self._frozen)
        terms = ("max_grad_norm", "segment_weight")
        self.gradient_graph = _open(artifact.gradient, "gradient.onnx", (*inputs, *terms), GRADIENT_OUTPUTS)
        self.evaluate_graph = _open(artifact.evaluate, "evaluate.onnx", inputs, EVALUATE_OUTPUTS)

    def num_chunks(self, num_examples: int) -> int:
        """How many times a graph runs for this many examples."""
        return ceil(num_examples / self.manifest.batch_size)

    def gradient(  # noqa: PLR0913, PLR0917  (the graph's own inputs)
        self,
        parameters: Vector,
        x: Inputs,
        y: Labels,
        mask: Flags | Vector | None = None,
        max_grad_norm: float = inf,
        segment_weight: Vector | None = None,
    ) -> tuple[Vector, float, Vector]:
        """Sum the clipped gradients of n examples.

        Args:
            parameters: f32[P].
            x: [n, *shape] in the manifest's dtype, or [n] rows with a field an input (`ExampleSpec.row_dtype`).
            y: i64[n], indices into the manifest's labels, or f32[n, K] where the target is values.
            mask: [n], 0 for an example to leave out, whatever it holds. The caller has seen to it that the network can
                take the others (`is_valid_row`). None for all ones; then `check_examples` is done here.
            max_grad_norm: L2 norm above which an example's gradient is scaled down; infinity for no clipping. Holds
                up to float32 rounding (the certificate refuses a graph that exceeds it by more than 1e-4).
            segment_weight: f32[S] of 0/1, None for ones: which parts of the layout take part.

        Returns:
            gradient_sum f32[P], loss_sum, norms f32[n] (0 for examples that were left out). Norms and losses are the
            examples' own: in private training neither leaves the phone.
        """
        weight = np.ones(len(self.manifest.segments), np.float32) if segment_weight is None else segment_weight
        fixed = {
            **self._frozen,
            "parameters": parameters,
            "max_grad_norm": np.array(max_grad_norm, np.float32),
            "segment_weight": weight.astype(np.float32),
        }
        total: Vector | None = None
        loss, norms = 0.0, [np.zeros(0, np.float32)]

        def run(x: Inputs, y: Labels, mask: Vector) -> tuple[Outputs, Flags]:
            outputs = self.gradient_graph.run(GRADIENT_OUTPUTS, {**fixed, **example_inputs(x), "y": y, "mask": mask})
            return outputs, np.isfinite(outputs[2])

        is_alone = self.num_chunks(len(x)) == 1
        for size, outputs, _ in self._chunks(run, x, y, mask):
            total = _add(total, outputs[0], is_alone)
            loss += float(outputs[1])
            norms.append(outputs[2][:size].copy())
            del outputs
        if total is None:
            total = np.zeros(self.manifest.num_parameters, np.float32)
        return total.astype(np.float32, copy=False), loss, np.concatenate(norms)

    def evaluate(
        self, parameters: Vector, x: Inputs, y: Labels, mask: Flags | Vector | None = None
    ) -> tuple[Vector, Vector]:
        """Losses f32[n] and metrics f32[n, M] of n examples, 0 where masked.

        An example whose result is not finite has loss infinity and metrics 0, so that a network that diverged never
        looks good; the caller clips losses or refuses them.
        """
        losses, metrics = [np.zeros(0, np.float32)], [np.zeros((0, len(self.manifest.metrics)), np.float32)]

        fixed = {**self._frozen, "parameters": parameters}

        def run(x: Inputs, y: Labels, mask: Vector) -> tuple[Outputs, Flags]:
            outputs = self.evaluate_graph.run(EVALUATE_OUTPUTS, {**fixed, **example_inputs(x), "y": y, "mask": mask})
            return outputs, np.isfinite(outputs[0]) & np.isfinite(outputs[1]).all(axis=1)

        for size, outputs, is_finite in self._chunks(run, x, y, mask):
            losses.append(np.where(is_finite, outputs[0], np.float32(inf))[:size])
            metrics.append(outputs[1][:size].copy())
            del outputs
        return np.concatenate(losses), np.concatenate(metrics)

    def _chunks(
        self, run: Run, x: Inputs, y: Labels, mask: Flags | Vector | None
    ) -> Iterator[tuple[int, Outputs, Flags]]:
        """Per chunk: number of its examples, outputs, and which rows were finite at first.

        Outputs lie in the runtime's arena, which grows around what is still there when the next chunk runs: whoever
        takes them copies what is to stay, and lets go of them.
        """
        check = check_examples if mask is None else check_form
        check(self.manifest, x, y)
        batch = self.manifest.batch_size
        wanted = np.ones(len(x), np.float32) if mask is None else np.asarray(mask).astype(np.float32)
        if wanted.shape != (len(x),):
            raise ValueError(f"mask must have shape [{len(x)}], one value an example, got {list(wanted.shape)}")
        for start in range(0, len(x), batch):
            part = slice(start, start + batch)
            size = len(x[part])
            yield size, *_run_finite(run, *(_pad(array[part], batch) for array in (x, y, wanted)))


def example_inputs(x: Inputs) -> dict[str, Inputs]:
    """x by the names of the graphs' inputs: `x`, or a copy of each field as `x.NAME`."""
    if x.dtype.names is None:
        return {"x": x}
    # Always a copy: one row's field counts as contiguous, wherever in the row it lies, and may be misaligned.
    return {f"x.{name}": x[name].copy() for name in x.dtype.names}


def check_examples(manifest: Manifest, x: Inputs, y: Labels) -> None:
    """Check that x and y [n] are what the manifest's specification and loss say; raises ValueError."""
    check_form(manifest, x, y)
    _check_ids(manifest, x)
    if manifest.spec.target == "class":
        _check_classes(manifest.spec, y)
    else:
        _check_values(manifest, y)


def check_form(manifest: Manifest, x: Inputs, y: Labels) -> None:
    """Check types and shapes of x and y [n], which are public, and no value; raises ValueError."""
    spec, n = manifest.spec, len(x)
    if min(manifest.num_ids.values(), default=1) < 1:
        raise ValueError(f"num_ids must be >= 1, got {manifest.num_ids}; compile the artifact again")
    _check_x(spec, x)
    if spec.target == "class":
        if y.shape != (n,) or y.dtype != np.int64:
            raise ValueError(f"y must be int64, one label for each of {n} examples, got {y.dtype} {list(y.shape)}")
    elif y.shape != (n, len(spec.labels)) or y.dtype != np.float32:
        raise ValueError(
            f"y must be float32 of shape {[n, len(spec.labels)]}, a row of values an example, got {y.dtype} "
            f"{list(y.shape)}"
        )


def is_valid_row(manifest: Manifest, x: Inputs, y: Labels) -> Flags:
    """Which rows a network can take, bool[n]: x finite, ids in their tables, y a class or values that the loss takes.

    Whoever publishes an artifact chooses tables and loss. So in private work a row that is not valid is a null record
    and no error: errors would tell the values one question after the other.
    """
    flags = np.ones(len(x), bool)
    for name, values in example_inputs(x).items():
        flags &= _every(np.isfinite(values))
        if name in manifest.num_ids:
            flags &= _every((values >= 0) & (values < manifest.num_ids[name]))
    if manifest.spec.target == "class":
        return flags & (y >= 0) & (y < len(manifest.spec.labels))
    flags &= _every(np.isfinite(y))
    return flags & _every((y >= 0) & (y <= 1)) if manifest.loss == "bce_with_logits" else flags


def _every(flags: Flags) -> Flags:
    """Which rows hold True alone, bool[n], of bool[n, ...]."""
    return np.asarray(flags.all(axis=tuple(range(1, flags.ndim))))


def _check_x(spec: ExampleSpec, x: Inputs) -> None:
    wanted = np.zeros(0, spec.row_dtype())
    if (x.dtype, x.shape[1:]) == (wanted.dtype, wanted.shape[1:]):
        return
    if wanted.dtype.names is not None and (x.dtype.names != wanted.dtype.names or x.ndim != 1):
        raise ValueError(
            f"x must be [n] rows with the fields {', '.join(wanted.dtype.names)}, got {x.dtype} of shape "
            f"{list(x.shape)}; make it with the specification's row_dtype"
        )
    if x.dtype.names is not None and wanted.dtype.names is None:
        raise ValueError(f"x must be one array of {spec.dtype}, got rows with the fields {', '.join(x.dtype.names)}")
    found = example_inputs(x)
    for name, needed in example_inputs(wanted).items():
        has = found[name]
        if has.dtype != needed.dtype or has.shape[1:] != needed.shape[1:]:
            shape = ["n", *needed.shape[1:]]
            raise ValueError(
                f"{name} must be {needed.dtype} of shape {shape}, got {has.dtype} of shape {list(has.shape)}"
            )


def _check_ids(manifest: Manifest, x: Inputs) -> None:
    # For ordinary work, where a clear error helps; in private work such a row is a null record (`is_valid_row`).
    found = example_inputs(x) if manifest.num_ids and len(x) else {}
    for name, num_ids in manifest.num_ids.items():
        if name in found and (found[name].min() < 0 or found[name].max() >= num_ids):
            raise ValueError(
                f"{name} must hold ids in [0, {num_ids}), got {found[name].min()} to {found[name].max()}; "
                "are they of another vocabulary?"
            )


def _check_classes(spec: ExampleSpec, y: Labels) -> None:
    if len(y) and (y.min() < 0 or y.max() >= len(spec.labels)):
        raise ValueError(f"y must be in [0, {len(spec.labels)}), got {y.min()} to {y.max()}; do the labels differ?")


def _check_values(manifest: Manifest, y: Labels) -> None:
    num_bad = int((~np.isfinite(y)).any(axis=1).sum())
    if num_bad:
        raise ValueError(f"y must be finite, got {num_bad} of {len(y)} rows with NaN or infinite values")
    if manifest.loss == "bce_with_logits" and len(y) and (y.min() < 0 or y.max() > 1):
        raise ValueError(
            f"y must be in [0, 1] for {manifest.loss}, got {y.min():g} to {y.max():g}; is it a probability?"
        )


def _add(total: Vector | None, gradient_sum: Vector, is_alone: bool) -> Vector:
    """The sum over chunks, in float64; one chunk alone, the usual case on a phone, is its own sum."""
    if total is None:
        return gradient_sum if is_alone else gradient_sum.astype(np.float64)
    return np.add(total, gradient_sum, out=total)


def _run_finite(run: Run, x: Inputs, y: Labels, mask: Vector) -> tuple[Outputs, Flags]:
    _fill(x, y, mask)
    outputs, is_finite = run(x, y, mask)
    is_finite |= mask == 0
    mask = np.where(is_finite, mask, np.float32(0))
    if not mask.any():
        return [np.zeros_like(output) for output in outputs], is_finite
    if not is_finite.all():
        del outputs  # before the second run takes memory of its own
        _fill(x, y, mask)
        outputs, _ = run(x, y, mask)
    return outputs, is_finite


def _fill(x: Inputs, y: Labels, mask: Vector) -> None:
    """Put the first row that counts in the place of those that do not; zeros, which ids may be, where none counts."""
    is_masked = mask == 0
    first = int(is_masked.argmin())
    for array in (x, y):
        array[is_masked] = 0 if is_masked[first] else array[first]


def _pad(array: Inputs, length: int) -> Inputs:
    """A copy, filled up with zeros to `length` rows."""
    padded = np.zeros((length, *array.shape[1:]), array.dtype)
    padded[: len(array)] = array
    return padded


def _open(graph: bytes, name: str, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> onnxruntime.InferenceSession:
    if fault := fault_of(graph):
        raise ArtifactError(f"{name} {fault}; compile the artifact again")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.enable_mem_pattern = False  # planned after the first run, it would make the second take memory anew
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    found = {value.name for value in session.get_inputs()}, {value.name for value in session.get_outputs()}
    if found != (set(inputs), set(outputs)):
        raise ArtifactError(
            f"{name} must take {', '.join(inputs)} and give {', '.join(outputs)}; "
            f"got {sorted(found[0])} and {sorted(found[1])}; compile the artifact again"
        )
    return session
