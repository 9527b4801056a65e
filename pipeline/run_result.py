"""What a finished search leaves in its folder: `result.json` and `model/`, which report and ship read."""

from dataclasses import dataclass, field
from math import ceil, sqrt
from pathlib import Path

from device_runtime.arrays import Vector
from device_runtime.artifact import Artifact, read_artifact
from device_runtime.specs import ExampleSpec
from device_runtime.terms import Split
from device_runtime.vectors import read_parameters
from device_runtime.wire import RunKind
from profiles.records import decode_record
from search.candidate import Candidate

Z_95 = 1.959964
RESULT, MODEL, ARTIFACT, PARAMETERS = "result.json", "model", "artifact", "parameters.safetensors"


class NoResultError(FileNotFoundError):
    """The folder holds no finished run."""


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
    """One candidate of the search.

    Attributes:
        accuracy: On the clients' validation splits, as the search saw it; with noise where `is_noisy`.
        costs: Predicted, one entry a profile.
    """

    index: int
    candidate: Candidate
    num_parameters: int
    accuracy: float
    is_noisy: bool
    num_examples: int
    costs: tuple[ClassCost, ...]


@dataclass(frozen=True)
class CurvePoint:
    """Accuracy after a round of training, over all clients' validation splits, known to the emulator alone."""

    phase: str
    trial: int | None
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
class PhaseSpent:
    """Privacy that one phase spent on one split by one kind of release, on the client that spent most there.

    Attributes:
        epsilon: Of this row alone, at the run's delta and order; rows of a split add up in `rdp`, not in epsilon.
    """

    phase: str
    split: Split
    kind: str
    num_releases: int
    rdp: float
    epsilon: float


@dataclass(frozen=True)
class PrivacyResult:
    """What the run spent.

    Attributes:
        epsilon: The total: the largest of `epsilon_by_split`, since an example is in one split.
        adversary: Against whom it holds.
    """

    unit: str
    neighbours: str
    noise_at: str
    adversary: str
    delta: float
    target_epsilon: float
    order: int
    epsilon: float
    epsilon_by_split: dict[str, float]
    phases: tuple[PhaseSpent, ...]


@dataclass(frozen=True)
class PhaseCostResult:
    """What one phase cost the clients; `trial` is None outside the search."""

    phase: str
    trial: int | None
    num_assignments: int
    examples: int
    device_seconds: float
    bytes_up: int
    bytes_down: int


@dataclass(frozen=True)
class EmulatorOnly:
    """Exact figures that no phone would tell; for benches, never for a choice, a stop or a model card.

    Attributes:
        test_accuracy: Of the model on all clients' test splits together.
        search_accuracies: Exact validation accuracy of each trial when it was scored, by trial.
        virtual_s: Length of the run on the fleet's clock.
    """

    test_accuracy: float
    search_accuracies: dict[str, float]
    virtual_s: float


@dataclass(frozen=True)
class RunResult:
    """A finished run.

    Attributes:
        fleet: Number of phones by profile name; empty for a real run.
        winner: Index of the chosen trial.
        warnings: What whoever ships this should know.
    """

    name: str
    kind: RunKind
    seed: int
    data: str
    spec: ExampleSpec
    num_clients: int
    algorithm: str
    fleet: dict[str, int]
    winner: int
    num_parameters: int
    artifact_id: str
    parameters_sha256: str
    trials: tuple[TrialResult, ...]
    accuracy: Accuracy
    costs: tuple[PhaseCostResult, ...]
    versions: dict[str, str]
    privacy: PrivacyResult | None = None
    curves: tuple[CurvePoint, ...] = ()
    emulator_only: EmulatorOnly | None = None
    budgets: dict[str, dict[str, float | None]] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    schema: int = 1

    @property
    def winning(self) -> TrialResult:
        """The chosen trial."""
        return next(trial for trial in self.trials if trial.index == self.winner)


@dataclass(frozen=True)
class FinishedRun:
    """A run's folder as report and ship want it.

    Attributes:
        parameters: f32[P] of the trained winner.
    """

    folder: Path
    result: RunResult
    artifact: Artifact
    parameters: Vector = field(repr=False)


def read_finished_run(folder: Path) -> FinishedRun:
    """Read a run's folder.

    Raises:
        NoResultError: The search is not finished, or never was here.
        ArtifactError, VectorError: A file was altered.
    """
    path = Path(folder) / RESULT
    if not path.is_file():
        raise NoResultError(
            f"{folder} has no {RESULT}: name the folder of a finished run, or finish it with `handheld search --resume`"
        )
    result = decode_record(RunResult, path.read_bytes())
    artifact = read_artifact(Path(folder) / MODEL / ARTIFACT, result.artifact_id)
    parameters = read_parameters(Path(folder) / MODEL / PARAMETERS, artifact.manifest)
    return FinishedRun(Path(folder), result, artifact, parameters)


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


def epsilon_text(value: float) -> str:
    """An epsilon to two digits, upwards: nothing we print promises more privacy than there is."""
    return f"{ceil(value * 100 - 1e-7) / 100:.2f}"


def adversary_of(noise_at: str) -> str:
    """Against whom the epsilon of a run holds."""
    if noise_at == "device":
        return "everybody who sees what leaves a phone, the server included"
    return "everybody but the server, which sees each phone's raw sums (against it epsilon is infinite)"
