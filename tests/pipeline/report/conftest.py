"""Finished runs made by hand: no search, no training, no artifact that anybody runs."""

from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from device_runtime.artifact import Artifact
from device_runtime.specs import ExampleSpec, LayoutEntry, Manifest
from device_runtime.vectors import write_vector
from pipeline.run_result import (
    Accuracy,
    ClassCost,
    CurvePoint,
    EmulatorOnly,
    FinishedRun,
    PhaseCostResult,
    PhaseSpent,
    PrivacyResult,
    RunResult,
    TrialResult,
    adversary_of,
)
from profiles.records import encode_record
from search.architecture import Architecture, Stage, Stem
from search.candidate import Candidate, HyperParameters
from search.layers import num_parameters

SPEC = ExampleSpec((1, 8, 8), ("no", "yes"), colour="grey")
SMALL = Architecture((1, 8, 8), 2, Stem(4), head="global_average", normalization="group")
LARGE = replace(SMALL, stages=(Stage("depthwise", 8, stride=2), Stage("inverted", 8, depth=2, expansion=2)))
PHONES = (("cheap", "entry", 4.0), ("middling", "mid", 2.0), ("dear", "mid", 1.0))


def make_trial(index: int, accuracy: float, latency_ms: float, **changes) -> TrialResult:
    """A candidate whose latency on the fastest of three phones is given."""
    architecture = LARGE if index % 2 else SMALL
    hyper = HyperParameters(0.1 * (1 + index % 3), local_steps=2, batch_size=4)
    costs = tuple(
        ClassCost(name, device_class, latency_ms * factor, 3 * latency_ms * factor, 0.25, 1.5)
        for name, device_class, factor in PHONES
    )
    trial = TrialResult(
        index, Candidate(architecture, hyper), num_parameters(architecture), accuracy, False, 200, costs
    )
    return replace(trial, **changes)


def make_cost(phase: str, trial: int | None, seconds: float) -> PhaseCostResult:
    return PhaseCostResult(phase, trial, 10, 100, seconds, 2048, 4096)


def make_privacy(noise_at: str = "device", **changes) -> PrivacyResult:
    privacy = PrivacyResult(
        unit="example",
        neighbours="zero-out: one example is replaced by a null record",
        noise_at=noise_at,
        adversary=adversary_of(noise_at),
        delta=1e-5,
        target_epsilon=8.0,
        order=4,
        epsilon=7.251,
        epsilon_by_split={"test": 2.5, "train": 7.251, "validation": 4.0},
        phases=(
            PhaseSpent("final", "train", "update", 60, 3.5, 6.6),
            PhaseSpent("search", "train", "update", 20, 1.2, 4.3),
            PhaseSpent("search", "validation", "metrics", 4, 0.9, 4.0),
            PhaseSpent("test", "test", "metrics", 1, 0.4, 2.5),
        ),
    )
    return replace(privacy, **changes)


def make_result(**changes) -> RunResult:
    """A run without privacy: trial 1 of three won."""
    result = RunResult(
        name="fruit",
        kind="emulated",
        seed=7,
        data="images:fruit",
        spec=SPEC,
        num_clients=12,
        algorithm="random_search",
        fleet={"cheap": 6, "dear": 4, "middling": 2},
        winner=1,
        num_parameters=num_parameters(LARGE),
        artifact_id="a" * 64,
        parameters_sha256="b" * 64,
        trials=(make_trial(0, 0.5, 0.5), make_trial(1, 0.75, 1.0), make_trial(2, 0.6, 2.0)),
        accuracy=Accuracy(0.8125, 0.76, 0.86, 240, "the clients' plain sums"),
        costs=(
            make_cost("final", None, 30.0),
            *(make_cost("search", i, 1.0 + i) for i in range(3)),
            make_cost("test", None, 0.5),
        ),
        versions={"handheld": "0.1.0", "torch": "2.13.0"},
        curves=(
            *(CurvePoint("search", i, k, 0.1 * (i + k)) for i in range(3) for k in (1, 2)),
            CurvePoint("final", None, 1, 0.7),
            CurvePoint("final", None, 2, 0.8),
        ),
        emulator_only=EmulatorOnly(0.8333, {"0": 0.41, "1": 0.72, "2": 0.63}, 3725.0),
        budgets={"entry": {"latency_ms": 6.0}, "default": {"latency_ms": 900.0, "size_kib": 48.0}},
        warnings=("cheap: its clock was not stable",),
    )
    return replace(result, **changes)


