"""What a search costs its clients, and what it finds: FedNAS, its optimisations alone, ours, and the controls.

All on digits with 30 emulated clients, under settings that were fixed before (`bench/search_cost.toml`). Costs are read
from the cost ledger: client-seconds of the profile and bytes both ways, scoring included. Accuracies are the emulator's
over all test splits after the same final training, from fresh weights: the networks that were found are compared, not
how long their weights were trained on the way; `final training from its weights` tells that besides. `rounds` decides
how long the straightforward search must train its candidates: the smallest of 5, 10, 20 rounds after which twice as
many swap at most one pair of the candidates' mean scores over five seeds set apart; 20 where that never holds.

Rows are kept, one line a method and seed: what was stopped goes on from there. The first methods have 20
paired seeds; the rest, which no claim rests on, have fewer. Paired are the clients' shares and splits and a network's
first weights; the order of batches is drawn anew for every round of a run. Where one group trains everything, one
candidate is trained after the other: side by side, a phone's cache would not hold them all, and the reference would
fetch its artifacts again and again. Centralised NetAdapt trains its network at last on that one client too; controls
`on one client` tell what that alone gives a network.
"""

import statistics
from collections.abc import Iterable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from bench.measuring import Bar, Result, new_result, print_result
from bench.pictures import add_plot_option, check_plot_option, save_picture
from bench.search_comparison import (
    COLUMNS,
    COSTS,
    Comparison,
    analytic_rounds,
    is_counted,
    last_gain,
    limits_bar,
    paired,
    summary,
)
from bench.search_plot import draw_costs
from bench.search_rows import Row
from bench.search_runs import BenchError, Method, Sitting, parser_of, sitting_of, tasks_of

RUN_FILE = Path(__file__).with_suffix(".toml")
PACKAGES = ("torch", "onnxruntime-training-cpu", "numpy", "scikit-learn", "optuna")
SEEDS, APART = range(20), range(1000, 1005)
ROUNDS, MOST_ROUNDS = (5, 10, 20), 40
GROUPS, PRETRAIN, KEEP, TRAIN = 10, 2, 3, 5
REFERENCE, UNINFLATED = "straightforward", "straightforward, as many rounds as fednas"
ABLE = "fednas, able blocks alone"
OURS, ALONE, UNIFORM, CENTRAL = "nested_race", "nested_race without a race", "uniform width", "centralised netadapt"
AT_UNIFORM, GOES_ON = ", at the latency of uniform width", ", final training from its weights"
PRUNED, DRAWN_AT_RANDOM, ON_ONE = "random pruning", "random search", ", on one client"
LIMIT = "latency_ms = 0.9077"  # 30% of the largest network's
LIMIT_OF_A_STEP = "latency_ms = 2.8745"  # 95%: every candidate of the first step meets it
LIMIT_OF_UNIFORM = "latency_ms = 0.7502"  # what uniform width needs, whose widths are rounded
ONE_CLIENT = {
    'partition = "dirichlet"\nalpha = 0.5\nclients = 30': 'partition = "iid"\nclients = 1',
    "cohort_size = 30\nmin_reports = 20": "cohort_size = 1\nmin_reports = 1",
}
# The first step's candidates alone: with a limit that one step meets. Only their curves are read.
RULE = Method(
    "rounds",
    {"algorithm": "fednas", "groups": 1, "pretrain_rounds": MOST_ROUNDS, "rounds": 0, "parallel": 1},
    {LIMIT: LIMIT_OF_A_STEP, '\nrounds = 40\nstart = "fresh"': "\nrounds = 1"},
)
CONTROLS = (UNIFORM, PRUNED, DRAWN_AT_RANDOM, "successive halving", "nsga2")
INHERITED = {'start = "fresh"': 'start = "search"'}
IID = {'partition = "dirichlet"\nalpha = 0.5': 'partition = "iid"'}
RACE = {"algorithm": "nested_race", "entrants": 10, "rounds": 7}
ONE_ENTRANT = {"algorithm": "nested_race", "entrants": 1}  # the server's ranking alone
# Whose networks are the same whoever trains them: what final training on one client does alone.
UNASKED = {UNIFORM: {"algorithm": "uniform_width"}, PRUNED: {"algorithm": "random_pruning"}, ALONE: ONE_ENTRANT}
ALL_WIDTHS = {"widths = [96]": "widths = [4, 8, 16, 24, 32, 40, 48, 64, 80, 96]"}
DRAWN = {"trials": 20, "rounds": PRETRAIN + TRAIN, "parallel": 10}


