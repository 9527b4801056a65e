"""One search from run file to result: open the folder, bring the clients, search, train the winner, test, keep."""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any

from device_runtime.console import versions_of
from device_runtime.examples import SpecOverrides, open_source
from device_runtime.specs import ExampleSpec
from device_runtime.terms import Split
from device_runtime.training import Examples
from device_runtime.vectors import write_vector
from device_runtime.wire import SPLITS
from pipeline.coordinator.cost_ledger import costs_by_phase
from pipeline.coordinator.plans import Run
from pipeline.digits import DATA_SCHEMES
from pipeline.fleet.from_run_file import fleet_of
from pipeline.fleet.rounds import EmulatedRounds
from pipeline.run_result import Accuracy, EmulatorOnly, PhaseCostResult, RunResult, accuracy_of
from pipeline.run_sections import RunFile
from pipeline.searching.artifacts import Artifacts
from pipeline.searching.choices import algorithm_of, limits_as_plain
from pipeline.searching.exact import PooledExamples
from pipeline.searching.loop import Curves, Progress, Search, Unwatched, Watcher, best_of, trial_result
from pipeline.searching.privacy_result import privacy_result
from pipeline.searching.rounds import AttachedRounds, Rounds
from pipeline.searching.run_folder import RunFolder
from pipeline.searching.schedule import budget_of
from pipeline.searching.trials import Model, Part, Score, Trainer
from profiles.catalogue import load_profile
from profiles.records import record_id
from profiles.schema import DeviceProfile
from search.algorithm import SearchAlgorithm

FINAL, TEST = Part("final"), Part("test")
VERSIONS = ("handheld", "torch", "onnx", "onnxruntime-training-cpu", "numpy")


@dataclass(frozen=True)
class Scene:
    """What a search plays in, made from its run file before anything is trained.

    Attributes:
        profiles: Which the limits are checked against.
        rotation: Which fifth of the examples is the test split; 0 in a real run.
        num_clients: Clients wanted in an evaluation, by split.
        pooled: All emulated clients' examples; None in a real run.
        fleet: Number of phones by profile name; empty in a real run.
    """

    rounds: Rounds
    spec: ExampleSpec
    profiles: tuple[DeviceProfile, ...]
    rotation: int
    num_clients: Mapping[Split, int]
    pooled: PooledExamples | None
    fleet: dict[str, int]


@dataclass(frozen=True)
class SearchRequest:
    """What `handheld search` was asked to do.

    Attributes:
        output: Folder of the run.
        attach: State folder of a running server, for a real run.
    """

    run_file: Path
    output: Path
    is_resumed: bool = False
    attach: Path | None = None


def run_search(request: SearchRequest, watcher: Watcher) -> RunResult:
    """Search, train the winner, test it once, and write result and model into the folder.

    Killed at any moment, it goes on with `is_resumed` to the same result as an unbroken run (an emulated one: to the
    same bytes).

    Raises:
        RunFileError, RunFolderError, ScheduleError, InfeasibleError: Before anything is trained.
        RoundFailedError, FleetError: When a round cannot be held.
    """
    folder = RunFolder(request.output)
    run_file = folder.open(request.run_file, request.is_resumed)
    with open_scene(run_file, request) as scene:
        algorithm = algorithm_of(run_file, scene.spec, scene.profiles)
        return _run(run_file, folder, scene, algorithm, watcher)


@contextmanager
def open_scene(run_file: RunFile, request: SearchRequest) -> Iterator[Scene]:
    """The rounds of the run: an emulated fleet of its own, or those of the server to attach to."""
    scene = _emulated(run_file, request.output) if request.attach is None else _attached(run_file, request.attach)
    try:
        yield scene
    finally:
        scene.rounds.close()


def trained_candidates(request: SearchRequest, split: Split) -> tuple[tuple[Model, ...], tuple[Examples, ...]]:
    """Of a finished emulated run: each trial's model when it was scored, and each client's examples of a split.

    For benches alone: nobody but an emulator holds both.
    """
    run_file = RunFolder(request.output).open(request.run_file, is_resumed=True)
    with open_scene(run_file, request) as scene:
        if scene.pooled is None:
            raise ValueError(f"{request.output} is of a real run: nobody holds its clients' examples")
        algorithm = algorithm_of(run_file, scene.spec, scene.profiles)
        artifacts = Artifacts(RunFolder(request.output).artifacts, scene.spec, run_file.training.artifact_batch_size)
        trainer = Trainer(run_file, scene.rounds, artifacts, scene.num_clients, scene.rotation, _ignore)
        search = Search(algorithm, trainer, scene.rounds, run_file.run.seed, run_file.search.parallel, Unwatched())
        models = tuple(search.trained(observation.trial) for observation in search.run().observations)
        return models, scene.pooled.by_client(split)


def _ignore(_part: Part, _num_rounds: int, _model: Model) -> None: ...


def _emulated(run_file: RunFile, output: Path) -> Scene:
    rotation = run_file.run.seed % 5  # five seeds in a row test every example once
    made = fleet_of(run_file, output, rotation, budget_of(run_file))
    rounds = EmulatedRounds(made.run, output, made.terms, made.data, made.source)
    names = [phone.profile.name for phone in rounds.fleet.phones]
    pooled = PooledExamples(made.data, made.source, rotation)
    fleet = {name: names.count(name) for name in sorted(set(names))}
    counts = [phone.check_in.num_examples for phone in rounds.fleet.phones]
    num_clients = {split: sum(count[split] > 0 for count in counts) for split in SPLITS}
    return Scene(rounds, made.source.spec, made.terms.profiles, rotation, num_clients, pooled, fleet)


