"""What a private step costs: ours beside ONNX Runtime Training's ordinary one, PyTorch's ordinary one and Opacus'.

One network of the search space, one batch, one thread each, in turns. Every step ends with updated parameters; ours and
Opacus' clip each example and add no noise, which both would draw outside of the step (our normals from a 32-byte
key cost about 0.65 ms more than one call of torch.normal at this size, some 2% of the step).
"""

import argparse
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from onnxruntime.training import api
from opacus import GradSampleModule
from opacus.optimizers import DPOptimizer
from torch.nn.functional import cross_entropy

from bench.measuring import Result, new_result, print_result, spread_of, time_interleaved
from device_runtime.arrays import Inputs, Labels
from device_runtime.artifact import read_artifact
from device_runtime.session import StepSession
from device_runtime.specs import ExampleSpec
from pipeline.compile.artifact import CompileRequest, compile_artifact, initial_parameters
from pipeline.network import Network, build_module
from search.architecture import Architecture, Stage, Stem
from search.layers import layers_of, num_parameters

LEARNING_RATE = 0.01
MAX_GRAD_NORM = 1.0
BATCH_SIZE = 32
NETWORK = Architecture(
    input_shape=(1, 28, 28),
    num_classes=10,
    stem=Stem(32),
    stages=(Stage("depthwise", 64), Stage("depthwise", 64, stride=2), Stage("depthwise", 64, stride=2)),
)
PRIVATE = ("Handheld, private", "Opacus, private")
ORDINARY = ("ORT Training, ordinary", "PyTorch, ordinary")
PACKAGES = ("onnxruntime-training-cpu", "onnxruntime", "torch", "opacus", "onnx", "numpy")
COLUMNS = ("name", "median_ms", "min_ms", "p25_ms", "p75_ms", "max_ms", "vs_ort")
Step = Callable[[], float]


def measure(architecture: Architecture, batch_size: int, rounds: int) -> Result:
    """Time all four steps; raises RuntimeError when they do not do the same work."""
    result = new_result("private_step", PACKAGES)
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((batch_size, *architecture.input_shape)).astype(np.float32)
    y = rng.integers(0, architecture.num_classes, batch_size)
    with tempfile.TemporaryDirectory() as temporary:
        folder = _compile(architecture, batch_size, Path(temporary) / "artifact")
        steps = {
            PRIVATE[0]: our_step(folder, architecture, x, y),
            ORDINARY[0]: ort_step(folder / "ort_training", x, y),
            ORDINARY[1]: torch_step(architecture, x, y),
            PRIVATE[1]: opacus_step(architecture, x, y),
        }
        _check_same_work(steps)
        times = time_interleaved(steps, rounds)
    work = {"batch_size": batch_size, "parameters": num_parameters(architecture), "macs": _macs(architecture)}
    return replace(result, rows=[{**row, **work} for row in _rows(times)])


def our_step(folder: Path, architecture: Architecture, x: Inputs, y: Labels) -> Step:
    """DP-SGD by the compiled graph, the update on the host."""
    session = StepSession(read_artifact(folder))
    parameters = initial_parameters(architecture, seed=0)

    def step() -> float:
        gradient_sum, loss_sum, _ = session.gradient(parameters, x, y, max_grad_norm=MAX_GRAD_NORM)
        np.subtract(parameters, np.float32(LEARNING_RATE / len(x)) * gradient_sum, out=parameters)
        return loss_sum / len(x)

    return step


def ort_step(files: Path, x: Inputs, y: Labels) -> Step:
    """SGD by ONNX Runtime Training's own module and optimizer."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    state = api.CheckpointState.load_checkpoint(str(files / "checkpoint"))
    module = api.Module(str(files / "training_model.onnx"), state, session_options=options)
    optimizer = api.Optimizer(str(files / "optimizer_model.onnx"), module)
    optimizer.set_learning_rate(LEARNING_RATE)
    module.train()

    def step() -> float:
        loss = module(x, y)
        optimizer.step()
        module.lazy_reset_grad()
        return float(loss)

    return step


def torch_step(architecture: Architecture, x: Inputs, y: Labels) -> Step:
    """SGD by PyTorch."""
    module = build_module(layers_of(architecture), seed=0)
    return _torch_loop(module, torch.optim.SGD(module.parameters(), LEARNING_RATE), x, y)


def opacus_step(architecture: Architecture, x: Inputs, y: Labels) -> Step:
    """DP-SGD by Opacus' hooks, without noise."""
    module: Any = GradSampleModule(build_module(layers_of(architecture), seed=0))
    optimizer = DPOptimizer(
        torch.optim.SGD(module.parameters(), LEARNING_RATE),
        noise_multiplier=0.0,
        max_grad_norm=MAX_GRAD_NORM,
        expected_batch_size=len(x),
    )
    return _torch_loop(module, optimizer, x, y)


def _torch_loop(module: Network, optimizer: torch.optim.Optimizer, x: Inputs, y: Labels) -> Step:
    examples, labels = torch.from_numpy(x), torch.from_numpy(y)

    def step() -> float:
        optimizer.zero_grad()
        loss = cross_entropy(module(examples), labels)
        torch.autograd.backward([loss])
        optimizer.step()
        return float(loss.detach())

    return step


def _compile(architecture: Architecture, batch_size: int, folder: Path) -> Path:
    labels = tuple(map(str, range(architecture.num_classes)))
    compile_artifact(CompileRequest(architecture, ExampleSpec(architecture.input_shape, labels), batch_size), folder)
    return folder


def _check_same_work(steps: dict[str, Step]) -> None:
    """The first losses agree, and after one update those of the private steps do, and those of the ordinary ones."""
    first, second = ({name: step() for name, step in steps.items()} for _ in range(2))
    groups = [first, *({name: second[name] for name in pair} for pair in (PRIVATE, ORDINARY))]
    for losses in groups:
        if max(losses.values()) - min(losses.values()) > 1e-4:
            raise RuntimeError(f"the steps compute different losses, so they do not do the same work: {losses}")


def _rows(times: dict[str, list[float]]) -> list[dict[str, Any]]:
    reference = spread_of(times[ORDINARY[0]])["median_ms"]
    rows = []
    for name, own in times.items():
        spread = spread_of(own)
        ratio = round(spread["median_ms"] / reference, 3)
        raw = [round(time_ms, 4) for time_ms in own]
        rows.append({"name": name, **spread, "vs_ort": ratio, "threads": 1, "times_ms": raw})
    return rows


def _macs(architecture: Architecture) -> int:
    return sum(layer.multiply_accumulates() for layer in layers_of(architecture))


def main() -> None:
    """Run the bench."""
    parser = argparse.ArgumentParser(prog="python -m bench.private_step", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, under 50 s")
    parser.add_argument("-o", "--output", type=Path, help="write the JSON object to this file too")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", message="Full backward hook is firing")  # Opacus' hooks read no input gradient
    warnings.filterwarnings("ignore", message="Secure RNG turned off")  # no noise is drawn
    onnxruntime.set_default_logger_severity(3)
    result = measure(NETWORK, BATCH_SIZE, rounds=15 if arguments.quick else 100)
    print_result(result, COLUMNS, arguments.output)


if __name__ == "__main__":
    main()
