"""Compiled steps learn real data on plain ONNX Runtime: architecture to artifact to trained parameters."""

import tarfile
from pathlib import Path

import numpy as np
import pytest

from device_runtime.accounting import Release, epsilon_of_schedule
from device_runtime.examples import DataSet, open_source, split_ids
from device_runtime.loaded import Examples, LoadedAssignment
from device_runtime.private_random import PrivateRandom
from device_runtime.session import StepSession
from device_runtime.terms import PrivacyTerms, TrainTerms
from device_runtime.training import train
from pipeline.compile.artifact import CompileRequest, compile_architecture, initial_parameters
from pipeline.digits import open_digits
from search.architecture import Architecture, Stage, Stem

CIFAR = Path(__file__).parent.parent.parent / "shared" / "data" / "cifar10-20k.tar.xz"
SPLIT_KEY = bytes(32)


def learn(source: DataSet, architecture: Architecture, terms: TrainTerms, folder: Path) -> tuple[float, float]:
    """Accuracy on the training and on the validation split after one assignment."""
    artifact = compile_architecture(CompileRequest(architecture, source.spec, 32), folder / "artifact")
    session = StepSession(artifact)
    splits = split_ids(source, SPLIT_KEY)
    examples = {name: Examples(*source.get(splits[name])) for name in ("train", "validation")}
    start = initial_parameters(architecture, seed=1)
    update = train(LoadedAssignment(session, start, terms), examples, PrivateRandom(bytes(32)))
    end = start + update.vector
    accuracies = [float(session.evaluate(end, e.x, e.y)[1].mean()) for e in examples.values()]
    return accuracies[0], accuracies[1]


def test_ordinary_training_learns_digits(tmp_path):
    stage = Stage("inverted", width=16, depth=2, stride=2, expansion=2)
    architecture = Architecture((1, 8, 8), 10, Stem(16), (stage,), "flatten", "group", "hard_swish")
    terms = TrainTerms(learning_rate=0.1, local_epochs=8, batch_size=32, momentum=0.9)
    _, accuracy = learn(open_digits(), architecture, terms, tmp_path)
    assert accuracy >= 0.92


def test_private_training_learns_digits_within_its_budget(tmp_path):
    terms = TrainTerms(
        learning_rate=0.5,
        local_steps=300,
        momentum=0.5,
        max_grad_norm=0.5,
        privacy=PrivacyTerms("device", sample_rate=0.05, noise_multiplier=1.1),
    )
    _, accuracy = learn(open_digits(), Architecture((1, 8, 8), 10, Stem(8, 5, 2)), terms, tmp_path)
    assert epsilon_of_schedule([Release("update", "train", 0.05, 1.1, 300)], 1e-5) <= 8
    assert accuracy >= 0.85


@pytest.mark.slow
@pytest.mark.skipif(not CIFAR.exists(), reason=f"{CIFAR.name} is not beside the project; it is no part of it")
def test_ordinary_training_learns_600_colour_photographs(tmp_path):
    extract_few(CIFAR, tmp_path, per_class=60)
    source = open_source(f"images:{tmp_path / 'cifar10-20k' / 'train'}")
    stages = (Stage("depthwise", width=32, stride=2), Stage("depthwise", width=64, stride=2))
    architecture = Architecture((3, 32, 32), 10, Stem(16, 3, 2), stages, "flatten", "group")
    terms = TrainTerms(learning_rate=0.01, local_epochs=10, batch_size=32, momentum=0.9)
    fitted, accuracy = learn(source, architecture, terms, tmp_path)
    assert fitted >= 0.7
    assert accuracy >= 0.15  # chance is 0.1, and 360 photographs teach little that generalises


def extract_few(archive: Path, folder: Path, per_class: int) -> None:
    counts: dict[str, int] = {}
    with tarfile.open(archive) as tar:
        for member in tar:
            parts = Path(member.name).parts
            if not (member.isfile() and "train" in parts):
                continue
            counts[parts[-2]] = counts.get(parts[-2], 0) + 1
            if counts[parts[-2]] <= per_class:
                tar.extract(member, folder, filter="data")
    assert np.sum([min(count, per_class) for count in counts.values()]) == 10 * per_class
