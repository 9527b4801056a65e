"""Run the demo: search, ship every model, check what was shipped, report; for each of the embedded run files."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np

from device_runtime.arrays import Inputs, Labels
from device_runtime.session import StepSession
from pipeline.report.page import ReportRequest, write_report
from pipeline.report.shipped import BUNDLE_FOLDER
from pipeline.run_result import FinishedRun, ModelResult, read_finished_run
from pipeline.searching.loop import Watcher
from pipeline.searching.run_folder import RunFolder
from pipeline.searching.scenes import SearchRequest, open_scene
from pipeline.searching.session import run_search
from pipeline.ship.bundle import ship_run
from pipeline.ship.check import evaluate_bundle

RUNS = ("digits", "digits_private")
TOLERANCE = 0.005  # of accuracy, between the trained model and each shipped file


class DemoError(RuntimeError):
    """The demo did not come to what it promises."""


@dataclass(frozen=True)
class DemoModel:
    """One of a run's models, trained and shipped.

    Attributes:
        platforms: Profiles of the phones that it is for.
        accuracy: As the run released it.
        exact_accuracy: Of the trained model over all emulated test splits; known to the emulator alone.
        shipped_accuracies: Of each shipped file over the same examples.
    """

    platforms: tuple[str, ...]
    accuracy: float
    exact_accuracy: float
    shipped_accuracies: dict[str, float]
    bundle: str


@dataclass(frozen=True)
class DemoRun:
    """What one of the demo's runs came to.

    Attributes:
        models: The one for most phones first.
        epsilon: None without privacy.
    """

    name: str
    models: tuple[DemoModel, ...]
    epsilon: float | None
    delta: float | None
    noise_at: str | None
    report: str


def run_demo(output: Path, watcher: Callable[[str], Watcher]) -> tuple[DemoRun, ...]:
    """Run the whole path twice, without and with privacy.

    Args:
        output: Gets a folder for each run; those of an earlier demo are replaced.
        watcher: Makes what is told of a run's progress, by its name.

    Raises:
        DemoError: A shipped file is not as accurate as the trained model.
    """
    return tuple(_run_one(name, output / name, watcher(name)) for name in RUNS)


def _run_one(name: str, folder: Path, watcher: Watcher) -> DemoRun:
    with as_file(files("pipeline.demo") / f"{name}.toml") as run_file:
        _clear(folder, run_file)
        result = run_search(SearchRequest(run_file, folder), watcher)
    x, y = pooled_test_examples(folder)
    models = tuple(_ship(folder, model, x, y) for model in result.models)
    privacy = result.privacy
    return DemoRun(
        name=name,
        models=models,
        epsilon=None if privacy is None else privacy.epsilon,
        delta=None if privacy is None else privacy.delta,
        noise_at=None if privacy is None else privacy.noise_at,
        report=write_report(ReportRequest(folder, bundle=Path(models[0].bundle))).file,
    )


def _ship(folder: Path, model: ModelResult, x: Inputs, y: Labels) -> DemoModel:
    """Ship a model of a run, and check its files over all test examples."""
    platform = model.platforms[0]
    run = read_finished_run(folder, platform)
    bundle = folder / (BUNDLE_FOLDER if model == run.result.main else f"{BUNDLE_FOLDER}-{platform}")
    ship_run(folder, bundle, platform=platform)
    exact, found = trained_accuracy(run, x, y), evaluate_bundle(bundle, x, y)
    for file, accuracy in found.items():
        if abs(accuracy - exact) > TOLERANCE:
            raise DemoError(f"{bundle / file} reaches {accuracy:.1%} and the trained model {exact:.1%}: do not ship it")
    return DemoModel(model.platforms, model.accuracy.value, exact, found, str(bundle))


def trained_accuracy(run: FinishedRun, x: Inputs, y: Labels) -> float:
    """Accuracy of the trained parameters in the artifact's own evaluate graph."""
    _, metrics = StepSession(run.artifact).evaluate(run.parameters, x, y)
    return float(np.mean(metrics[:, run.artifact.manifest.metrics.index("accuracy")]))


def pooled_test_examples(folder: Path) -> tuple[Inputs, Labels]:
    """All emulated clients' test splits of a run's folder."""
    run_file = folder / "run.toml"
    request = SearchRequest(run_file, folder, is_resumed=True)
    with RunFolder(folder).open(run_file, is_resumed=True) as checked, open_scene(checked, request) as scene:
        if scene.pooled is None:
            raise DemoError(f"{folder} is of a real run: nobody holds its test examples")
        examples = scene.pooled.examples("test")
    return examples.x, examples.y


def _clear(folder: Path, run_file: Path) -> None:
    """Remove an earlier demo's folder, and nothing else."""
    if not folder.exists():
        return
    kept = folder / "run.toml"
    if not kept.is_file() or 'name = "digits' not in kept.read_text(encoding="utf-8"):
        raise DemoError(f"{folder} is not of an earlier demo ({run_file.name}); name another folder with --output")
    with RunFolder(folder).held():
        pass  # nobody searches in it; not every platform removes a file that is open, as the lock is
    shutil.rmtree(folder)
