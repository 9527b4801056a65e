"""What a search asks of the coordinator: runs and round plans, checked once when they are made."""

import re
from dataclasses import dataclass
from functools import cached_property
from math import ceil, inf
from typing import Literal

from device_runtime.accounting import Budget, Release, check_unit, releases_of_terms
from device_runtime.measurement_pack import PackManifest
from device_runtime.specs import Manifest
from device_runtime.terms import ClientPrivacyTerms, EvaluateTerms, MeasureTerms, PrivacyTerms, Split, TrainTerms
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
class AskedSums:
    """Metric sums that a round's reports bring: of an evaluation, or the reward beside an update.

    Attributes:
        loss_bound: In whose units losses and gains are (a reward's loss as what is left of it); None for as they are.
    """

    names: tuple[str, ...]
    loss_bound: float | None
    privacy: PrivacyTerms | ClientPrivacyTerms | None

    def range_of(self, name: str) -> tuple[float, float]:
        """Where what one example adds lies; in the client unit, a client's mean."""
        if name in {"loss", "gain"} and self.loss_bound is None:
            return -inf, inf
        return (-1.0 if name == "gain" else 0.0), 1.0


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
        min_train_examples: Training examples that a device must hold to train with them.
        max_participations: Assignments that a device is given at most by phase and kind of release; None for any
            number.
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
    max_participations: int | None = None
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
    def privacy(self) -> PrivacyTerms | ClientPrivacyTerms | None:
        """Of its update or its metrics; None for a round without privacy."""
        terms = self.train or self.evaluate
        return terms.privacy if terms else None

    @property
    def is_of_clients(self) -> bool:
        """Whether the client is the unit of its privacy."""
        return isinstance(self.privacy, ClientPrivacyTerms)

    @cached_property
    def min_examples(self) -> dict[Split, int]:
        """Examples that a device must hold by split, of the splits that it reads; a `measure` round reads none."""
        terms = self.train or self.evaluate
        least = self.min_train_examples if self.train else 1
        return {split: max(1, least) if split == "train" else 1 for split in (terms.splits if terms else ())}

    @cached_property
    def sums(self) -> AskedSums | None:
        """The metric sums that reports bring; None for a round that asks for none."""
        if self.evaluate:
            return AskedSums(self.evaluate.release, self.evaluate.loss_bound, self.evaluate.privacy)
        if self.train and self.train.reward:
            reward = self.train.reward
            return AskedSums((reward.release,), reward.loss_bound, reward.privacy)
        return None

    @property
    def update_name(self) -> VectorName:
        """The tensor that a client uploads."""
        return "gradient_sum" if self.train is not None and self.train.is_raw_sum else "parameter_update"

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
    def releases(self) -> tuple[Release, ...]:
        """All that each of its assignments spends; nothing for a round without privacy."""
        return releases_of_terms(self.train or self.evaluate)

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
    if run.budget is not None:
        check_unit(run.budget, plan.releases)
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
    if plan.train is not None and plan.train.is_raw_sum and plan.weighting != "examples":
        raise ValueError("noise_at = 'sum' divides by the clients' counts: weighting must be 'examples'")
    if plan.is_of_clients and (plan.weighting != "uniform" or not plan.is_at_deadline):
        raise ValueError(
            "in the client unit all clients count alike and none pushes another out: weighting must be 'uniform' and "
            "is_at_deadline true"
        )
    if plan.max_participations is not None and plan.max_participations < 1:
        raise ValueError(f"max_participations must be >= 1, got {plan.max_participations}")
