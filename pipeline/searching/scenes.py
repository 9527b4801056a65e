"""What a search plays in: an emulated fleet of its own, or the phones of a running server."""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from device_runtime.examples import SpecOverrides, open_source
from device_runtime.specs import ExampleSpec
from device_runtime.terms import Split
from device_runtime.wire import SPLITS
from pipeline.coordinator.plans import Run
from pipeline.digits import DATA_SCHEMES
from pipeline.fleet.from_run_file import fleet_of
from pipeline.fleet.rounds import EmulatedRounds
from pipeline.fleet.workers import Engine
from pipeline.run_sections import RunFile
from pipeline.searching.exact import PooledExamples
from pipeline.searching.rounds import AttachedRounds, Rounds, RunClient
from pipeline.searching.run_folder import RUN_FILE
from pipeline.searching.schedule import budget_of
from profiles.catalogue import load_profile
from profiles.records import record_id
from profiles.schema import DeviceProfile


@dataclass(frozen=True)
class Scene:
    """What a search plays in, made from its run file before anything is trained.

    Attributes:
        profiles: Which the limits are checked against.
        rotation: Which fifth of the examples is the test split; 0 in a real run.
        num_clients: Clients wanted in an evaluation with all, by split.
        clients: Who takes part, as they were when the run began.
        pooled: All emulated clients' examples; None in a real run.
        fleet: Number of phones by profile name; empty in a real run.
    """

    rounds: Rounds
    spec: ExampleSpec
    profiles: tuple[DeviceProfile, ...]
    rotation: int
    num_clients: Mapping[Split, int]
    clients: tuple[RunClient, ...]
    pooled: PooledExamples | None
    fleet: dict[str, int]


@dataclass(frozen=True)
class SearchRequest:
    """What `handheld search` was asked to do.

    Attributes:
        output: Folder of the run.
        attach: State folder of a running server, for a real run.
        engine: Where emulated phones compute, in place of the run file's; no result depends on it. None for the file's.
        allows_unstable: Takes profiles of devices that were measured while they were busy or hot.
    """

    run_file: Path
    output: Path
    is_resumed: bool = False
    attach: Path | None = None
    engine: Engine | None = None
    allows_unstable: bool = False


@contextmanager
def open_scene(run_file: RunFile, request: SearchRequest) -> Iterator[Scene]:
    """The rounds of the run: an emulated fleet of its own, or those of the server to attach to."""
    state = request.attach
    scene = _emulated(run_file, request) if state is None else _attached(run_file, request, state)
    try:
        yield scene
    finally:
        scene.rounds.close()


def _emulated(run_file: RunFile, request: SearchRequest) -> Scene:
    made = fleet_of(run_file, request.output, budget_of(run_file))
    terms = replace(made.terms, engine=request.engine or made.terms.engine)
    rounds = EmulatedRounds(made.run, request.output, terms, made.data, made.source)
    names = [phone.profile.name for phone in rounds.fleet.phones]
    pooled = PooledExamples(made.data, made.source, made.terms.rotation)
    fleet = {name: names.count(name) for name in sorted(set(names))}
    clients = tuple(
        RunClient(phone.key.key_id, dict(phone.check_in.num_examples), phone.profile.name)
        for phone in rounds.fleet.phones
    )
    num_clients = {split: sum(client.num_examples[split] > 0 for client in clients) for split in SPLITS}
    return Scene(
        rounds, made.source.spec, made.terms.profiles, made.terms.rotation, num_clients, clients, pooled, fleet
    )


def _attached(run_file: RunFile, request: SearchRequest, state: Path) -> Scene:
    if run_file.run.kind != "real":
        raise ValueError('--attach waits for real devices: set [run] kind = "real", or leave --attach out')
    if request.engine is not None:
        raise ValueError(f"--engine {request.engine} says where emulated phones compute: leave it or --attach out")
    spec = open_source(run_file.data.source, SpecOverrides(), DATA_SCHEMES).spec
    run = Run(run_file.run.name, "real", record_id(spec), run_file.run.seed, budget_of(run_file))
    profiles = tuple(load_profile(name) for name in run_file.run.targets or ())
    num_clients = dict.fromkeys(SPLITS, run_file.round.cohort_size)
    run_file_sha256 = hashlib.sha256((request.output / RUN_FILE).read_bytes()).hexdigest()
    rounds = AttachedRounds(run, state, run_file_sha256, request.is_resumed)
    return Scene(rounds, spec, profiles, 0, num_clients, rounds.clients(profiles), None, {})
