"""What runs of searches cost and found, beside each other: figures of one method, paired differences of two."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import sqrt
from typing import Any, TypeGuard

from scipy import stats

from bench.measuring import Bar
from bench.search_rows import NEEDS, Row
from bench.search_runs import geometric_mean_of
from pipeline.run_file import parse_run_file
from pipeline.search_sections import FedNasSection
from pipeline.searching.choices import feasibility_of
from profiles.catalogue import load_profile
from search.candidate import NOT_ASKED

COLUMNS = ("method", "seeds", "test_accuracy", "client_rounds", "client_seconds", "megabytes", "total_seconds")
COSTS = ("client_rounds", "client_seconds", "bytes")
LEARNT = 0.2  # twice what guessing one of ten classes gives
LAST = 10  # rounds of final training whose gain is told


def difference(ours: Sequence[float], others: Sequence[float]) -> dict[str, float]:
    """Mean paired difference with its 95% interval and one-sided 95% bound (Student's t)."""
    gaps = [a - b for a, b in zip(ours, others, strict=True)]
    mean, error = statistics.mean(gaps), statistics.stdev(gaps) / sqrt(len(gaps))
    both, one = (float(stats.t.ppf(level, len(gaps) - 1)) for level in (0.975, 0.95))
    return {"mean": mean, "low": mean - both * error, "high": mean + both * error, "bound": mean - one * error}


def candidates_of_steps(row: Row) -> list[int]:
    """K of each step of a run of FedNAS: the candidates that began with the step's network."""
    return [len(begun) for begun in _begun_of_steps(row, _search(row).pretrain_rounds)]


def analytic_rounds(row: Row) -> float:
    """Client-rounds of training by the formula: K R_pre + k R on a G-th of the clients, summed over the steps.

    Groups hold about equally many examples, not clients, so each candidate counts by the clients of its own group.
    """
    own, num_clients = _search(row), parse_run_file(row["run_file"]).data.clients
    share, total = num_clients / own.groups, 0.0
    for begun in _begun_of_steps(row, own.pretrain_rounds):
        num_kept = min(num_clients if own.keep is None else own.keep, len(begun))
        own_groups = [c or share for _, start, rounds, c, *_ in row["steps"] if start in begun and rounds == own.rounds]
        total += own.pretrain_rounds * sum(clients or share for clients in begun.values())
        total += own.rounds * num_kept * sum(own_groups) / max(1, len(own_groups))
    return total


def is_counted(row: Row) -> bool:
    """Whether the ledger has the client-rounds of the formula, and its groups are parts of the clients.

    The n-th candidate of a step trains on group n modulo G: as large in every step, and all together are everybody.
    """
    own, num_clients = _search(row), parse_run_file(row["run_file"]).data.clients
    sizes: dict[int, set[int]] = {}
    for begun in _begun_of_steps(row, own.pretrain_rounds):
        for place, clients in enumerate(begun.values()):
            sizes.setdefault(place % own.groups, set()).add(num_clients if clients is None else clients)
    is_one_each = all(len(found) == 1 for found in sizes.values())
    total = sum(map(max, sizes.values()))
    is_division = total == num_clients if len(sizes) == own.groups else total < num_clients
    return is_one_each and is_division and analytic_rounds(row) == row["search"]["client_rounds"]


def over_limit(row: Row) -> int:
    """Platforms of a run whose network is predicted to need more than their class may."""
    feasibility = feasibility_of(parse_run_file(row["run_file"]), ())
    found = 0
    for model, platform in [(one, name) for one in row["models"] for name in one["platforms"]]:
        limits = vars(feasibility.limits_of(load_profile(platform).device_class))
        found += any(model[need][platform] > most for need, most in limits.items() if most is not None)
    return found


def limits_bar(rows: Iterable[Row]) -> Bar:
    """Every network that is shipped meets its platform's limits."""
    over = sum(map(over_limit, rows))
    return Bar("networks over their platform's predicted limits (at most)", over, 0, over == 0)


def _begun_of_steps(row: Row, pretrain_rounds: int) -> list[dict[int, int | None]]:
    """Each step's candidates after R_pre rounds, and how many clients train each, where the run says so."""
    begun: dict[int, dict[int, int | None]] = {}
    for index, start, rounds, clients, *_ in row["steps"]:
        if start is not None and rounds == pretrain_rounds:
            begun.setdefault(start, {})[index] = clients
    return [begun[start] for start in sorted(begun)]


def _search(row: Row) -> FedNasSection:
    section = parse_run_file(row["run_file"]).search
    if not _tells_steps(section):
        raise ValueError(f"{row['method']} has no first rounds that could be told from further ones")
    return section


def _tells_steps(section: Any) -> TypeGuard[FedNasSection]:
    """Whether a step's first rounds differ in number from all further ones."""
    if not isinstance(section, FedNasSection) or section.schedule != "constant":
        return False
    return section.rounds != section.pretrain_rounds


def summary(name: str, rows: Sequence[Row]) -> Row:
    """Means of one method, and every seed's figures."""
    search = [row["search"] for row in rows]
    return {
        "method": name,
        "seeds": len(rows),
        "test_accuracy": round(statistics.mean(accuracy_of(row) for row in rows), 4),
        "deviation": round(statistics.stdev(accuracy_of(row) for row in rows), 4) if len(rows) > 1 else None,
        **{name: round(statistics.mean(need_of(row, name) for row in rows), 4) for name in NEEDS},
        "client_rounds": statistics.mean(one["client_rounds"] for one in search),
        "client_seconds": round(statistics.mean(one["client_seconds"] for one in search), 1),
        "megabytes": round(statistics.mean(one["bytes"] for one in search) / 1e6, 1),
        "total_seconds": round(statistics.mean(_total(row, "client_seconds") for row in rows), 1),
        "total_megabytes": round(statistics.mean(_total(row, "bytes") for row in rows) / 1e6, 1),
        "runs": [_told(row) for row in rows],
    }


def _told(row: Row) -> Row:
    told = {name: row[name] for name in ("seed", "search", "final", "models", "num_trials")}
    told |= {"commit": row["commit"], "failed_trials": sum(step[-1] not in {"", NOT_ASKED} for step in row["steps"])}
    own = parse_run_file(row["run_file"]).search
    return told | {"K of each step": candidates_of_steps(row)} if _tells_steps(own) else told


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
        return difference([accuracy_of(a) for a, _ in self.pairs], [accuracy_of(b) for _, b in self.pairs])

    @property
    def search(self) -> dict[str, float]:
        return {key: _inf_of_none(ends["mean"]) for key, ends in self.times_less("search").items()}

    @property
    def both(self) -> dict[str, float]:
        return {key: _inf_of_none(ends["mean"]) for key, ends in self.times_less("search", "final").items()}

    @property
    def learnt(self) -> "Comparison":
        """Without the seeds in which the other's network stays at a guess, to be ahead of which is no merit.

        All seeds where fewer than two would be left.
        """
        pairs = tuple(pair for pair in self.pairs if accuracy_of(pair[1]) >= LEARNT)
        return replace(self, pairs=pairs) if len(pairs) > 1 else self

    def times_less(self, *phases: str) -> dict[str, dict[str, float | None]]:
        """How many times less phases cost, by cost, with 95% intervals; None where they cost nothing in a seed."""
        return {key: _times_less(self.pairs, phases, key) for key in COSTS}

    def row(self) -> Row:
        """For the table."""
        own = {"method": f"{self.ours} against {self.other}", "seeds": len(self.pairs), "accuracy": self.accuracy}
        needs = {
            name: [statistics.mean(need_of(pair[side], name) for pair in self.pairs) for side in (0, 1)]
            for name in NEEDS
        }
        told: Row = {"times less in the search": self.times_less("search")}
        told["with final training"] = self.times_less("search", "final")
        if self.learnt.pairs != self.pairs:
            told["accuracy where the other learnt"] = self.learnt.accuracy
        return {**dict.fromkeys(COLUMNS), **own, "needs of both": needs, **told}


def _inf_of_none(times: float | None) -> float:
    return float("inf") if times is None else times


def _times_less(pairs: Sequence[tuple[Row, Row]], phases: Sequence[str], key: str) -> dict[str, float | None]:
    ours, others = ([sum(row[phase][key] for phase in phases) for row in side] for side in zip(*pairs, strict=True))
    if not all(ours) or not all(others):
        return {"mean": 0.0 if all(ours) else None, "low": None, "high": None}
    return geometric_mean_of([b / a for a, b in zip(ours, others, strict=True)])


def paired(ours: Sequence[Row], others: Sequence[Row]) -> list[tuple[Row, Row]]:
    """The rows of the seeds that both have."""
    by_seed = {row["seed"]: row for row in others}
    return [(row, by_seed[row["seed"]]) for row in sorted(ours, key=lambda row: row["seed"]) if row["seed"] in by_seed]


def accuracy_of(row: Row) -> float:
    """Of the first model, exact, over all test splits."""
    return float(row["models"][0]["test_accuracy"])


def final_curve(row: Row, model: Row) -> list[float]:
    """Accuracy over all validation splits after each round of a model's final training."""
    return [*row["final_curves"][str(model["trial"])]]


def last_gain(row: Row, model: Row) -> float:
    """What the last rounds of final training added to the accuracy over all validation splits."""
    curve = final_curve(row, model)
    return curve[-1] - curve[-1 - LAST]


def need_of(row: Row, name: str) -> float:
    """What the first model needs on the first profile, predicted, of `NEEDS`."""
    return float(next(iter(row["models"][0][name].values())))


def _total(row: Row, key: str) -> float:
    return float(row["search"][key] + row["final"][key])
