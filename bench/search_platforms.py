"""One pass of FedNAS, and one of ours, on digits for 2 and 4 platforms: what it costs beside a pass for one of them.

Four phones of four classes: the stronger the class, the wider the network that a limit lets through. Each limit is what
the largest network needs there when all its widths are scaled to 24, 32, 40 or 48 of 96, so each is met by networks of
a size of its own. One platform is the mean of as many passes for each of them alone, with as many phones and the same
limits; beside it stands the dearest of those passes. FedNAS trains one network on all phones, so its fleet has the same
four kinds in every row and client-seconds can be compared; what differs is how many of them have a limit. Its pass ends
where the hardest limit is met, and the easier ones were met on the way. Ours has a race for every kind of phone, and a
phone trains in its own: its fleet has the kinds that have limits, and how often clients are asked follows from their
number alone, whatever the number of platforms.
"""

import json
import statistics
from collections.abc import Sequence
from itertools import product

from bench import search_cost
from bench.measuring import Bar
from bench.search_comparison import COSTS, limits_bar, over_limit, paired
from bench.search_cost import OURS, RACE
from bench.search_measured import DEFAULT, FEDNAS, FINAL, PROFILES
from bench.search_rows import Row
from bench.search_runs import Method, Sitting, by_method, geometric_mean_of, tasks_of

# Each of a class of its own, with what the largest network's widths scaled to 24, 40, 32 and 48 need there.
LIMITS = {
    "redmi-note-4": "[budgets.entry]\nlatency_ms = 0.9103",
    "pixel-4": "[budgets.high]\nlatency_ms = 0.2656",
    "pixel-2-xl": "[budgets.mid]\nlatency_ms = 0.4891",
    "pixel-6": "[budgets.flagship]\nlatency_ms = 0.2249",
}
PHONES = (*LIMITS,)
COUNTS = 2, 4  # the first so many of the phones have their limits in one pass
SEARCHES = {"fednas": FEDNAS, OURS: RACE}
SEEDS = range(5)
MOST_TIMES = 1.3  # the cost of one platform


def platforms(sitting: Sitting) -> tuple[list[Row], list[Bar]]:
    """A row for each search and number of platforms that has runs; its cost beside that of one platform."""
    text = search_cost.RUN_FILE.read_text(encoding="utf-8")
    fleets = *((phone,) for phone in PHONES), *(PHONES[:count] for count in COUNTS)
    methods = [method_of(search, fleet) for search in SEARCHES for fleet in fleets]
    rows = by_method(sitting.rows(tasks_of(text, methods, sitting.seeds(SEEDS))), [method.name for method in methods])
    found, bars = [], []
    for search, count in product(SEARCHES, COUNTS):
        name = name_of(search, PHONES[:count])
        alone = [rows[name_of(search, (phone,))] for phone in PHONES[:count]]
        pairs = paired(rows[name], mean_rows(alone))
        if not pairs:
            continue
        found.append(cost_row(name, pairs) | {"times the dearest alone": times_the_dearest(rows[name], alone)})
        for key, times in found[-1]["ratios"].items():
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


def times_the_dearest(rows: Sequence[Row], alone: Sequence[Sequence[Row]]) -> dict[str, float | None]:
    """Client-seconds of the search beside those of the platform whose pass alone takes most of them."""
    dearest = max(alone, key=lambda own: statistics.mean(row["search"]["client_seconds"] for row in own))
    return ratio_of(paired(rows, dearest), "client_seconds")


def name_of(search: str, limited: Sequence[str]) -> str:
    """The method that searches for these phones."""
    return f"{search}, {limited[0]} alone" if len(limited) == 1 else f"{search}, {len(limited)} platforms"


def method_of(search: str, limited: Sequence[str]) -> Method:
    """A search for these phones: FedNAS's fleet has all phones, the race's only these."""
    fleet = f"profiles = {json.dumps([*(PHONES if search == 'fednas' else limited)])}"
    limits = "\n\n".join(LIMITS[phone] for phone in limited)
    return Method(
        name_of(search, limited), SEARCHES[search], {PROFILES: fleet, DEFAULT: limits, FINAL: "[final]\nrounds = 1"}
    )


def ratio_of(pairs: Sequence[tuple[Row, Row]], key: str) -> dict[str, float | None]:
    """How many times as much searches cost as others of the same seeds."""
    return geometric_mean_of([row["search"][key] / other["search"][key] for row, other in pairs])


def cost_row(name: str, pairs: Sequence[tuple[Row, Row]]) -> Row:
    """What searches cost, and how many times as much as others of the same seeds."""
    rows = [row for row, _ in pairs]
    intervals = {key: ratio_of(pairs, key) for key in COSTS}
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
