"""What a finished search leaves in its folder: `result.json` and `models/`, which report and ship read."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import sqrt
from pathlib import Path

from device_runtime.arrays import Vector
from device_runtime.artifact import Artifact, read_artifact
from device_runtime.specs import ExampleSpec
from device_runtime.vectors import read_parameters
from device_runtime.wire import RunKind
from pipeline.privacy_spent import PrivacyResult
from profiles.records import RecordError, from_plain, later, parse_json
from search.algorithm import TuningHistory
from search.candidate import Candidate

Z_95 = 1.959964
RESULT, MODELS, ARTIFACT, PARAMETERS = "result.json", "models", "artifact", "parameters.safetensors"


class NoResultError(FileNotFoundError):
    """The folder holds no finished run."""


class UnknownPlatformError(ValueError):
    """A run was asked for the model of a platform that it does not have."""


@dataclass(frozen=True)
class ClassCost:
    """What a candidate costs on one profile of the fleet, predicted."""

    profile: str
    device_class: str
    latency_ms: float
    training_step_ms: float
    peak_memory_mib: float
    size_kib: float


@dataclass(frozen=True)
class TrialResult:
    """One trial of the search.

    Attributes:
        accuracy: On the clients' validation splits, as the search saw it; with noise where `is_noisy`. Without meaning
            where it was not scored.
        costs: Predicted, one entry a profile.
        rounds: That it trained.
        start_from: The trial whose weights it started from; None for fresh ones, or those of a supernet.
        is_shared: Whether its weights are slices of a supernet's.
        num_clients: Who took part; None for all.
        failed: Why it has no score; empty where it has one.
        phase: Under which its costs and spending count.
        moves: What its training moved, as of `search.candidate.Trial`.
        is_kept: Whether what it learnt of a supernet went back into the shared weights.
        merged: Trials whose weights it started from, and their shares.
        metrics, num_rewarded, architecture_weights: As of `search.candidate.Observation`.
    """

    index: int
    candidate: Candidate
    num_parameters: int
    accuracy: float
    is_noisy: bool
    num_examples: int
    costs: tuple[ClassCost, ...]
    rounds: int = 0
    start_from: int | None = None
    is_shared: bool = False
    num_clients: int | None = None
    failed: str = ""
    phase: str = later("search")
    moves: str = later("all")
    is_kept: bool = later(True)
    merged: tuple[tuple[int, float], ...] = later(())
    metrics: dict[str, float] = field(default_factory=dict, hash=False)
    num_rewarded: int = later(0)
    architecture_weights: tuple[float, ...] = later(())


@dataclass(frozen=True)
class CurvePoint:
    """Accuracy after a round of training, over all clients' validation splits, known to the emulator alone."""

    phase: str
    trial: int
    round: int
    accuracy: float


@dataclass(frozen=True)
class Accuracy:
    """Of the model on the clients' test splits.

    Attributes:
        low, high: 95% interval, of the sampling of examples and of the noise.
        how: In words, e.g. "released with noise on each device".
    """

    value: float
    low: float
    high: float
    num_examples: int
    how: str


@dataclass(frozen=True)
class PhaseCostResult:
    """What one trial cost the clients in one phase by assignments of one kind: `train` or `evaluate`."""

    phase: str
    trial: int | None
    kind: str
    num_assignments: int
    examples: int
    device_seconds: float
    bytes_up: int
    bytes_down: int


@dataclass(frozen=True)
class EmulatorOnly:
    """Exact figures that no phone would tell; for benches, never for a choice, a stop or a model card.

    Attributes:
        test_accuracies: Of each model on all clients' test splits together, by trial.
        search_accuracies: Exact validation accuracy of each trial when it was scored, by trial.
        virtual_s: Length of the run on the fleet's clock.
    """

    test_accuracies: dict[str, float]
    search_accuracies: dict[str, float]
    virtual_s: float


@dataclass(frozen=True)
class ModelResult:
    """A trained winner, as it lies in `models/TRIAL`.

    Attributes:
        platforms: Names of the profiles that it is for; empty in a run without profiles.
        accuracy: On the clients' test splits.
        is_fresh: Whether its final training began with fresh weights; else with those of its trial.
    """

    trial: int
    platforms: tuple[str, ...]
    num_parameters: int
    artifact_id: str
    parameters_sha256: str
    accuracy: Accuracy
    is_fresh: bool = False


