"""Small emulated runs on digits: a network of 60 values and a few phones."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import text

from device_runtime.accounting import Budget
from device_runtime.arrays import Vector
from device_runtime.terms import PrivacyTerms, TrainTerms
from pipeline.compile.artifact import CompileRequest, compile_architecture, initial_parameters
from pipeline.coordinator.plans import RoundPlan, Run
from pipeline.coordinator.publish import publish_artifact, publish_parameters, read_aggregate
from pipeline.coordinator.rounds import RoundResult
from pipeline.coordinator.tables import METADATA
from pipeline.digits import open_digits
from pipeline.fleet.durations import ChunkTimes
from pipeline.fleet.population import FleetTerms
from pipeline.fleet.rounds import EmulatedRounds
from pipeline.fleet.snapshots import take_snapshot
from pipeline.fleet.workers import FleetData
from profiles.records import record_id, to_plain
from profiles.schema import DeviceProfile, Figure, Link, Rates, Runtime, Throughput
from search.architecture import Architecture, Stem

ARCHITECTURE = Architecture((1, 8, 8), 10, Stem(1, 3, 4))
SOURCE = open_digits()
BUDGET = Budget(8.0, 1e-5, 8)
PRIVACY = PrivacyTerms("device", 0.5, 3.0)
ORDINARY_TERMS = TrainTerms(0.3, local_epochs=1, batch_size=8)
PRIVATE_TERMS = TrainTerms(0.5, local_steps=2, max_grad_norm=0.5, privacy=PRIVACY)
DIGITS_PER_PHONE = 20


def figure(value: float, unit: str) -> Figure:
    return Figure(value, unit, "estimated", "made up for a test")


def make_profile(name: str = "phone", mbit_s: float = 20.0, latency_ms: float = 50.0, **changes) -> DeviceProfile:
    rates = Rates(figure(5.0, "GMAC/s"), figure(10.0, "GB/s"), figure(0.01, "ms"))
    link = Link(figure(mbit_s, "Mbit/s"), figure(mbit_s / 2, "Mbit/s"), figure(latency_ms, "ms"))
    given = {
        "name": name,
        "device_class": "mid",
        "soc": "made up",
        "clusters": (),
        "ram_mib": figure(4096.0, "MiB"),
        "abi": "arm64-v8a",
        "os": "Android",
        "runtime": Runtime("onnxruntime", "1.19.2"),
        "threads": 1,
        "throughput": Throughput(rates, rates, rates, figure(0.1, "ms")),
        "link": link,
    }
    return DeviceProfile(**(given | changes))


PROFILES = (make_profile("fast"), make_profile("slow", mbit_s=0.2, latency_ms=400.0))
TIMES = {"fast": ChunkTimes(0.02, 0.01), "slow": ChunkTimes(0.5, 0.2)}


def make_data(folder: Path, num_phones: int, seed: bytes = b"seed") -> FleetData:
    ids = SOURCE.ids()
    shares = tuple(ids[i * DIGITS_PER_PHONE : (i + 1) * DIGITS_PER_PHONE] for i in range(num_phones))
    return FleetData("digits", SOURCE.spec, shares, folder / "blobs", seed, split_key=seed)


def make_terms(**changes) -> FleetTerms:
    return FleetTerms(**({"profiles": PROFILES, "times_of": lambda profile, _: TIMES[profile.name]} | changes))


@dataclass
class Emulation:
    """An emulated run with one network that trains from round to round."""

    rounds: EmulatedRounds
    artifact_id: str
    parameters: Vector
    results: list[RoundResult] = field(default_factory=list)

    def plan(self, key: str, **changes) -> RoundPlan:
        budget = self.rounds.run.budget
        given = {
            "run_id": self.rounds.run.run_id,
            "round_key": key,
            "phase": "search",
            "kind": "train",
            "artifact_id": self.artifact_id,
            "parameters_sha256": publish_parameters(self.rounds.store, self.rounds.blobs, self.parameters),
            "cohort_size": 3,
            "min_reports": 1,
            "deadline_s": 300.0,
            "lease_s": 300.0,
            "train": ORDINARY_TERMS if budget is None else PRIVATE_TERMS,
        }
        return RoundPlan(**(given | changes))

    def train(self, num_rounds: int, **changes) -> list[RoundResult]:
        """Hold the next rounds; those that were held before the run was opened again are read."""
        for i in range(len(self.results), len(self.results) + num_rounds):
            result = self.rounds.hold(self.plan(f"round {i}", **changes))
            self.results.append(result)
            if result.aggregate_sha256 is not None:
                update = read_aggregate(self.rounds.blobs, result.aggregate_sha256, len(self.parameters))
                self.parameters = self.parameters + update
        return self.results

    def tables(self) -> dict[str, list[tuple[object, ...]]]:
        """Everything in the database."""
        with self.rounds.store.transaction():
            return {
                table.name: [tuple(row) for row in self.rounds.store.execute(text(f"SELECT * FROM {table.name}"))]
                for table in METADATA.sorted_tables
            }

    def rows(self, query: str) -> list[tuple[object, ...]]:
        with self.rounds.store.transaction():
            return [tuple(row) for row in self.rounds.store.execute(text(query))]

    def everything(self) -> dict[str, object]:
        """All that may be compared between two runs."""
        fleet = self.rounds.fleet
        return {
            "tables": self.tables(),
            "blobs": self.rounds.blobs.names(),
            "results": self.results,
            "parameters": self.parameters.tobytes(),
            "time": fleet.clock.time,
            "phones": [to_plain(take_snapshot(fleet, phone.index)) for phone in fleet.phones],
            "ledgers": [phone.ledger and phone.ledger.releases() for phone in fleet.phones],
        }


class Kit:
    """What tests make runs of."""

    source, architecture, budget, privacy, private_terms = SOURCE, ARCHITECTURE, BUDGET, PRIVACY, PRIVATE_TERMS
    profile, data, terms = staticmethod(make_profile), staticmethod(make_data), staticmethod(make_terms)


@pytest.fixture
def kit() -> Kit:
    return Kit()


Emulate = Callable[..., Emulation]


@pytest.fixture(scope="session")
def artifact_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("fleet") / "artifact"
    compile_architecture(CompileRequest(ARCHITECTURE, SOURCE.spec, 8), folder)
    return folder


@pytest.fixture
def emulate(artifact_folder, tmp_path) -> Iterator[Emulate]:
    """Open an emulated run in a folder of its own, or again in one that it had before."""
    opened: list[EmulatedRounds] = []

    def open_run(name="run", num_phones=4, seed=b"seed", budget=None, **terms) -> Emulation:
        folder = tmp_path / name
        run = Run("run", "emulated", record_id(SOURCE.spec), 0, budget)
        data = make_data(folder, num_phones, seed)
        rounds = EmulatedRounds(run, folder, make_terms(**terms), data, SOURCE)
        opened.append(rounds)
        artifact_id = publish_artifact(rounds.store, rounds.blobs, artifact_folder)
        return Emulation(rounds, artifact_id, np.array(initial_parameters(ARCHITECTURE, 0)))

    yield open_run
    for rounds in opened:
        rounds.close()
