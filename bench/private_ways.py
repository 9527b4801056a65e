"""The ways of one gradient that `bench/private_step.py` compares: ours, ordinary ones and torch's private ones.

Each way takes one batch to the gradient of its examples: the clipped sum (`Way.is_private`), or the ordinary mean. None
draws noise or moves the parameters.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from onnxruntime.training import api
from opacus import GradSampleModule
from opacus.grad_sample.grad_sample_module_fast_gradient_clipping import GradSampleModuleFastGradientClipping
from opacus.optimizers import DPOptimizer, DPOptimizerFastGradientClipping
from opacus.utils.fast_gradient_clipping_utils import DPLossFastGradientClipping
from torch import nn
from torch.func import functional_call, grad_and_value, vmap
from torch.nn.functional import cross_entropy

from bench.private_networks import BenchNetwork
from device_runtime.arrays import Inputs, Labels, Vector
from device_runtime.artifact import read_artifact
from device_runtime.session import StepSession
from pipeline.compile.artifact import compile_artifact
from pipeline.compile.losses import Loss
from pipeline.compile.ort_training import WRITTEN, write_ort_training
from pipeline.compile.versions import DEFAULT_BATCH_SIZE
from pipeline.compile.writing import flatten_parameters
from pipeline.network import GroupNorm

MAX_GRAD_NORM = 1.0
ARTIFACT, ORT_TRAINING, ORT_TRAINING_CHUNKS = "artifact", "ort_training", "ort_training_chunks"


@dataclass(frozen=True)
class Scene:
    """One network and one batch, the same for every way; files that take long to make are in `folder`.

    Attributes:
        batch_size: One that `chunk_size` divides.
    """

    network: BenchNetwork
    batch_size: int
    folder: Path

    @property
    def chunk_size(self) -> int:
        """Examples that our graph takes at a time, which is what artifacts are compiled for."""
        return min(self.batch_size, DEFAULT_BATCH_SIZE)

    def module(self) -> nn.Module:
        """The network with its initial parameters."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return self.network.make()

    def examples(self) -> tuple[Inputs, Labels]:
        """x [B, *shape] and y [B]."""
        rng, shape = np.random.default_rng(0), (self.batch_size, *self.network.shape)
        y = rng.integers(0, self.network.num_classes, self.batch_size)
        if self.network.num_tokens:
            return rng.integers(0, self.network.num_tokens, shape), y
        return rng.standard_normal(shape).astype(np.float32), y

    def tensors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The same for torch."""
        x, y = self.examples()
        return torch.from_numpy(x), torch.from_numpy(y)


@dataclass(frozen=True)
class Way:
    """One way of computing a gradient, opened.

    Attributes:
        step: Compute it; gives the mean loss.
        gradient: What the last step computed, f32[P] in layout order.
    """

    step: Callable[[], float]
    gradient: Callable[[], Vector]


def prepare(scene: Scene) -> None:
    """Compile our artifact, and ORT Training's files of the same network in operators that it differentiates."""
    (x, _), size = scene.tensors(), scene.chunk_size
    if scene.batch_size % size:
        raise ValueError(f"batch_size must be a multiple of the chunk size {size}, got {scene.batch_size}")
    compile_artifact(scene.module(), x[0], scene.network.num_classes, scene.folder / ARTIFACT, batch_size=size)
    for name, examples in ((ORT_TRAINING, x), (ORT_TRAINING_CHUNKS, x[:size])):
        told = write_ort_training(_decomposed(scene.module()), {"x": examples}, Loss(), scene.folder / name)
        if told != WRITTEN:
            raise RuntimeError(f"there is no ordinary step to compare with: ort_training {told}")


def ignore_torch_warnings() -> None:
    """Silence, by name, what Opacus warns of and is meant here."""
    warnings.filterwarnings("ignore", message="Full backward hook is firing")  # its hooks read no input gradient
    warnings.filterwarnings("ignore", message="Secure RNG turned off")  # no noise is drawn


def handheld(scene: Scene) -> Way:
    """Our graph over the batch in chunks, accumulated on the host."""
    session = StepSession(read_artifact(scene.folder / ARTIFACT))
    parameters, (x, y), last = flatten_parameters(scene.module()), scene.examples(), {}

    def step() -> float:
        last["gradient"], loss_sum, _ = session.gradient(parameters, x, y, max_grad_norm=MAX_GRAD_NORM)
        return loss_sum / len(x)

    return Way(step, lambda: last["gradient"])


def ort_training(scene: Scene) -> Way:
    """ONNX Runtime Training's own module over the whole batch: forward, loss and backward."""
    return _ort_training(scene, ORT_TRAINING, scene.batch_size)


def ort_training_chunks(scene: Scene) -> Way:
    """The same over chunks as large as ours; it adds up their gradients itself."""
    return _ort_training(scene, ORT_TRAINING_CHUNKS, scene.chunk_size)