@dataclass(frozen=True)
class RunResult:
    """A finished run.

    Attributes:
        fleet: Number of phones by profile name; empty for a real run.
        models: What it found, the one for most platforms first; every platform has one.
        warnings: What whoever ships this should know.
        tuning: Of a search among configurations drawn once.
    """

    name: str
    kind: RunKind
    seed: int
    data: str
    spec: ExampleSpec
    num_clients: int
    algorithm: str
    fleet: dict[str, int]
    models: tuple[ModelResult, ...]
    trials: tuple[TrialResult, ...]
    costs: tuple[PhaseCostResult, ...]
    versions: dict[str, str]
    privacy: PrivacyResult | None = None
    curves: tuple[CurvePoint, ...] = ()
    emulator_only: EmulatorOnly | None = None
    budgets: dict[str, dict[str, float | None]] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    tuning: TuningHistory | None = later(None)
    schema: int = 1

    @property
    def main(self) -> ModelResult:
        """The model for most platforms; the only one of most runs."""
        return self.models[0]

    @property
    def winning(self) -> TrialResult:
        """The trial of the main model."""
        return self.trial(self.main.trial)

    @property
    def main_platform(self) -> str | None:
        """One of the main model's platforms, to name it by; None in a run without profiles."""
        return next(iter(self.main.platforms), None)

    def trial(self, index: int) -> TrialResult:
        """The trial of that index."""
        return next(trial for trial in self.trials if trial.index == index)

    def is_trained_on(self, model: ModelResult) -> bool:
        """Whether a model was trained after the search, and not tested with the weights that the search left it."""
        return any((cost.phase, cost.trial, cost.kind) == ("final", model.trial, "train") for cost in self.costs)

    def model_for(self, platform: str | None) -> ModelResult:
        """The model of a platform, by the name of its profile; None for the only one.

        Raises:
            UnknownPlatformError: The run has no such platform, or several models and none was named.
        """
        known = {name: model for model in self.models for name in model.platforms}
        if platform is None and len(self.models) == 1:
            return self.models[0]
        if platform is None:
            raise UnknownPlatformError(f"this run has {len(self.models)} models: name a platform, {_listed(known)}")
        if platform not in known:
            raise UnknownPlatformError(f"this run has no platform {platform!r}: name one of {_listed(known)}")
        return known[platform]


@dataclass(frozen=True)
class FinishedRun:
    """A run's folder and one of its models, as ship wants it.

    Attributes:
        parameters: f32[P] of the trained model.
    """

    folder: Path
    result: RunResult
    model: ModelResult
    artifact: Artifact
    parameters: Vector = field(repr=False)

    @property
    def trial(self) -> TrialResult:
        """Of the model."""
        return self.result.trial(self.model.trial)


def read_result(folder: Path) -> RunResult:
    """Read what a run found.

    Raises:
        NoResultError: The search is not finished, or never was here.
        RecordError: It was altered, or an older version wrote it.
    """
    path = Path(folder) / RESULT
    if not path.is_file():
        raise NoResultError(
            f"{folder} has no {RESULT}: name the folder of a finished run, or finish it with `handheld search --resume`"
        )
    found = parse_json(path.read_bytes(), RunResult.__name__)
    if isinstance(found, dict) and "winner" in found and "models" not in found:
        raise RecordError(
            f"{path} is of an older version of handheld, which kept one model: report and ship it with that version, "
            f"or search again in a new folder: handheld search {folder}/run.toml -o NEW"
        )
    return from_plain(RunResult, found)


def model_folder(folder: Path, trial: int) -> Path:
    """Where a winner's artifact and parameters lie in a run's folder."""
    return Path(folder) / MODELS / str(trial)


def read_finished_run(folder: Path, platform: str | None = None) -> FinishedRun:
    """Read a run's folder with the model of a platform; None for the only one.

    Raises:
        NoResultError: The search is not finished, or never was here.
        UnknownPlatformError: See `RunResult.model_for`.
        ArtifactError, VectorError: A file was altered.
    """
    result = read_result(folder)
    model = result.model_for(platform)
    where = model_folder(folder, model.trial)
    artifact = read_artifact(where / ARTIFACT, model.artifact_id)
    return FinishedRun(Path(folder), result, model, artifact, read_parameters(where / PARAMETERS, artifact.manifest))


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none was given to it"


def accuracy_of(value: float, num_examples: int, noise_deviation: float, how: str) -> Accuracy:
    """An accuracy with its 95% interval: normal approximation, sampling of examples and added noise together.

    Args:
        value: Share of right examples, possibly outside [0, 1] for noise.
        noise_deviation: Standard deviation of the noise in `value`, 0 without.
    """
    inside = min(1.0, max(0.0, value))
    # Agresti and Coull's two added successes and failures keep the interval open at 0 and 1.
    shifted = (inside * num_examples + 2) / (num_examples + 4)
    deviation = sqrt(shifted * (1 - shifted) / (num_examples + 4) + noise_deviation**2)
    low, high = min(value, shifted) - Z_95 * deviation, max(value, shifted) + Z_95 * deviation
    return Accuracy(value, max(0.0, low), min(1.0, high), num_examples, how)
