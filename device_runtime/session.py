"""Run an artifact's two graphs on plain ONNX Runtime, one thread, over any number of examples."""

from collections.abc import Callable, Iterator
from math import ceil, inf

import numpy as np
import onnxruntime

from device_runtime.arrays import Flags, Inputs, Labels, Vector
from device_runtime.artifact import Artifact, ArtifactError
from device_runtime.specs import Manifest

GRADIENT_INPUTS = ("parameters", "x", "y", "mask", "max_grad_norm", "segment_weight")
GRADIENT_OUTPUTS = ("gradient_sum", "loss_sum", "norms")
EVALUATE_INPUTS = ("parameters", "x", "y", "mask")
EVALUATE_OUTPUTS = ("losses", "metrics")
Outputs = list[Vector]
Run = Callable[[Inputs, Labels, Vector], tuple[Outputs, Flags]]


class StepSession:
    """Owns the sessions of one artifact; it holds no parameters, so one serves all clients that use the artifact.

    Examples come in any number n and go through the graphs in ceil(n / B) chunks, the last one filled up with masked
    zeros; n = 0 runs nothing and sums to zero. An example whose result is not finite counts as zero: it is masked, its
    x zeroed (a factor of 0 alone would leave 0 * inf), and its chunk run again without it.
    """

    def __init__(self, artifact: Artifact) -> None:
        self.manifest = artifact.manifest
        self._gradient = _open(artifact.gradient, "gradient.onnx", GRADIENT_INPUTS, GRADIENT_OUTPUTS)
        self._evaluate = _open(artifact.evaluate, "evaluate.onnx", EVALUATE_INPUTS, EVALUATE_OUTPUTS)

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
            x: [n, *shape] in the manifest's dtype.
            y: i64[n], indices into the manifest's labels.
            mask: [n], 0 for an example to leave out; None for all ones.
            max_grad_norm: L2 norm above which an example's gradient is scaled down; infinity for no clipping. Holds
                up to float32 rounding (about 1e-6 of it).
            segment_weight: f32[S] of 0/1, None for ones: which parts of the layout take part.

        Returns:
            gradient_sum f32[P], loss_sum, norms f32[n] (0 for examples that were left out). Norms and losses are the
            examples' own: in private training neither leaves the phone.
        """
        weight = np.ones(len(self.manifest.segments), np.float32) if segment_weight is None else segment_weight
        fixed = {
            "parameters": parameters,
            "max_grad_norm": np.array(max_grad_norm, np.float32),
            "segment_weight": weight.astype(np.float32),
        }
        total, loss, norms = np.zeros(self.manifest.num_parameters), 0.0, [np.zeros(0, np.float32)]

        def run(x: Inputs, y: Labels, mask: Vector) -> tuple[Outputs, Flags]:
            outputs = self._gradient.run(GRADIENT_OUTPUTS, {**fixed, "x": x, "y": y, "mask": mask})
            return outputs, np.isfinite(outputs[2])

        for size, (gradient_sum, loss_sum, chunk_norms), _ in self._chunks(run, x, y, mask):
            total += gradient_sum
            loss += float(loss_sum)
            norms.append(chunk_norms[:size])
        return total.astype(np.float32), loss, np.concatenate(norms)

    def evaluate(
        self, parameters: Vector, x: Inputs, y: Labels, mask: Flags | Vector | None = None
    ) -> tuple[Vector, Vector]:
        """Losses f32[n] and metrics f32[n, M] of n examples, 0 where masked.

        An example whose result is not finite has loss infinity and metrics 0, so that a network that diverged never
        looks good; the caller clips losses or refuses them.
        """
        losses, metrics = [np.zeros(0, np.float32)], [np.zeros((0, len(self.manifest.metrics)), np.float32)]

        def run(x: Inputs, y: Labels, mask: Vector) -> tuple[Outputs, Flags]:
            outputs = self._evaluate.run(EVALUATE_OUTPUTS, {"parameters": parameters, "x": x, "y": y, "mask": mask})
            return outputs, np.isfinite(outputs[0]) & np.isfinite(outputs[1]).all(axis=1)

        for size, (chunk_losses, chunk_metrics), is_finite in self._chunks(run, x, y, mask):
            losses.append(np.where(is_finite, chunk_losses, np.float32(inf))[:size])
            metrics.append(chunk_metrics[:size])
        return np.concatenate(losses), np.concatenate(metrics)

    def _chunks(
        self, run: Run, x: Inputs, y: Labels, mask: Flags | Vector | None
    ) -> Iterator[tuple[int, Outputs, Flags]]:
        """Per chunk: number of its examples, outputs, and which rows were finite at first."""
        check_examples(self.manifest, x, y)
        batch = self.manifest.batch_size
        wanted = np.ones(len(x), np.float32) if mask is None else np.asarray(mask).astype(np.float32)
        if wanted.shape != (len(x),):
            raise ValueError(f"mask must have shape [{len(x)}], one value an example, got {list(wanted.shape)}")
        for start in range(0, len(x), batch):
            part = slice(start, start + batch)
            size = len(x[part])
            yield size, *_run_finite(run, *(_pad(array[part], batch) for array in (x, y, wanted)))


def check_examples(manifest: Manifest, x: Inputs, y: Labels) -> None:
    """Check that x [n, *shape] and y i64[n] are what the manifest's specification says; raises ValueError."""
    spec = manifest.spec
    if x.shape[1:] != spec.shape or x.dtype != np.dtype(spec.dtype):
        shape = ["n", *spec.shape]
        raise ValueError(f"x must be {spec.dtype} of shape {shape}, got {x.dtype} of shape {list(x.shape)}")
    if y.shape != (len(x),) or y.dtype != np.int64:
        raise ValueError(f"y must be int64, one label for each of {len(x)} examples, got {y.dtype} {list(y.shape)}")
    if len(y) and (y.min() < 0 or y.max() >= len(spec.labels)):
        raise ValueError(f"y must be in [0, {len(spec.labels)}), got {y.min()} to {y.max()}; do the labels differ?")


def _run_finite(run: Run, x: Inputs, y: Labels, mask: Vector) -> tuple[Outputs, Flags]:
    x[mask == 0] = 0
    outputs, is_finite = run(x, y, mask)
    if is_finite.all():
        return outputs, is_finite
    x[~is_finite] = 0
    again, _ = run(x, y, np.where(is_finite, mask, np.float32(0)))
    return again, is_finite


def _pad(array: Inputs, length: int) -> Inputs:
    """A copy, filled up with zeros to `length` rows."""
    padded = np.zeros((length, *array.shape[1:]), array.dtype)
    padded[: len(array)] = array
    return padded


def _open(graph: bytes, name: str, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    found = {value.name for value in session.get_inputs()}, {value.name for value in session.get_outputs()}
    if found != (set(inputs), set(outputs)):
        raise ArtifactError(
            f"{name} must take {', '.join(inputs)} and give {', '.join(outputs)}; "
            f"got {sorted(found[0])} and {sorted(found[1])}; compile the artifact again"
        )
    return session
