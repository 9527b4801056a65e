"""What a search costs its clients: FedNAS, each of its optimisations alone, and ours, beside the straightforward search.

All on digits with 30 emulated clients, under settings that were fixed before (`bench/search_cost.toml`). Costs are read
from the cost ledger: client-seconds of the profile and bytes both ways, scoring included. Accuracies are the emulator's
over all test splits after the same final training. `rounds` decides how long the straightforward search must train
its candidates: the smallest of 5, 10, 20 rounds after which twice as many swap at most one pair of the candidates' mean
scores over five seeds set apart.

Rows are kept in --work, one line a method and seed: what was stopped goes on from there.
"""

import argparse
import json
import statistics
from collections.abc import Iterable, Sequence
from itertools import combinations
from math import sqrt
from pathlib import Path
from typing import Any

from scipy import stats

from bench.measuring import Bar, Result, new_result, print_result
from bench.search_runs import Row, Task, run_tasks, with_search

RUN_FILE = Path(__file__).with_suffix(".toml")
PACKAGES = ("torch", "onnxruntime-training-cpu", "numpy", "scikit-learn")
SEEDS, APART = range(20), range(1000, 1005)
ROUNDS, MOST_ROUNDS = (5, 10, 20), 40
GROUPS, PRETRAIN, KEEP, TRAIN = 10, 2, 3, 5
COLUMNS = ("method", "seeds", "test_accuracy", "client_rounds", "client_seconds", "megabytes", "total_seconds")
POINT = 0.01  # of accuracy


def methods(full: int) -> dict[str, dict[str, Any]]:
    """Table [search] of each method.

    Args:
        full: R_full, rounds of a candidate of the straightforward search.
    """

    def fednas(groups: int, pretrain: int, keep: int | None, rounds: int, **more: Any) -> dict[str, Any]:
        own = {"groups": groups, "pretrain_rounds": pretrain, "keep": keep, "rounds": rounds, **more}
        return {"algorithm": "fednas", **{name: value for name, value in own.items() if value is not None}}

    return {
        "straightforward": fednas(1, full, None, 0),
        "straightforward, uninflated": fednas(1, PRETRAIN + TRAIN, None, 0),
        "fednas": fednas(GROUPS, PRETRAIN, KEEP, TRAIN),
        "parallel groups only": fednas(GROUPS, full, None, 0),
        "early dropping only": fednas(1, PRETRAIN, KEEP, full - PRETRAIN),
        "growing rounds only": fednas(1, 1, None, full - 1, schedule="growing"),
    }


def swapped_pairs(before: Sequence[float], after: Sequence[float]) -> int:
    """Pairs of candidates that two rankings order differently; a tie agrees with both orders."""
    pairs = combinations(range(len(before)), 2)
    return sum((before[i] - before[j]) * (after[i] - after[j]) < 0 for i, j in pairs)


def full_rounds(rows: Iterable[Row]) -> tuple[int, dict[str, int]]:
    """R_full, and how many pairs doubling swaps, from the curves of the first step's candidates."""
    curves = [row["curves"] for row in rows]
    trials = sorted(
        set.intersection(*({t for t, c in one.items() if len(c) == MOST_ROUNDS} for one in curves)), key=int
    )
    mean = {
        rounds: [statistics.mean(one[trial][rounds - 1] for one in curves) for trial in trials]
        for rounds in (*ROUNDS, MOST_ROUNDS)
    }
    swaps = {f"{rounds} to {2 * rounds}": swapped_pairs(mean[rounds], mean[2 * rounds]) for rounds in ROUNDS}
    found = next((rounds for rounds in ROUNDS if swaps[f"{rounds} to {2 * rounds}"] <= 1), ROUNDS[-1])
    return found, swaps


