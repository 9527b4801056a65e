"""Bring times to a phone that few rows are known of: from other phones' kernels, or from a table of whole models.

Kernels: the times that the other phones' predictors tell are further columns of the work, so that a new phone may be
a multiple of one of them, a sum of several, or like none; the Gaussian process on what is left takes over their
kernels, since 50 rows tell what their own phone takes but not how far a row tells of its neighbours.

Whole models: one anchor model is measured on the new SoC. What others take beside the anchor, L[model] / L[anchor],
hangs on the kind of core, and SoCs on which the anchor itself takes about as long tend to be of a kind. So the ratio
is a mean over the table's SoCs whose weights fall with |log of the anchor's times there and here|. A plain ratio asks
a single SoC.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from profiles.regression import (
    Floats,
    Predictor,
    TimeModel,
    calibrate,
    checked_rows,
    conformal_ends,
    fit_smooth,
    one_thread,
    predict_left_out,
    work_terms,
)

LatencyTable = Mapping[str, Mapping[str, float]]  # milliseconds by model and SoC; not every pair need be there
_NEAR = 0.2  # SoCs whose times of the anchor differ by a fifth count e times less
_LEAST_SPREAD = 0.02  # of logs: measuring again differs by that
_SPREAD_BY_DISTANCE = 0.1


class TransferError(ValueError):
    """A table does not hold what a transfer needs; the message tells what to measure."""


@dataclass(frozen=True)
class ModelTime:
    """Milliseconds of one model on the new SoC, with the ends of its intervals."""

    median_ms: float
    interval80_ms: tuple[float, float]
    interval95_ms: tuple[float, float]


def fit_few(sources: Sequence[TimeModel], features: Floats, times_ms: Floats) -> TimeModel:
    """Fit a phone by few rows (40 to some hundreds) and the models of other phones for the same kind of kernel.

    Args:
        sources: One or more, of `fit_times`, over the same features.
        features: f64[n, d], positive.
        times_ms: f64[n], positive.

    Raises:
        ValueError: No source, too few rows or values that are not positive.
    """
    if not sources:
        raise ValueError("sources must have a model of another phone, got none; fit_times does without")
    features, times_ms = checked_rows(features, times_ms)
    kernels = tuple(kernel for source in sources for kernel in source.kernels)

    def columns(rows: Floats) -> Floats:
        return np.column_stack([work_terms(rows), *(np.exp(source.log_ms(rows)) for source in sources)])

    def fit(rows: Floats, its_ms: Floats) -> Predictor:
        return fit_smooth(rows, its_ms, columns, kernels)

    with one_thread():
        errors = np.log(times_ms) - predict_left_out(fit, features, times_ms)
        return calibrate(fit(features, times_ms), features, errors, kernels)


def choose_anchor(table: LatencyTable, candidates: Iterable[str] | None = None) -> str:
    """The model to measure on a new SoC: between two SoCs of the table its ratios say most about the others'.

    Args:
        candidates: Names of models to choose from, by default all.

    Raises:
        TransferError: No candidate has another model beside it on two SoCs.
    """
    spreads = {name: _median_disagreement(table, name) for name in sorted(table if candidates is None else candidates)}
    best = min(spreads, key=lambda name: spreads[name], default=None)
    if best is None or not np.isfinite(spreads[best]):
        raise TransferError("no model of the table is known with another one on two SoCs; add rows of a second SoC")
    return best


def _median_disagreement(table: LatencyTable, anchor: str) -> float:
    differences = [
        abs(one - other)
        for model in table
        if model != anchor
        for one, other in combinations(_log_ratios(table, model, anchor).values(), 2)
    ]
    return float(np.median(differences)) if differences else np.inf


def _log_ratios(table: LatencyTable, model: str, anchor: str) -> dict[str, float]:
    known, beside = table[model], table.get(anchor, {})
    return {soc: float(np.log(known[soc] / beside[soc])) for soc in known if soc in beside}


def transfer_model(table: LatencyTable, model: str, anchor: str, anchor_ms: float, errors: Floats) -> ModelTime:
    """Predict a model on a SoC where the anchor takes `anchor_ms`.

    Args:
        table: Of other SoCs.
        errors: Of `transfer_errors`, from tables like this one.

    Raises:
        TransferError: No SoC of the table has both models.
    """
    log_ms, spread = _log_transfer(table, model, anchor, anchor_ms)
    ends = [np.exp(log_ms + spread * conformal_ends(errors, share)) for share in (0.8, 0.95)]
    (low80, high80), (low95, high95) = (map(float, end) for end in ends)
    return ModelTime(float(np.exp(log_ms)), (low80, high80), (low95, high95))


def transfer_errors(tables: Iterable[LatencyTable]) -> Floats:
    """Errors of log times in units of their spread, ascending: each SoC of each table once taken for the new one."""
    return np.sort([error for table in tables for soc in socs_of(table) for error in _errors_on(table, soc)])


def socs_of(table: LatencyTable) -> list[str]:
    """All SoCs of a table, by name."""
    return sorted({soc for times in table.values() for soc in times})


def without_soc(table: LatencyTable, soc: str) -> LatencyTable:
    """The table as it is known before `soc` is."""
    return {model: {other: ms for other, ms in times.items() if other != soc} for model, times in table.items()}


def _errors_on(table: LatencyTable, soc: str) -> Iterable[float]:
    rest = without_soc(table, soc)
    measured = {model: times[soc] for model, times in table.items() if soc in times}
    try:
        anchor = choose_anchor(rest, measured)
    except TransferError:
        return
    for model, ms in measured.items():
        if model != anchor and _log_ratios(rest, model, anchor):
            log_ms, spread = _log_transfer(rest, model, anchor, measured[anchor])
            yield float(np.log(ms) - log_ms) / spread


def _log_transfer(table: LatencyTable, model: str, anchor: str, anchor_ms: float) -> tuple[float, float]:
    by_soc = _log_ratios(table, model, anchor)
    if not by_soc:
        raise TransferError(f"no SoC of the table has both {model!r} and the anchor {anchor!r}; choose another anchor")
    ratios = np.array([*by_soc.values()])
    distance = np.abs(np.log([table[anchor][soc] / anchor_ms for soc in by_soc]))
    weights = np.exp(-(distance - distance.min()) / _NEAR)
    weights /= weights.sum()
    ratio = float(weights @ ratios)
    # Unlike ratios near by, and no SoC near by, are both reasons to doubt.
    spread = float(np.sqrt(weights @ (ratios - ratio) ** 2 + _LEAST_SPREAD**2) + _SPREAD_BY_DISTANCE * distance.min())
    return float(np.log(anchor_ms)) + ratio, spread