def make_private_result(noise_at: str = "device", **changes) -> RunResult:
    result = make_result(privacy=make_privacy(noise_at), **changes)
    noisy = tuple(replace(trial, is_noisy=True) for trial in result.trials)
    return replace(result, trials=noisy, accuracy=replace(result.accuracy, how="released once, with noise"))


def make_run(result: RunResult, folder: Path = Path("run")) -> FinishedRun:
    manifest = Manifest(
        architecture={},
        architecture_id="c" * 64,
        spec=SPEC,
        loss="cross_entropy",
        layout=(LayoutEntry("weight", (result.num_parameters,), 0, "weights"),),
        segments=("weights",),
        batch_size=4,
        num_parameters=result.num_parameters,
        metrics=("accuracy",),
        operators=("Add", "Conv"),
        opset=17,
        minimum_runtime="1.14.0",
        gradient_sha256="d" * 64,
        evaluate_sha256="e" * 64,
        compiler={},
    )
    artifact = Artifact(manifest, result.artifact_id, b"", b"")
    return FinishedRun(folder, result, artifact, np.zeros(result.num_parameters, np.float32))


def write_run(folder: Path, result: RunResult) -> RunResult:
    """A finished run's folder as `handheld search` leaves it; the result as it stands there."""
    run = make_run(result)
    graphs = {"gradient.onnx": b"gradient", "evaluate.onnx": b"evaluate"}
    hashes = {f"{name.removesuffix('.onnx')}_sha256": sha256(data).hexdigest() for name, data in graphs.items()}
    manifest = encode_record(replace(run.artifact.manifest, **hashes))
    parameters = write_vector("parameters", run.parameters)
    (folder / "model" / "artifact").mkdir(parents=True)
    for name, data in {"manifest.json": manifest, **graphs}.items():
        (folder / "model" / "artifact" / name).write_bytes(data)
    (folder / "model" / "parameters.safetensors").write_bytes(parameters)
    identities = {"artifact_id": sha256(manifest).hexdigest(), "parameters_sha256": sha256(parameters).hexdigest()}
    result = replace(result, **identities)
    (folder / "result.json").write_bytes(encode_record(result))
    return result


def write_bundle(folder: Path, result: RunResult) -> Path:
    """What `handheld ship` would have written, with files that hold no model."""
    from pipeline.ship.bundle import Bundle, FileEntry, ModelFile, Variant  # noqa: PLC0415  (torch)
    from pipeline.ship.parity import Parity, ParityRow  # noqa: PLC0415

    row = ParityRow("model.ort", "ONNX Runtime 1.19.2", "golden", "logits", 3, 2e-6, 1.5e-6)
    contents = {
        "model.ort": bytes(2048),
        "golden-0.png": b"image",
        "notes.txt": b"new",
        "parity.json": encode_record(Parity("the trained model", 1e-4, "max_relative is small", (row,))),
    }
    folder.mkdir(parents=True)
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    bundle = Bundle(
        run=result.name,
        artifact_id=result.artifact_id,
        candidate_id="f" * 64,
        parameters_sha256=result.parameters_sha256,
        input="x",
        outputs=("logits",),
        files={name: FileEntry(sha256(data).hexdigest(), len(data)) for name, data in contents.items()},
        variants=(Variant("float32", (ModelFile("model.ort", "ONNX Runtime 1.19.2", None, 2048, 1.5e-6),)),),
    )
    (folder / "bundle.json").write_bytes(encode_record(bundle))
    return folder


class Made:
    """What the tests build, under one fixture."""

    trial = staticmethod(make_trial)
    cost = staticmethod(make_cost)
    privacy = staticmethod(make_privacy)
    result = staticmethod(make_result)
    private_result = staticmethod(make_private_result)
    run = staticmethod(make_run)
    write_run = staticmethod(write_run)
    write_bundle = staticmethod(write_bundle)
    small, large = SMALL, LARGE


@pytest.fixture(scope="session")
def made() -> type[Made]:
    return Made
