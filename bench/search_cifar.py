"""All methods on cifar10-20k at 16 x 16 for two platforms with limits of latency, memory and size.

The limit of latency is what uniform width 16 needs there. Three seeds, means with intervals, and no bar but the limits.
On each platform the methods stand beside whichever uniform width is the better one there, with the given learning rate
or with one tuned in the run, and beside the ranking and random search, two controls of searching at all. `best found`
is the search whose networks are the most accurate on the validation splits after final training. What that training's
last rounds still added is told, as there may be more to come. The race's settings were chosen after an older race had
been seen on these seeds, so it, the ranking and uniform width have three later seeds, which have rows of their own
besides. R_full is given: its rule was followed on digits alone. The archive is no part of the project: without it the
part is left out.
"""

import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.measuring import Bar
from bench.search_comparison import COSTS, final_curve, last_gain, limits_bar
from bench.search_cost import ABLE, ALONE, DRAWN, DRAWN_AT_RANDOM, ONE_ENTRANT, OURS, PRUNED, RACE, REFERENCE, UNIFORM
from bench.search_images import ARCHIVE, write_npz
from bench.search_measured import FEDNAS
from bench.search_rows import NEEDS, Row
from bench.search_runs import Method, Sitting, mean_of, tasks_of
from pipeline.run_file import parse_run_file

RUN_FILE = Path(__file__).with_suffix(".toml")
SEEDS, LATER = range(3), range(3, 6)
SEARCHES = (OURS, ALONE, "fednas", REFERENCE, ABLE)  # ALONE asks no phone to train; the others are controls
TUNED = f"{UNIFORM}, learning rate tuned in the run"
AGAIN = UNIFORM, TUNED, OURS, ALONE  # on the later seeds
RATES, TUNING_ROUNDS = "learning_rate = [0.005, 0.01, 0.02, 0.04]", 20
REDUCTION = 0.2  # more than a block alone gives: each step narrows one to 4 channels, and eight or nine do it
ALL_WIDTHS = {"widths = [64]": "widths = [4, 8, 16, 24, 32, 40, 48, 56, 64]"}


def methods(full_rounds: int, run_file: str) -> tuple[Method, ...]:
    """The methods of the table on cifar10-20k, uniform width first.

    Args:
        full_rounds: R_full, rounds of a candidate of the straightforward search.
        run_file: Whose one learning rate the tuned control replaces by a list.
    """
    rate = re.findall(r"^learning_rate = .+$", run_file, re.MULTILINE)[0]
    straightforward = {"groups": 1, "pretrain_rounds": full_rounds, "rounds": 0, "parallel": 1}
    return (
        Method(UNIFORM, {"algorithm": "uniform_width"}),
        Method(TUNED, {"algorithm": "uniform_width", "rounds": TUNING_ROUNDS}, {rate: RATES}),
        Method(PRUNED, {"algorithm": "random_pruning", "first_reduction": REDUCTION}),
        Method(DRAWN_AT_RANDOM, {"algorithm": "random_search", **DRAWN}, ALL_WIDTHS),
        Method(OURS, RACE),
        Method(ALONE, ONE_ENTRANT),
        Method("fednas", {**FEDNAS, "first_reduction": REDUCTION}),
        Method(ABLE, {**FEDNAS, "first_reduction": REDUCTION, "blocks": "able"}),
        Method(REFERENCE, {"algorithm": "fednas", **straightforward, "first_reduction": REDUCTION}),
    )


def cifar(sitting: Sitting, full_rounds: int, archive: Path = ARCHIVE) -> tuple[list[Row], list[Bar]]:
    """A row for each method and platform, as far as there are runs; the dearest search comes last."""
    text = RUN_FILE.read_text(encoding="utf-8")
    if sitting.runs:
        if not archive.exists():
            return [{"method": "all", "skipped": f"{archive.name} is not beside the project; it is no part of it"}], []
        write_npz(archive, Path(parse_run_file(text).data.source.removeprefix("npz:")))
    chosen = methods(full_rounds, text)
    again = [method for method in chosen if method.name in AGAIN]
    later, rows = (
        sitting.rows_by_method(
            [(method, len(seeds)) for method in ones], seeds, lambda method, own: tasks_of(text, [method], own)
        )
        for ones, seeds in ((again, LATER), (chosen, SEEDS))
    )
    every_row = [row for ones in (rows, later) for own in ones.values() for row in own]
    rows, later = beside_controls(rows), beside_controls(later)
    table = [on_platform(name, rows, one) for name in rows for one in platforms_of(rows)]
    table += [
        on_platform(name, later, one) | {"method": f"{name}, later seeds"}
        for name in later
        for one in platforms_of(later)
    ]
    found = [on_platform(name, rows, one) | {"method": f"best found: {name}"} for one, name in best_found(rows)]
    left = [method.name for method in chosen if method.name not in rows]
    not_run = [{"method": "not run", "names": left}] if left else []
    return [{**row, "R_full": full_rounds} for row in (*table, *found, *not_run)], [limits_bar(every_row)]


