"""One pass of FedNAS, and one of ours, on digits for 1, 2 and 4 platforms: what more platforms cost.

The fleet has the same four phones in all of them, so that client-seconds can be compared; what differs is how many of
them have a limit: 30% of what the largest network needs there (on the slowest of its class). FedNAS meets every limit
in the same pass, which ends when the hardest is met, and a step takes away a part of what the hardest asks for: a
platform where narrowing saves less, as pixel-4, makes the pass longer for all, one that is easier costs nothing. Ours
has a race for every platform; a phone trains in one of them.
"""

import statistics
from collections.abc import Sequence
from math import exp, log

from bench import search_cost
from bench.measuring import Bar
from bench.search_comparison import COSTS, limits_bar, over_limit, paired
from bench.search_cost import LIMIT, OURS, RACE
from bench.search_measured import FEDNAS, FINAL, PROFILES
from bench.search_rows import Row
from bench.search_runs import Method, Sitting, mean_of, tasks_of

# 30% of what the largest network needs on the slowest phone of the class; by how many platforms have one.
ENTRY = f"[budgets.entry]\n{LIMIT}"
HIGH, MID = "[budgets.high]\nlatency_ms = 0.1737\n\n", "[budgets.mid]\nlatency_ms = 0.432\n\n"
DEFAULT = f"[budgets.default]\n{LIMIT}"
LIMITS = {1: ENTRY, 2: HIGH + ENTRY, 4: MID + HIGH + ENTRY}
FLEET = 'profiles = ["redmi-note-4", "pixel-2-xl", "galaxy-s9", "pixel-4"]'
MOST_TIMES = 1.3  # the cost of one platform


def platforms(sitting: Sitting) -> tuple[list[Row], list[Bar]]:
    """A row for each search and number of platforms that has runs; its cost beside that of one platform."""
    text = search_cost.RUN_FILE.read_text(encoding="utf-8")
    settings = {
        count: {PROFILES: FLEET, DEFAULT: limits, FINAL: "[final]\nrounds = 1"} for count, limits in LIMITS.items()
    }
    chosen = {
        (name, count): Method(f"{name}, {count} platform{'s' if count > 1 else ''}", section, settings[count])
        for name, section in (("fednas", FEDNAS), (OURS, RACE))
        for count in LIMITS
    }
    rows: dict[str, list[Row]] = {method.name: [] for method in chosen.values()}
    for row in sitting.rows(tasks_of(text, chosen.values(), sitting.seeds(search_cost.SEEDS))):
        rows[row["method"]].append(row)
    found, bars = [], []
    for (name, count), method in chosen.items():
        pairs = paired(rows[method.name], rows[chosen[name, 1].name])
        if not pairs:
            continue
        found.append(cost_row(method.name, pairs))
        for key, times in found[-1]["ratios"].items() if count > 1 else ():
            bars.append(Bar(f"{method.name}: {key} of the search beside one", times, MOST_TIMES, times <= MOST_TIMES))
    return found, [*bars, limits_bar(row for own in rows.values() for row in own)]


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
