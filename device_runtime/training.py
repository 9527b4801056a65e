"""Train or evaluate one assignment on a client's own examples; pure: no clock, file, network or hidden generator.

Ordinary steps are SGD on shuffled batches. Private steps are DP-SGD ("Deep Learning with Differential Privacy",
arXiv:1607.00133, Algorithm 1) with Poisson batches and the expected batch size as denominator. The unit is one example
and neighbours are zero-out (a record replaced by a null record), so how many examples a client holds is public. What
depends on that count alone (`TooFewExamplesError`) or, in private runs, on noised parameters alone (`DivergedError`)
may therefore be told to the server. A row that the network cannot take (`is_valid_row`) is a null record and adds
nothing; in private work nothing else tells that it is none.

What the noise does not protect: clipping happens inside the artifact's graph, so a phone trusts whoever compiled it;
the number of examples drawn shows in the time a step takes, and in `num_chunks`, which stays on the phone; with
`noise_at="sum"` the server sees raw sums.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import count, islice
from math import ceil, inf, sqrt
from typing import Generic, TypeVar

import numpy as np

from device_runtime.arrays import Flags, Floats, Indices, Inputs, Labels, Vector
from device_runtime.lattice_noise import add_lattice_noise
from device_runtime.private_random import PrivateRandom, Purpose
from device_runtime.session import StepSession, check_examples, check_form, is_valid_row
from device_runtime.specs import Manifest
from device_runtime.terms import EvaluateTerms, PrivacyTerms, TrainTerms
from device_runtime.vectors import VectorName

Terms = TypeVar("Terms", TrainTerms, EvaluateTerms)


class TooFewExamplesError(ValueError):
    """The client holds too few examples for the assignment; raised before any work, from the public count alone."""


class DivergedError(ValueError):
    """Training left the finite numbers; the message says at which step and what to change."""


@dataclass(frozen=True)
class LoadedAssignment(Generic[Terms]):
    """What one assignment works with, downloaded and checked.

    Attributes:
        parameters: f32[P], as received.
    """

    session: StepSession
    parameters: Vector = field(repr=False)
    terms: Terms

    def __post_init__(self) -> None:
        if self.parameters.shape != (self.session.manifest.num_parameters,) or self.parameters.dtype != np.float32:
            raise ValueError(
                f"parameters must be float32 [{self.session.manifest.num_parameters}], "
                f"got {self.parameters.dtype} {list(self.parameters.shape)}"
            )


@dataclass(frozen=True)
class Examples:
    """One split of a client's examples: x [n, *shape] (or [n] rows with a field an input), y i64[n] or f32[n, K]."""

    x: Inputs = field(repr=False)
    y: Labels = field(repr=False)

    def __len__(self) -> int:
        return len(self.x)


@dataclass(frozen=True)
class Update:
    """What a client releases after training.

    Attributes:
        name: `parameter_update` (after minus before), or `gradient_sum`: the raw clipped sum where the server adds
            the noise.
        vector: f32[P].
        num_examples: Size of the split, public; never the number drawn.
        num_steps: Logical steps taken.
        num_chunks: Graph runs, for the cost of emulated devices; tells how many were drawn, so it never leaves a phone.
    """

    name: VectorName
    vector: Vector = field(repr=False)
    num_examples: int
    num_steps: int
    num_chunks: int


@dataclass(frozen=True)
class MetricSums:
    """What a client releases after evaluating.

    Attributes:
        sums: One per name of the terms' `release`, over the examples drawn: divide by sample_rate * num_examples. Where
            loss_bound is given the loss is in units of it.
        num_examples, num_chunks: As in `Update`.
    """

    names: tuple[str, ...]
    sums: tuple[float, ...]
    num_examples: int
    num_chunks: int


def train(assignment: LoadedAssignment[TrainTerms], examples: Examples, private_random: PrivateRandom) -> Update:
    """Train locally as the terms say and return what may leave the phone.

    Raises:
        TooFewExamplesError: There is no example. No release was made, so none is charged.
        DivergedError: A step left the finite numbers.
    """
    check_trainable(assignment, examples)
    privacy = assignment.terms.privacy
    if privacy is None:
        return _train_ordinary(assignment, examples, private_random)
    if privacy.noise_at == "sum":
        gradient_sum, num_chunks = _draw_sum(assignment, privacy, examples, private_random, 0)
        return Update("gradient_sum", gradient_sum, len(examples), 1, num_chunks)
    return _train_private(assignment, privacy, examples, private_random)


