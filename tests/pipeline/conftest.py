"""A coordinator in memory with one artifact, one run and clients that do no real work."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from device_runtime.accounting import Budget
from device_runtime.measurement_pack import GRAPHS, PackEntry, PackManifest, archive_of
from device_runtime.private_random import PrivateRandom
from device_runtime.specs import ExampleSpec, LayoutEntry, Manifest
from device_runtime.terms import EvaluateTerms, MeasureTerms, PrivacyTerms, TrainTerms, Unit
from device_runtime.vectors import write_vector
from device_runtime.wire import Assignment, CheckIn, CheckInReply, Enrolment, Headroom, Report, ReportReceipt, Window
from pipeline.coordinator.blobs import BlobFolder
from pipeline.coordinator.check_in import check_in, enrol
from pipeline.coordinator.closing import close_round
from pipeline.coordinator.plans import RoundPlan, Run
from pipeline.coordinator.publish import publish_artifact, publish_pack, publish_parameters, read_aggregate
from pipeline.coordinator.reporting import Upload, take_report, take_upload
from pipeline.coordinator.round_rows import load_round
from pipeline.coordinator.rounds import Round, RoundResult
from pipeline.coordinator.store import Store
from pipeline.coordinator.worker import open_round
from profiles.kernel import Kernel
from profiles.records import encode_record, record_id

NUM_PARAMETERS = 6
SPEC = ExampleSpec((2,), ("no", "yes"))
COME_BACK = Window(5.0, 15.0)
BUDGET = Budget(8.0, 1e-5, 8)
HEADROOM = Headroom(8, dict.fromkeys(("train", "validation", "test"), 100.0))


def make_manifest(**changes) -> Manifest:
    """A manifest whose graphs nobody runs here."""
    return replace(
        Manifest(
            architecture={"kind": "none"},
            architecture_id="0" * 64,
            spec=SPEC,
            loss="cross_entropy",
            layout=(LayoutEntry("weight", (NUM_PARAMETERS,), 0, "weights"),),
            segments=("weights",),
            batch_size=4,
            num_parameters=NUM_PARAMETERS,
            metrics=("accuracy",),
            operators=("Add",),
            opset=17,
            minimum_runtime="1.14.0",
            gradient_sha256=hashlib.sha256(b"gradient").hexdigest(),
            evaluate_sha256=hashlib.sha256(b"evaluate").hexdigest(),
            compiler={},
        ),
        **changes,
    )


def write_artifact(folder: Path, manifest: Manifest) -> Path:
    folder.mkdir()
    contents = {"manifest.json": encode_record(manifest), "gradient.onnx": b"gradient", "evaluate.onnx": b"evaluate"}
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    return folder


def device_id(number: int) -> str:
    return hashlib.sha256(f"device {number}".encode()).hexdigest()


def private_training(noise_at: str = "device", noise_multiplier: float = 2.0, **changes) -> dict[str, object]:
    privacy = PrivacyTerms(noise_at, 0.25, noise_multiplier)
    terms = {"learning_rate": 0.5, "local_steps": 1, "max_grad_norm": 0.5, "privacy": privacy}
    weighting = "examples" if noise_at == "sum" else "uniform"
    return {"train": TrainTerms(**(terms | changes)), "weighting": weighting}


def evaluation(privacy: PrivacyTerms | None = None, split: str = "validation") -> dict[str, object]:
    bound = None if privacy is None else 4.0
    return {"kind": "evaluate", "evaluate": EvaluateTerms(split, ("loss", "accuracy"), bound, privacy)}


def write_pack(folder: Path) -> Path:
    """A measurement pack whose graphs nobody runs here."""
    folder.mkdir()
    kernels, entries, graphs = (Kernel("relu", (2, 8, 8), (2, 8, 8)),), [], []
    for batch_size, direction in ((1, "forward"), (4, "evaluate"), (4, "gradient")):
        data = onnx.ModelProto(doc_string=f"{direction} for {batch_size}").SerializeToString()
        entries.append(PackEntry((0,), batch_size, direction, 1, hashlib.sha256(data).hexdigest()))
        graphs.append(data)
    (folder / GRAPHS).write_bytes(archive_of(graphs))
    (folder / "manifest.json").write_bytes(encode_record(PackManifest(kernels, tuple(entries), 17, "1.14.0", {})))
    return folder


@dataclass
class World:
    """Coordinator, clock and what the clients say."""

    store: Store
    blobs: BlobFolder
    artifact_id: str
    parameters_sha256: str
    pack_folder: Path
    now: float = 0.0
    budget = BUDGET
    headroom = HEADROOM
    device_id = staticmethod(device_id)
    private_training = staticmethod(private_training)
    evaluation = staticmethod(evaluation)
    manifest = staticmethod(make_manifest)
    check_in_message: CheckIn = field(
        default_factory=lambda: CheckIn(
            "1.19.2", 17, record_id(SPEC), {"train": 20, "validation": 6, "test": 5}, headroom=None
        )
    )

    def run(self, run_id: str = "run", **changes) -> Run:
        run = Run(**({"run_id": run_id, "kind": "emulated", "spec_id": record_id(SPEC), "seed": 1} | changes))
        with self.store.transaction():
            self.store.add_run(run)
        return run

    def private_run(self, epsilon: float = BUDGET.epsilon, unit: Unit = "example") -> Run:
        self.check_in_message = replace(self.check_in_message, headroom=HEADROOM)
        return self.run(budget=replace(BUDGET, epsilon=epsilon, unit=unit))

    def plan(self, **changes) -> RoundPlan:
        plan = {
            "run_id": "run",
            "round_key": "first",
            "phase": "search",
            "kind": "train",
            "artifact_id": self.artifact_id,
            "parameters_sha256": self.parameters_sha256,
            "cohort_size": 3,
            "min_reports": 1,
            "deadline_s": 100.0,
            "lease_s": 30.0,
        }
        terms = {} if changes.get("kind") == "evaluate" else {"train": TrainTerms(0.1, local_steps=1, batch_size=4)}
        return RoundPlan(**(plan | terms | changes))

    def measure(self, **changes) -> RoundPlan:
        """A round to measure the pack of `pack_folder`, which this publishes."""
        pack_id = publish_pack(self.store, self.blobs, self.pack_folder)
        given = {"kind": "measure", "artifact_id": pack_id, "parameters_sha256": None, "train": None}
        return self.plan(**(given | {"measure": MeasureTerms(is_quick=True)} | changes))

    def open(self, **changes) -> str:
        return open_round(self.store, self.blobs, self.plan(**changes), self.now)

    def enrol(self, *numbers: int, kind: str = "emulated") -> None:
        for number in numbers:
            enrol(self.store, device_id(number), Enrolment(f"key {number}", kind))

    def check_in(self, number: int, **changes) -> CheckInReply:
        message = replace(self.check_in_message, **changes)
        return check_in(self.store, device_id(number), message, self.now, COME_BACK)

    def assignment(self, number: int, **changes) -> Assignment:
        reply = self.check_in(number, **changes)
        assert reply.assignment is not None
        return reply.assignment

    def send_update(self, number: int, values, name="parameter_update") -> str:
        data = write_vector(name, np.asarray(values, np.float32))
        upload = Upload(device_id(number), hashlib.sha256(data).hexdigest(), data)
        take_upload(self.store, self.blobs, upload, self.now)
        return upload.sha256

    def send_report(self, number: int, report: Report) -> ReportReceipt:
        body = encode_record(report)
        return take_report(self.store, device_id(number), report.assignment_id, body, self.now)

    def serve(self, number: int, values=None, num_examples: int = 20, name="parameter_update") -> Assignment:
        """One client's whole part: check in, train to `values`, upload and report."""
        assignment = self.assignment(number)
        values = np.full(NUM_PARAMETERS, float(number)) if values is None else values
        update = self.send_update(number, values, name)
        self.send_report(number, Report(assignment.assignment_id, num_examples, update))
        return assignment

    def load(self, round_id: str) -> Round:
        with self.store.transaction():
            return load_round(self.store, round_id)

    def read(self, aggregate_sha256: str):
        return read_aggregate(self.blobs, aggregate_sha256, NUM_PARAMETERS)

    def close(self, round_id: str, key: bytes = bytes(32)) -> RoundResult:
        return close_round(self.store, self.blobs, round_id, self.now, PrivateRandom(key))


@pytest.fixture(scope="session")
def artifact_folder(tmp_path_factory) -> Path:
    return write_artifact(tmp_path_factory.mktemp("artifacts") / "small", make_manifest())


@pytest.fixture
def pack_folder(tmp_path: Path) -> Path:
    return write_pack(tmp_path / "pack")


@pytest.fixture
def open_world(artifact_folder: Path, pack_folder: Path, tmp_path: Path) -> Callable[[], World]:
    """Open the same database again, as after a crash."""

    def open_again() -> World:
        store = Store(f"sqlite:///{tmp_path / 'handheld.db'}", "OFF")
        blobs = BlobFolder(tmp_path / "blobs", is_durable=False)
        artifact_id = publish_artifact(store, blobs, artifact_folder)
        parameters = publish_parameters(store, blobs, np.zeros(NUM_PARAMETERS, np.float32))
        return World(store, blobs, artifact_id, parameters, pack_folder)

    return open_again


@pytest.fixture
def world(open_world: Callable[[], World]) -> World:
    return open_world()
