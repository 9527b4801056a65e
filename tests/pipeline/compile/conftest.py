"""Compile a small module to its graph and run it, beside what torch says in float64."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from math import inf, prod

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from pipeline.compile import certificate
from pipeline.compile.export import export_forward
from pipeline.compile.graphs import Layout, evaluate_model, gradient_model
from pipeline.compile.losses import Loss
from pipeline.compile.lower import Node


@dataclass(frozen=True)
class Truth:
    """Losses [B] and gradients [B, P] of each example, from torch in float64."""

    losses: np.ndarray
    gradients: np.ndarray

    def clipped(self, mask: np.ndarray, max_grad_norm: float, columns: np.ndarray | None = None) -> tuple:
        """Norms [B] and sum [P] over the columns in use, as the design defines them, one example after the other."""
        kept = np.ones(self.gradients.shape[1]) if columns is None else columns
        norms, total = np.zeros(len(mask)), np.zeros(self.gradients.shape[1])
        for i in np.flatnonzero(mask):
            own = self.gradients[i] * kept
            norms[i] = np.linalg.norm(own)
            total += own * (min(1.0, max_grad_norm / norms[i]) if norms[i] > 0 else 1.0)
        return norms, total


@dataclass(frozen=True)
class Compiled:
    """A module's two graphs, opened."""

    module: nn.Module
    layout: Layout
    gradient_model: onnx.ModelProto
    evaluate_model: onnx.ModelProto

    def gradient(self, x, y, mask=None, max_grad_norm=inf, segment_weight=None) -> tuple:
        """gradient_sum, loss_sum, norms."""
        ones = np.ones(len(self.layout.segments), np.float32)
        return self._run(
            self.gradient_model,
            {
                **self._inputs(x, y, mask),
                "max_grad_norm": np.array(max_grad_norm, np.float32),
                "segment_weight": ones if segment_weight is None else np.array(segment_weight, np.float32),
            },
        )

    def evaluate(self, x, y, mask=None) -> tuple:
        """losses, metrics."""
        return self._run(self.evaluate_model, self._inputs(x, y, mask))

    def truth(self, x, y) -> Truth:
        values = {name: value.detach().double() for name, value in self.module.named_parameters()}

        def loss(values, x, y):
            return nn.functional.cross_entropy(torch.func.functional_call(self.module, values, (x[None],)), y[None])

        each = torch.func.vmap(torch.func.grad_and_value(loss), (None, 0, 0))
        examples = torch.from_numpy(x)
        examples = examples.double() if examples.is_floating_point() else examples
        gradients, losses = each(values, examples, torch.from_numpy(y))
        flat = [gradients[name].reshape(len(y), -1) for name in self.layout.shapes]
        return Truth(losses.numpy(), torch.cat(flat, 1).numpy())

    def columns(self, segment: str) -> np.ndarray:
        """1 for the values of the flat vector that lie in the segment."""
        parts = [np.full(prod(s), self.layout.segment_of[n] == segment) for n, s in self.layout.shapes.items()]
        return np.concatenate(parts).astype(float)

    def _inputs(self, x, y, mask) -> dict:
        flat = np.concatenate([value.detach().numpy().ravel() for value in self.module.parameters()])
        return {"parameters": flat, "x": x, "y": y, "mask": np.ones(len(x), np.float32) if mask is None else mask}

    @staticmethod
    def _run(model: onnx.ModelProto, inputs: dict) -> tuple:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return tuple(session.run(None, inputs))


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Small networks gain nothing from more, and on a busy machine torch's threads wait for each other."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def compile_module() -> Callable[..., Compiled]:
    """Compile (module, x_shape); `segment_of` names each parameter's segment, all `weights` without it."""

    def compile_(
        module: nn.Module,
        x_shape: tuple[int, ...],
        segment_of: dict[str, str] | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Compiled:
        forward = export_forward(module, {"x": torch.zeros(x_shape, dtype=dtype)})
        segment_of = segment_of or dict.fromkeys(forward.parameters, "weights")
        layout = Layout(forward.parameters, tuple(dict.fromkeys(segment_of.values())), segment_of)
        evaluate = evaluate_model(forward, layout, Loss())  # the forward graph first, as `compile_architecture` does
        return Compiled(module, layout, gradient_model(forward, layout, Loss()).model, evaluate)

    return compile_


@pytest.fixture(scope="session")
def draw_batch() -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """Examples and labels from a seed: (x_shape, num_classes, seed=0)."""

    def draw(x_shape: tuple[int, ...], num_classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(seed)
        return rng.standard_normal(x_shape).astype(np.float32), rng.integers(0, num_classes, x_shape[0])

    return draw


class Sandwich(nn.Module):
    """A convolution, a part to test, and a linear layer: gradients flow through the part."""

    def __init__(self, middle: nn.Module | Callable) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.middle = middle if isinstance(middle, nn.Module) else Function(middle)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(64, 3)

    def forward(self, x):
        return self.classifier(self.flatten(self.middle(self.stem(x))))


class Function(nn.Module):
    """A function of the hidden value as a layer of its own, so that errors can name it."""

    def __init__(self, function: Callable) -> None:
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


@pytest.fixture(scope="session")
def sandwich() -> type[Sandwich]:
    """For examples [B, 1, 4, 4]: Sandwich(middle), with a hidden value [B, 4, 4, 4]."""
    return Sandwich


@pytest.fixture(scope="session")
def check_step(compile_module, draw_batch) -> Callable[..., None]:
    """Compare a module's step with torch: unclipped, clipped, with masked examples, with all masked.

    The module takes ids below `num_ids` where that is given.
    """

    def check(
        module: nn.Module,
        x_shape: tuple[int, ...],
        num_classes: int,
        tolerance: float = 2e-5,
        num_ids: int | None = None,
    ) -> None:
        compiled = compile_module(module, x_shape, dtype=torch.float32 if num_ids is None else torch.int64)
        x, y = draw_batch(x_shape, num_classes)
        if num_ids is not None:
            x = np.random.default_rng(1).integers(0, num_ids, x_shape)
        truth = compiled.truth(x, y)
        every = np.ones(len(y), np.float32)
        some = (np.arange(len(y)) % 3 != 1).astype(np.float32)
        clip = float(np.median(np.linalg.norm(truth.gradients, axis=1))) / 2 or 1.0
        for mask, bound in [(every, inf), (every, clip), (some, clip), (0 * every, clip)]:
            norms, total = truth.clipped(mask, bound)
            found_total, found_loss, found_norms = compiled.gradient(x, y, mask, bound)
            assert_near(found_norms, norms, tolerance)
            summed = np.minimum(norms, bound).sum()  # examples may cancel, their rounding does not
            assert_near(found_total, total, tolerance, at_least=0.1 * summed)
            assert_near(found_loss, truth.losses @ mask, tolerance)
        losses, metrics = compiled.evaluate(x, y, some)
        assert_near(losses, truth.losses * some, tolerance)
        assert metrics.shape == (len(y), 1)

    return check


def assert_near(found: np.ndarray, expected: np.ndarray, tolerance: float, at_least: float = 1e-3) -> None:
    assert np.linalg.norm(found - expected) <= tolerance * max(at_least, np.linalg.norm(expected))


@pytest.fixture(scope="session")
def make_node() -> Callable[..., Node]:
    """A node to give to a rule: (op_type, layer="layer", **attributes)."""

    def make(op_type: str, layer: str = "layer", **attributes) -> Node:
        return Node(op_type, layer, ("first",), attributes)

    return make


@pytest.fixture
def unmeasured(monkeypatch):
    """A process of its own for a memory that nobody reads would be most of the time of these tests."""

    @contextlib.contextmanager
    def nothing(*_):
        yield lambda: 0.0

    monkeypatch.setattr(certificate, "measured_memory", nothing)
