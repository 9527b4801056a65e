"""Do the predictors hold on phones that others measured? Published times, beside what is simple.

*Layers*: times of a training step of single layers on three phones (FLASH, 20,000 rows for each phone and kind of
layer): a model of 1,000 rows beside a random forest on the same. *New phone*: the same with 50 rows and the models of
the two other phones, beside the 50 rows alone. *Whole models*: latencies on eight SoCs (Paddle-Lite), each table with
one anchor model measured on the SoC, beside plain ratios of pairs of SoCs through the same anchor.

A row is for testing where the sha256 of its line modulo 5 is 0; no model, no anchor and no interval sees it. Training
rows are drawn from the others. What is tested is printed: line (0 is the header), measured and predicted milliseconds,
the ends of both intervals, and what is simple.
"""

import argparse
import csv
import gzip
import hashlib
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.ensemble import RandomForestRegressor

from bench.measuring import Bar, Result, new_result, print_result
from profiles.regression import Floats, TimeModel, TimePredictions, fit_times
from profiles.transfer import (
    LatencyTable,
    TransferError,
    choose_anchor,
    fit_few,
    transfer_errors,
    transfer_model,
    without_soc,
)

DATA = Path(__file__).parent.parent.parent / "shared" / "data"
LAYERS = Path("phones", "flash-ondevice-training", "flash_layer_train_time.csv.gz")
MODELS = Path("phones", "paddle-lite-benchmark", "paddle_lite_benchmark.csv")
MANY, FEW, DRAWS, TESTED = 1000, 50, 5, 500
PACKAGES = ("numpy", "scikit-learn")
COLUMNS = (
    "task",
    "device",
    "kind",
    "draw",
    "within_10",
    "simple_within_10",
    "median_error",
    "covered_80",
    "covered_95",
)
Row = dict[str, Any]
SCORES = ("within_10", "median_error", "covered_80", "covered_95", "simple_within_10")


@dataclass(frozen=True)
class Layers:
    """Rows of one kind of layer on one phone.

    Attributes:
        lines: i64[n], of the file.
        features: f64[n, 4], input and output size, batch and sequence length.
        times_ms: f64[n].
        is_test: bool[n].
    """

    lines: np.ndarray[Any, np.dtype[np.int64]]
    features: Floats
    times_ms: Floats
    is_test: np.ndarray[Any, np.dtype[np.bool_]]

    def drawn(self, rng: np.random.Generator, num_train: int) -> tuple["Layers", "Layers"]:
        """Rows to train with and rows to test on."""
        train = rng.permutation(np.flatnonzero(~self.is_test))[:num_train]
        test = rng.permutation(np.flatnonzero(self.is_test))[:TESTED]
        return self.taken(train), self.taken(np.sort(test))

    def taken(self, rows: np.ndarray[Any, Any]) -> "Layers":
        return Layers(self.lines[rows], self.features[rows], self.times_ms[rows], self.is_test[rows])


@dataclass(frozen=True)
class Latency:
    """One row of the table of whole models."""

    line: int
    config: str
    model: str
    soc: str
    ms: float
    is_test: bool