def _ort_training(scene: Scene, name: str, size: int) -> Way:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.enable_mem_pattern = False  # as in our sessions: with it, ORT Training takes up to twice the memory
    files = scene.folder / name
    state = api.CheckpointState.load_checkpoint(str(files / "checkpoint"))
    module = api.Module(str(files / "training_model.onnx"), state, session_options=options)
    module.train()
    names, (x, y) = [name for name, _ in scene.module().named_parameters()], scene.examples()
    chunks = [(x[start : start + size], y[start : start + size]) for start in range(0, len(x), size)]

    def step() -> float:
        module.lazy_reset_grad()
        return sum(float(module(*chunk)) for chunk in chunks) / len(chunks)

    def gradient() -> Vector:
        total: Vector = np.concatenate([state.parameters[name].grad.ravel() for name in names])
        return total / len(chunks)

    return Way(step, gradient)


def pytorch(scene: Scene) -> Way:
    """PyTorch's ordinary gradient."""
    module, (x, y) = scene.module(), scene.tensors()

    def step() -> float:
        module.zero_grad()
        loss = cross_entropy(module(x), y)
        torch.autograd.backward([loss])
        return float(loss.detach())

    return Way(step, lambda: _flat([parameter.grad for parameter in module.parameters()]))


def opacus_hooks(scene: Scene) -> Way:
    """Opacus' per-example gradients by hooks, clipped and summed."""
    module: Any = GradSampleModule(scene.module())
    optimizer, (x, y) = DPOptimizer(_sgd(module), **_without_noise(scene)), scene.tensors()

    def step() -> float:
        optimizer.zero_grad()
        loss = cross_entropy(module(x), y)
        torch.autograd.backward([loss])
        optimizer.clip_and_accumulate()
        return float(loss.detach())

    return Way(step, lambda: _flat([parameter.summed_grad for parameter in optimizer.params]))


def opacus_ghost(scene: Scene) -> Way:
    """Opacus' ghost clipping: norms in one pass backwards, the clipped sum in a second one."""
    module: Any = GradSampleModuleFastGradientClipping(scene.module(), max_grad_norm=MAX_GRAD_NORM)
    optimizer, (x, y) = DPOptimizerFastGradientClipping(_sgd(module), **_without_noise(scene)), scene.tensors()
    criterion = DPLossFastGradientClipping(module, optimizer, nn.CrossEntropyLoss(), loss_reduction="mean")

    def step() -> float:
        optimizer.zero_grad()
        loss = criterion(module(x), y)
        loss.backward()
        return float(loss.item())

    return Way(step, lambda: _flat([parameter.grad for parameter in optimizer.params]))


def torch_vmap(scene: Scene) -> Way:
    """torch.func's per-example gradients, clipped and summed."""
    module, (x, y) = scene.module(), scene.tensors()
    values, last = {name: value.detach() for name, value in module.named_parameters()}, {}

    def loss(values: Any, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return cross_entropy(functional_call(module, values, (x[None],)), y[None])

    each = vmap(grad_and_value(loss), (None, 0, 0))

    def step() -> float:
        gradients, losses = each(values, x, y)
        norms = torch.stack([value.flatten(1).norm(dim=1) for value in gradients.values()]).norm(dim=0)
        factors = (MAX_GRAD_NORM / norms).clamp(max=1.0)
        last["sums"] = [torch.einsum("b,b...->...", factors, value) for value in gradients.values()]
        return float(losses.mean())

    return Way(step, lambda: _flat(last["sums"]))


OURS, PRIVATE = "handheld", ("opacus_hooks", "opacus_ghost", "torch_vmap")
ORDINARY = (ORT_TRAINING, ORT_TRAINING_CHUNKS, "pytorch")
WAYS: dict[str, Callable[[Scene], Way]] = {
    OURS: handheld,
    **dict(zip(ORDINARY, (ort_training, ort_training_chunks, pytorch), strict=True)),
    **dict(zip(PRIVATE, (opacus_hooks, opacus_ghost, torch_vmap), strict=True)),
}


def _decomposed(module: nn.Module) -> nn.Module:
    """The module with GroupNorm written out, changed in place: ORT Training alone cannot differentiate it."""
    for name, child in module.named_children():
        if isinstance(child, nn.GroupNorm):
            norm = GroupNorm(child.num_groups, child.num_channels)
            norm.weight, norm.bias = child.weight, child.bias
            setattr(module, name, norm)
        else:
            _decomposed(child)
    return module


def _sgd(module: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(module.parameters(), lr=0.0)


def _without_noise(scene: Scene) -> dict[str, Any]:
    return {"noise_multiplier": 0.0, "max_grad_norm": MAX_GRAD_NORM, "expected_batch_size": scene.batch_size}


def _flat(tensors: list[Any]) -> Vector:
    return np.concatenate([tensor.detach().numpy().ravel() for tensor in tensors])
