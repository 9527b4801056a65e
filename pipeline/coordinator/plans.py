"""What a search asks of the coordinator: runs and round plans, checked once when they are made."""

import re
from dataclasses import dataclass
from functools import cached_property
from math import ceil
from typing import Literal

from device_runtime.accounting import Budget, Release, release_of_terms
from device_runtime.measurement_pack import PackManifest
from device_runtime.specs import Manifest
from device_runtime.terms import EvaluateTerms, MeasureTerms, PrivacyTerms, Split, TrainTerms
from device_runtime.vectors import VectorName
from device_runtime.wire import Assignment, AssignmentKind, RunKind
from profiles.records import record_id

Weighting = Literal["uniform", "examples"]


@dataclass(frozen=True)
class Run:
    """A search, from its first round to its last.

    Attributes:
        run_id: Goes into the ids of its rounds and assignments.
        kind: Only devices of this kind take part.
        spec_id: sha256 of the canonical bytes of the example specification that its devices must have; None for a
            run that only measures devices, whatever their examples are.
        budget: Privacy that may be spent on each device's split; None for a run without privacy.
    """

    run_id: str
    kind: RunKind
    spec_id: str | None
    seed: int
    budget: Budget | None = None
    schema: int = 1

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,79}", self.run_id):
            raise ValueError(
                f"run_id must be at most 80 letters, digits, '_', '.' and '-': it is part of paths, got {self.run_id!r}"
            )


@dataclass(frozen=True)
class RoundPlan:
    """One round to be held.

    Attributes:
        round_key: Names the round in its run; planning the same key again continues the same round.
        phase: For the ledgers, e.g. `search` or `final`.
        artifact_id: What its clients are to run; to `measure`, a measurement pack.
        parameters_sha256: None to `measure`.
        trial, candidate_id: For the ledgers; None where the round belongs to no trial.
        cohort_size: Reports wanted.
        min_reports: Fewer at the deadline, and the round failed.
        deadline_s: Seconds from its opening to its end.
        lease_s: Seconds within which a device must report before its place is free again.
        over_selection: Places per report wanted, >= 1.
        weighting: Of the updates in the mean.
        eligible: Ids of the devices that may take part; None for all.
        is_at_deadline: Close at the deadline only, even when the cohort is complete.
        min_train_examples: Training examples that a device must hold to train.
    """

    run_id: str
    round_key: str
    phase: str
    kind: AssignmentKind
    artifact_id: str
    parameters_sha256: str | None
    cohort_size: int
    min_reports: int
    deadline_s: float
    lease_s: float
    train: TrainTerms | None = None
    evaluate: EvaluateTerms | None = None
    measure: MeasureTerms | None = None
    trial: int | None = None
    candidate_id: str | None = None
    over_selection: float = 1.0
    weighting: Weighting = "uniform"
    rotation: int = 0
    eligible: tuple[str, ...] | None = None
    is_at_deadline: bool = False
    min_train_examples: int = 1
    schema: int = 1

    def __post_init__(self) -> None:
        _check_terms(self)
        if not 1 <= self.min_reports <= self.cohort_size:
            raise ValueError(
                f"min_reports must be in [1, cohort_size = {self.cohort_size}], got {self.min_reports}: "
                "a round without reports has no aggregate"
            )
        if not (self.deadline_s > 0 and self.lease_s > 0):
            raise ValueError(f"deadline_s and lease_s must be > 0, got {self.deadline_s} and {self.lease_s}")
        if not self.over_selection >= 1:
            raise ValueError(f"over_selection must be >= 1, got {self.over_selection}")

    @property
    def privacy(self) -> PrivacyTerms | None:
        """Of its one release; None for a round without privacy."""
        terms = self.train or self.evaluate
        return terms.privacy if terms else None

    @property
    def split(self) -> Split:
        """Whose examples it reads; a `measure` round reads none."""
        return self.evaluate.split if self.evaluate else "train"

    @property
    def min_examples(self) -> int:
        """Examples of `split` that a device must hold."""
        if self.measure:
            return 0
        return 1 if self.evaluate else max(1, self.min_train_examples)

    @property
    def update_name(self) -> VectorName:
        """The tensor that a client uploads."""
        return "gradient_sum" if self.privacy is not None and self.privacy.noise_at == "sum" else "parameter_update"

    def assignment(self, assignment_id: str, lease_s: float) -> Assignment:
        """The message that tells a device its part."""
        return Assignment(
            assignment_id=assignment_id,
            run_id=self.run_id,
            kind=self.kind,
            artifact_id=self.artifact_id,
            parameters_sha256=self.parameters_sha256,
            lease_s=lease_s,
            rotation=self.rotation,
            train=self.train,
            evaluate=self.evaluate,
            measure=self.measure,
        )

    @cached_property
    def release(self) -> Release | None:
        """What each of its assignments spends; None for a round without privacy."""
        return release_of_terms(self.train or self.evaluate)

    @cached_property
    def num_places(self) -> int:
        """Most devices that hold a place or reported at any time."""
        # In floats 100 * 1.1 is a little above 110: without the margin it would give 111 places.
        return ceil(self.cohort_size * self.over_selection - 1e-9)

    @cached_property
    def eligible_ids(self) -> frozenset[str] | None:
        """`eligible` for looking up."""
        return None if self.eligible is None else frozenset(self.eligible)


def check_plan(run: Run, plan: RoundPlan, manifest: Manifest | PackManifest) -> None:
    """Refuse a plan that its run cannot account for or that its artifact cannot serve.

    A `measure` round reads no example: it fits any run, private or not, and any specification.

    Raises:
        ValueError: Naming both sides and the cure.
    """
    if isinstance(manifest, PackManifest):
        return
    if (run.budget is None) != (plan.privacy is None):
        raise ValueError(
            f"round {plan.round_key!r} and run {run.run_id!r} must both be private or both not: a release without "
            "noise costs infinity, and one without a budget is not counted; set both `budget` and `privacy`, or none"
        )
    if plan.rotation and run.kind == "real":
        raise ValueError(f"rotation must be 0 in a real run, got {plan.rotation}: no server chooses a phone's split")
    spec_id = record_id(manifest.spec)
    if spec_id != run.spec_id:
        raise ValueError(
            f"artifact {plan.artifact_id} takes examples of specification {spec_id}, run {run.run_id!r} has "
            f"{run.spec_id}; compile it for the run's data"
        )
    unknown = set(plan.evaluate.release if plan.evaluate else ()) - {"loss", *manifest.metrics}
    if unknown:
        raise ValueError(f"release asks for {sorted(unknown)}, the artifact has loss, {', '.join(manifest.metrics)}")


def _check_terms(plan: RoundPlan) -> None:
    given = {"train": plan.train, "evaluate": plan.evaluate, "measure": plan.measure}
    if given.pop(plan.kind) is None or any(given.values()):
        raise ValueError(f"a round of kind {plan.kind!r} must carry exactly its own terms")
    if (plan.parameters_sha256 is None) != (plan.kind == "measure"):
        raise ValueError("parameters_sha256 must be given to train and to evaluate, and left out to measure")
    privacy = plan.train.privacy if plan.train else None
    if privacy is not None and privacy.noise_at == "sum" and plan.weighting != "examples":
        raise ValueError("noise_at = 'sum' divides by the clients' counts: weighting must be 'examples'")