def main() -> None:
    """Run the bench; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one draw of training rows instead of five")
    parser.add_argument("--data", type=Path, default=DATA, help="folder with phones/ in it")
    parser.add_argument("-o", "--output", type=Path, help="write the JSON object to this file as well")
    arguments = parser.parse_args()
    print_result(measure(arguments.data, 1 if arguments.quick else DRAWS), COLUMNS, arguments.output)


def measure(data: Path, num_draws: int) -> Result:
    """All rows and bars."""
    result = new_result("predict_published", PACKAGES)
    published = read_layers(data / LAYERS)
    result.rows.extend(row for own in published.items() for row in layer_rows(*own, num_draws))
    for kind in sorted({kind for _, kind in published}):
        phones = {phone: rows for (phone, its_kind), rows in published.items() if its_kind == kind}
        result.rows.extend(new_phone_rows(phones, kind, num_draws))
    result.rows.extend(model_rows(read_latencies(data / MODELS)))
    return replace(result, bars=[*bars_of(result.rows)])


def is_test(line: str) -> bool:
    """Whether a line of a table is held back, by the sha256 of its text without its end."""
    return int(hashlib.sha256(line.encode()).hexdigest(), 16) % 5 == 0


def read_layers(path: Path) -> dict[tuple[str, str], Layers]:
    """Rows by phone and kind of layer."""
    rows = defaultdict(list)
    text = gzip.decompress(path.read_bytes()).decode()
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n")):
        phone, kind, *values = line.split(",") if number and line else ("", "")
        if values:
            rows[phone, kind].append((number, *map(float, values), is_test(line)))
    return {key: _layers(np.array(own)) for key, own in rows.items()}


def _layers(table: Floats) -> Layers:
    return Layers(table[:, 0].astype(np.int64), table[:, 1:5], table[:, 5] * 1e3, table[:, 6] == 1)


def read_latencies(path: Path) -> list[Latency]:
    """The table of whole models."""
    lines = path.read_text(encoding="utf-8").split("\n")
    read = ((number, line, next(csv.reader([line]))) for number, line in enumerate(lines) if number and line)
    return [
        Latency(number, f"{section} {config}".strip(), model, soc, float(ms), is_test(line))
        for number, line, (section, config, model, soc, ms) in read
    ]


def layer_rows(of: tuple[str, str], rows: Layers, num_draws: int) -> Iterator[Row]:
    """1,000 rows of a phone and kind of layer: ours and a random forest."""
    for draw in range(num_draws):
        train, test = rows.drawn(np.random.default_rng((draw, MANY)), MANY)
        forest = RandomForestRegressor(random_state=draw).fit(train.features, train.times_ms)
        model = fit_times(train.features, train.times_ms)
        row = _row(("layers", *of, draw), test, model.predict(test.features), forest.predict(test.features))
        yield row | {"seconds_of_10000": seconds_of(model, rows.features[:10_000])}


def new_phone_rows(phones: Mapping[str, Layers], kind: str, num_draws: int) -> Iterator[Row]:
    """50 rows of each phone in turn and all that others' training rows tell: ours, and the 50 rows alone."""
    models = {name: _fit_all(rows) for name, rows in phones.items()}
    for phone, rows in phones.items():
        sources = [model for name, model in models.items() if name != phone]
        for draw in range(num_draws):
            train, test = rows.drawn(np.random.default_rng((draw, FEW)), FEW)
            model = fit_few(sources, train.features, train.times_ms)
            alone = fit_times(train.features, train.times_ms).predict(test.features)
            row = _row(("new phone", phone, kind, draw), test, model.predict(test.features), alone.median_ms)
            yield row | {"seconds_of_10000": seconds_of(model, rows.features[:10_000])}


def _fit_all(rows: Layers) -> TimeModel:
    train = rows.taken(np.flatnonzero(~rows.is_test))
    return fit_times(train.features, train.times_ms)


def seconds_of(model: TimeModel, features: Floats) -> float:
    """Processor seconds of one call; the machine may be busy."""
    start = time.process_time()
    model.predict(features)
    return time.process_time() - start


