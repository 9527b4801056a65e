"""Predict times from a few positive features, fitted on 40 to 20,000 measured rows, with calibrated intervals.

A prediction is *work*, corrected. Work: a sum of products of features with factors >= 0, as overheads, bytes and
multiply-accumulates add up; it goes on sensibly beyond what was measured. What is left of the logarithm, a Gaussian
process (Matern 3/2, "Gaussian Processes for Machine Learning", 2006, eq. 4.17) or boosted trees explain, or both
averaged, as cross-validation finds: the process is better on few rows, trees follow jumps.

Other work on a phone disturbs measurements upwards and in bursts, so each part is fitted to be right in the middle:
the work with Huber's loss, the process with Student-t noise, the trees by absolute errors.

Intervals are quantiles of the errors of rows left out ("Cross-conformal predictors", arXiv:1208.0806), in units of the
error that is usual for such features. No chance is involved, and nothing is stored: a model is fitted again.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import combinations
from warnings import catch_warnings, simplefilter

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel
from sklearn.linear_model import LinearRegression, Ridge
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

Floats = NDArray[np.float64]
Predictor = Callable[[Floats], Floats]  # log times f64[n] of features f64[n, d]
Columns = Callable[[Floats], Floats]  # work f64[n, k] of features f64[n, d]
Fit = Callable[[Floats, Floats], Predictor]  # from features f64[n, d] and times f64[n]

MIN_ROWS = 40  # so that the smallest and the largest error left out bound 95%
MAX_FEATURES = 6  # 64 products
_SHARES = (1.0, 0.5, 0.0)  # of the process, beside the trees
_NUM_KERNEL_ROWS, _NUM_CENTRES = 200, 1000  # drawn rows: the process costs their cubes
_BLOCK = 128  # rows predicted at once: their covariances stay in the processor's cache
_NUM_REWEIGHTINGS, _NUM_PLAIN, _NUM_STUDENT_ROUNDS = 12, 4, 4
_STUDENT_FREEDOM = 4.0


@dataclass(frozen=True)
class TimePredictions:
    """What n rows take.

    Attributes:
        median_ms: f64[n].
        interval80_ms: f64[n, 2], low and high: four of five measurements lie between.
        interval95_ms: f64[n, 2], 19 of 20.
        is_outside: bool[n], whether a feature is beyond those fitted; the intervals are then widened by a rule.
    """

    median_ms: Floats
    interval80_ms: Floats
    interval95_ms: Floats
    is_outside: NDArray[np.bool_]


@dataclass(frozen=True)
class SmoothKernel:
    """A Matern 3/2 covariance of log features with lengths f64[d], and the variance of noise."""

    variance: float
    lengths: Floats
    noise: float

    def covariance(self, rows: Floats, others: Floats) -> Floats:
        """f64[n, m] of log features f64[n, d] and f64[m, d]."""
        scaled, other = rows / self.lengths, others / self.lengths
        squares = (scaled**2).sum(1)[:, None] + (other**2).sum(1) - 2 * scaled @ other.T
        distance = np.sqrt(3 * np.maximum(squares, 0))
        return np.asarray(self.variance * (1 + distance) * np.exp(-distance))


@dataclass(frozen=True)
class TimeModel:
    """A fitted predictor; `fit_times` and `profiles.transfer.fit_few` make it.

    Attributes:
        log_ms: Of the median.
        log_scale: Of the usual error of log times.
        errors: f64[rows], of rows left out, in usual errors, ascending.
        bounds: f64[2, d], smallest and largest fitted features.
        kernels: Of the Gaussian process.
    """

    log_ms: Predictor = field(repr=False)
    log_scale: Predictor = field(repr=False)
    errors: Floats = field(repr=False)
    bounds: Floats
    kernels: tuple[SmoothKernel, ...]

    def predict(self, features: ArrayLike) -> TimePredictions:
        """Predict rows f64[n, d].

        Raises:
            ValueError: Features are not positive, or not as many as were fitted.
        """
        rows = checked_features(features)
        if rows.shape[1] != self.bounds.shape[1]:
            raise ValueError(f"rows must have the {self.bounds.shape[1]} fitted features, got {rows.shape[1]}")
        with one_thread():
            log_ms, inside = self.log_ms(rows), np.clip(rows, *self.bounds)
        distance = np.abs(np.log(rows / inside)).sum(1)
        ends = [np.outer(np.exp(self.log_scale(inside)), conformal_ends(self.errors, share)) for share in (0.8, 0.95)]
        # Beyond the rows time grows with a feature to some power between 0 and 1. Not knowing which, a prediction at a
        # factor f is wrong by a factor f at most, and by its root when it took the middle.
        ends = [end + np.outer(distance, (-part, part)) for end, part in zip(ends, (0.5, 1.0), strict=True)]
        interval80, interval95 = (np.exp(log_ms[:, None] + end) for end in ends)
        return TimePredictions(np.exp(log_ms), interval80, interval95, distance > 1e-9)


def fit_times(features: ArrayLike, times_ms: ArrayLike) -> TimeModel:
    """Fit the rows of one kind of kernel or layer on one device.

    Args:
        features: f64[n, d], positive: sizes whose products make the work, such as channels, pixels and batch.
        times_ms: f64[n], positive.

    Raises:
        ValueError: Too few rows, too many features, or a value that is not positive.
    """
    with one_thread():
        return _fit_times(*checked_rows(features, times_ms))


@dataclass(frozen=True)
class TableModel:
    """What lies between the points of a table; `fit_table` makes it.

    Attributes:
        log_ms: Of the median; without intervals, which a sum of many rows has no use for.
        bounds: f64[2, d], smallest and largest fitted features.
        left_out_ms: f64[n], what each row is predicted to be without the rows of its group.
    """

    log_ms: Predictor = field(repr=False)
    bounds: Floats
    left_out_ms: Floats = field(repr=False)


def fit_table(features: ArrayLike, times_ms: ArrayLike, groups: ArrayLike) -> TableModel:
    """Fit few rows or many by work and the Gaussian process alone: ten times as fast to ask as with trees.

    Args:
        features: f64[n, d], positive, n >= 2.
        times_ms: f64[n], positive.
        groups: i64[n], rows that are left out together; one row of each group may stand alone.
    """
    rows, times = checked_rows(features, times_ms, min_rows=2)
    with one_thread():
        kernel = own_kernel(rows, times)

        def fit(some: Floats, its_ms: Floats) -> Predictor:
            return fit_smooth(some, its_ms, work_terms, [kernel])

        left_out = predict_left_out(fit, rows, times, np.asarray(groups, np.int64))
        return TableModel(fit(rows, times), np.stack([rows.min(0), rows.max(0)]), np.exp(left_out))


def one_thread() -> AbstractContextManager[object]:
    """Fit and predict alike on any number of cores, and fast on busy ones, where trees' threads wait by spinning."""
    return threadpool_limits(1)  # type: ignore[no-any-return]