def methods(full: int) -> list[tuple[Method, int]]:
    """All methods, those with claims first, and how many of the seeds each has.

    Args:
        full: R_full, rounds of a candidate of the straightforward search.
    """
    as_published = _fednas(GROUPS, PRETRAIN, KEEP, TRAIN)
    netadapt = _fednas(1, PRETRAIN + TRAIN, None, 0)
    reference, at_uniform = _fednas(1, full, None, 0), {LIMIT: LIMIT_OF_UNIFORM}
    claims = (
        Method("fednas", as_published),
        Method(OURS, RACE),
        Method(ALONE, UNASKED[ALONE]),
        Method(UNIFORM, UNASKED[UNIFORM]),
        Method(f"{OURS}{AT_UNIFORM}", RACE, at_uniform),
        Method(f"{ALONE}{AT_UNIFORM}", ONE_ENTRANT, at_uniform),
        Method(PRUNED, UNASKED[PRUNED]),
        Method(ABLE, {**as_published, "blocks": "able"}),
        Method(REFERENCE, reference),
    )
    beside = (
        Method(f"fednas{AT_UNIFORM}", as_published, at_uniform),
        Method(CENTRAL, netadapt, ONE_CLIENT),
        Method("fednas, iid", as_published, IID),
        *(Method(f"{name}{ON_ONE}", own, ONE_CLIENT) for name, own in UNASKED.items()),
    )
    others = (
        *(Method(f"{name}{GOES_ON}", own, INHERITED) for name, own in (("fednas", as_published), (OURS, RACE))),
        Method("parallel groups only", _fednas(GROUPS, full, None, 0)),
        Method("early dropping only", _fednas(1, PRETRAIN, KEEP, full - PRETRAIN)),
        Method("growing rounds only", _fednas(1, 1, None, full - 1, schedule="growing")),
        Method("adaptive rounds only", _fednas(1, 1, None, full - 1, schedule="adaptive")),
        Method(UNINFLATED, _fednas(1, PRETRAIN + TRAIN, None, 0)),
        Method(DRAWN_AT_RANDOM, {"algorithm": "random_search", **DRAWN}, ALL_WIDTHS),
        Method("successive halving", {"algorithm": "successive_halving", "candidates": 27, "eta": 3}, ALL_WIDTHS),
        Method("nsga2", {"algorithm": "nsga2", **DRAWN, "population_size": 10}, ALL_WIDTHS),
    )
    counts = (claims, len(SEEDS)), (beside, 10), (others, 3)
    return [(method, count) for ones, count in counts for method in ones]


def _fednas(groups: int, pretrain: int, keep: int | None, rounds: int, **more: Any) -> dict[str, Any]:
    own = {"groups": groups, "pretrain_rounds": pretrain, "keep": keep, "rounds": rounds, **more}
    if groups == 1:
        own["parallel"] = 1
    return {"algorithm": "fednas", **{name: value for name, value in own.items() if value is not None}}


def swapped_pairs(before: Sequence[float], after: Sequence[float]) -> int:
    """Pairs of candidates that two rankings order differently; a tie agrees with both orders."""
    pairs = combinations(range(len(before)), 2)
    return sum((before[i] - before[j]) * (after[i] - after[j]) < 0 for i, j in pairs)


def full_rounds(rows: Iterable[Row]) -> tuple[int, dict[str, int]]:
    """R_full, and how many pairs doubling swaps, from the curves of the first step's candidates.

    Where the rule never holds it is the cap, the last of `ROUNDS`.

    Raises:
        BenchError: No rows.
    """
    curves = [row["curves"] for row in rows]
    if not curves:
        raise BenchError(f"no row of `{RULE.name}`, which decides all others: run it first, without --kept")
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


def compare(rows: dict[str, list[Row]], full: int) -> tuple[list[Row], list[Bar]]:
    """Each pair of methods that has two seeds or more, and its bars; a last row names the other pairs."""
    found = {
        (ours, other): Comparison(ours, other, tuple(paired(rows[ours], rows[other])))
        for ours, other in PAIRS
        if ours in rows and other in rows
    }
    found = {names: one for names, one in found.items() if len(one.pairs) > 1}
    bars = [bar for names, make in BARS.items() if names in found for bar in make(found[names], full)]
    left = [f"{ours} against {other}" for ours, other in PAIRS if (ours, other) not in found]
    return [
        *(one.row() for one in found.values()),
        {**dict.fromkeys(COLUMNS), "method": "not compared", "pairs": left},
    ], bars


def _fednas_bars(one: Comparison, full: int) -> list[Bar]:
    """At least 20 times less where R_full >= 10, else 0.9 of what counting gives; counted exactly in client-rounds."""
    counted = statistics.geometric_mean(analytic_rounds(b) / analytic_rounds(a) for a, b in one.pairs)
    bar = 20.0 if full >= 10 else 0.9 * counted
    uncounted = sum(not is_counted(row) for pair in one.pairs for row in pair)
    ledger = Bar("runs whose ledger is not the analytic count (at most)", uncounted, 0, uncounted == 0)
    return [ledger, *_equal_accuracy(one), *_cheaper(one, bar)]


def _ours_bars(one: Comparison, full: int) -> list[Bar]:  # noqa: ARG001
    return [*_equal_accuracy(one), *_cheaper(one, 60.0 if one.other == REFERENCE else 3.0)]


def _uniform_bars(one: Comparison, full: int) -> list[Bar]:  # noqa: ARG001
    gap = one.accuracy["low"]
    return [_seeds(one), Bar(f"{one.ours} against {one.other}: lower end of the difference", gap, 0.0, gap > 0)]


