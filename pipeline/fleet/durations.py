"""How long an emulated phone takes for what it does, from its profile."""

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil

from device_runtime.measure import MeasurePlan
from device_runtime.measurement_pack import PackManifest
from device_runtime.scoring import num_evaluations
from device_runtime.specs import Manifest
from device_runtime.terms import ClientPrivacyTerms, PrivacyTerms, TrainTerms
from device_runtime.wire import Assignment
from profiles.predict import predict_kernel
from profiles.records import from_plain
from profiles.schema import DeviceProfile
from search.architecture import Architecture
from search.cost import forward_chunk_ms, training_chunk_ms


@dataclass(frozen=True)
class ChunkTimes:
    """Seconds for one chunk of an artifact's B examples on one phone."""

    train_s: float
    evaluate_s: float


@dataclass(frozen=True)
class ChunkRuns:
    """How many chunks work computes, forward and backward or forward alone."""

    train: int
    evaluate: int

    def seconds(self, times: ChunkTimes) -> float:
        """What they take where each takes its median."""
        return self.train * times.train_s + self.evaluate * times.evaluate_s


Privacy = PrivacyTerms | ClientPrivacyTerms | None
TimesOf = Callable[[DeviceProfile, Manifest], ChunkTimes]


def predicted_times(profile: DeviceProfile, manifest: Manifest) -> ChunkTimes:
    """What the cost model says of an artifact of our own spaces."""
    architecture = from_plain(Architecture, manifest.architecture)
    training_ms = training_chunk_ms(architecture, profile, manifest.batch_size)
    return ChunkTimes(training_ms / 1e3, forward_chunk_ms(architecture, profile, manifest.batch_size) / 1e3)


def chunk_runs(assignment: Assignment, num_examples: int, batch_size: int, num_validation: int = 0) -> ChunkRuns:
    """Count the chunks that an assignment to train or to evaluate computes.

    A private draw counts with its expected size: the emulator knows a duration before the work is computed, and on a
    real phone how long a draw took would tell how many examples were drawn.

    Args:
        num_examples: In the split that the assignment's report counts.
        batch_size: B of the artifact.
        num_validation: In the validation split, for what training reads of it beside: steps on architecture weights in
            turns with others, and a reward.
    """
    if assignment.train is not None:
        terms, reward = assignment.train, assignment.train.reward
        train = _train_chunks(terms, num_examples, num_validation, batch_size)
        if reward is None:
            return ChunkRuns(train, 0)
        return ChunkRuns(train, num_evaluations(reward) * _evaluate_chunks(reward.privacy, num_validation, batch_size))
    if assignment.evaluate is not None:
        return ChunkRuns(0, _evaluate_chunks(assignment.evaluate.privacy, num_examples, batch_size))
    raise ValueError(f"how long an assignment to {assignment.kind} takes does not depend on examples")


def measure_seconds(profile: DeviceProfile, manifest: PackManifest, plan: MeasurePlan) -> float:
    """Seconds that a measurement pack takes: its runs alone, and its budget at most."""
    call_ms, visit = profile.throughput.call_overhead_ms.value, plan.visit
    visits_ms = 0.0
    for entry in manifest.entries:
        kernels = manifest.kernels_of(entry)
        run_ms = call_ms + sum(predict_kernel(profile, one, entry.batch_size, entry.direction).ms for one in kernels)
        visits = ((plan.num_timed(entry.direction), visit.max_samples), (plan.num_watched, visit.max_watched))
        for number, most in visits:
            timed_ms = min(max(visit.visit_ms, visit.min_samples * run_ms), most * run_ms)
            visits_ms += number * (visit.num_warm_up * run_ms + timed_ms)
    return min(visits_ms / 1e3, plan.budget_s)


def transfer_seconds(num_bytes: int, mbit_s: float, latency_ms: float) -> float:
    """Seconds from the first byte sent to the last one received."""
    return latency_ms / 1e3 + num_bytes * 8 / (mbit_s * 1e6)


def _train_chunks(terms: TrainTerms, num_examples: int, num_validation: int, batch_size: int) -> int:
    step = terms.batch_size or num_examples
    num_steps = terms.local_steps or (terms.local_epochs or 0) * ceil(num_examples / step)
    chunks = _step_chunks(terms, terms.privacy, num_examples, batch_size)
    if terms.moves == "alternate" and terms.architecture is not None:
        chunks += _step_chunks(terms, terms.architecture.privacy, num_validation, batch_size)
    return num_steps * chunks


def _step_chunks(terms: TrainTerms, privacy: Privacy, num_examples: int, batch_size: int) -> int:
    if isinstance(privacy, PrivacyTerms):
        return _evaluate_chunks(privacy, num_examples, batch_size)
    return ceil(min(terms.batch_size or num_examples, num_examples) / batch_size)


def _evaluate_chunks(privacy: Privacy, num_examples: int, batch_size: int) -> int:
    rate = privacy.sample_rate if isinstance(privacy, PrivacyTerms) else 1.0
    return max(1, ceil(rate * num_examples / batch_size))