def _fit_times(rows: Floats, times: Floats) -> TimeModel:
    fits = (_fit_process, _fit_trees)
    left_out = [predict_left_out(fit, rows, times) for fit in fits]
    share = min(_SHARES, key=lambda one: float(np.abs(np.log(times) - _mean(one, left_out)).mean()))
    # Whichever has no share is not asked: the process takes most of a prediction's time.
    parts = [fit(rows, times) for fit, own in zip(fits, (share, 1 - share), strict=True) if own]
    errors = np.log(times) - _mean(share, left_out)
    return calibrate(
        lambda asked: np.mean([part(asked) for part in parts], 0), rows, errors, (own_kernel(rows, times),)
    )


def calibrate(log_ms: Predictor, rows: Floats, errors: Floats, kernels: tuple[SmoothKernel, ...]) -> TimeModel:
    """Give a predictor intervals by its errors of log times, f64[n], on rows left out."""
    log_scale = _fit_scale(rows, errors)
    in_usual_errors = np.sort(errors / np.exp(log_scale(rows)))
    return TimeModel(log_ms, log_scale, in_usual_errors, np.stack([rows.min(0), rows.max(0)]), kernels)


def predict_left_out(fit: Fit, rows: Floats, times: Floats, groups: NDArray[np.int64] | None = None) -> Floats:
    """Log times f64[n], each predicted without its row: by four fifths of the rows, of up to 200 by nine tenths.

    Args:
        groups: i64[n], rows that are left out together; None for each alone.
    """
    num_folds = 10 if len(rows) <= 200 else 5
    names, group = (None, np.arange(len(rows))) if groups is None else np.unique(groups, return_inverse=True)
    fold = (np.random.default_rng(0).permutation(len(rows) if names is None else len(names)) % num_folds)[group]
    log_ms = np.empty(len(rows))
    for one in range(num_folds):
        log_ms[fold == one] = fit(rows[fold != one], times[fold != one])(rows[fold == one])
    return log_ms


