"""An artifact's step at fixed parameters, as a device runs it and as its bare graphs do."""

from dataclasses import dataclass
from math import inf

import numpy as np
import onnxruntime

from device_runtime.arrays import Inputs, Vector
from device_runtime.artifact import Artifact
from device_runtime.session import StepSession, example_inputs
from pipeline.compile.reference import Batch


@dataclass(frozen=True)
class CompiledStep:
    """The step that is certified; `open_step` makes one."""

    artifact: Artifact
    parameters: Vector
    session: StepSession
    gradient_graph: onnxruntime.InferenceSession
    evaluate_graph: onnxruntime.InferenceSession

    def gradient(
        self, batch: Batch, max_grad_norm: float = inf, segment_weight: Vector | None = None
    ) -> tuple[Vector, float, Vector]:
        """gradient_sum, loss_sum, norms, as a session gives them."""
        examples = (batch.x, batch.y, batch.mask)
        return self.session.gradient(self.parameters, *examples, max_grad_norm, segment_weight)

    def evaluate(self, batch: Batch) -> tuple[Vector, Vector]:
        """Losses and metrics [B], as a session gives them."""
        losses, metrics = self.session.evaluate(self.parameters, batch.x, batch.y, batch.mask)
        return losses, metrics[:, 0]

    def bare_outputs(self, batch: Batch) -> dict[str, Inputs]:
        """What the graphs give, by name: a session would mask an example that is not finite, and so hide it."""
        inputs = self.evaluate_inputs(batch)
        found: dict[str, Inputs] = {}
        for graph, given in ((self.gradient_graph, self.gradient_inputs(batch)), (self.evaluate_graph, inputs)):
            names = [output.name for output in graph.get_outputs()]
            found.update(zip(names, graph.run(names, given), strict=True))
        return found

    def gradient_inputs(self, batch: Batch) -> dict[str, Inputs]:
        """Inputs of gradient.onnx at clip norm 1, all segments in use."""
        segment_weight = np.ones(len(self.artifact.manifest.segments), np.float32)
        terms = {"max_grad_norm": np.array(1.0, np.float32), "segment_weight": segment_weight}
        return {**self.evaluate_inputs(batch), **terms}

    def evaluate_inputs(self, batch: Batch) -> dict[str, Inputs]:
        """Inputs of evaluate.onnx."""
        frozen = {f"frozen.{name}": tensor for name, tensor in self.artifact.frozen.items()}
        return {"parameters": self.parameters, **frozen, **example_inputs(batch.x), "y": batch.y, "mask": batch.mask}


def open_step(artifact: Artifact, parameters: Vector) -> CompiledStep:
    """Open the artifact's graphs, one thread."""
    session = StepSession(artifact)
    return CompiledStep(artifact, parameters, session, session.gradient_graph, session.evaluate_graph)


def open_graph(graph: bytes) -> onnxruntime.InferenceSession:
    """A session for a few runs, one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.enable_mem_pattern = False  # planned after the first run, it would make the second take memory anew
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
