"""What torch says about a step: in float64 the truth that an artifact is certified against, in float32 a yardstick."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from math import ceil, inf, prod
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, mse_loss

from device_runtime.arrays import Flags, Floats, Inputs, Labels, Vector
from device_runtime.session import example_inputs
from device_runtime.specs import Manifest
from pipeline.compile.builder import CompileError
from pipeline.compile.export import LOGITS

Sampler = Callable[[np.random.Generator, int], Inputs]


@dataclass(frozen=True)
class Batch:
    """Examples for a whole graph: x and y [B, ...] as a session takes them, mask [B] of 0 and 1."""

    x: Inputs
    y: Labels
    mask: Vector

    def unmasked(self) -> "Batch":
        """The same examples, all of them in use."""
        return replace(self, mask=np.ones_like(self.mask))


@dataclass(frozen=True)
class Reference:
    """Losses [B], metrics [B] and gradients [B, P] of each example by itself."""

    losses: Floats
    metrics: Floats
    gradients: Floats

    @cached_property
    def norms(self) -> Floats:
        """L2 norm of each gradient, [B]."""
        return row_norms(self.gradients)

    def restricted(self, is_used: Floats) -> "Reference":
        """The same with the gradients zero where `is_used` [P] is 0."""
        return replace(self, gradients=self.gradients * is_used)

    def taken(self, kept: Flags) -> "Reference":
        """Of some examples, `kept` [B]."""
        return Reference(self.losses[kept], self.metrics[kept], self.gradients[kept])

    def factors(self, mask: Vector, max_grad_norm: float) -> Floats:
        """What each gradient is multiplied by in the clipped sum, [B]."""
        ratios = np.divide(max_grad_norm, self.norms, out=np.full_like(self.norms, inf), where=self.norms > 0)
        return np.asarray(np.minimum(1.0, ratios) * mask)


@dataclass(frozen=True)
class TorchStep:
    """The module itself, not the graph that was made of it, in one precision.

    Attributes:
        module: A copy of the caller's.
        dtype: `float64` or `float32`: of parameters, frozen tensors, buffers and inputs that are no ids.
    """

    module: torch.nn.Module
    manifest: Manifest
    dtype: Any

    def reference(self, parameters: Vector | Floats, batch: Batch) -> Reference:
        """Differentiate batches of one, which cannot couple; torch.func.vmap would take a second to import.

        Raises:
            CompileError: forward does not run in this precision.
        """
        values = self._values(parameters)
        inputs = [self._tensor(value) for value in example_inputs(batch.x).values()]
        y = self._tensor(batch.y)
        losses, metrics, gradients = np.zeros(len(y)), np.zeros(len(y)), np.zeros((len(y), len(parameters)))
        with _default_dtype(self.dtype):
            for i in range(len(y)):
                logits, wanted = self._logits(values, tuple(value[i : i + 1] for value in inputs)), y[i : i + 1]
                loss = self._loss(logits, wanted)
                own = torch.autograd.grad(loss, list(values.values()), materialize_grads=True)
                losses[i], metrics[i] = loss.item(), _METRICS[self.manifest.loss](logits.detach(), wanted).item()
                gradients[i] = torch.cat([gradient.reshape(-1) for gradient in own]).numpy()
        return Reference(losses, metrics, gradients)

    def layer_outputs(self, parameters: Vector | Floats, batch: Batch) -> dict[str, Inputs]:
        """What each innermost layer gives at its first call, by its path in the order of forward; the logits last."""
        found: dict[str, Inputs] = {}

        def keep(_layer: torch.nn.Module, _inputs: object, output: object, *, path: str) -> None:
            if isinstance(output, Tensor) and output.is_floating_point() and path not in found:
                found[path] = output.numpy().copy()

        watched = [(path, layer) for path, layer in self.module.named_modules() if path and not any(layer.children())]
        hooks = [layer.register_forward_hook(partial(keep, path=path)) for path, layer in watched]
        try:
            with _default_dtype(self.dtype), torch.no_grad():
                inputs = tuple(map(self._tensor, example_inputs(batch.x).values()))
                logits = self._logits(self._values(parameters), inputs).numpy()
        finally:
            for hook in hooks:
                hook.remove()
        return {**found, LOGITS: logits}

    def _logits(self, values: dict[str, Tensor], inputs: tuple[Tensor, ...]) -> Tensor:
        try:
            logits: Tensor = torch.func.functional_call(self.module, values, inputs)
        except IndexError as error:
            raise CompileError(
                f"forward looks something up beyond its size for a drawn example: {error}; take ids as an input of "
                "whole numbers, or clamp them"
            ) from error
        except RuntimeError as error:
            told = str(error).splitlines()[0]
            raise CompileError(
                f"forward cannot run in {np.dtype(self.dtype)}, which the certificate compares with: {told}; "
                "let forward take the dtype of its tensors from its input"
            ) from error
        return logits

    def _loss(self, logits: Tensor, y: Tensor) -> Tensor:
        if self.manifest.loss == "cross_entropy":
            return cross_entropy(logits, y, label_smoothing=self.manifest.label_smoothing)
        return _LOSSES_OF_VALUES[self.manifest.loss](logits, y)

    def _values(self, parameters: Vector | Floats) -> dict[str, Tensor]:
        layout = self.manifest.layout
        parts = torch.split(torch.tensor(parameters.astype(self.dtype)), [prod(entry.shape) for entry in layout])
        return {
            entry.name: part.reshape(entry.shape).requires_grad_() for entry, part in zip(layout, parts, strict=True)
        }

    def _tensor(self, array: Inputs) -> Tensor:
        return torch.from_numpy(array.astype(self.dtype) if array.dtype == np.float32 else array)


def torch_step(module: torch.nn.Module, manifest: Manifest, dtype: Any = np.float64) -> TorchStep:
    """The step of a copy of `module` at that precision; the module itself is left as it is."""
    own = copy.deepcopy(module)
    return TorchStep(own.double() if dtype == np.float64 else own.float(), manifest, dtype)


def draw_batch(manifest: Manifest, sample: Sampler, rng: np.random.Generator, num_examples: int) -> Batch:
    """Sampled inputs, uniform classes, probabilities or normal values; some of them masked."""
    shape = (num_examples, len(manifest.spec.labels))
    x = sample(rng, num_examples)
    y: Labels = rng.standard_normal(shape, np.float32)
    if manifest.loss == "cross_entropy":
        y = rng.integers(0, shape[1], num_examples)
    elif manifest.loss == "bce_with_logits":
        y = rng.random(shape, np.float32)
    return Batch(x, y, draw_mask(num_examples, rng))


def draw_mask(num_examples: int, rng: np.random.Generator) -> Vector:
    """At least three in ten examples masked."""
    return (rng.permutation(num_examples) >= ceil(0.3 * num_examples)).astype(np.float32)


def map_inputs(x: Inputs, change: Callable[[Inputs], Inputs]) -> Inputs:
    """A copy of x with each of its float32 inputs changed, ids left as they are."""
    if x.dtype.names is None:
        return change(x) if x.dtype == np.float32 else x.copy()
    changed = x.copy()
    for name in x.dtype.names:
        if changed[name].dtype == np.float32:
            changed[name] = change(changed[name])
    return changed


@contextmanager
def _default_dtype(dtype: Any) -> Iterator[None]:
    """What forward makes anew, as a table of positions, is of the same precision."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64 if dtype == np.float64 else torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def row_norms(rows: Floats) -> Floats:
    """L2 norm of each row, [B] of [B, P]."""
    return np.asarray(np.sqrt(np.einsum("ij,ij->i", rows, rows)))


_LOSSES_OF_VALUES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "bce_with_logits": binary_cross_entropy_with_logits,
    "mse": mse_loss,
}
_METRICS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross_entropy": lambda logits, y: (logits.argmax(1) == y).double().mean(),
    "bce_with_logits": lambda logits, y: ((logits > 0) == (y > 0.5)).double().mean(),
    "mse": lambda logits, y: (1 - (logits - y).abs()).clamp(min=0).mean(),
}