def conformal_ends(errors: Floats, share: float) -> Floats:
    """The two of n ascending errors between which a further one lies with probability `share` or little more."""
    num_outside = int((len(errors) + 1) * (1 - share) / 2 + 1e-9)  # at each end, of the n + 1 places it may take
    return np.array([errors[max(num_outside, 1) - 1], errors[-max(num_outside, 1)]])


def work_terms(rows: Floats) -> Floats:
    """f64[n, 2**d]: the product of each subset of the features, 1 first."""
    sizes = range(rows.shape[1] + 1)
    return np.column_stack(
        [rows[:, one].prod(1) for size in sizes for one in map(list, combinations(sizes[:-1], size))]
    )


def fit_work(rows: Floats, times: Floats, columns: Columns) -> Predictor:
    """Fit times as a sum of columns with factors >= 0, by small ratios either way alike."""
    terms = columns(rows)
    unit = terms.mean(0)
    terms /= unit
    predicted, weights = times, np.ones(len(times))
    for i in range(_NUM_REWEIGHTINGS):
        # Squares of relative errors alone would favour small sums: those are never more than 100% off.
        root = np.sqrt(weights / (times * predicted))
        factors = LinearRegression(positive=True, fit_intercept=False).fit(terms * root[:, None], times * root).coef_
        predicted = np.maximum(terms @ factors, 1e-9 * times)
        if i + 1 >= _NUM_PLAIN:  # Huber's weights, once all rows together have shown the way
            error = np.abs(np.log(times / predicted))
            weights = 1 / np.maximum(error / (1.5 * np.median(error) + 1e-9), 1)
    least = 1e-3 * float(predicted.min())
    factors = np.asarray(factors / unit, np.float64)
    return lambda asked: np.asarray(np.log(np.maximum(columns(asked) @ factors, least)), np.float64)


def own_kernel(rows: Floats, times: Floats) -> SmoothKernel:
    """Find the likeliest kernel of what work leaves of the log times."""
    logs, residuals = np.log(rows), np.log(times) - fit_work(rows, times, work_terms)(rows)
    chosen = np.random.default_rng(0).permutation(len(logs))[:_NUM_KERNEL_ROWS]
    unit = np.where(np.ptp(logs, 0) > 0, logs.std(0), 1)
    variance = float(residuals.var()) + 1e-9
    start = ConstantKernel(1.0) * Matern([1.5] * logs.shape[1], (0.05, 1e3), nu=1.5) + WhiteKernel(0.3, (1e-4, 10))
    with catch_warnings():
        simplefilter("ignore", ConvergenceWarning)  # a length at its bound is an answer: the feature does not matter
        process = GaussianProcessRegressor(start).fit(logs[chosen] / unit, residuals[chosen] / np.sqrt(variance))
    smooth, noise = process.kernel_.k1, process.kernel_.k2.noise_level
    lengths = np.broadcast_to(smooth.k2.length_scale, unit.shape) * unit
    return SmoothKernel(variance * float(smooth.k1.constant_value), lengths, variance * float(noise))


def fit_smooth(rows: Floats, times: Floats, columns: Columns, kernels: Sequence[SmoothKernel]) -> Predictor:
    """Fit work, and to what it leaves the mean over `kernels` of Gaussian processes."""
    work = fit_work(rows, times, columns)
    chosen = np.random.default_rng(0).permutation(len(rows))[:_NUM_CENTRES]
    centres = np.log(rows[chosen])
    residuals = np.log(times[chosen]) - work(rows[chosen])
    factors = [_fit_centres(kernel, centres, residuals) for kernel in kernels]

    def predict(asked: Floats) -> Floats:
        log_ms = work(asked)
        for start in range(0, len(asked), _BLOCK):
            logs = np.log(asked[start : start + _BLOCK])
            parts = [kernel.covariance(logs, centres) @ own for kernel, own in zip(kernels, factors, strict=True)]
            log_ms[start : start + _BLOCK] += np.mean(parts, axis=0)
        return log_ms

    return predict