def _attached(run_file: RunFile, state: Path) -> Scene:
    if run_file.run.kind != "real":
        raise ValueError('--attach waits for real devices: set [run] kind = "real", or leave --attach out')
    spec = open_source(run_file.data.source, SpecOverrides(), DATA_SCHEMES).spec
    run = Run(run_file.run.name, "real", record_id(spec), run_file.run.seed, budget_of(run_file))
    profiles = tuple(load_profile(name) for name in run_file.run.targets or ())
    num_clients = dict.fromkeys(SPLITS, run_file.round.cohort_size)
    return Scene(AttachedRounds(run, state), spec, profiles, 0, num_clients, None, {})


def _run(
    run_file: RunFile, folder: RunFolder, scene: Scene, algorithm: SearchAlgorithm[Any], watcher: Watcher
) -> RunResult:
    pooled = scene.pooled
    exact = None if pooled is None else lambda model, split: pooled.accuracy(model.artifact, model.parameters, split)
    curves = Curves(exact)

    def watch(part: Part, num_rounds: int, model: Model) -> None:
        curves.add(part, num_rounds, model)
        watcher.trained(part, num_rounds, model)

    artifacts = Artifacts(folder.artifacts, scene.spec, run_file.training.artifact_batch_size)
    trainer = Trainer(run_file, scene.rounds, artifacts, scene.num_clients, scene.rotation, watch)
    search = Search(algorithm, trainer, scene.rounds, run_file.run.seed, run_file.search.parallel, watcher)
    progress = search.run()
    winner = best_of(progress.observations).trial
    # Held rounds are read again, not held again: the winner's weights after its trial, and a resumed run's curves.
    models = {o.trial.index: search.trained(o.trial) for o in progress.observations}
    watcher.began(FINAL, winner, run_file.final.rounds)
    model = trainer.train(FINAL, models[winner.index], run_file.final.rounds)
    score = trainer.evaluate(TEST, model, "test")
    watcher.scored(TEST, "test", score)
    result = _result(run_file, scene, progress, model, (score, curves))
    folder.finish(model, artifacts.folder_of(model.artifact), result)
    with scene.rounds.store.transaction():
        scene.rounds.store.finish_run(scene.rounds.run.run_id)
    return result


def _result(
    run_file: RunFile, scene: Scene, progress: Progress, model: Model, findings: tuple[Score, Curves]
) -> RunResult:
    score, curves = findings
    batch_size = run_file.training.artifact_batch_size
    is_noisy = run_file.privacy is not None
    trials = tuple(trial_result(o, is_noisy, scene.profiles, batch_size) for o in progress.observations)
    costs = costs_by_phase(scene.rounds.store, scene.rounds.run.run_id)
    return RunResult(
        name=run_file.run.name,
        kind=run_file.run.kind,
        seed=run_file.run.seed,
        data=run_file.data.source,
        spec=scene.spec,
        num_clients=max(scene.num_clients.values()),
        algorithm=run_file.search.algorithm,
        fleet=scene.fleet,
        winner=best_of(progress.observations).trial.index,
        num_parameters=len(model.parameters),
        artifact_id=model.artifact.artifact_id,
        parameters_sha256=_sha256(model),
        trials=trials,
        accuracy=released_accuracy(run_file, score),
        costs=tuple(PhaseCostResult(**vars(cost)) for cost in costs),
        versions=versions_of(VERSIONS),
        privacy=privacy_result(run_file.privacy, scene.rounds),
        curves=curves.points,
        emulator_only=_emulator_only(scene, model, curves),
        budgets=limits_as_plain(run_file),
        warnings=_warnings(scene),
    )


def released_accuracy(run_file: RunFile, score: Score) -> Accuracy:
    """A test score with its interval, of sampling and of the noise that was added."""
    privacy = run_file.privacy
    if privacy is None:
        return accuracy_of(score.accuracy, score.num_examples, 0.0, "the clients' plain sums")
    num_draws = score.num_reports if privacy.noise_at == "device" else 1
    noise = privacy.test.noise_multiplier * sqrt(num_draws) / (privacy.test.sample_rate * score.num_examples)
    where = "on each device" if privacy.noise_at == "device" else "on the sum, by the server"
    num_drawn = max(1, round(privacy.test.sample_rate * score.num_examples))
    return accuracy_of(score.accuracy, num_drawn, noise, f"released once, with noise {where}")


def _emulator_only(scene: Scene, model: Model, curves: Curves) -> EmulatorOnly | None:
    if scene.pooled is None or not isinstance(scene.rounds, EmulatedRounds):
        return None
    accuracy = scene.pooled.accuracy(model.artifact, model.parameters, "test")
    return EmulatorOnly(accuracy, curves.last_of_trials(), scene.rounds.clock.time)


def _warnings(scene: Scene) -> tuple[str, ...]:
    emulated = () if not scene.fleet else ("trained by an emulated fleet: no phone has seen this model",)
    return emulated + tuple(f"{p.name}: {warning}" for p in scene.profiles for warning in p.warnings)


def _sha256(model: Model) -> str:
    return hashlib.sha256(write_vector("parameters", model.parameters)).hexdigest()
