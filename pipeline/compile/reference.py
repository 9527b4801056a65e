"""What torch says about a step: in float64 the truth that an artifact is certified against, in float32 a yardstick."""

from dataclasses import dataclass, replace
from math import ceil, inf
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from device_runtime.arrays import Floats, Inputs, Labels, Vector
from device_runtime.specs import Manifest


@dataclass(frozen=True)
class Batch:
    """Examples for a whole graph: x [B, *shape], y [B], mask [B] of 0 and 1."""

    x: Inputs
    y: Labels
    mask: Vector

    def unmasked(self) -> "Batch":
        """The same examples, all of them in use."""
        return replace(self, mask=np.ones_like(self.mask))


@dataclass(frozen=True)
class Reference:
    """Losses [B] and gradients [B, P] of each example by itself."""

    losses: Floats
    gradients: Floats

    def norms(self) -> Floats:
        """L2 norm of each gradient, [B]."""
        return np.asarray(np.linalg.norm(self.gradients, axis=1))

    def factors(self, mask: Vector, max_grad_norm: float) -> Floats:
        """What each gradient is multiplied by in the clipped sum, [B]."""
        norms = self.norms()
        ratios = np.divide(max_grad_norm, norms, out=np.full_like(norms, inf), where=norms > 0)
        return np.asarray(np.minimum(1.0, ratios) * mask)


def draw_batch(manifest: Manifest, rng: np.random.Generator) -> Batch:
    """Normal inputs and uniform labels; at least three in ten examples are masked."""
    size = manifest.batch_size
    x = rng.standard_normal((size, *manifest.spec.shape)).astype(np.float32)
    y = rng.integers(0, len(manifest.spec.labels), size)
    return Batch(x, y, (rng.permutation(size) >= ceil(0.3 * size)).astype(np.float32))


def reference_of(module: torch.nn.Module, parameters: Vector, batch: Batch, dtype: Any = np.float64) -> Reference:
    """Differentiate batches of one, which cannot couple; torch.func.vmap would take a second to import."""
    named = dict(module.named_parameters())
    parts = torch.split(torch.tensor(parameters.astype(dtype)), [value.numel() for value in named.values()])
    values = {name: part.reshape(named[name].shape).requires_grad_() for name, part in zip(named, parts, strict=True)}
    x, y = torch.from_numpy(batch.x.astype(dtype)), torch.from_numpy(batch.y)
    losses, gradients = [], []
    for i in range(len(y)):
        loss = cross_entropy(torch.func.functional_call(module, values, (x[i : i + 1],)), y[i : i + 1])
        own = torch.autograd.grad(loss, list(values.values()), materialize_grads=True)
        losses.append(float(loss.detach()))
        gradients.append(torch.cat([gradient.reshape(-1) for gradient in own]).numpy())
    return Reference(np.array(losses), np.stack(gradients).astype(np.float64))