def evaluate(
    assignment: LoadedAssignment[EvaluateTerms], examples: Examples, private_random: PrivateRandom
) -> MetricSums:
    """Sum losses and metrics over a split, clipped, sampled and noised as the terms say.

    A row that the network cannot take is a null record and adds nothing. A loss that is not finite on a finite x counts
    as `loss_bound` where one is given.

    Raises:
        TooFewExamplesError: The split is empty. No release was made, so none is charged.
        DivergedError: A loss is not finite and nothing bounds it.
    """
    check_trainable(assignment, examples)
    terms, n = assignment.terms, len(examples)
    drawn = np.arange(n)
    if terms.privacy is not None:
        is_drawn = private_random.poisson_draw(Purpose.VOTES_AND_METRICS, 0, n, terms.privacy.sample_rate)
        drawn = np.flatnonzero(is_drawn)
    values = _release_values(assignment, examples, drawn)
    sums = values.sum(axis=0)
    if terms.privacy is not None and terms.privacy.noise_at == "device":
        normals = private_random.normals(Purpose.VOTES_AND_METRICS, 1, len(sums))
        sums = add_lattice_noise(sums, sqrt(len(sums)), terms.privacy.noise_multiplier, normals)
    return MetricSums(terms.release, tuple(map(float, sums)), n, assignment.session.num_chunks(len(drawn)))


def check_trainable(assignment: LoadedAssignment[Terms], examples: Examples) -> None:
    """Refuse, before any work, an empty split or examples of another specification.

    In private work types and shapes alone decide, which are public: what depends on a value is no error there.
    """
    if len(examples) < 1:
        raise TooFewExamplesError(
            "this client has 0 examples in the split that the assignment asks for, at least 1 is needed; "
            "collect more or leave it out of the cohort"
        )
    check = check_examples if assignment.terms.privacy is None else check_form
    check(assignment.session.manifest, examples.x, examples.y)


def _take_records(manifest: Manifest, examples: Examples, rows: Indices | Flags) -> tuple[Inputs, Labels, Flags]:
    """Some examples' x and y, and which are valid, bool[m]; the others are null records."""
    x, y = examples.x[rows], examples.y[rows]
    return x, y, is_valid_row(manifest, x, y)


class _Descent:
    """Parameters and velocity of one assignment: proximal term, momentum, step; f32[P] arithmetic."""

    def __init__(self, parameters: Vector, terms: TrainTerms) -> None:
        self.start, self.parameters, self.terms = parameters, parameters, terms
        self.velocity = np.zeros_like(parameters)
        self.num_steps = 0

    def step(self, gradient: Vector) -> None:
        terms = self.terms
        with np.errstate(over="ignore", invalid="ignore"):  # refused by name below
            pull = np.float32(terms.proximal) * (self.parameters - self.start)
            self.velocity = np.float32(terms.momentum) * self.velocity + gradient + pull
            self.parameters = self.parameters - np.float32(terms.learning_rate) * self.velocity
        self.num_steps += 1
        if not np.isfinite(self.parameters).all():
            raise DivergedError(
                f"parameters are not finite after local step {self.num_steps}: lower learning_rate, now "
                f"{terms.learning_rate}, or set max_grad_norm, now {terms.max_grad_norm}"
            )

    def update(self, num_examples: int, num_chunks: int) -> Update:
        change = self.parameters - self.start
        return Update("parameter_update", change, num_examples, self.num_steps, num_chunks)


