"""What a client tells of parameters on one split: metric sums, and what training was worth to it; clipped and noised.

An example adds to a sum what its clip lets through, and a null record adds 0. In the client unit the whole client is
one record: its mean takes the place of its sum.
"""

from dataclasses import dataclass
from math import sqrt

import numpy as np

from device_runtime.arrays import Flags, Floats, Indices, Vector
from device_runtime.descent import DivergedError
from device_runtime.lattice_noise import add_lattice_noise
from device_runtime.loaded import Examples, LoadedAssignment, check_trainable, take_records
from device_runtime.private_random import PrivateRandom, Purpose
from device_runtime.session import StepSession
from device_runtime.terms import ClientPrivacyTerms, EvaluateTerms, PrivacyTerms, RewardTerms

_DRAW, _NOISE = 0, 1  # steps of the one purpose: an assignment scores once


@dataclass(frozen=True)
class MetricSums:
    """What a client releases of a split.

    Attributes:
        sums: One per name, over the examples drawn: divide by sample_rate * num_examples; of the client unit means.
            Where loss_bound is given a loss is in units of it, and as a reward what is left of it.
        num_examples: Size of the split, public; never the number drawn.
        num_chunks: Graph runs, for the cost of emulated devices; tells how many were drawn, so it never leaves a phone.
    """

    names: tuple[str, ...]
    sums: tuple[float, ...]
    num_examples: int
    num_chunks: int

    def by_name(self) -> dict[str, float]:
        return dict(zip(self.names, self.sums, strict=True))


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
    terms = assignment.terms
    check_trainable(assignment, {terms.split: examples})
    drawn = _draw(terms.privacy, len(examples), private_random)
    values = _release_values(assignment, examples, drawn)
    num_chunks = assignment.session.num_chunks(len(drawn))
    return MetricSums(
        terms.release, _release(values, terms.privacy, examples, private_random), len(examples), num_chunks
    )


def measure_reward(
    session: StepSession,
    parameters: tuple[Vector, Vector],
    terms: RewardTerms,
    examples: Examples,
    private_random: PrivateRandom,
) -> MetricSums:
    """Sum what training was worth over a split that it did not train weights on, noised as the terms say.

    A bounded loss is told as what is left of its bound, 1 - loss / loss_bound: so a null record, and a client whose
    report never comes, add nothing and count as the worst loss, where a plain loss would have them count as the best.
    A loss that is not finite on a finite x is above every other.

    Args:
        parameters: f32[P] before and after.

    Raises:
        DivergedError: A loss is not finite and nothing bounds it.
    """
    drawn = _draw(terms.privacy, len(examples), private_random)
    records = take_records(session.manifest, examples, drawn)
    before, after = parameters
    losses = session.evaluate(after, *records)[0].astype(np.float64)
    if terms.release == "gain":
        worth = _bounded_gains(session.evaluate(before, *records)[0].astype(np.float64), losses, terms.loss_bound)
    else:
        worth = _what_is_left(losses, records[2], terms.loss_bound)
    num_chunks = session.num_chunks(len(drawn)) * num_evaluations(terms)
    sums = _release(worth[:, None], terms.privacy, examples, private_random)
    return MetricSums((terms.release,), sums, len(examples), num_chunks)


def num_evaluations(terms: RewardTerms) -> int:
    """How often a reward has a split evaluated."""
    return 2 if terms.release == "gain" else 1


def _draw(privacy: PrivacyTerms | ClientPrivacyTerms | None, n: int, private_random: PrivateRandom) -> Indices:
    if not isinstance(privacy, PrivacyTerms):
        return np.arange(n)
    return np.flatnonzero(private_random.poisson_draw(Purpose.VOTES_AND_METRICS, _DRAW, n, privacy.sample_rate))


def _release(
    values: Floats,
    privacy: PrivacyTerms | ClientPrivacyTerms | None,
    examples: Examples,
    private_random: PrivateRandom,
) -> tuple[float, ...]:
    """Sums over records f64[m, k] of at most 1 each, with the device's noise where the terms put it here."""
    sums = values.sum(axis=0)
    if isinstance(privacy, ClientPrivacyTerms):
        sums /= len(examples)
    if privacy is not None and privacy.noise_at == "device":
        normals = private_random.normals(Purpose.VOTES_AND_METRICS, _NOISE, len(sums))
        sums = add_lattice_noise(sums, sqrt(len(sums)), privacy.noise_multiplier, normals)
    return tuple(map(float, sums))


def _release_values(assignment: LoadedAssignment[EvaluateTerms], examples: Examples, drawn: Indices) -> Floats:
    """What each drawn example adds to the release, f64[m, len(release)]; in [0, 1] each where a bound is given."""
    terms, names = assignment.terms, assignment.session.manifest.metrics
    unknown = set(terms.release) - {"loss", *names}
    if unknown:
        raise ValueError(f"release asks for {sorted(unknown)}, the artifact has loss, {', '.join(names)}")
    records = take_records(assignment.session.manifest, examples, drawn)
    losses, metrics = assignment.session.evaluate(assignment.parameters, *records)
    columns = dict(zip(names, np.clip(metrics, 0.0, 1.0).T.astype(np.float64), strict=True))
    if "loss" in terms.release:
        columns["loss"] = _bounded_losses(losses.astype(np.float64), terms.loss_bound)
    return np.stack([columns[name] for name in terms.release], axis=1)


def _bounded_losses(losses: Floats, loss_bound: float | None) -> Floats:
    if loss_bound is not None:
        return np.clip(losses, 0.0, loss_bound) / loss_bound
    _check_finite(losses)
    return losses


def _what_is_left(losses: Floats, is_valid: Flags, loss_bound: float | None) -> Floats:
    """Of each loss's bound, in [0, 1], none of a null record; the plain losses where there is no bound."""
    bounded = _bounded_losses(losses, loss_bound)
    return bounded if loss_bound is None else np.where(is_valid, 1.0 - bounded, 0.0)


def _bounded_gains(before: Floats, after: Floats, loss_bound: float | None) -> Floats:
    if loss_bound is None:
        _check_finite(before)
        _check_finite(after)
        return before - after
    is_either = np.isfinite(before) | np.isfinite(after)
    gains: Floats = np.subtract(before, after, where=is_either, out=np.zeros_like(before))
    return np.clip(gains, -loss_bound, loss_bound) / loss_bound


def _check_finite(losses: Floats) -> None:
    num_bad = int((~np.isfinite(losses)).sum())
    if num_bad:
        raise DivergedError(f"{num_bad} of {len(losses)} losses are not finite: lower learning_rate or set loss_bound")
