"""What a search costs its clients, and what it finds: FedNAS, its optimisations alone, ours, and the controls.

All on digits with 30 emulated clients, under settings that were fixed before (`bench/search_cost.toml`). Costs are read
from the cost ledger: client-seconds of the profile and bytes both ways, scoring included. Accuracies are the emulator's
over all test splits after the same final training. `rounds` decides how long the straightforward search must train
its candidates: the smallest of 5, 10, 20 rounds after which twice as many swap at most one pair of the candidates' mean
scores over five seeds set apart.

Rows are kept in --work, one line a method and seed: what was stopped goes on from there. The first methods have 20
paired seeds; the rest, which no claim rests on, have fewer.
"""

import argparse
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, combinations
from math import sqrt
from pathlib import Path
from typing import Any

from scipy import stats

from bench.measuring import Bar, Result, new_result, print_result
from bench.search_runs import Method, Row, Sitting, tasks_of

RUN_FILE = Path(__file__).with_suffix(".toml")
PACKAGES = ("torch", "onnxruntime-training-cpu", "numpy", "scikit-learn", "optuna")
SEEDS, APART = range(20), range(1000, 1005)
ROUNDS, MOST_ROUNDS = (5, 10, 20), 40
GROUPS, PRETRAIN, KEEP, TRAIN = 10, 2, 3, 5
COLUMNS = ("method", "seeds", "test_accuracy", "client_rounds", "client_seconds", "megabytes", "total_seconds")
NUM_CLIENTS, REFERENCE = 30, "straightforward"
LIMIT, LIMIT_OF_A_STEP = "latency_ms = 0.9077", "latency_ms = 2.7232"  # 30% and 90% of the largest network's
LIMIT_OF_UNIFORM = "latency_ms = 0.7502"  # what uniform width needs, whose widths are rounded
COSTS = ("client_rounds", "client_seconds", "bytes")
ONE_CLIENT = {
    'partition = "dirichlet"\nalpha = 0.5\nclients = 30': 'partition = "iid"\nclients = 1',
    "cohort_size = 30\nmin_reports = 20": "cohort_size = 1\nmin_reports = 1",
}
# The first step's candidates alone: with a limit that one step meets. Only their curves are read.
RULE = Method(
    "rounds",
    {"algorithm": "fednas", "groups": 1, "pretrain_rounds": MOST_ROUNDS, "rounds": 0},
    {LIMIT: LIMIT_OF_A_STEP, '\nstart = "fresh"': ""},
)
INHERITED = {'start = "fresh"': 'start = "search"'}
IID = {'partition = "dirichlet"\nalpha = 0.5': 'partition = "iid"'}
OURS = {"algorithm": "nested_race"}
ONE_ENTRANT = {**OURS, "entrants": 1}  # the server's ranking alone
ALL_WIDTHS = {"widths = [96]": "widths = [4, 8, 16, 24, 32, 40, 48, 64, 80, 96]"}


def methods(full: int) -> list[tuple[Method, int]]:
    """All methods, those with claims first, and how many of the seeds each has.

    Args:
        full: R_full, rounds of a candidate of the straightforward search.
    """
    as_published = _fednas(GROUPS, PRETRAIN, KEEP, TRAIN)
    netadapt = _fednas(1, PRETRAIN + TRAIN, None, 0, choose="accuracy")
    drawn = {"trials": 20, "rounds": PRETRAIN + TRAIN, "parallel": 10}
    claims = (
        Method("fednas", as_published),
        Method("nested_race", OURS),
        Method("nested_race without a race", ONE_ENTRANT),
        Method("uniform width", {"algorithm": "uniform_width"}),
        Method("nested_race at the latency of uniform width", OURS, {LIMIT: LIMIT_OF_UNIFORM}),
        Method("random pruning", {"algorithm": "random_pruning"}),
        Method(REFERENCE, _fednas(1, full, None, 0)),
    )
    beside = (
        Method("centralised netadapt", netadapt, ONE_CLIENT),
        Method("fednas, iid", as_published, IID),
    )
    others = (
        Method("fednas, final training from its weights", as_published, INHERITED),
        Method("nested_race, final training from its weights", OURS, INHERITED),
        Method("parallel groups only", _fednas(GROUPS, full, None, 0)),
        Method("early dropping only", _fednas(1, PRETRAIN, KEEP, full - PRETRAIN)),
        Method("growing rounds only", _fednas(1, 1, None, full - 1, schedule="growing")),
        Method("adaptive rounds only", _fednas(1, 1, None, full - 1, schedule="adaptive")),
        Method("straightforward, as many rounds as fednas", _fednas(1, PRETRAIN + TRAIN, None, 0)),
        Method("random search", {"algorithm": "random_search", **drawn}, ALL_WIDTHS),
        Method("successive halving", {"algorithm": "successive_halving", "candidates": 27, "eta": 3}, ALL_WIDTHS),
        Method("nsga2", {"algorithm": "nsga2", **drawn, "population_size": 10}, ALL_WIDTHS),
    )
    counts = (claims, len(SEEDS)), (beside, 10), (others, 5)
    return [(method, count) for ones, count in counts for method in ones]


