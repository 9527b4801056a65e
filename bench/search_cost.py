"""What a search costs its clients: FedNAS and each of its optimisations alone, beside the straightforward search.

All on digits with 30 emulated clients, under settings that were fixed before (`bench/search_cost.toml`). Costs are read
from the cost ledger: client-seconds of the profile and bytes both ways, scoring included. Accuracies are the emulator's
over all test splits after the same final training. `rounds` decides how long the straightforward search must train
its candidates: the smallest of 5, 10, 20 rounds after which twice as many swap at most one pair of the candidates' mean
scores over five seeds set apart.

Rows are kept in --work, one line a method and seed: what was stopped goes on from there.
"""

import argparse
import statistics
from collections.abc import Iterable, Sequence
from itertools import combinations
from math import sqrt
from pathlib import Path
from typing import Any

from scipy import stats

from bench.measuring import Bar, new_result, print_result
from bench.search_runs import Row, Task, run_tasks, with_search

RUN_FILE = Path(__file__).with_suffix(".toml")
PACKAGES = ("torch", "onnxruntime-training-cpu", "numpy", "scikit-learn")
SEEDS, APART = range(20), range(1000, 1005)
ROUNDS, MOST_ROUNDS = (5, 10, 20), 40
GROUPS, PRETRAIN, KEEP, TRAIN = 10, 2, 3, 5
COLUMNS = ("method", "seeds", "test_accuracy", "client_rounds", "client_seconds", "megabytes", "total_seconds")
POINT = 0.01  # of accuracy
NUM_CLIENTS, REFERENCE = 30, "straightforward"
LIMIT, LIMIT_OF_A_STEP = "latency_ms = 0.9077", "latency_ms = 2.7232"  # 30% and 90% of the largest network's
ROUNDS_RULE = {"algorithm": "fednas", "groups": 1, "pretrain_rounds": MOST_ROUNDS, "rounds": 0}
COSTS = ("client_rounds", "client_seconds", "bytes")


def methods(full: int) -> dict[str, dict[str, Any]]:
    """Table [search] of each method.

    Args:
        full: R_full, rounds of a candidate of the straightforward search.
    """

    def fednas(groups: int, pretrain: int, keep: int | None, rounds: int, **more: Any) -> dict[str, Any]:
        own = {"groups": groups, "pretrain_rounds": pretrain, "keep": keep, "rounds": rounds, **more}
        return {"algorithm": "fednas", **{name: value for name, value in own.items() if value is not None}}

    return {
        REFERENCE: fednas(1, full, None, 0),
        "straightforward, as many rounds as fednas": fednas(1, PRETRAIN + TRAIN, None, 0),
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


def analytic_rounds(row: Row) -> int:
    """Client-rounds of training that the trials of a run ask for: all clients, or a group, in each round."""
    return sum(rounds * (NUM_CLIENTS if clients is None else clients) for _, _, rounds, clients, _, _ in row["steps"])


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
    found, bars = [], []
    for name, own in rows.items():
        pairs = _paired(own, rows[REFERENCE])
        if name == REFERENCE or len(pairs) < 2:
            continue
        accuracy = difference([_accuracy(a) for a, _ in pairs], [_accuracy(b) for _, b in pairs])
        times = {key: _times_fewer(pairs, ("search",), key) for key in COSTS}
        total = {key: _times_fewer(pairs, ("search", "final"), key) for key in COSTS}
        row = {"method": f"{REFERENCE} over {name}", "seeds": len(pairs), "accuracy": accuracy}
        found.append({**dict.fromkeys(COLUMNS), **row, "search": times, "search and final training": total})
        if name == "fednas":
            bars += _fednas_bars(accuracy, times, full, pairs)
    return found, bars


def _times_fewer(pairs: Sequence[tuple[Row, Row]], phases: Sequence[str], key: str) -> float:
    """Geometric mean over seeds of the reference's cost by the method's."""
    return statistics.geometric_mean(
        sum(b[phase][key] for phase in phases) / max(1e-9, sum(a[phase][key] for phase in phases)) for a, b in pairs
    )


def _fednas_bars(
    accuracy: dict[str, float], times: dict[str, float], full: int, pairs: Sequence[tuple[Row, Row]]
) -> list[Bar]:
    """At least 20 times fewer where R_full >= 10, else 0.9 of what counting gives; counted exactly in client-rounds."""
    counted = statistics.geometric_mean(analytic_rounds(b) / analytic_rounds(a) for a, b in pairs)
    bar = 20.0 if full >= 10 else 0.9 * counted
    uncounted = sum(analytic_rounds(row) != row["search"]["client_rounds"] for pair in pairs for row in pair)
    return [
        Bar("fednas: paired seeds", len(pairs), len(SEEDS), len(pairs) >= len(SEEDS)),
        Bar("runs whose ledger is not the analytic count (at most)", uncounted, 0, uncounted == 0),
        Bar("fednas: 95% bound of its accuracy's difference", accuracy["bound"], -POINT, accuracy["bound"] > -POINT),
        *(Bar(f"fednas: times fewer {key} in the search", times[key], bar, times[key] >= bar) for key in COSTS[1:]),
    ]


def _paired(ours: Sequence[Row], others: Sequence[Row]) -> list[tuple[Row, Row]]:
    by_seed = {row["seed"]: row for row in others}
    return [(row, by_seed[row["seed"]]) for row in sorted(ours, key=lambda row: row["seed"]) if row["seed"] in by_seed]


def _accuracy(row: Row) -> float:
    return float(row["models"][0]["test_accuracy"])


def _total(row: Row, key: str) -> float:
    return float(row["search"][key] + row["final"][key])


def _tasks(sections: dict[str, dict[str, Any]], seeds: Iterable[int], limit: str = LIMIT) -> list[Task]:
    text = RUN_FILE.read_text(encoding="utf-8").replace(LIMIT, limit)
    return [Task(name, seed, with_search(text, seed, section)) for seed in seeds for name, section in sections.items()]


def main() -> None:
    """Run the bench; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m bench.search_cost", description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder of rows and of runs under way")
    parser.add_argument("--processes", type=int, default=1, help="runs at a time")
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="only the first so many seeds")
    parser.add_argument("-o", "--output", type=Path, help="write the JSON object to this file as well")
    arguments = parser.parse_args()
    result = new_result("search_cost", PACKAGES)
    lines = arguments.work / "rows.jsonl"

    def run(tasks: list[Task]) -> list[Row]:
        return list(run_tasks(tasks, arguments.work, lines, arguments.processes))

    # The first step's candidates alone: with a limit that one step meets.
    full, swaps = full_rounds(run(_tasks({"rounds": ROUNDS_RULE}, APART, LIMIT_OF_A_STEP)))
    result.rows.append({**dict.fromkeys(COLUMNS), "method": "rounds", "R_full": full, "swapped pairs": swaps})
    rows: dict[str, list[Row]] = {}
    for row in run(_tasks(methods(full), SEEDS[: arguments.seeds])):
        rows.setdefault(row["method"], []).append(row)
    compared, bars = compare(rows, full)
    result.rows.extend(summary(name, rows[name]) for name in methods(full))
    result.rows.extend(compared)
    result.bars.extend(bars)
    print_result(result, COLUMNS, arguments.output)


if __name__ == "__main__":
    main()
