"""Fuse what clients reported: weighted means of updates, private sums, metric sums; float64, in the order given.

With `noise_at = "sum"` the server saw every client's raw sum: what leaves this file is private against whoever sees the
aggregate, not against the server.
"""

from collections.abc import Iterable, Sequence
from math import sqrt

import numpy as np

from device_runtime.arrays import Floats, Vector
from device_runtime.lattice_noise import add_lattice_noise
from device_runtime.private_random import PrivateRandom, Purpose
from device_runtime.terms import EvaluateTerms, TrainTerms
from pipeline.coordinator.plans import RoundPlan


def aggregate_updates(
    plan: RoundPlan, updates: Iterable[tuple[Vector, int]], num_parameters: int, private_random: PrivateRandom
) -> Floats:
    """The round's `parameter_update` f64[P] from the clients' vectors f32[P] and public counts, taken one at a time.

    Raises:
        ValueError: No update, or a plan that does not train.
    """
    if plan.train is None:
        raise ValueError(f"round {plan.round_key!r} does not train: it has no updates")
    is_sum = plan.privacy is not None and plan.privacy.noise_at == "sum"
    is_weighted = plan.weighting == "examples" and not is_sum
    total, weight, num_examples = np.zeros(num_parameters), 0, 0
    for vector, count in updates:
        total += np.float64(count if is_weighted else 1) * vector
        weight += count if is_weighted else 1
        num_examples += count
    if weight == 0:
        raise ValueError(f"round {plan.round_key!r} has no update to aggregate")
    return _private_step(plan.train, total, num_examples, private_random) if is_sum else total / weight


def _private_step(terms: TrainTerms, gradient_sum: Floats, num_examples: int, private_random: PrivateRandom) -> Floats:
    """One logical step of DP-SGD (arXiv:1607.00133, Algorithm 1) over all reporters, as an update of the parameters."""
    if terms.privacy is None or terms.max_grad_norm is None:
        raise ValueError("noise on the sum needs privacy terms and max_grad_norm")
    normals = private_random.normals(Purpose.NOISE, 0, len(gradient_sum))
    noised = add_lattice_noise(gradient_sum, terms.max_grad_norm, terms.privacy.noise_multiplier, normals)
    return -terms.learning_rate * noised / (terms.privacy.sample_rate * num_examples)


def aggregate_sums(
    terms: EvaluateTerms, reports: Sequence[dict[str, float]], private_random: PrivateRandom
) -> dict[str, float]:
    """Metric sums over all reports, with the server's noise where the terms put it on the sum."""
    sums = np.array([[report[name] for name in terms.release] for report in reports]).sum(axis=0)
    if terms.privacy is not None and terms.privacy.noise_at == "sum":
        normals = private_random.normals(Purpose.VOTES_AND_METRICS, 1, len(sums))
        sums = add_lattice_noise(sums, sqrt(len(sums)), terms.privacy.noise_multiplier, normals)
    return dict(zip(terms.release, map(float, sums), strict=True))