def _fednas(groups: int, pretrain: int, keep: int | None, rounds: int, **more: Any) -> dict[str, Any]:
    own = {"groups": groups, "pretrain_rounds": pretrain, "keep": keep, "rounds": rounds, **more}
    return {"algorithm": "fednas", **{name: value for name, value in own.items() if value is not None}}


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
        "deviation": round(statistics.stdev(_accuracy(row) for row in rows), 4) if len(rows) > 1 else None,
        "latency_ms": round(statistics.mean(next(iter(row["models"][0]["latency_ms"].values())) for row in rows), 4),
        "client_rounds": statistics.mean(one["client_rounds"] for one in search),
        "client_seconds": round(statistics.mean(one["client_seconds"] for one in search), 1),
        "megabytes": round(statistics.mean(one["bytes"] for one in search) / 1e6, 1),
        "total_seconds": round(statistics.mean(_total(row, "client_seconds") for row in rows), 1),
        "total_megabytes": round(statistics.mean(_total(row, "bytes") for row in rows) / 1e6, 1),
        "runs": [{name: row[name] for name in ("seed", "search", "final", "models", "num_trials")} for row in rows],
    }


@dataclass(frozen=True)
class Comparison:
    """A method beside another on the seeds that both have.

    Attributes:
        accuracy: Difference of test accuracies, see `difference`.
        search, both: How many times less the method costs, by cost, in its search and with final training: the
            geometric mean over seeds; infinite where it costs nothing.
    """

    ours: str
    other: str
    pairs: tuple[tuple[Row, Row], ...]

    @property
    def accuracy(self) -> dict[str, float]:
        return difference([_accuracy(a) for a, _ in self.pairs], [_accuracy(b) for _, b in self.pairs])

    @property
    def search(self) -> dict[str, float]:
        return {key: _times_fewer(self.pairs, ("search",), key) for key in COSTS}

    @property
    def both(self) -> dict[str, float]:
        return {key: _times_fewer(self.pairs, ("search", "final"), key) for key in COSTS}

    def row(self) -> Row:
        """For the table."""
        own = {"method": f"{self.ours} against {self.other}", "seeds": len(self.pairs), "accuracy": self.accuracy}
        times = {"times less in the search": self.search, "with final training": self.both}
        return {**dict.fromkeys(COLUMNS), **own, **{name: _finite(value) for name, value in times.items()}}


def compare(rows: dict[str, list[Row]], full: int) -> tuple[list[Row], list[Bar]]:
    """Every method beside the straightforward search, FedNAS and uniform width, and the bars."""
    found = {
        (name, other): Comparison(name, other, tuple(_paired(own, rows[other])))
        for name, own in rows.items()
        for other in (REFERENCE, "fednas", "uniform width", "centralised netadapt")
        if other in rows and other != name
    }
    found = {names: one for names, one in found.items() if len(one.pairs) > 1}
    bars = [bar for names, make in BARS.items() if names in found for bar in make(found[names], full)]
    return [one.row() for one in found.values()], bars


def _fednas_bars(one: Comparison, full: int) -> list[Bar]:
    """At least 20 times less where R_full >= 10, else 0.9 of what counting gives; counted exactly in client-rounds."""
    counted = statistics.geometric_mean(analytic_rounds(b) / analytic_rounds(a) for a, b in one.pairs)
    bar = 20.0 if full >= 10 else 0.9 * counted
    uncounted = sum(analytic_rounds(row) != row["search"]["client_rounds"] for pair in one.pairs for row in pair)
    ledger = Bar("runs whose ledger is not the analytic count (at most)", uncounted, 0, uncounted == 0)
    return [ledger, *_equal_accuracy(one), *_cheaper(one, bar)]


def _ours_bars(one: Comparison, full: int) -> list[Bar]:  # noqa: ARG001
    return [*_equal_accuracy(one), *_cheaper(one, 60.0 if one.other == REFERENCE else 3.0)]


