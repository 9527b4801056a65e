"""One pass of FedNAS, and one of ours, on digits for 1, 2 and 4 platforms: what more platforms cost.

A limit is 30% of what the largest network needs (on the slowest phone of the class). FedNAS trains one network on all
phones, so its fleet has the same four kinds in every row and client-seconds can be compared; what differs is how many
of them have a limit. It meets every limit in the same pass, which ends when the hardest is met, and a step takes away a
part of what the hardest asks for: a platform where narrowing saves less, as pixel-4, makes the pass longer for all, one
that is easier costs nothing. Ours has a race for every kind of phone, and a phone trains in its own: its fleet has the
2 or 4 kinds, and one platform is the mean of as many fleets of one kind alone, with as many phones and the same limits.
"""

import json
import statistics
from collections.abc import Sequence
from math import exp, log

from bench import search_cost
from bench.measuring import Bar
from bench.search_comparison import COSTS, limits_bar, over_limit, paired
from bench.search_cost import LIMIT, OURS, RACE
from bench.search_measured import DEFAULT, FEDNAS, FINAL, PROFILES
from bench.search_rows import Row
from bench.search_runs import Method, Sitting, mean_of, tasks_of

# 30% of what the largest network needs on the slowest phone of the class; by how many platforms have one.
ENTRY = f"[budgets.entry]\n{LIMIT}"
HIGH, MID = "[budgets.high]\nlatency_ms = 0.1737\n\n", "[budgets.mid]\nlatency_ms = 0.432\n\n"
LIMITS = {1: ENTRY, 2: HIGH + ENTRY, 4: MID + HIGH + ENTRY}
PHONES = "redmi-note-4", "pixel-4", "pixel-2-xl", "galaxy-s9"  # the first so many have those limits
SEEDS = range(5)
MOST_TIMES = 1.3  # the cost of one platform


def platforms(sitting: Sitting) -> tuple[list[Row], list[Bar]]:
    """A row for each search and number of platforms that has runs; its cost beside that of one platform."""
    text = search_cost.RUN_FILE.read_text(encoding="utf-8")
    pruned = {count: Method(_name("fednas", count), FEDNAS, fleet_of(PHONES, count)) for count in LIMITS}
    raced = {count: Method(_name(OURS, count), RACE, fleet_of(PHONES[:count], count)) for count in LIMITS if count > 1}
    alone = {name: Method(f"{OURS}, {name} alone", RACE, fleet_of([name], len(PHONES))) for name in PHONES}
    chosen = *pruned.values(), *raced.values(), *alone.values()
    rows: dict[str, list[Row]] = {method.name: [] for method in chosen}
    for row in sitting.rows(tasks_of(text, chosen, sitting.seeds(SEEDS))):
        rows[row["method"]].append(row)
    one = pruned[1].name
    beside = {method.name: rows[one] for method in pruned.values()} | {
        method.name: mean_rows([rows[alone[name].name] for name in PHONES[:count]]) for count, method in raced.items()
    }
    found, bars = [], []
    for name, others in beside.items():
        pairs = paired(rows[name], others)
        if not pairs:
            continue
        found.append(cost_row(name, pairs))
        for key, times in found[-1]["ratios"].items() if name != one else ():
            bars.append(Bar(f"{name}: {key} of the search beside one", times, MOST_TIMES, times <= MOST_TIMES))
    return found, [*bars, limits_bar(row for own in rows.values() for row in own)]


def mean_rows(rows: Sequence[Sequence[Row]]) -> list[Row]:
    """Mean costs of the search over several methods' rows, of the seeds that all have."""
    by_seed = [{row["seed"]: row["search"] for row in own} for own in rows]
    seeds = sorted(set.intersection(*({*own} for own in by_seed)))
    return [
        {"seed": seed, "search": {key: statistics.mean(own[seed][key] for own in by_seed) for key in COSTS}}
        for seed in seeds
    ]


def _name(search: str, count: int) -> str:
    return f"{search}, {count} platform{'s' if count > 1 else ''}"


def fleet_of(phones: Sequence[str], count: int) -> dict[str, str]:
    """What a run file says of a fleet of these kinds of phones with the limits of so many, by what it said."""
    return {PROFILES: f"profiles = {json.dumps([*phones])}", DEFAULT: LIMITS[count], FINAL: "[final]\nrounds = 1"}


def cost_row(name: str, pairs: Sequence[tuple[Row, Row]]) -> Row:
    """What searches cost, and how many times as much as others of the same seeds (geometric means, 95% intervals)."""
    rows = [row for row, _ in pairs]
    logs = {key: mean_of([log(row["search"][key] / other["search"][key]) for row, other in pairs]) for key in COSTS}
    intervals = {key: {end: None if at is None else exp(at) for end, at in ends.items()} for key, ends in logs.items()}
    ratios = {key: one["mean"] for key, one in intervals.items()}
    return {
        "method": name,
        "seeds": len(rows),
        "client_seconds": statistics.mean(row["search"]["client_seconds"] for row in rows),
        "megabytes": statistics.mean(row["search"]["bytes"] for row in rows) / 1e6,
        "ratio": ratios["client_seconds"],
        "ratios": ratios,
        "ratio_intervals": intervals,
        "over_limit": sum(over_limit(row) for row in rows),
        "runs": [{key: row[key] for key in ("seed", "search", "models", "num_trials")} for row in rows],
    }
