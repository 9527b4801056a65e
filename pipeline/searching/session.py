"""One search from run file to result: open the folder, bring the clients, search, train the winner, test, keep."""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from device_runtime.console import versions_of
from device_runtime.examples import SpecOverrides, open_source
from device_runtime.loaded import Examples
from device_runtime.specs import ExampleSpec
from device_runtime.terms import Split
from device_runtime.vectors import write_vector
from device_runtime.wire import SPLITS
from pipeline.coordinator.cost_ledger import costs_by_phase
from pipeline.coordinator.discarding import forget_refused_run
from pipeline.coordinator.plans import Run
from pipeline.digits import DATA_SCHEMES
from pipeline.fleet.from_run_file import fleet_of
from pipeline.fleet.rounds import EmulatedRounds
from pipeline.fleet.workers import Engine
from pipeline.limits import broken_limits
from pipeline.run_result import EmulatorOnly, ModelResult, PhaseCostResult, RunResult
from pipeline.run_sections import RunFile
from pipeline.searching.artifacts import Artifacts
from pipeline.searching.choices import algorithm_of, feasibility_of, limits_as_plain
from pipeline.searching.curves import Curves
from pipeline.searching.exact import PooledExamples
from pipeline.searching.finals import Final, train_winners
from pipeline.searching.loop import Search, Unwatched, Watcher
from pipeline.searching.privacy_result import privacy_result, released_accuracy
from pipeline.searching.progress import Progress
from pipeline.searching.rounds import AttachedRounds, Rounds, RunClient
from pipeline.searching.run_folder import RUN_FILE, RunFolder
from pipeline.searching.schedule import budget_of
from pipeline.searching.trainees import check_all_known, trainees_of
from pipeline.searching.trial_results import trial_result
from pipeline.searching.trials import Model, Part, Trainer
from profiles.catalogue import load_profile
from profiles.checking import check_stable
from profiles.records import from_plain, record_id
from profiles.schema import DeviceProfile
from search.algorithm import HasWarnings, TunedAlgorithm, TuningHistory

VERSIONS = ("handheld", "torch", "onnx", "onnxruntime-training-cpu", "numpy")


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


def run_search(request: SearchRequest, watcher: Watcher) -> RunResult:
    """Search, train the winner, test it once, and write result and model into the folder.

    Killed at any moment, it goes on with `is_resumed` to the same result as an unbroken run (an emulated one: to the
    same bytes).

    Raises:
        RunFileError, RunFolderError, ScheduleError, InfeasibleError, UnstableProfileError, OtherSearchError: Before
            anything is trained.
        RoundFailedError, FleetError: When a round cannot be held.
        TooFewTraineesError: When too few clients may train a winner.
        DiskError: When nothing more can be written.
    """
    folder = RunFolder(request.output)
    with folder.open(request.run_file, request.is_resumed) as run_file, folder.disk_errors_told():
        is_begun = request.is_resumed
        try:
            with open_scene(run_file, request) as scene:
                search = _begin(run_file, request, scene, watcher)
                is_begun = True
                return _run(run_file, folder, scene, search)
        finally:
            if not is_begun:
                folder.give_back()


@contextmanager
def open_scene(run_file: RunFile, request: SearchRequest) -> Iterator[Scene]:
    """The rounds of the run: an emulated fleet of its own, or those of the server to attach to."""
    state = request.attach
    scene = _emulated(run_file, request) if state is None else _attached(run_file, request, state)
    try:
        yield scene
    finally:
        scene.rounds.close()


def trained_candidates(request: SearchRequest, split: Split) -> tuple[tuple[Model, ...], tuple[Examples, ...]]:
    """Of a finished emulated run: each scored trial's model then, and each client's examples of a split.

    For benches alone: nobody but an emulator holds both.
    """
    folder = RunFolder(request.output)
    with folder.open(request.run_file, is_resumed=True) as run_file, open_scene(run_file, request) as scene:
        if scene.pooled is None:
            raise ValueError(f"{request.output} is of a real run: nobody holds its clients' examples")
        search = _search_of(run_file, folder, scene, Unwatched())
        progress = search.run()
        scored = [one.trial.index for one in progress.observations if one.is_scored]
        models = tuple(search.model_of(progress, trial) for trial in scored)
        return models, scene.pooled.by_client(split)


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


def _begin(run_file: RunFile, request: SearchRequest, scene: Scene, watcher: Watcher) -> Search:
    """The search; of a new one that is refused nothing is left that its next attempt would meet."""
    try:
        if not request.allows_unstable:
            check_stable(scene.profiles)
        if run_file.privacy is not None:
            check_all_known(feasibility_of(run_file, scene.profiles), scene.clients)
        search = _search_of(run_file, RunFolder(request.output), scene, watcher)
        if not request.is_resumed:
            search.check_start()
        if isinstance(scene.rounds, AttachedRounds):
            scene.rounds.begin(scene.clients)
    except BaseException:
        if not request.is_resumed and isinstance(scene.rounds, EmulatedRounds):  # a server has nothing of it yet
            forget_refused_run(scene.rounds.store, scene.rounds.run.run_id)
        raise
    return search


