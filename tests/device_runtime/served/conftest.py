"""A real server application on 127.0.0.1 with softmax regression, for clients that run as they do in the field."""

import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import uvicorn

from device_runtime.accounting import Budget
from device_runtime.arrays import Vector
from device_runtime.examples.npz import open_npz
from device_runtime.private_random import PrivateRandom
from device_runtime.signing import SigningKey
from device_runtime.specs import ExampleSpec
from device_runtime.terms import EvaluateTerms, MeasureTerms, PrivacyTerms, TrainTerms
from device_runtime.wire import Window
from pipeline.coordinator.blobs import BlobFolder
from pipeline.coordinator.closing import close_round
from pipeline.coordinator.plans import RoundPlan, Run
from pipeline.coordinator.publish import publish_artifact, publish_pack, publish_parameters
from pipeline.coordinator.rounds import RoundResult
from pipeline.coordinator.store import Store
from pipeline.coordinator.worker import open_round
from pipeline.server.app import Settings, create_app
from profiles.records import encode_record, record_id

SPEC = ExampleSpec((3,), ("0", "1", "2"))
START = np.linspace(-1, 1, 12, dtype=np.float32)
PRIVACY = PrivacyTerms("device", 0.5, 2.0)
TERMS = {
    "ordinary": {"train": TrainTerms(0.5, local_steps=2, batch_size=4)},
    "private": {"train": TrainTerms(0.5, local_steps=2, max_grad_norm=0.8, privacy=PRIVACY)},
    "accuracy": {"evaluate": EvaluateTerms("validation", ("accuracy",))},
    "private accuracy": {"evaluate": EvaluateTerms("validation", ("accuracy",), privacy=PRIVACY)},
}
SERVER_BUDGET = Budget(50.0, 1e-5, 5)


@dataclass
class Server:
    """A server that answers, and the coordinator behind it as a search sees it.

    Attributes:
        artifact_id, spec, start: Of the next round that is opened.
    """

    url: str
    store: Store
    blobs: BlobFolder
    artifact_id: str
    spec: ExampleSpec = SPEC
    start: Vector = field(default_factory=lambda: START)
    num_rounds: int = 0

    def open(self, what: str, is_real: bool = False) -> str:
        """Plan a round of one client; `what` is a key of TERMS."""
        self.num_rounds += 1
        is_private = what.startswith("private")
        budget = SERVER_BUDGET if is_private else None
        kind = "real" if is_real else "emulated"
        run = Run(f"{kind}-{'private' if is_private else 'plain'}", kind, record_id(self.spec), 1, budget)
        with self.store.transaction():
            self.store.add_run(run)
        values = {
            "run_id": run.run_id,
            "round_key": str(self.num_rounds),
            "phase": "search",
            "kind": next(iter(TERMS[what])),
            "artifact_id": self.artifact_id,
            "parameters_sha256": publish_parameters(self.store, self.blobs, self.start),
            "cohort_size": 1,
            "min_reports": 1,
            "deadline_s": 60.0,
            "lease_s": 30.0,
        }
        plan = RoundPlan(**(values | TERMS[what]))
        return open_round(self.store, self.blobs, plan, time.time())

    def open_measuring(self, pack: Path) -> str:
        """Plan a round of one client that measures, in a private run of no specification."""
        run = Run("measuring", "emulated", None, 1, SERVER_BUDGET)
        with self.store.transaction():
            self.store.add_run(run)
        pack_id, terms = publish_pack(self.store, self.blobs, pack), MeasureTerms(is_quick=True)
        plan = RoundPlan(run.run_id, "m", "profile", "measure", pack_id, None, 1, 1, 60.0, 30.0, measure=terms)
        return open_round(self.store, self.blobs, plan, time.time())

    def close(self, round_id: str) -> RoundResult:
        return close_round(self.store, self.blobs, round_id, time.time(), PrivateRandom(bytes(32)))


@pytest.fixture(scope="session")
def artifact_folder(artifact_files, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("artifact")
    for name, data in artifact_files.items():
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture(autouse=True)
def no_power_cuts(monkeypatch):
    """Nothing here is about a disk: waiting for it would take most of the time."""
    monkeypatch.setattr("os.fsync", lambda _: None)


@pytest.fixture
def server(tmp_path: Path, artifact_folder: Path) -> Iterator[Server]:
    listener = socket.create_server(("127.0.0.1", 0))
    # asyncio does this only for sockets that were made with the protocol named; without, each answer takes 40 ms.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    blobs, url = BlobFolder(tmp_path / "blobs"), f"sqlite:///{tmp_path / 'server.db'}"
    store = Store(url, "OFF")
    artifact_id = publish_artifact(store, blobs, artifact_folder)
    settings = Settings(come_back=Window(30.0, 40.0))
    servers: list[uvicorn.Server] = []
    is_made = threading.Event()

    def serve() -> None:
        own = Store(url, "OFF")  # a store is one thread's
        app = create_app(own, blobs, SigningKey.derived(b"seed", "server"), bytes(32), time.time, settings)
        servers.append(uvicorn.Server(uvicorn.Config(app, log_level="warning")))
        is_made.set()
        servers[0].run(sockets=[listener])
        own.close()

    thread = threading.Thread(target=serve)
    thread.start()
    assert is_made.wait(10)
    yield Server(f"http://127.0.0.1:{listener.getsockname()[1]}", store, blobs, artifact_id)
    servers[0].should_exit = True
    thread.join(10)
    store.close()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    path = tmp_path / "share.npz"
    np.savez(path, x=rng.normal(size=(40, 3)).astype(np.float32), y=np.arange(40) % 3)
    return path


@pytest.fixture
def source(data: Path):
    return open_npz(data)


@pytest.fixture
def spec_file(tmp_path: Path) -> Path:
    path = tmp_path / "spec.json"
    path.write_bytes(encode_record(SPEC))
    return path
