"""A finished run of a small network, trained a little on digits, and its bundle."""

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from device_runtime.examples import split_ids
from device_runtime.loaded import Examples, LoadedAssignment
from device_runtime.private_random import PrivateRandom
from device_runtime.session import StepSession
from device_runtime.terms import TrainTerms
from device_runtime.training import train
from device_runtime.vectors import write_vector
from pipeline.compile.artifact import CompileRequest, compile_architecture, initial_parameters
from pipeline.digits import SPEC, open_digits
from pipeline.network import build_module
from pipeline.privacy_spent import PhaseSpent, PrivacyResult, adversary_of
from pipeline.run_result import (
    ClassCost,
    EmulatorOnly,
    ModelResult,
    RunResult,
    TrialResult,
    accuracy_of,
    read_result,
)
from pipeline.ship.bundle import Shipped, ship_run
from pipeline.ship.executorch_export import PTE
from pipeline.ship.exporters import EXPORTERS
from pipeline.ship.network import TrainedNetwork
from pipeline.ship.onnx_export import ORT
from profiles.records import encode_record
from search.architecture import Architecture, Stem
from search.candidate import Candidate, HyperParameters
from search.layers import layers_of

SMALL = Architecture((1, 8, 8), 10, Stem(8, 5, 2))
PRIVACY = PrivacyResult(
    unit="example",
    neighbours="zero-out",
    noise_at="device",
    adversary=adversary_of("device"),
    delta=1e-5,
    target_epsilon=8.0,
    order=12,
    epsilon=7.25,
    epsilon_by_split={"train": 7.25, "validation": 3.5},
    phases=(PhaseSpent("final", "train", "update", 40, 0.4, 6.125),),
)


@dataclass(frozen=True)
class Digits:
    """Where the finished run lies, and the test split that it never saw, with its exact accuracy there."""

    folder: Path
    test: Examples
    accuracy: float


@pytest.fixture(scope="session")
def digits(tmp_path_factory) -> Digits:
    folder = tmp_path_factory.mktemp("run")
    source = open_digits()
    splits = {name: Examples(*source.get(ids)) for name, ids in split_ids(source, bytes(32)).items()}
    artifact = compile_architecture(CompileRequest(SMALL, source.spec, 16), folder / "models" / "1" / "artifact")
    session, start = StepSession(artifact), initial_parameters(SMALL, seed=0)
    terms = TrainTerms(learning_rate=0.1, local_epochs=4, batch_size=16, momentum=0.9)
    trained = start + train(LoadedAssignment(session, start, terms), splits, PrivateRandom(bytes(32))).vector
    accuracy = float(session.evaluate(trained, splits["test"].x, splits["test"].y)[1].mean())
    finish(folder, artifact.artifact_id, trained, accuracy)
    return Digits(folder, splits["test"], accuracy)


def finish(folder: Path, artifact_id: str, parameters: np.ndarray, accuracy: float) -> None:
    data = write_vector("parameters", parameters)
    (folder / "models" / "1" / "parameters.safetensors").write_bytes(data)
    candidate = Candidate(SMALL, HyperParameters(learning_rate=0.125, local_steps=3, batch_size=16, momentum=0.9))
    costs = (ClassCost("pixel-4", "high", 0.75, 9.0, 1.0, 20.0), ClassCost("my-phone", "entry", 3.25, 60.0, 1.0, 20.0))
    result = RunResult(
        name="digits",
        kind="emulated",
        seed=0,
        data="digits",
        spec=SPEC,
        num_clients=30,
        algorithm="random_search",
        fleet={"pixel-4": 20, "my-phone": 10},
        models=(
            ModelResult(
                trial=1,
                platforms=("pixel-4", "my-phone"),
                num_parameters=len(parameters),
                artifact_id=artifact_id,
                parameters_sha256=hashlib.sha256(data).hexdigest(),
                accuracy=accuracy_of(accuracy, 360, 0.0, "the clients' plain sums"),
            ),
        ),
        trials=(TrialResult(1, candidate, len(parameters), 0.875, False, 300, costs),),
        costs=(),
        versions={"torch": "2.13.0"},
        emulator_only=EmulatorOnly({"1": 0.13579}, {"1": 0.2468}, 99.5),
    )
    (folder / "result.json").write_bytes(encode_record(result))


@pytest.fixture
def run_folder(digits, tmp_path) -> Path:
    """A copy of the finished run, to spoil."""
    return Path(shutil.copytree(digits.folder, tmp_path / "run"))


@pytest.fixture
def change_result(run_folder) -> Callable[..., Path]:
    """Write the copied run's result with some fields changed."""

    def change(**changes) -> Path:
        result = replace(read_result(run_folder), **changes)
        (run_folder / "result.json").write_bytes(encode_record(result))
        return run_folder

    return change


@pytest.fixture(scope="session")
def shipped(digits, tmp_path_factory) -> Shipped:
    """The bundle of the finished run, with every file."""
    return ship_run(digits.folder, tmp_path_factory.mktemp("shipped") / "bundle")


@pytest.fixture
def onnx_only(monkeypatch) -> None:
    """Leave out the files that take long to write, where the test is not about them."""
    for file in (ORT, PTE):
        monkeypatch.delitem(EXPORTERS, file)


@pytest.fixture(scope="session")
def private_result() -> PrivacyResult:
    return PRIVACY


@pytest.fixture(scope="session")
def untrained() -> Callable[[Architecture], TrainedNetwork]:
    """A network as the exporters take it, parameters of unlike values everywhere."""

    def make(architecture: Architecture) -> TrainedNetwork:
        network, generator = build_module(layers_of(architecture)), torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        return TrainedNetwork(network, architecture.input_shape).eval()

    return make


@pytest.fixture(scope="session")
def draw_inputs() -> Callable[[tuple[int, ...], int], np.ndarray]:
    def draw(shape: tuple[int, ...], num_examples: int) -> np.ndarray:
        return np.random.default_rng(0).standard_normal((num_examples, *shape)).astype(np.float32)

    return draw