def model_rows(latencies: Sequence[Latency]) -> Iterator[Row]:
    """Every test row that an anchor leads to, by SoC: ours, and a ratio for each other SoC that has both models."""
    tables: dict[str, dict[str, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    for one in latencies:
        if not one.is_test:
            tables[one.config][one.model][one.soc] = one.ms
    for soc in sorted({one.soc for one in latencies}):
        others = {config: without_soc(table, soc) for config, table in tables.items()}
        errors = transfer_errors(others.values())
        wanted = [one for one in latencies if one.is_test and one.soc == soc]
        tested = [_transferred(one, tables[one.config], others[one.config], errors) for one in wanted]
        if tested:
            yield _model_row(soc, [one for one in tested if one], tested.count(None))


def _transferred(wanted: Latency, table: LatencyTable, others: LatencyTable, errors: Floats) -> list[Any] | None:
    measured = {model: times[wanted.soc] for model, times in table.items() if wanted.soc in times}
    try:
        anchor = choose_anchor(others, measured)
        found = transfer_model(others, wanted.model, anchor, measured[anchor], errors)
    except (TransferError, KeyError):
        return None  # nothing to go by: no SoC but the new one has this model, or none has the anchor too
    ratios = [
        others[wanted.model][soc] * measured[anchor] / others[anchor][soc]
        for soc in sorted(others[wanted.model])
        if soc in others[anchor]
    ]
    ends = (*found.interval80_ms, *found.interval95_ms)
    return [wanted.line, wanted.ms, *_rounded((found.median_ms, *ends)), anchor, _rounded(ratios)]


def _model_row(soc: str, tested: list[list[Any]], num_unknown: int) -> Row:
    kind = f"{num_unknown} without anchor"
    named = {"task": "whole models", "device": soc, "kind": kind, "draw": None, "num_unknown": num_unknown}
    if not tested:
        return named | dict.fromkeys(SCORES) | {"tested": tested}
    numbers = np.array([one[:7] for one in tested], np.float64)
    found = TimePredictions(numbers[:, 2], numbers[:, 3:5], numbers[:, 5:7], np.zeros(len(numbers), np.bool_))
    pairs = np.array([[ratio, one[1]] for one in tested for ratio in one[-1]])
    scores = _scores(numbers[:, 1], found) | {"simple_within_10": _within_10(*pairs.T)}
    return named | scores | {"tested": tested}


def _row(named: tuple[str, str, str, int], test: Layers, found: TimePredictions, simple: Floats) -> Row:
    scores = _scores(test.times_ms, found) | {"simple_within_10": _within_10(simple, test.times_ms)}
    columns = [test.times_ms, found.median_ms, *found.interval80_ms.T, *found.interval95_ms.T, simple]
    numbers = (_rounded(row) for row in np.column_stack(columns))
    tested = [[int(line), *row] for line, row in zip(test.lines, numbers, strict=True)]
    return dict(zip(("task", "device", "kind", "draw"), named, strict=True)) | scores | {"tested": tested}


def _scores(measured: Floats, found: TimePredictions) -> dict[str, float]:
    return {
        "within_10": _within_10(found.median_ms, measured),
        "median_error": float(np.median(np.abs(found.median_ms / measured - 1))),
        "covered_80": _covered(found.interval80_ms, measured),
        "covered_95": _covered(found.interval95_ms, measured),
    }


def _within_10(predicted: Floats, measured: Floats) -> float:
    return float(np.mean(np.abs(predicted / measured - 1) <= 0.1))


def _covered(intervals: Floats, measured: Floats) -> float:
    return float(np.mean((intervals[:, 0] <= measured) & (measured <= intervals[:, 1])))


def _rounded(values: Sequence[float] | Floats) -> list[float]:
    return [float(f"{value:.5g}") for value in values]


def bars_of(rows: Sequence[Row]) -> Iterator[Bar]:
    """What the rows must show; the simple way's figures beside it are no bars but in the names."""
    by_task = {
        task: [row for row in rows if row["task"] == task] for task in dict.fromkeys(row["task"] for row in rows)
    }
    for task, own in by_task.items():
        if task == "whole models":
            yield _error_bar(own)
        else:
            bar = 0.80 if task == "layers" else 0.70
            share, simple = (float(np.mean([row[name] for row in own])) for name in ("within_10", "simple_within_10"))
            yield Bar(f"{task}: mean share within 10% (simple way {simple:.3f})", share, bar, share >= bar)
            seconds = max(row["seconds_of_10000"] for row in own)
            yield Bar(f"{task}: seconds of 10,000 predictions, the slowest", seconds, 2.0, seconds < 2)
        shares = [(row["covered_80"], len(row["tested"])) for row in own if row["tested"]]
        covered = sum(share * number for share, number in shares) / sum(number for _, number in shares)
        yield Bar(f"{task}: 80% intervals cover at least", covered, 0.75, covered >= 0.75)
        yield Bar(f"{task}: 80% intervals cover at most", covered, 0.85, covered <= 0.85)


def _error_bar(rows: Sequence[Row]) -> Bar:
    tested = [one for row in rows for one in row["tested"]]
    error = float(np.median([abs(one[2] / one[1] - 1) for one in tested]))
    plain = float(np.median([abs(ratio / one[1] - 1) for one in tested for ratio in one[-1]]))
    unknown = sum(row["num_unknown"] for row in rows)
    name = f"whole models: median error of {len(tested)} rows, {unknown} without anchor (plain ratio {plain:.4f})"
    return Bar(name, error, 0.045, error <= 0.045)


if __name__ == "__main__":
    main()