def difference(ours: Sequence[float], others: Sequence[float]) -> dict[str, float]:
    """Mean paired difference with its 95% interval and one-sided 95% bound (Student's t)."""
    gaps = [a - b for a, b in zip(ours, others, strict=True)]
    mean, error = statistics.mean(gaps), statistics.stdev(gaps) / sqrt(len(gaps))
    both, one = (float(stats.t.ppf(level, len(gaps) - 1)) for level in (0.975, 0.95))
    return {"mean": mean, "low": mean - both * error, "high": mean + both * error, "bound": mean - one * error}


def analytic_rounds(row: Row, num_clients: int) -> float:
    """Client-rounds of training that the trials of a run ask for; groups take part whole."""
    return sum(rounds * (clients or num_clients) for _, _, rounds, clients, _, _ in row["steps"])


def summary(name: str, rows: Sequence[Row]) -> Row:
    """Means of one method, and every seed's figures."""
    search = [row["search"] for row in rows]
    return {
        "method": name,
        "seeds": len(rows),
        "test_accuracy": round(statistics.mean(_accuracy(row) for row in rows), 4),
        "client_rounds": statistics.mean(one["client_rounds"] for one in search),
        "client_seconds": round(statistics.mean(one["client_seconds"] for one in search), 1),
        "megabytes": round(statistics.mean(one["bytes"] for one in search) / 1e6, 1),
        "total_seconds": round(statistics.mean(_total(row, "client_seconds") for row in rows), 1),
        "total_megabytes": round(statistics.mean(_total(row, "bytes") for row in rows) / 1e6, 1),
        "runs": [{name: row[name] for name in ("seed", "search", "final", "models", "num_trials")} for row in rows],
    }


def compare(rows: dict[str, list[Row]], full: int) -> tuple[list[Row], list[Bar]]:
    """Every method beside the straightforward search, on the seeds that both have."""
    reference, found, bars = "straightforward", [], []
    for name, own in rows.items():
        pairs = _paired(own, rows[reference])
        if name == reference or len(pairs) < 2:
            continue
        accuracy = difference([_accuracy(a) for a, _ in pairs], [_accuracy(b) for _, b in pairs])
        ratios = {
            key: statistics.geometric_mean(b["search"][key] / max(a["search"][key], 1e-9) for a, b in pairs)
            for key in ("client_rounds", "client_seconds", "bytes")
        }
        ratios |= {
            f"total {key}": statistics.geometric_mean(_total(b, key) / _total(a, key) for a, b in pairs)
            for key in ("client_seconds", "bytes")
        }
        found.append(
            {"method": f"{reference} over {name}", "seeds": len(pairs), "accuracy": accuracy, "ratios": ratios}
        )
        if name == "fednas":
            bars += _fednas_bars(accuracy, ratios, full, len(pairs))
    return found, bars


def _fednas_bars(accuracy: dict[str, float], ratios: dict[str, float], full: int, num_seeds: int) -> list[Bar]:
    share = GROUPS * full / (PRETRAIN * 10 + KEEP * TRAIN / 1) * 10 / 10
    bar = 20.0 if full >= 10 else 0.9 * share
    equal = accuracy["bound"] > -POINT
    return [
        Bar("fednas: seeds", num_seeds, len(SEEDS), num_seeds >= len(SEEDS)),
        Bar(
            "fednas: one-sided 95% bound of its accuracy less the straightforward search's",
            accuracy["bound"],
            -POINT,
            equal,
        ),
        *(
            Bar(f"fednas: times fewer {key} in the search", ratios[key], bar, ratios[key] >= bar)
            for key in ("client_seconds", "bytes")
        ),
    ]


def _paired(ours: Sequence[Row], others: Sequence[Row]) -> list[tuple[Row, Row]]:
    by_seed = {row["seed"]: row for row in others}
    return [(row, by_seed[row["seed"]]) for row in sorted(ours, key=lambda row: row["seed"]) if row["seed"] in by_seed]


def _accuracy(row: Row) -> float:
    return float(row["models"][0]["test_accuracy"])


def _total(row: Row, key: str) -> float:
    return float(row["search"][key] + row["final"][key])