def _train_ordinary(
    assignment: LoadedAssignment[TrainTerms], examples: Examples, private_random: PrivateRandom
) -> Update:
    terms, session, n = assignment.terms, assignment.session, len(examples)
    batch_size = terms.batch_size or n
    num_steps = terms.local_steps or (terms.local_epochs or 0) * ceil(n / batch_size)
    clip = inf if terms.max_grad_norm is None else terms.max_grad_norm
    descent, num_chunks = _Descent(assignment.parameters, terms), 0
    for batch in islice(_shuffled_batches(batch_size, n, private_random), num_steps):
        records = _take_records(session.manifest, examples, batch)
        gradient_sum, _, _ = session.gradient(descent.parameters, *records, max_grad_norm=clip)
        descent.step(gradient_sum / np.float32(len(batch)))
        num_chunks += session.num_chunks(len(batch))
    return descent.update(n, num_chunks)


def _shuffled_batches(batch_size: int, n: int, private_random: PrivateRandom) -> Iterator[Indices]:
    """Indices of one batch after the other, without end; an epoch's last batch may be smaller."""
    for epoch in count():
        order = private_random.permutation(Purpose.SAMPLING, epoch, n)
        for start in range(0, n, batch_size):
            yield order[start : start + batch_size]


def _train_private(
    assignment: LoadedAssignment[TrainTerms], privacy: PrivacyTerms, examples: Examples, private_random: PrivateRandom
) -> Update:
    terms, n = assignment.terms, len(examples)
    descent, num_chunks = _Descent(assignment.parameters, terms), 0
    for step in range(terms.local_steps or 0):
        current = replace(assignment, parameters=descent.parameters)
        gradient_sum, step_chunks = _draw_sum(current, privacy, examples, private_random, step)
        normals = private_random.normals(Purpose.NOISE, step, len(gradient_sum))
        noised = add_lattice_noise(gradient_sum, _private_clip(terms), privacy.noise_multiplier, normals)
        with np.errstate(over="ignore"):  # the step refuses by name what is not finite
            gradient = (noised / (privacy.sample_rate * n)).astype(np.float32)
        descent.step(gradient)
        num_chunks += step_chunks
    return descent.update(n, num_chunks)


def _draw_sum(
    assignment: LoadedAssignment[TrainTerms],
    privacy: PrivacyTerms,
    examples: Examples,
    private_random: PrivateRandom,
    step: int,
) -> tuple[Vector, int]:
    """Clipped gradient sum f32[P] of one Poisson draw, and its number of chunks; nothing truncated or drawn again."""
    drawn = private_random.poisson_draw(Purpose.SAMPLING, step, len(examples), privacy.sample_rate)
    session, clip = assignment.session, _private_clip(assignment.terms)
    records = _take_records(session.manifest, examples, drawn)
    gradient_sum, _, norms = session.gradient(assignment.parameters, *records, max_grad_norm=clip)
    return gradient_sum, session.num_chunks(len(norms))


def _private_clip(terms: TrainTerms) -> float:
    if terms.max_grad_norm is None:
        raise ValueError("max_grad_norm must be given in private training: without a clip noise protects nothing")
    return terms.max_grad_norm


def _release_values(assignment: LoadedAssignment[EvaluateTerms], examples: Examples, drawn: Indices) -> Floats:
    """What each drawn example adds to the release, f64[m, len(release)]; in [0, 1] each where a bound is given."""
    terms, names = assignment.terms, assignment.session.manifest.metrics
    unknown = set(terms.release) - {"loss", *names}
    if unknown:
        raise ValueError(f"release asks for {sorted(unknown)}, the artifact has loss, {', '.join(names)}")
    records = _take_records(assignment.session.manifest, examples, drawn)
    losses, metrics = assignment.session.evaluate(assignment.parameters, *records)
    columns = dict(zip(names, np.clip(metrics, 0.0, 1.0).T.astype(np.float64), strict=True))
    if "loss" in terms.release:
        columns["loss"] = _bounded_losses(losses.astype(np.float64), terms.loss_bound)
    return np.stack([columns[name] for name in terms.release], axis=1)


def _bounded_losses(losses: Floats, loss_bound: float | None) -> Floats:
    if loss_bound is not None:
        return np.clip(losses, 0.0, loss_bound) / loss_bound
    num_bad = int((~np.isfinite(losses)).sum())
    if num_bad:
        raise DivergedError(f"{num_bad} of {len(losses)} losses are not finite: lower learning_rate or set loss_bound")
    return losses