def _uniform_bars(one: Comparison, full: int) -> list[Bar]:  # noqa: ARG001
    gap = one.accuracy["low"]
    return [Bar(f"{one.ours} over {one.other}: lower end of the difference", gap, 0.0, gap > 0)]


def _netadapt_bars(one: Comparison, full: int) -> list[Bar]:  # noqa: ARG001
    least = -0.01 if one.ours.endswith("iid") else -0.02
    gap = one.accuracy["mean"]
    return [Bar(f"{one.ours} against {one.other}: mean difference", gap, least, gap >= least)]


BARS = {
    ("fednas", REFERENCE): _fednas_bars,
    ("nested_race", REFERENCE): _ours_bars,
    ("nested_race", "fednas"): _ours_bars,
    ("nested_race at the latency of uniform width", "uniform width"): _uniform_bars,
    ("fednas", "centralised netadapt"): _netadapt_bars,
    ("fednas, iid", "centralised netadapt"): _netadapt_bars,
}


def _equal_accuracy(one: Comparison) -> list[Bar]:
    bound, name = one.accuracy["bound"], f"{one.ours} against {one.other}"
    return [
        Bar(f"{name}: paired seeds", len(one.pairs), len(SEEDS), len(one.pairs) >= len(SEEDS)),
        Bar(f"{name}: one-sided 95% bound of the difference", bound, -0.01, bound > -0.01),
    ]


def _cheaper(one: Comparison, bar: float) -> list[Bar]:
    times = one.search
    name = f"{one.ours} against {one.other}: times fewer"
    return [Bar(f"{name} {key} in the search", times[key], bar, times[key] >= bar) for key in COSTS[1:]]


def _finite(times: dict[str, float]) -> dict[str, float | None]:
    return {name: value if value < float("inf") else None for name, value in times.items()}


def _times_fewer(pairs: Sequence[tuple[Row, Row]], phases: Sequence[str], key: str) -> float:
    ours, others = ([sum(row[phase][key] for phase in phases) for row in side] for side in zip(*pairs, strict=True))
    if not all(ours):
        return float("inf")
    return statistics.geometric_mean(b / a for a, b in zip(ours, others, strict=True)) if all(others) else 0.0


def _paired(ours: Sequence[Row], others: Sequence[Row]) -> list[tuple[Row, Row]]:
    by_seed = {row["seed"]: row for row in others}
    return [(row, by_seed[row["seed"]]) for row in sorted(ours, key=lambda row: row["seed"]) if row["seed"] in by_seed]


def _accuracy(row: Row) -> float:
    return float(row["models"][0]["test_accuracy"])


def _total(row: Row, key: str) -> float:
    return float(row["search"][key] + row["final"][key])


def main() -> None:
    """Run the bench; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m bench.search_cost", description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder of rows and of runs under way")
    parser.add_argument("--processes", type=int, default=1, help="runs at a time")
    parser.add_argument("--seeds", type=int, help="only the first so many seeds")
    parser.add_argument("--methods", nargs="+", metavar="NAME", help="only these methods, beside `rounds`")
    parser.add_argument("-o", "--output", type=Path, help="write the JSON object to this file as well")
    arguments = parser.parse_args()
    result = new_result("search_cost", PACKAGES)
    _run(Sitting(arguments.work, arguments.processes, arguments.seeds), arguments.methods, result)
    print_result(result, COLUMNS, arguments.output)


def _run(sitting: Sitting, names: Sequence[str] | None, result: Result) -> None:
    text = RUN_FILE.read_text(encoding="utf-8")
    full, swaps = full_rounds(sitting.rows(tasks_of(text, [RULE], APART)))
    result.rows.append({**dict.fromkeys(COLUMNS), "method": RULE.name, "R_full": full, "swapped pairs": swaps})
    chosen = [(method, count) for method, count in methods(full) if names is None or method.name in names]
    rows: dict[str, list[Row]] = {method.name: [] for method, _ in chosen}
    tasks = [tasks_of(text, [method], sitting.seeds(SEEDS[:count])) for method, count in chosen]
    for row in sitting.rows(list(chain.from_iterable(tasks))):
        rows[row["method"]].append(row)
    compared, bars = compare(rows, full)
    result.rows.extend(summary(name, own) for name, own in rows.items() if own)
    result.rows.extend(compared)
    result.bars.extend(bars)


if __name__ == "__main__":
    main()
