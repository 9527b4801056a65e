"""Finished runs made by hand: no search, no training, no artifact that anybody runs."""

from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from device_runtime.artifact import Artifact
from device_runtime.specs import ExampleSpec, LayoutEntry, Manifest
from device_runtime.vectors import write_vector
from pipeline.privacy_spent import PhaseSpent, PrivacyResult, adversary_of
from pipeline.run_result import (
    Accuracy,
    ClassCost,
    CurvePoint,
    EmulatorOnly,
    FinishedRun,
    ModelResult,
    PhaseCostResult,
    RunResult,
    TrialResult,
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


def make_cost(phase: str, trial: int | None, seconds: float, kind: str = "train") -> PhaseCostResult:
    return PhaseCostResult(phase, trial, kind, 10, 100, seconds, 2048, 4096)


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


def make_model(**changes) -> ModelResult:
    accuracy = Accuracy(0.8125, 0.76, 0.86, 240, "the clients' plain sums")
    platforms = tuple(name for name, _, _ in PHONES)
    return replace(ModelResult(1, platforms, num_parameters(LARGE), "a" * 64, "b" * 64, accuracy), **changes)


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
        models=(make_model(),),
        trials=(make_trial(0, 0.5, 0.5), make_trial(1, 0.75, 1.0), make_trial(2, 0.6, 2.0)),
        costs=(
            make_cost("final", 1, 30.0),
            *(make_cost("search", i, 1.0 + i) for i in range(3)),
            make_cost("test", 1, 0.5, "evaluate"),
        ),
        versions={"handheld": "0.1.0", "torch": "2.13.0"},
        curves=(
            *(CurvePoint("search", i, k, 0.1 * (i + k)) for i in range(3) for k in (1, 2)),
            CurvePoint("final", 1, 1, 0.7),
            CurvePoint("final", 1, 2, 0.8),
        ),
        emulator_only=EmulatorOnly({"1": 0.8333}, {"0": 0.41, "1": 0.72, "2": 0.63}, 3725.0),
        budgets={"entry": {"latency_ms": 6.0}, "default": {"latency_ms": 900.0, "size_kib": 48.0}},
        warnings=("cheap: its clock was not stable",),
    )
    return replace(result, **changes)


def make_private_result(noise_at: str = "device", **changes) -> RunResult:
    result = make_result(privacy=make_privacy(noise_at), **changes)
    noisy = tuple(replace(trial, is_noisy=True) for trial in result.trials)
    accuracy = replace(result.main.accuracy, how="released once, with noise")
    return replace(result, trials=noisy, models=(replace(result.main, accuracy=accuracy),))


def make_run(result: RunResult, folder: Path = Path("run")) -> FinishedRun:
    manifest = Manifest(
        architecture={},
        architecture_id="c" * 64,
        spec=SPEC,
        loss="cross_entropy",
        layout=(LayoutEntry("weight", (result.main.num_parameters,), 0, "weights"),),
        segments=("weights",),
        batch_size=4,
        num_parameters=result.main.num_parameters,
        metrics=("accuracy",),
        operators=("Add", "Conv"),
        opset=17,
        minimum_runtime="1.14.0",
        gradient_sha256="d" * 64,
        evaluate_sha256="e" * 64,
        compiler={},
    )
    artifact = Artifact(manifest, result.main.artifact_id, b"", b"")
    return FinishedRun(folder, result, result.main, artifact, np.zeros(result.main.num_parameters, np.float32))


def write_run(folder: Path, result: RunResult) -> RunResult:
    """A finished run's folder as `handheld search` leaves it; the result as it stands there."""
    run = make_run(result)
    graphs = {"gradient.onnx": b"gradient", "evaluate.onnx": b"evaluate"}
    hashes = {f"{name.removesuffix('.onnx')}_sha256": sha256(data).hexdigest() for name, data in graphs.items()}
    manifest = encode_record(replace(run.artifact.manifest, **hashes))
    parameters = write_vector("parameters", run.parameters)
    where = folder / "models" / str(result.main.trial)
    (where / "artifact").mkdir(parents=True)
    for name, data in {"manifest.json": manifest, **graphs}.items():
        (where / "artifact" / name).write_bytes(data)
    (where / "parameters.safetensors").write_bytes(parameters)
    identities = {"artifact_id": sha256(manifest).hexdigest(), "parameters_sha256": sha256(parameters).hexdigest()}
    result = replace(result, models=(replace(result.main, **identities), *result.models[1:]))
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
        artifact_id=result.main.artifact_id,
        candidate_id="f" * 64,
        parameters_sha256=result.main.parameters_sha256,
        input="x",
        outputs=("logits",),
        files={name: FileEntry(sha256(data).hexdigest(), len(data)) for name, data in contents.items()},
        variants=(Variant("float32", (ModelFile("model.ort", "ONNX Runtime 1.19.2", None, 2048, 1.5e-6),)),),
    )
    (folder / "bundle.json").write_bytes(encode_record(bundle))
    return folder


def make_two_models(**changes) -> RunResult:
    """A run of three platforms: trial 1 is for two of them, trial 2 for the cheap one; trial 0 was never scored."""
    accuracy = Accuracy(0.7, 0.64, 0.75, 240, "the clients' plain sums")
    second = make_model(
        trial=2, platforms=("cheap",), accuracy=accuracy, artifact_id="1" * 64, parameters_sha256="2" * 64
    )
    result = make_result(models=(make_model(platforms=("middling", "dear")), second), **changes)
    first, *others = result.trials
    trials = (replace(first, failed="1 of at least 3 reports came", accuracy=0.0), *others)
    exact = EmulatorOnly({"1": 0.8333, "2": 0.7083}, {"1": 0.72, "2": 0.63}, 3725.0)
    more = (CurvePoint("final", 2, 1, 0.6), CurvePoint("final", 2, 2, 0.71))
    return replace(result, trials=trials, emulator_only=exact, curves=(*result.curves, *more))


class Made:
    """What the tests build, under one fixture."""

    model = staticmethod(make_model)
    two_models = staticmethod(make_two_models)
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
