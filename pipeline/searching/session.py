"""One search from run file to result: open the folder, bring the clients, search, train the winner, test, keep."""

from device_runtime.loaded import Examples
from device_runtime.terms import Split
from pipeline.coordinator.discarding import forget_refused_run
from pipeline.fleet.rounds import EmulatedRounds
from pipeline.run_result import RunResult
from pipeline.run_sections import RunFile
from pipeline.searching.artifacts import Artifacts
from pipeline.searching.choices import algorithm_of, feasibility_of
from pipeline.searching.curves import Curves
from pipeline.searching.finals import train_winners
from pipeline.searching.loop import Search, Unwatched, Watcher
from pipeline.searching.results import result_of
from pipeline.searching.rounds import AttachedRounds
from pipeline.searching.run_folder import RunFolder
from pipeline.searching.scenes import Scene, SearchRequest, open_scene
from pipeline.searching.trainees import check_all_known, trainees_of
from pipeline.searching.trials import Model, Part, Trainer
from profiles.checking import check_stable


def run_search(request: SearchRequest, watcher: Watcher) -> RunResult:
    """Search, train the winner, test it once, and write result and model into the folder.

    Killed at any moment, it goes on with `is_resumed` to the same result as an unbroken run (an emulated one: to the
    same bytes).

    Raises:
        RunFileError, RunFolderError, ScheduleError, InfeasibleError, UnstableProfileError, OtherSearchError: Before
            anything is trained.
        RoundFailedError, FleetError: When a round cannot be held.
        NoTraineesError: When no client may train a winner.
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
    result = result_of(run_file, scene, search, progress, winners, finals)
    models = {trial: final.model for trial, final in finals.items()}
    folder.finish(models, search.trainer.artifacts, result)
    with scene.rounds.store.transaction():
        scene.rounds.store.finish_run(scene.rounds.run.run_id)
    return result