def _netadapt_bars(one: Comparison, full: int) -> list[Bar]:  # noqa: ARG001
    least = -0.01 if one.ours.endswith("iid") else -0.02
    gap, num_left = one.learnt.accuracy["mean"], len(one.pairs) - len(one.learnt.pairs)
    name = f"{one.ours} against {one.other}: mean difference"
    told = f"{name}, without {num_left} where the latter stays at a guess" if num_left else name
    return [_seeds(one, 10), Bar(told, gap, least, gap >= least)]


BARS = {
    ("fednas", REFERENCE): _fednas_bars,
    (OURS, REFERENCE): _ours_bars,
    (OURS, "fednas"): _ours_bars,
    (f"{OURS}{AT_UNIFORM}", UNIFORM): _uniform_bars,
    ("fednas", CENTRAL): _netadapt_bars,
    ("fednas, iid", CENTRAL): _netadapt_bars,
}
PAIRS = (
    *BARS,
    *((ours, UNINFLATED) for ours in ("fednas", OURS)),
    (OURS, ALONE),
    (OURS, ABLE),
    *((ABLE, name) for name in (REFERENCE, "fednas", UNIFORM)),
    *((f"{name}{AT_UNIFORM}", UNIFORM) for name in (ALONE, "fednas")),
    (f"{OURS}{AT_UNIFORM}", f"{ALONE}{AT_UNIFORM}"),
    *((f"{name}{GOES_ON}", name) for name in ("fednas", OURS)),
    *((name, CENTRAL) for name in (ABLE, OURS)),
    *((CENTRAL, f"{name}{ON_ONE}") for name in UNASKED),
    *((f"{name}{ON_ONE}", name) for name in UNASKED),
    *((f"{name}{ON_ONE}", f"{UNIFORM}{ON_ONE}") for name in (PRUNED, ALONE)),
    (ALONE, UNIFORM),
    *(
        (f"{name} only", REFERENCE)
        for name in ("parallel groups", "early dropping", "growing rounds", "adaptive rounds")
    ),
    *((ours, name) for name in CONTROLS for ours in ("fednas", OURS)),
    *((name, UNIFORM) for name in (*CONTROLS, REFERENCE) if name != UNIFORM),
)


def _seeds(one: Comparison, least: int = len(SEEDS)) -> Bar:
    return Bar(f"{one.ours} against {one.other}: paired seeds", len(one.pairs), least, len(one.pairs) >= least)


def _equal_accuracy(one: Comparison) -> list[Bar]:
    bound, name = one.accuracy["bound"], f"{one.ours} against {one.other}"
    return [_seeds(one), Bar(f"{name}: one-sided 95% bound of the difference", bound, -0.01, bound > -0.01)]


def _cheaper(one: Comparison, bar: float) -> list[Bar]:
    times = one.search
    name = f"{one.ours} against {one.other}: times fewer"
    return [Bar(f"{name} {key} in the search", times[key], bar, times[key] >= bar) for key in COSTS[1:]]


def mean_last_gain(rows: Iterable[Row]) -> float:
    """What the last rounds of final training still added to the first model's accuracy on the validation splits."""
    return round(statistics.mean(last_gain(row, row["models"][0]) for row in rows), 4)


def main() -> None:
    """Run the bench; see the module's docstring."""
    names = [one.name for one, _ in methods(ROUNDS[-1])]
    parser = parser_of("search_cost", __doc__, names, "only these methods, beside `rounds`")
    add_plot_option(parser, "accuracy against client-seconds of the search")
    arguments = parser.parse_args()
    check_plot_option(parser, arguments)
    result = new_result("search_cost", PACKAGES)
    _run(sitting_of(parser, arguments), arguments.methods, result)
    print_result(result, COLUMNS, arguments.output)
    if arguments.plot is not None:
        found = [row for row in result.rows if "deviation" in row and not row["method"].endswith(ON_ONE)]
        save_picture(lambda axes: draw_costs(axes, found, OURS, CONTROLS), arguments.plot, (6.4, 5.8))


def _run(sitting: Sitting, names: Sequence[str] | None, result: Result) -> None:
    text = RUN_FILE.read_text(encoding="utf-8")
    full, swaps = full_rounds(sitting.rows(tasks_of(text, [RULE], APART)))
    told = {"R_full": full, "rule held": swaps[f"{full} to {2 * full}"] <= 1, "swapped pairs": swaps}
    result.rows.append({**dict.fromkeys(COLUMNS), "method": RULE.name, **told})
    rows = sitting.rows_by_method(methods(full), SEEDS, lambda method, seeds: tasks_of(text, [method], seeds), names)
    compared, bars = compare(rows, full)
    result.rows.extend(summary(name, own) | {"last_gain": mean_last_gain(own)} for name, own in rows.items() if own)
    result.rows.extend(compared)
    result.bars.extend([*bars, limits_bar(row for own in rows.values() for row in own)])


if __name__ == "__main__":
    main()
