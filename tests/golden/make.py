"""Write the golden files: inputs of both graphs, and the outputs that torch in float64 says they must have.

    python -m tests.golden.make

writes `tests/golden/CASE.safetensors` for every case. Nothing of the compiler has a part in it, so the files say what
an artifact's graphs must give on any runtime. Tensors have the graphs' own names. What differs between the two steps
of a case has the step's name before it: in `clipped` one example is masked and the others are clipped to their median
norm, in `unclipped` all are used whole, in the segment `head` alone.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from math import inf
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, mse_loss

from tests.golden.networks import BATCH, CASES, Case

FOLDER = Path(__file__).parent
OUTPUTS = ("gradient_sum", "loss_sum", "norms", "losses", "metrics")
LARGE = 4096  # values; a larger tensor that is not trained is an input of the graphs
FLOAT32_ERROR = 2e-5  # of torch's own float32; above it an activation is on a kink and another seed is needed
Tensors = dict[str, np.ndarray]


@dataclass(frozen=True)
class Step:
    """What differs between two steps on the same examples."""

    mask: np.ndarray
    max_grad_norm: float
    head: int
    rest: int

    def inputs(self) -> Tensors:
        """As the graphs take them."""
        return {
            "mask": self.mask.astype(np.float32),
            "max_grad_norm": np.array(self.max_grad_norm, np.float32),
            "segment_weight": np.array([self.head, self.rest], np.float32),
        }


@dataclass(frozen=True)
class Truth:
    """Losses and metrics [B] and gradients [B, P] of each example by itself, float64."""

    losses: np.ndarray
    metrics: np.ndarray
    gradients: np.ndarray

    def outputs(self, step: Step, kept: np.ndarray) -> Tensors:
        """What both graphs give; `kept` [P] is 1 for the values of the segments in use."""
        norms = np.linalg.norm(self.gradients * kept, axis=1) * step.mask
        factors = np.minimum(1.0, step.max_grad_norm / np.maximum(norms, 1e-30)) * step.mask
        exact = {
            "gradient_sum": factors @ (self.gradients * kept),
            "loss_sum": self.losses @ step.mask,
            "norms": norms,
            "losses": self.losses * step.mask,
            "metrics": (self.metrics * step.mask)[:, None],
        }
        return {name: np.asarray(value, np.float32) for name, value in exact.items()}


def read_golden(case: Case) -> Iterator[tuple[str, Tensors, Tensors]]:
    """Each step of a case: its name, the graphs' inputs, and the outputs they must have."""
    tensors = load_file(FOLDER / f"{case.name}.safetensors")
    shared = {name: value for name, value in tensors.items() if "/" not in name}
    for step in ("clipped", "unclipped"):
        own = {name.removeprefix(f"{step}/"): value for name, value in tensors.items() if name.startswith(f"{step}/")}
        outputs = {name: own.pop(name) for name in OUTPUTS}
        yield step, {**shared, **own}, outputs


def make_golden(case: Case) -> Tensors:
    """What the golden file of a case holds."""
    module, examples = case.module(), case.draw_examples()
    trained = [value.detach().numpy().ravel() for value in module.parameters() if value.requires_grad]
    tensors = {"parameters": np.concatenate(trained), **examples}
    for name, value in module.named_parameters():
        if not value.requires_grad and value.numel() > LARGE:
            tensors[f"frozen.{name}"] = value.detach().numpy()
    truth, single = (differentiate(case, module, examples, dtype) for dtype in (torch.float64, torch.float32))
    error = np.linalg.norm(single.gradients - truth.gradients, axis=1) / np.linalg.norm(truth.gradients, axis=1)
    if error.max() > FLOAT32_ERROR:
        raise ValueError(f"torch's float32 is {error.max():.1e} off in case {case.name!r}; give it another seed")
    for name, step in _steps(truth).items():
        kept = np.concatenate(
            [
                np.full(np.prod(shape), step.head if parameter.startswith("head.") else step.rest)
                for parameter, shape in case.layout(module).items()
            ]
        )
        own = {**step.inputs(), **truth.outputs(step, kept)}
        tensors.update((f"{name}/{key}", value) for key, value in own.items())
    return tensors


def differentiate(case: Case, module: nn.Module, examples: Tensors, dtype: torch.dtype) -> Truth:
    """Differentiate batches of one in `dtype`."""
    module = copy.deepcopy(module).to(dtype)
    trained = [value for value in module.parameters() if value.requires_grad]
    losses, metrics, gradients = [], [], []
    for i in range(BATCH):
        own = {name: torch.from_numpy(value[i : i + 1]) for name, value in examples.items()}
        y = own.pop("y")
        logits = module(*(value.to(dtype) if value.is_floating_point() else value for value in own.values()))
        loss, metric = _loss_and_metric(case, logits, y if case.loss.takes_classes else y.to(dtype))
        found = torch.autograd.grad(loss, trained, materialize_grads=True)
        losses.append(loss.item())
        metrics.append(metric.item())
        gradients.append(torch.cat([gradient.ravel() for gradient in found]).double().numpy())
    return Truth(np.array(losses), np.array(metrics), np.stack(gradients))


def _loss_and_metric(case: Case, logits: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    if case.loss.name == "cross_entropy":
        loss = cross_entropy(logits, y, label_smoothing=case.loss.label_smoothing)
        return loss, (logits.argmax(1) == y).double().mean()
    if case.loss.name == "bce_with_logits":
        return binary_cross_entropy_with_logits(logits, y), ((logits > 0) == (y > 0.5)).double().mean()
    return mse_loss(logits, y), (1 - (logits - y).abs()).clamp(min=0).mean()


def _steps(truth: Truth) -> dict[str, Step]:
    some = np.ones(BATCH)
    some[1] = 0
    median = np.float32(np.median(np.linalg.norm(truth.gradients[some > 0], axis=1)))
    return {"clipped": Step(some, float(median), 1, 1), "unclipped": Step(np.ones(BATCH), inf, 1, 0)}


if __name__ == "__main__":
    for case in CASES:
        save_file(make_golden(case), FOLDER / f"{case.name}.safetensors")
