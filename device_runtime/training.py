"""Train one assignment on a client's own examples; pure: no clock, file, network or hidden generator.

Ordinary steps are SGD on shuffled batches. Private steps are DP-SGD ("Deep Learning with Differential Privacy",
arXiv:1607.00133, Algorithm 1) with Poisson batches and the expected batch size as denominator. The unit is one example
and neighbours are zero-out (a record replaced by a null record), so how many examples a client holds is public. What
depends on that count alone (`TooFewExamplesError`) or, in private runs, on noised parameters alone (`DivergedError`)
may therefore be told to the server. A row that the network cannot take (`is_valid_row`) is a null record and adds
nothing; in private work nothing else tells that it is none.

Steps on a supernet's architecture weights are those of "DARTS" (arXiv:1806.09055, section 2.3, first order): by
validation examples, in turns with steps on the weights. In private training each of the two is a release of its own:
clipped and noised on its own segment alone, by a Poisson draw of its own split.

A reward tells of validation examples alone: all that it knows of the others are steps that were noised. So there is
none of the raw step that a server adds the noise to.

In the client unit ("Learning Differentially Private Recurrent Language Models", arXiv:1710.06963) the steps are
ordinary, and what is clipped and noised is their sum, the update. There a phone says nothing of training that left the
finite numbers: its examples alone would say it. Its update is zeros.

No stream of private randomness is used twice: steps by training examples have the purposes SAMPLING and NOISE, those by
validation examples two of their own, a reward a third, and within a purpose every step or epoch its number.

What the noise does not protect: clipping happens inside the artifact's graph, so a phone trusts whoever compiled it;
the number of examples drawn shows in the time a step takes, and in `num_chunks`, which stays on the phone; with
`noise_at="sum"` the server sees raw sums.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from math import ceil, inf, isfinite

import numpy as np

from device_runtime.arrays import Flags, Floats, Indices, Vector
from device_runtime.descent import Descent, DivergedError
from device_runtime.lattice_noise import add_lattice_noise
from device_runtime.loaded import Examples, LoadedAssignment, check_trainable, take_records
from device_runtime.private_random import PrivateRandom, Purpose
from device_runtime.scoring import measure_reward
from device_runtime.segments import Positions, moving_segments, positions_of, segment_weight
from device_runtime.session import StepSession
from device_runtime.specs import Manifest
from device_runtime.terms import ARCHITECTURE, ClientPrivacyTerms, PrivacyTerms, Split, TrainTerms
from device_runtime.vectors import VectorName


@dataclass(frozen=True)
class Update:
    """What a client releases after training.

    Attributes:
        name: `parameter_update` (after minus before), or `gradient_sum`: the raw clipped sum where the server adds
            the noise.
        vector: f32[size of the segments that move], in layout order.
        num_examples: Size of the split that it is trained on (the first of the terms'), public; never the number drawn.
        num_steps: Local steps taken.
        num_chunks: Graph runs, for the cost of emulated devices; tells how many were drawn, so it never leaves a phone.
        metric_sums: The reward by its name, where one was asked for.
        num_scored: Size of the split that it is a sum over, public; 0 without one.
    """

    name: VectorName
    vector: Vector = field(repr=False)
    num_examples: int
    num_steps: int
    num_chunks: int
    metric_sums: dict[str, float] | None = None
    num_scored: int = 0


def train(
    assignment: LoadedAssignment[TrainTerms], examples: Mapping[Split, Examples], private_random: PrivateRandom
) -> Update:
    """Train locally as the terms say and return what may leave the phone.

    Args:
        examples: Of each of the terms' `splits`.

    Raises:
        TooFewExamplesError: A split is empty. No release was made, so none is charged.
        DivergedError: A step left the finite numbers, or a reward that nothing bounds did.
    """
    check_trainable(assignment, examples)
    session, terms = assignment.session, assignment.terms
    num_examples = len(examples[terms.splits[0]])
    steps = [_Steps(session, kind, examples[kind.split], private_random) for kind in _kinds(session.manifest, terms)]
    moving = positions_of(session.manifest, moving_segments(session.manifest, terms.moves))
    if terms.is_raw_sum:
        gradient_sum = steps[0].gradient_sum(assignment.parameters, 0)[moving]
        return Update("gradient_sum", gradient_sum, num_examples, 1, steps[0].num_chunks)
    num_steps = terms.local_steps or (terms.local_epochs or 0) * ceil(num_examples / (terms.batch_size or num_examples))
    descent = _descend(assignment, steps, num_steps)
    change = _change(descent, moving, terms.privacy, private_random)
    num_chunks = sum(each.num_chunks for each in steps)
    update = Update("parameter_update", change, num_examples, num_steps, num_chunks)
    if terms.reward is None:
        return update
    both = descent.start, descent.parameters
    reward = measure_reward(session, both, terms.reward, examples["validation"], private_random)
    return replace(
        update,
        num_chunks=num_chunks + reward.num_chunks,
        metric_sums=reward.by_name(),
        num_scored=reward.num_examples,
    )


@dataclass(frozen=True)
class _Kind:
    """One kind of step.

    Attributes:
        split: By whose examples.
        segments: What it moves.
        clip: Of each example's gradient in these segments; infinity for none.
        privacy: None for ordinary batches of `batch_size`.
        sampling, noise: Purposes of its private randomness, no other kind's.
    """

    split: Split
    segments: tuple[str, ...]
    clip: float
    privacy: PrivacyTerms | None
    batch_size: int | None
    sampling: Purpose
    noise: Purpose


def _kinds(manifest: Manifest, terms: TrainTerms) -> tuple[_Kind, ...]:
    """The steps that make one local step, in their order."""
    segments, kinds = moving_segments(manifest, terms.moves), list[_Kind]()
    privacy = terms.privacy if isinstance(terms.privacy, PrivacyTerms) else None
    if terms.architecture is not None and terms.moves in {"architecture", "alternate"}:
        own, clip = terms.architecture.privacy or privacy, terms.architecture.max_grad_norm
        purposes = Purpose.ARCHITECTURE_SAMPLING, Purpose.ARCHITECTURE_NOISE
        kinds.append(_Kind("validation", (ARCHITECTURE,), _clip(clip), own, terms.batch_size, *purposes))
        segments = tuple(name for name in segments if name != ARCHITECTURE)
    if segments:
        purposes = Purpose.SAMPLING, Purpose.NOISE
        kinds.append(_Kind("train", segments, _clip(terms.max_grad_norm), privacy, terms.batch_size, *purposes))
    return tuple(kinds)


def _clip(max_grad_norm: float | None) -> float:
    return inf if max_grad_norm is None else max_grad_norm


class _Steps:
    """Steps of one kind on one client's examples.

    Attributes:
        kind: What they are.
        num_chunks: Graph runs so far.
    """

    def __init__(self, session: StepSession, kind: _Kind, examples: Examples, private_random: PrivateRandom) -> None:
        self.kind, self.num_chunks = kind, 0
        self._session, self._examples, self._random = session, examples, private_random
        self._weight = segment_weight(session.manifest, kind.segments)
        self._moving = positions_of(session.manifest, kind.segments)
        self._batches = self._shuffled_batches(kind.batch_size or len(examples))

    def mean_gradient(self, parameters: Vector, step: int) -> Vector:
        """Clipped, noised where the step is private, f32[P]; zeros where nothing moves."""
        privacy = self.kind.privacy
        if privacy is None:
            batch = next(self._batches)
            return self._sum(parameters, batch) / np.float32(len(batch))
        total = self.gradient_sum(parameters, step)[self._moving]
        normals = self._random.normals(self.kind.noise, step, len(total))
        noised = add_lattice_noise(total, self.kind.clip, privacy.noise_multiplier, normals)
        gradient = np.zeros_like(parameters)
        with np.errstate(over="ignore"):  # the step refuses by name what is not finite
            gradient[self._moving] = (noised / (privacy.sample_rate * len(self._examples))).astype(np.float32)
        return gradient

    def gradient_sum(self, parameters: Vector, step: int) -> Vector:
        """Clipped sum f32[P] of one Poisson draw; nothing truncated or drawn again."""
        rate = 1.0 if self.kind.privacy is None else self.kind.privacy.sample_rate
        return self._sum(parameters, self._random.poisson_draw(self.kind.sampling, step, len(self._examples), rate))

    def _sum(self, parameters: Vector, rows: Indices | Flags) -> Vector:
        records = take_records(self._session.manifest, self._examples, rows)
        gradient_sum, _, norms = self._session.gradient(
            parameters, *records, max_grad_norm=self.kind.clip, segment_weight=self._weight
        )
        self.num_chunks += self._session.num_chunks(len(norms))
        return gradient_sum

    def _shuffled_batches(self, batch_size: int) -> Iterator[Indices]:
        """Indices of one batch after the other, without end; an epoch's last batch may be smaller."""
        n = len(self._examples)
        for epoch in count():
            order = self._random.permutation(self.kind.sampling, epoch, n)
            for start in range(0, n, batch_size):
                yield order[start : start + batch_size]


def _descend(assignment: LoadedAssignment[TrainTerms], steps: Sequence[_Steps], num_steps: int) -> Descent:
    descent = Descent(assignment.session.manifest, assignment.parameters, assignment.terms)
    try:
        for i in range(num_steps):
            for each in steps:
                descent.step(each.mean_gradient(descent.parameters, i), each.kind.segments, i + 1)
    except DivergedError:
        if not isinstance(assignment.terms.privacy, ClientPrivacyTerms):
            raise
    return descent


def _change(
    descent: Descent,
    moving: Positions,
    privacy: PrivacyTerms | ClientPrivacyTerms | None,
    private_random: PrivateRandom,
) -> Vector:
    """After minus before, f32[m]; in the client unit clipped as a whole, with the device's noise where it belongs."""
    with np.errstate(over="ignore", invalid="ignore"):
        change = descent.parameters[moving] - descent.start[moving]
    if not isinstance(privacy, ClientPrivacyTerms):
        return change
    clipped = _clipped(change, _clip(privacy.max_norm))
    if privacy.noise_at == "device":
        normals = private_random.normals(Purpose.NOISE, 0, len(clipped))
        clipped = add_lattice_noise(clipped, _clip(privacy.max_norm), privacy.noise_multiplier, normals)
    return clipped.astype(np.float32)


def _clipped(update: Vector, max_norm: float) -> Floats:
    """A client's whole update f32[m] scaled down to an L2 norm of max_norm at most, f64[m]; zeros if not finite."""
    exact = update.astype(np.float64)
    norm = float(np.linalg.norm(exact))
    return exact * (max_norm / max(norm, max_norm)) if isfinite(norm) else np.zeros_like(exact)
