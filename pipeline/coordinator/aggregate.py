"""Fuse what clients reported: weighted means of updates, private sums, metric sums; float64, in the order given.

With `noise_at = "sum"` the server saw what every client sent without noise: what leaves this file is private against
whoever sees the aggregate, not against the server. In the client unit who did not report counts as zeros: sums are
divided by a constant, here or by whoever reads them.
"""

from collections.abc import Iterable, Sequence
from math import sqrt

import numpy as np

from device_runtime.arrays import Floats, Vector
from device_runtime.lattice_noise import add_lattice_noise
from device_runtime.private_random import PrivateRandom, Purpose
from device_runtime.segments import moving_segments, num_moving, positions_of
from device_runtime.specs import Manifest
from device_runtime.terms import ARCHITECTURE, ClientPrivacyTerms, PrivacyTerms, TrainTerms
from pipeline.coordinator.plans import AskedSums, RoundPlan


def aggregate_updates(
    plan: RoundPlan, manifest: Manifest, updates: Iterable[tuple[Vector, int]], private_random: PrivateRandom
) -> Floats:
    """The round's `parameter_update` f64[p] from the clients' vectors f32[p] and public counts, taken one at a time.

    Args:
        manifest: Of the round's artifact; p of its parameters move.

    Raises:
        ValueError: No update, or a plan that does not train.
    """
    terms = plan.train
    if terms is None:
        raise ValueError(f"round {plan.round_key!r} does not train: it has no updates")
    is_weighted = plan.weighting == "examples" and not terms.is_raw_sum
    total, num_reports, num_examples = np.zeros(num_moving(manifest, terms.moves)), 0, 0
    for vector, count in updates:
        total += np.float64(count if is_weighted else _share(vector, terms.privacy)) * vector
        num_reports += 1
        num_examples += count
    if num_reports == 0:
        raise ValueError(f"round {plan.round_key!r} has no update to aggregate")
    privacy = terms.privacy
    if privacy is not None and privacy.noise_at == "sum":
        normals = private_random.normals(Purpose.NOISE, 0, len(total))
        total = add_lattice_noise(total, _sensitivity(terms, privacy), privacy.noise_multiplier, normals)
    if isinstance(privacy, ClientPrivacyTerms):
        return total / privacy.expected_reports
    if privacy is not None and terms.is_raw_sum:
        # One logical step of DP-SGD (arXiv:1607.00133, Algorithm 1) over all reporters.
        return -_learning_rates(terms, manifest) * total / (privacy.sample_rate * num_examples)
    return total / (num_examples if is_weighted else num_reports)


def aggregate_sums(
    asked: AskedSums, reports: Sequence[dict[str, float]], private_random: PrivateRandom
) -> dict[str, float]:
    """Metric sums over all reports, with the server's noise where the terms put it on the sum."""
    rows, privacy = np.array([[report[name] for name in asked.names] for report in reports]), asked.privacy
    if isinstance(privacy, ClientPrivacyTerms) and privacy.noise_at == "sum":
        rows = np.clip(rows, *np.transpose([asked.range_of(name) for name in asked.names]))
    sums = rows.sum(axis=0)
    if privacy is not None and privacy.noise_at == "sum":
        normals = private_random.normals(Purpose.VOTES_AND_METRICS, 1, len(sums))
        sums = add_lattice_noise(sums, sqrt(len(sums)), privacy.noise_multiplier, normals)
    return dict(zip(asked.names, map(float, sums), strict=True))


def _share(vector: Vector, privacy: PrivacyTerms | ClientPrivacyTerms | None) -> float:
    """What of a client's update counts: where the server adds the noise it clips again, whatever the phone did."""
    if not isinstance(privacy, ClientPrivacyTerms) or privacy.noise_at == "device":
        return 1.0
    norm = float(np.linalg.norm(vector.astype(np.float64)))
    bound = _given(privacy.max_norm)
    return bound / norm if norm > bound else 1.0


def _sensitivity(terms: TrainTerms, privacy: PrivacyTerms | ClientPrivacyTerms) -> float:
    return _given(privacy.max_norm if isinstance(privacy, ClientPrivacyTerms) else terms.step_clip)


def _given(clip: float | None) -> float:
    if clip is None:
        raise ValueError("noise on the sum needs a clip: without one it protects nothing")
    return clip


def _learning_rates(terms: TrainTerms, manifest: Manifest) -> Floats:
    """Of each value that moves, f64[p]: architecture weights may have their own."""
    rates = np.full(manifest.num_parameters, terms.learning_rate)
    if terms.architecture is not None:
        rates[positions_of(manifest, {ARCHITECTURE})] = terms.architecture.learning_rate
    return rates[positions_of(manifest, moving_segments(manifest, terms.moves))]
