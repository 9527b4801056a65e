"""What a finished search came to, as it is kept."""

import hashlib
from dataclasses import replace

from device_runtime.console import versions_of
from device_runtime.vectors import write_vector
from pipeline.compile.process_memory import predict_memory
from pipeline.coordinator.cost_ledger import costs_by_phase
from pipeline.divergence import divergence_in_words
from pipeline.fleet.rounds import EmulatedRounds
from pipeline.limits import broken_limits, over_memory
from pipeline.run_result import EmulatorOnly, ModelResult, PhaseCostResult, RunResult
from pipeline.run_sections import RunFile
from pipeline.searching.choices import limits_as_plain
from pipeline.searching.curves import Curves
from pipeline.searching.finals import Final
from pipeline.searching.loop import Search
from pipeline.searching.privacy_result import privacy_result, released_accuracy
from pipeline.searching.progress import Progress
from pipeline.searching.scenes import Scene
from pipeline.searching.trial_results import trial_result
from pipeline.searching.trials import Model
from profiles.records import from_plain
from search.algorithm import HasWarnings, TunedAlgorithm, TuningHistory

VERSIONS = ("handheld", "torch", "onnx", "onnxruntime-training-cpu", "numpy")


def result_of(  # noqa: PLR0913, PLR0917  (all that a run came to)
    run_file: RunFile,
    scene: Scene,
    search: Search,
    progress: Progress,
    winners: dict[str, int],
    finals: dict[int, Final],
) -> RunResult:
    """What is kept of a finished run.

    Args:
        winners: Trial by platform.
        finals: What came of each winner, by trial.
    """
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

    def compiled_mib(trial: int) -> float:
        return predict_memory(finals[trial].model.artifact.gradient).peak.written / 2**20

    over = *broken_limits(result), *over_memory(result, compiled_mib)
    return replace(result, warnings=(*result.warnings, *over))


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
    diverged = (divergence_in_words(trial, final.model.parameters) for trial, final in finals.items())
    trained += tuple(filter(None, diverged))
    profiles = dict.fromkeys(f"{p.name}: {warning}" for p in scene.profiles for warning in p.warnings)
    return emulated + searched + trained + tuple(profiles)  # a fleet may name a profile more than once


def _sha256(model: Model) -> str:
    return hashlib.sha256(write_vector("parameters", model.parameters)).hexdigest()