def _search_of(run_file: RunFile, folder: RunFolder, scene: Scene, watcher: Watcher) -> Search:
    """The search with its trainer; nothing is trained yet."""
    pooled = scene.pooled
    exact = None if pooled is None else lambda model, split: pooled.accuracy(model.artifact, model.parameters, split)
    curves = Curves(exact)

    def watch(part: Part, num_rounds: int, model: Model) -> None:
        curves.add(part, num_rounds, model)
        watcher.trained(part, num_rounds, model)

    algorithm = algorithm_of(run_file, scene.spec, scene.profiles, scene.clients)
    pool = scene.rounds.workers.pool if isinstance(scene.rounds, EmulatedRounds) else None
    artifacts = Artifacts(folder.artifacts, scene.spec, run_file.training.artifact_batch_size, pool)
    clients = {client.device_id: client for client in scene.clients}
    trainer = Trainer(run_file, scene.rounds, artifacts, scene.num_clients, clients, scene.rotation, watch)
    return Search(algorithm, trainer, run_file.run.seed, run_file.search.parallel, watcher, curves)


def _run(run_file: RunFile, folder: RunFolder, scene: Scene, search: Search) -> RunResult:
    progress = search.run()
    winners = search.winners(progress)
    limits = feasibility_of(run_file, scene.profiles)
    finals = train_winners(search, progress, winners, lambda one: trainees_of(run_file, limits, scene.clients, one))
    result = _result(run_file, scene, search, progress, winners, finals)
    models = {trial: final.model for trial, final in finals.items()}
    folder.finish(models, search.trainer.artifacts, result)
    with scene.rounds.store.transaction():
        scene.rounds.store.finish_run(scene.rounds.run.run_id)
    return result


def _result(  # noqa: PLR0913, PLR0917  (all that a run came to)
    run_file: RunFile,
    scene: Scene,
    search: Search,
    progress: Progress,
    winners: dict[str, int],
    finals: dict[int, Final],
) -> RunResult:
    batch_size = run_file.training.artifact_batch_size
    is_noisy = run_file.privacy is not None
    trials = tuple(trial_result(o, is_noisy, scene.profiles, batch_size) for o in progress.observations)
    costs = costs_by_phase(scene.rounds.store, scene.rounds.run.run_id)
    result = RunResult(
        name=run_file.run.name,
        kind=run_file.run.kind,
        seed=run_file.run.seed,
        data=run_file.data.source,
        spec=scene.spec,
        num_clients=max(scene.num_clients.values()),
        algorithm=run_file.search.algorithm,
        fleet=scene.fleet,
        models=_models(run_file, winners, finals),
        trials=trials,
        costs=tuple(PhaseCostResult(**vars(cost)) for cost in costs),
        versions=versions_of(VERSIONS),
        privacy=privacy_result(run_file.privacy, scene.rounds),
        curves=search.curves.points,
        emulator_only=_emulator_only(scene, finals, search.curves),
        budgets=limits_as_plain(run_file),
        warnings=_warnings(scene, search, finals),
        tuning=_tuning(search, progress),
    )
    return replace(result, warnings=(*result.warnings, *broken_limits(result)))


def _tuning(search: Search, progress: Progress) -> TuningHistory | None:
    algorithm = search.algorithm
    if not isinstance(algorithm, TunedAlgorithm):
        return None
    return algorithm.tuning_history(from_plain(algorithm.state_type, progress.state))


def _models(run_file: RunFile, winners: dict[str, int], finals: dict[int, Final]) -> tuple[ModelResult, ...]:
    models = [
        ModelResult(
            trial=trial,
            platforms=tuple(name for name, winner in winners.items() if winner == trial and name),
            num_parameters=len(final.model.parameters),
            artifact_id=final.model.artifact.artifact_id,
            parameters_sha256=_sha256(final.model),
            accuracy=released_accuracy(run_file.privacy, final.score),
            is_fresh=run_file.final.start == "fresh",
        )
        for trial, final in finals.items()
    ]
    return tuple(sorted(models, key=lambda model: (-len(model.platforms), model.trial)))


def _emulator_only(scene: Scene, finals: dict[int, Final], curves: Curves) -> EmulatorOnly | None:
    pooled = scene.pooled
    if pooled is None or not isinstance(scene.rounds, EmulatedRounds):
        return None
    accuracies = {
        str(trial): pooled.accuracy(final.model.artifact, final.model.parameters, "test")
        for trial, final in finals.items()
    }
    return EmulatorOnly(accuracies, curves.last_of_trials(), scene.rounds.clock.time)


def _warnings(scene: Scene, search: Search, finals: dict[int, Final]) -> tuple[str, ...]:
    emulated = () if not scene.fleet else ("trained by an emulated fleet: no phone has seen this model",)
    searched = search.algorithm.warnings if isinstance(search.algorithm, HasWarnings) else ()
    trained = tuple(line for trial, final in finals.items() for line in final.trainees.warnings(trial))
    return (
        emulated + searched + trained + tuple(f"{p.name}: {warning}" for p in scene.profiles for warning in p.warnings)
    )


def _sha256(model: Model) -> str:
    return hashlib.sha256(write_vector("parameters", model.parameters)).hexdigest()
