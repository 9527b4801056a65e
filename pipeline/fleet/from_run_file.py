"""The emulated fleet that a run file describes: its phones, their shares of the data, and the run they serve."""

import hashlib
import hmac
from pathlib import Path
from typing import NamedTuple

import numpy as np

from device_runtime.accounting import Budget
from device_runtime.examples import DataSet, DealTerms, SpecOverrides, deal, open_source
from device_runtime.examples.partition import PartitionError, Shares, deal_by_owner, training_flags
from device_runtime.examples.splits import NUM_FOLDS
from pipeline.coordinator.plans import Run
from pipeline.digits import DATA_SCHEMES
from pipeline.fleet.availability import AvailabilityTerms
from pipeline.fleet.durations import predicted_times
from pipeline.fleet.population import FleetTerms
from pipeline.fleet.stragglers import StragglerTerms
from pipeline.fleet.workers import FleetData
from pipeline.run_sections import FleetSection, RunFile
from profiles.catalogue import load_profile
from profiles.population import load_population, phones_of
from profiles.records import record_id

# Of a fleet whose file names neither profiles nor a population. A longer catalogue changes no run file's phones.
DEFAULT_PHONES = ("galaxy-s9", "huawei-mate-20", "pixel-2-xl", "pixel-4", "redmi-8", "redmi-note-4")


class EmulatedRun(NamedTuple):
    """What `EmulatedRounds` is opened with, beside its folder."""

    terms: FleetTerms
    data: FleetData
    source: DataSet
    run: Run


def fleet_of(run_file: RunFile, folder: Path, budget: Budget | None = None) -> EmulatedRun:
    """Read the data, deal them out and load the profiles; the same file gives the same fleet.

    Args:
        folder: Of the run; its blobs lie in `blobs` below it.
        budget: Of the run and of every phone's ledger; a file with [privacy] needs one, another has none.

    Raises:
        SourceError: The data cannot be read, or cannot be dealt out as the file says.
        UnknownProfileError, UnknownPopulationError: Naming the nearest phone of the catalogue, or population.
        ValueError: The file is of a real run, or budget and file are not both private.
    """
    if run_file.run.kind != "emulated":
        raise ValueError("[run] kind must be 'emulated' for a fleet; `handheld serve` waits for real devices")
    if (run_file.privacy is None) != (budget is None):
        raise ValueError(f"a budget belongs to [privacy] and to nothing else, got {budget} for {run_file.privacy}")
    seed = emulated_seed(run_file.run.seed)
    source = open_source(run_file.data.source, SpecOverrides(), DATA_SCHEMES)
    key, rotation = splitting_of(run_file.run.seed)
    shares = _deal(run_file, source, key, rotation)
    data = FleetData(run_file.data.source, source.spec, shares, folder / "blobs", seed, key)
    run = Run(run_file.run.name, "emulated", record_id(source.spec), run_file.run.seed, budget)
    return EmulatedRun(_terms(run_file.fleet or FleetSection(), rotation), data, source, run)


def emulated_seed(seed: int) -> bytes:
    """32 bytes that all keys and randomness of an emulated run are derived from."""
    return hashlib.sha256(f"emulated run {seed}".encode()).digest()


def splitting_of(seed: int) -> tuple[bytes, int]:
    """The split key of every phone of an emulated run, and the fifth that is for testing; real phones draw their own.

    Five seeds from a multiple of five on share the key, so that they test every example once.
    """
    rotation = seed % NUM_FOLDS
    return hmac.digest(emulated_seed(seed - rotation), b"split key", hashlib.sha256), rotation


def phone_names(fleet: FleetSection) -> tuple[str, ...]:
    """The phones of the catalogue, or files of profiles, that a fleet is made of or drawn from."""
    if fleet.population is not None:
        return phones_of(load_population(fleet.population))
    return tuple(fleet.profiles or DEFAULT_PHONES)


def _terms(fleet: FleetSection, rotation: int) -> FleetTerms:
    population = None if fleet.population is None else load_population(fleet.population)
    return FleetTerms(
        profiles=tuple(load_profile(name) for name in phone_names(fleet)),
        times_of=predicted_times,
        availability=AvailabilityTerms(fleet.availability, fleet.mean_spell_s),
        stragglers=StragglerTerms(fleet.straggler_share, fleet.straggler_factor),
        population=population,
        has_heat=fleet.heat,
        has_tails=fleet.tails,
        rotation=rotation,
        num_workers=fleet.workers,
        engine=fleet.engine,
    )


def _deal(run_file: RunFile, source: DataSet, key: bytes, rotation: int) -> Shares:
    terms, is_train = run_file.data, training_flags(source, key, rotation)
    if terms.partition == "file":
        shares = deal_by_owner(source.ids(), source.clients(), is_train, terms.min_train_examples)
    else:
        dealing = DealTerms(terms.clients or 1, terms.min_train_examples, terms.alpha)
        classes = None if terms.alpha is None else source.class_indices()
        shares = deal(source.ids(), classes, is_train, dealing, _partition_rng(run_file.run.seed))
    cohort = run_file.round.cohort_size
    if cohort > len(shares):
        raise PartitionError(f"[round] cohort_size must be <= the {len(shares)} clients of the data, got {cohort}")
    return shares


def _partition_rng(seed: int) -> np.random.Generator:
    digest = hmac.digest(emulated_seed(seed), b"partition", hashlib.sha256)
    return np.random.default_rng(int.from_bytes(digest, "big"))
