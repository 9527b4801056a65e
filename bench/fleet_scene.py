"""What the fleet's bench is about: the demo network, phones with digits, and the same work without a fleet."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from device_runtime.arrays import Vector
from device_runtime.artifact import read_artifact
from device_runtime.examples import ClientSource, DealTerms, deal, split_ids
from device_runtime.examples.partition import Shares, training_flags
from device_runtime.loaded import Examples, LoadedAssignment
from device_runtime.private_random import PrivateRandom
from device_runtime.session import StepSession
from device_runtime.terms import TrainTerms
from device_runtime.training import train
from pipeline.coordinator.blobs import BlobFolder
from pipeline.coordinator.plans import RoundPlan, Run
from pipeline.coordinator.publish import publish_artifact, publish_parameters
from pipeline.coordinator.store import Store
from pipeline.digits import open_digits
from pipeline.fleet.durations import predicted_times
from pipeline.fleet.from_run_file import DEFAULT_PHONES
from pipeline.fleet.population import FleetTerms
from pipeline.fleet.rounds import EmulatedRounds
from pipeline.fleet.workers import FleetData
from profiles.catalogue import load_profile
from profiles.records import record_id
from search.architecture import Architecture, Stem

NETWORK = Architecture((1, 8, 8), 10, Stem(8, 5, 2))
BATCH_SIZE = 16
TERMS = TrainTerms(0.3, local_epochs=1, batch_size=8)
SEED = b"bench"
SOURCE = open_digits()
PARTITION_CLIENTS, RESAMPLED_EXAMPLES = 30, 60


def make_shares(num_phones: int) -> Shares:
    """Dirichlet(0.5) shares of all digits for up to 30 phones; for more, 60 digits drawn for each anew."""
    if num_phones > PARTITION_CLIENTS:
        rng, ids = np.random.default_rng(0), np.array(SOURCE.ids())
        return tuple(
            tuple(ids[np.sort(rng.choice(len(ids), RESAMPLED_EXAMPLES, replace=False))].tolist())
            for _ in range(num_phones)
        )
    is_train = training_flags(SOURCE, SEED)
    terms = DealTerms(PARTITION_CLIENTS, min_train_examples=8, alpha=0.5)
    return deal(SOURCE.ids(), SOURCE.class_indices(), is_train, terms, np.random.default_rng(0))[:num_phones]


def new_run() -> Run:
    """A run without privacy."""
    return Run("run", "emulated", record_id(SOURCE.spec), 0)


def open_fleet(num_phones: int, folder: Path) -> EmulatedRounds:
    """A fleet of the phones that a run file has which names none, computed in this process."""
    profiles = tuple(load_profile(name) for name in DEFAULT_PHONES)
    data = FleetData("digits", SOURCE.spec, make_shares(num_phones), folder / "blobs", SEED, split_key=SEED)
    return EmulatedRounds(new_run(), folder, FleetTerms(profiles, predicted_times), data, SOURCE)


@dataclass(frozen=True)
class Model:
    """What is trained: an artifact's folder and parameters f32[P]."""

    artifact: Path
    parameters: Vector


def plan_round(store: Store, blobs: BlobFolder, number: int, cohort_size: int, model: Model) -> RoundPlan:
    """One round of FedAvg over `cohort_size` phones, from the model's parameters."""
    return RoundPlan(
        run_id="run",
        round_key=f"round {number}",
        phase="bench",
        kind="train",
        artifact_id=publish_artifact(store, blobs, model.artifact),
        parameters_sha256=publish_parameters(store, blobs, model.parameters),
        cohort_size=cohort_size,
        min_reports=cohort_size,
        deadline_s=600.0,
        lease_s=600.0,
        train=TERMS,
        weighting="examples",
    )


class BareLoop:
    """Trains the same shares one after the other and averages, without server, messages, files or clock."""

    def __init__(self, artifact: Path, shares: Shares) -> None:
        self._session = StepSession(read_artifact(artifact))
        self._examples = []
        for share in shares:
            source = ClientSource(SOURCE, share)
            ids = split_ids(source, SEED)["train"]
            self._examples.append(Examples(*source.get(ids)))

    def update(self, parameters: Vector, labels: list[str]) -> Vector:
        """The mean update by example counts; a label for each share says what its batches are drawn from."""
        total, weight = np.zeros(len(parameters)), 0
        work = LoadedAssignment(self._session, parameters, TERMS)
        for examples, label in zip(self._examples, labels, strict=True):
            update = train(work, {"train": examples}, PrivateRandom.derived(SEED, label))
            total += np.float64(update.num_examples) * update.vector
            weight += update.num_examples
        return (total / weight).astype(np.float32)