def _fit_process(rows: Floats, times: Floats) -> Predictor:
    # A kernel found with the rows left out would know them: at 50 rows 80% intervals then cover 76% instead of 80%.
    return fit_smooth(rows, times, work_terms, [own_kernel(rows, times)])


def _fit_centres(kernel: SmoothKernel, centres: Floats, residuals: Floats) -> Floats:
    """Factors f64[n] of the covariances with each centre."""
    covariance = kernel.covariance(centres, centres)
    weights = np.ones(len(centres))
    for _ in range(_NUM_STUDENT_ROUNDS):
        inverse = np.linalg.inv(covariance + np.diag(kernel.noise / weights + 1e-9 * kernel.variance))
        factors = inverse @ residuals
        squares = (factors / np.diag(inverse)) ** 2  # of errors without the own row, eq. 5.12 of the same book
        standard = 0.455 * squares / (np.median(squares) + 1e-18)  # the median square of a standard normal
        weights = (_STUDENT_FREEDOM + 1) / (_STUDENT_FREEDOM + standard)
    return np.asarray(factors)


def _fit_trees(rows: Floats, times: Floats) -> Predictor:
    work = fit_work(rows, times, work_terms)
    trees = HistGradientBoostingRegressor(
        loss="absolute_error",
        max_iter=150,
        learning_rate=0.06,
        min_samples_leaf=10,
        early_stopping=False,
        random_state=0,
    )
    trees.fit(_tree_inputs(rows), np.log(times) - work(rows))
    return lambda asked: work(asked) + trees.predict(_tree_inputs(asked))


def _tree_inputs(rows: Floats) -> Floats:
    return np.log(work_terms(rows)[:, 1:])  # a split of a product is a diagonal one of its features


def _fit_scale(rows: Floats, errors: Floats) -> Predictor:
    """Log of the usual error, as a power of the features: short runs are disturbed the most."""
    usual = np.log(np.abs(errors) + 0.2 * np.median(np.abs(errors)) + 1e-9)
    line = Ridge(50.0).fit(np.log(rows), usual)
    return lambda asked: np.asarray(line.predict(np.log(asked)))


def _mean(share: float, log_ms: Sequence[Floats]) -> Floats:
    return share * log_ms[0] + (1 - share) * log_ms[1]


def checked_rows(features: ArrayLike, times_ms: ArrayLike, min_rows: int = MIN_ROWS) -> tuple[Floats, Floats]:
    """Features f64[n, d] and times f64[n], by the rules of `fit_times`."""
    rows, times = checked_features(features), np.asarray(times_ms, np.float64)
    if times.shape != (len(rows),):
        raise ValueError(f"times_ms must have one time for each of {len(rows)} rows, got shape {times.shape}")
    if not (np.isfinite(times) & (times > 0)).all():
        raise ValueError(
            f"times_ms must be positive, got {times[~(times > 0) | ~np.isfinite(times)][0]}; drop such rows"
        )
    if len(rows) < min_rows:
        raise ValueError(f"rows must be >= {min_rows} for a 95% interval, got {len(rows)}; measure more kernels")
    if not 1 <= rows.shape[1] <= MAX_FEATURES:
        raise ValueError(f"features must be 1 to {MAX_FEATURES}, got {rows.shape[1]}; multiply sizes that go together")
    return rows, times


def checked_features(features: ArrayLike) -> Floats:
    """Features f64[n, d], all positive, since their logarithms are taken."""
    rows = np.asarray(features, np.float64)
    if rows.ndim != 2:
        raise ValueError(f"features must have shape [rows, features], got {list(rows.shape)}")
    if not (np.isfinite(rows) & (rows > 0)).all():
        raise ValueError("features must be positive and finite; add 1 to counts that may be 0")
    return rows