def beside_controls(rows: Mapping[str, Sequence[Row]]) -> dict[str, list[Row]]:
    """Of each method the rows whose seeds all of what it is set beside have; without methods that have none."""
    shared = set.intersection(*({row["seed"] for row in rows[name]} for name in (UNIFORM, TUNED, ALONE)))
    of_shared = {name: [row for row in own if row["seed"] in shared] for name, own in rows.items()}
    return {name: own for name, own in of_shared.items() if own}


def platforms_of(rows: Mapping[str, Sequence[Row]]) -> list[str]:
    """Those that the control ships for."""
    return sorted({name for row in rows.get(UNIFORM, ()) for model in row["models"] for name in model["platforms"]})


def best_found(rows: Mapping[str, Sequence[Row]]) -> list[tuple[str, str]]:
    """Each platform with the search that found the best there, of those with every seed; no test example has a say."""
    searches = [name for name in SEARCHES if len(rows.get(name, ())) == len(rows.get(UNIFORM, ()))]
    return [(one, max(searches, key=lambda name: validated_accuracy(rows[name], one))) for one in platforms_of(rows)]


def on_platform(name: str, rows: Mapping[str, Sequence[Row]], platform: str) -> Row:
    """A method's figures on one platform beside the better control's of the same seeds; costs are of all its platforms.

    Args:
        rows: Of each method, by seed; those it is set beside have all its seeds.
    """
    own = rows[name]
    seeds = {row["seed"] for row in own}
    rows = {other: [row for row in ones if row["seed"] in seeds] for other, ones in rows.items()}
    beside = better_control(rows, platform)
    models = [model_of(row, platform) for row in own]
    accuracy = accuracies(own, platform)

    def ahead_of(other: str) -> list[float]:
        return [a - b for a, b in zip(accuracy, accuracies(rows[other], platform), strict=True)]

    found = {
        "method": name,
        "platform": platform,
        "seeds": len(own),
        "test_accuracy": statistics.mean(accuracy),
        "test_accuracy_interval": mean_of(accuracy),
        **{need: statistics.mean(model[need][platform] for model in models) for need in NEEDS},
        "num_parameters": statistics.mean(model["num_parameters"] for model in models),
        "last_gain": statistics.mean(last_gain(row, model_of(row, platform)) for row in own),
        **mean_costs(own),
        "runs": [{key: row[key] for key in ("seed", "search", "final", "models", "num_trials")} for row in own],
    }
    if name != ALONE:
        found["over the ranking alone"] = mean_of(ahead_of(ALONE))
    if name != DRAWN_AT_RANDOM and len(rows.get(DRAWN_AT_RANDOM, ())) == len(own):
        found["over random search"] = mean_of(ahead_of(DRAWN_AT_RANDOM))
    gaps = ahead_of(beside)
    difference = {"difference": statistics.mean(gaps), "paired": mean_of(gaps), "beside": beside}
    return found if name == beside else {**found, **difference}  # the control has no difference from itself


def mean_costs(rows: Sequence[Row]) -> Row:
    """What the search costs, what final training does, and both."""
    found = {}
    for name, phases in (("", ("search",)), ("final_", ("final",)), ("total_", ("search", "final"))):
        means = {key: statistics.mean(sum(row[p][key] for p in phases) for row in rows) for key in COSTS[1:]}
        found |= {f"{name}client_seconds": means["client_seconds"], f"{name}megabytes": means["bytes"] / 1e6}
    return found


def better_control(rows: Mapping[str, Sequence[Row]], platform: str) -> str:
    """Of uniform width, untuned and tuned, the one with the better networks on the validation splits."""
    return max((UNIFORM, TUNED), key=lambda name: validated_accuracy(rows[name], platform))


def validated_accuracy(rows: Sequence[Row], platform: str) -> float:
    """Mean accuracy over all validation splits after final training."""
    return statistics.mean(final_curve(row, model_of(row, platform))[-1] for row in rows)


def accuracies(rows: Sequence[Row], platform: str) -> list[float]:
    """Test accuracies of what runs ship for a platform."""
    return [model_of(row, platform)["test_accuracy"] for row in rows]


def model_of(row: Row, platform: str) -> Row:
    """What a run ships for a platform."""
    return next(model for model in row["models"] if platform in model["platforms"])
