"""What a whole joint search finds under one privacy budget: accuracy against total epsilon, at delta 1e-5, on digits.

A run is search, tuning, final training and test together. Ours runs at four epsilons with noise on the sum and on the
device, beside the row without noise of `bench.joint_search` with that bench's own settings; where --work is that
bench's folder, its rows are taken. At epsilon 8 stand beside it random search over the same lists, at both places, and
FEATHERS as published: weights and architecture weights in one vector clipped to 1, an epoch of batches a round, gains
released as rewards. FEATHERS has noise on the device alone: with noise on the sum it is the server that takes the step,
no phone could say what it gained by one, and the run file is refused.

No noise multiplier is typed in: each is the least that fits. Splits are disjoint, so each spends the whole of epsilon.
Ours and random search have a clip, lists and rounds that were tuned on seeds 100 and 101: of the same digits, and no
budget pays for that. FEATHERS has its published lists and clip, and as many final rounds; a
third row of it has our lists, our clip and our one step a round.

`clients` protects whole clients: 1,000 emulated ones, noise on the sum, epsilon 8. Digits dealt evenly leave each one
or two training examples, and a third of them one to validate with: a synthetic partition, which shows the unit at work
and says nothing about phones that hold more. Its data are dealt otherwise, so it is compared with nothing.

Accuracies are the emulator's exact ones over all test splits. Rows are kept, one line a method and seed.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from math import ceil, sqrt
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from bench import joint_search
from bench.joint_search import FEATHERS, LISTS, OURS
from bench.measuring import Bar, new_result, print_result
from bench.pictures import BLUE, INK, ORANGE, add_plot_option, check_plot_option, save_picture
from bench.search_comparison import Comparison, accuracy_of, paired, summary
from bench.search_rows import Row
from bench.search_runs import Method, Task, mean_of, parser_of, sitting_of, tasks_of
from pipeline.privacy_sections import PrivacySection
from pipeline.report.plots import percent_axis
from pipeline.run_file import parse_run_file
from pipeline.run_sections import RunFile
from pipeline.searching.schedule import Schedule, Table, plan_schedule

RUN_FILE = Path(__file__).with_suffix(".toml")
COLUMNS = ("method", "noise_at", "epsilon", "seeds", "test_accuracy", "client_seconds", "total_seconds")
PLACES, EPSILONS, COMPARED = ("sum", "device"), (1, 2, 4, 8), 8
SEEDS, FEWER = range(5), 3
TWO_PHASES, OUR_LISTS = f"{FEATHERS}, two phases", f"{FEATHERS} with our lists and clip"
CONTROL, CLIENTS = "random search", "clients"
COST, LEAD = 0.05, 0.02  # of the bars: of privacy with noise on the sum, and over FEATHERS with noise on the device

TRAINING = "learning_rate = { low = 0.5, high = 6.0 }\nlocal_steps = 1\nmax_grad_norm = 0.5\n"
FINAL = 'rounds = 80\nstart = "search"'
UPDATE, METRICS, TEST = (
    f"{table} = {{ sample_rate = 1.0, noise_multiplier = 1.0 }}" for table in ("update", "metrics", "test")
)
PUBLISHED = {
    TRAINING: f"{LISTS}architecture_learning_rate = {{ low = 1e-5, high = 1e-2 }}\n"
    "architecture_weight_decay = { low = 1e-5, high = 0.1 }\nlocal_steps = 5\nmax_grad_norm = 1.0\n",
    UPDATE: UPDATE.replace("1.0", "0.2", 1),  # five steps are an epoch, of batches of 7 where a client holds the mean
    TEST: f"{TEST}\nreward = {{ sample_rate = 1.0, noise_multiplier = 1.0, loss_bound = 2.0 }}",
}
REWARDED = {
    TRAINING: f"{TRAINING}architecture_learning_rate = {{ low = 1e-3, high = 1e-1 }}\n",
    TEST: PUBLISHED[TEST],
}
BY_CLIENT = {
    'partition = "dirichlet"\nalpha = 0.5\nclients = 30\nmin_train_examples = 8': 'partition = "iid"\nclients = 1000',
    TRAINING: "learning_rate = { low = 0.5, high = 6.0 }\nlocal_epochs = 1\nbatch_size = 8\n",
    'unit = "example"': 'unit = "client"\nmax_participations = 16\nmax_norm = 1.5',
    UPDATE: "update = { noise_multiplier = 1.0 }",
    METRICS: "metrics = { noise_multiplier = 2.0 }",  # of few releases: even so a score's noise is two points
    TEST: "test = { noise_multiplier = 2.0 }",
    FINAL: 'rounds = 16\nstart = "search"',
    "cohort_size = 30\nmin_reports = 20": "cohort_size = 1000\nmin_reports = 600",
    'weighting = "examples"': 'weighting = "uniform"',
}
_COLOURS = {"sum": BLUE, "device": ORANGE}
_MARKERS = {FEATHERS: "s", TWO_PHASES: "D", OUR_LISTS: "^", CONTROL: "x"}


def methods() -> list[tuple[Method, int]]:
    """All methods, the one without noise first, and how many of the seeds each has."""
    (free,) = (method for method, _ in joint_search.methods() if method.name == OURS)
    ours = {"algorithm": OURS, "candidates": 4, "networks": 2, "rounds": 2, "eta": 4, "group_size": 30}
    control = {"algorithm": "random_search", "trials": 4, "rounds": 3, "parallel": 4}
    feathers = {"algorithm": "feathers", "moves": "all", "rounds": 10}
    fresh, none = FINAL.replace("search", "fresh"), FINAL.replace("80", "0")
    found = [private(OURS, ours, place, epsilon) for place in PLACES for epsilon in EPSILONS]
    found += [private(CONTROL, control, place) for place in PLACES]
    found += [
        private(FEATHERS, feathers, "device", settings={**PUBLISHED, FINAL: fresh}),
        private(TWO_PHASES, {**feathers, "evaluation_rounds": 80}, "device", settings={**PUBLISHED, FINAL: none}),
        private(OUR_LISTS, feathers, "device", settings={**REWARDED, FINAL: fresh}),
    ]
    by_client = private(CLIENTS, {**ours, "group_size": 500}, "sum", settings=BY_CLIENT)
    return [*((method, len(SEEDS)) for method in (free, *found)), (by_client, FEWER)]


def private(
    name: str, search: dict[str, Any], place: str, epsilon: float = COMPARED, settings: Mapping[str, str] | None = None
) -> Method:
    """A method at a place of noise and an epsilon; its noise multipliers are not fitted yet."""
    budget = {'noise_at = "sum"': f'noise_at = "{place}"', "target_epsilon = 8": f"target_epsilon = {epsilon:g}"}
    return Method(name_of(name, place, epsilon), search, {**(settings or {}), **budget})


def name_of(method: str, place: str, epsilon: float = COMPARED) -> str:
    """Of a row."""
    return f"{method}, {place}, epsilon {epsilon:g}"


def tasks_for(method: Method, seeds: Iterable[int]) -> list[Task]:
    """A method's runs, with the noise that fits; no plan depends on the seed, so it is fitted once."""
    if method.name == OURS:
        return tasks_of(joint_search.RUN_FILE.read_text(encoding="utf-8"), [method], seeds)
    tasks = tasks_of(RUN_FILE.read_text(encoding="utf-8"), [method], seeds)
    noise = fit_noise(parse_run_file(tasks[0].run_file)) if tasks else {}
    return [replace(task, run_file=with_noise(task.run_file, noise)) for task in tasks]


def fit_noise(run: RunFile) -> dict[Table, float]:
    """The least noise multipliers whose plan spends at most `target_epsilon`, to three decimals, by table of [privacy].

    Tables that count on one split keep the ratios of their multipliers in `run`, and each split is fitted as if it were
    alone; in the client unit all count on one account. The stop rule counts every split at one Renyi order: where that
    is not each one's best, all multipliers grow by one factor.

    Raises:
        ValueError: `run` has no [privacy], or no noise fits its budget.
    """
    privacy, schedule = plan_of(run)
    sections, ratios = privacy.tables(), {one.table: one.release.noise_multiplier for one in schedule.planned}
    accounts = {one.table: one.release.charged_splits for one in schedule.planned}

    def fits(own: Iterable[Table], others: Mapping[Table, float], factor: float) -> bool:
        noise = {**others, **{table: ratios[table] * factor for table in own}}
        louder: dict[str, Any] = {t: sections[t].model_copy(update={"noise_multiplier": m}) for t, m in noise.items()}
        _, plan = plan_of(run.model_copy(update={"privacy": privacy.model_copy(update=louder)}))
        return plan.epsilon <= privacy.target_epsilon

    silent = dict.fromkeys(ratios, 1e5)  # next to nothing is spent on other splits
    for account in set(accounts.values()):
        own = [table for table in accounts if accounts[table] == account]
        factor = least_factor(partial(fits, own, silent), 1e-2)
        ratios.update({table: ratios[table] * factor for table in own})
    common = least_factor(partial(fits, ratios, {}), 1.0)
    return {table: ceil(1e3 * common * multiplier) / 1e3 for table, multiplier in ratios.items()}


def least_factor(fits: Callable[[float], bool], low: float, high: float = 1e4) -> float:
    """The least number in [low, high] that fits, to 1e-5 of itself; whatever is above one that fits must fit, too.

    Raises:
        ValueError: Not even `high` fits.
    """
    if fits(low):
        return low
    if not fits(high):
        raise ValueError(f"no noise up to {high:g} times as large fits: raise target_epsilon, or plan fewer rounds")
    while high > low * (1 + 1e-5):
        middle = sqrt(low * high)
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high


def plan_of(run: RunFile) -> tuple[PrivacySection, Schedule]:
    """A private run's terms and what it will spend.

    Raises:
        ValueError: It has no [privacy].
    """
    schedule = plan_schedule(run)
    if run.privacy is None or schedule is None:
        raise ValueError(f"{run.run.name} has no noise to fit: add the table [privacy]")
    return run.privacy, schedule


def with_noise(run_file: str, noise: Mapping[Table, float]) -> str:
    """A run file with these noise multipliers in [privacy], where each table is one line.

    Raises:
        ValueError: A table is not there, or more than once.
    """
    for table, multiplier in noise.items():
        line = rf"(?m)^({table} = {{.*\bnoise_multiplier = )[0-9.]+"
        run_file, count = re.subn(line, rf"\g<1>{multiplier:.3f}", run_file)
        if count != 1:
            raise ValueError(f"the run file must have a line of the table {table} once, it has it {count} times")
    return run_file


def table_row(name: str, rows: Sequence[Row], free: Sequence[Row]) -> Row:
    """A method's figures; where it is private what it spends, and what that cost beside the rows without noise."""
    accuracy, run = mean_of([accuracy_of(row) for row in rows]), parse_run_file(rows[0]["run_file"])
    told: Row = {**dict.fromkeys(("noise_at", "unit", "epsilon")), "interval": [accuracy["low"], accuracy["high"]]}
    if run.privacy is not None:
        privacy, plan = plan_of(run)
        pairs = paired(rows, free) if privacy.unit == "example" else []
        told |= {
            "noise_at": privacy.noise_at,
            "unit": privacy.unit,
            "epsilon": privacy.target_epsilon,
            "epsilon_by_split": plan.epsilon_by_split,
            "noise_multipliers": {one.table: one.release.noise_multiplier for one in plan.planned},
            "difference": Comparison(name, OURS, tuple(pairs)).accuracy if len(pairs) > 1 else None,
        }
    return {**summary(name, rows), **told}


def bars_of(rows: Mapping[str, Sequence[Row]]) -> list[Bar]:
    """Of mean differences on common seeds; none of two methods that have fewer than two."""
    bars = []
    for one in _compared(rows, name_of(OURS, "sum"), OURS):
        mean, num_pairs = one.accuracy["mean"], len(one.pairs)
        bars.append(Bar(f"{one.ours} against no noise: mean difference", mean, -COST, mean >= -COST))
        bars.append(Bar(f"{one.ours} against no noise: paired seeds", num_pairs, len(SEEDS), num_pairs >= len(SEEDS)))
    for published in (FEATHERS, TWO_PHASES, OUR_LISTS):
        for one in _compared(rows, name_of(OURS, "device"), name_of(published, "device")):
            mean, times = one.accuracy["mean"], one.both["client_seconds"]
            bars.append(Bar(f"{one.ours} against {published}: mean difference", mean, LEAD, mean >= LEAD))
            bars.append(Bar(f"{one.ours} against {published}: times fewer client-seconds", times, 1.0, times >= 1))
    return bars


def beside_ours(rows: Mapping[str, Sequence[Row]]) -> list[Row]:
    """Ours against what stands beside it at the same epsilon and place, with intervals."""
    others = [(CONTROL, place) for place in PLACES] + [(one, "device") for one in (FEATHERS, TWO_PHASES, OUR_LISTS)]
    found = [_compared(rows, name_of(OURS, place), name_of(name, place)) for name, place in others]
    return [{**dict.fromkeys(COLUMNS), **one.row()} for compared in found for one in compared]


def _compared(rows: Mapping[str, Sequence[Row]], ours: str, other: str) -> list[Comparison]:
    pairs = tuple(paired(rows.get(ours, ()), rows.get(other, ())))
    return [Comparison(ours, other, pairs)] if len(pairs) > 1 else []


def draw(axes: Axes, rows: Mapping[str, Row]) -> None:
    """Ours as a line a place of noise, with intervals; no noise as a dashed line; what stands beside it as points."""
    if OURS in rows:
        axes.axhline(rows[OURS]["test_accuracy"], color=INK, linestyle="--", label="no noise")
    for place, colour in _COLOURS.items():
        line = [rows[name] for name in (name_of(OURS, place, epsilon) for epsilon in EPSILONS) if name in rows]
        x, y = [row["epsilon"] for row in line], [row["test_accuracy"] for row in line]
        halves = [(row["interval"][1] or mean) - mean for row, mean in zip(line, y, strict=True)]  # one seed has none
        if line:
            axes.errorbar(x, y, halves, color=colour, marker="o", markersize=4, capsize=3, label=f"ours, {place}")
        for method, marker in _MARKERS.items():
            if one := rows.get(name_of(method, place)):
                label = f"{method}, {place}"
                axes.plot(one["epsilon"], one["test_accuracy"], marker, color=colour, fillstyle="none", label=label)
    axes.set_xscale("log")
    axes.set_xticks(EPSILONS, [f"{epsilon:g}" for epsilon in EPSILONS])
    axes.minorticks_off()
    percent_axis(axes)
    axes.set_xlabel("total epsilon, delta 1e-5")
    axes.set_ylabel("test accuracy")
    axes.figure.legend(loc="outside upper left", ncols=2, frameon=False, fontsize=8)


def main() -> None:
    """Run the bench; see the module's docstring."""
    parser = parser_of("joint_privacy", __doc__, [method.name for method, _ in methods()])
    add_plot_option(parser, "accuracy against epsilon")
    arguments = parser.parse_args()
    check_plot_option(parser, arguments)
    sitting = sitting_of(parser, arguments)
    result = new_result("joint_privacy", joint_search.PACKAGES)
    rows = sitting.rows_by_method(methods(), SEEDS, tasks_for, arguments.methods)
    result.rows.extend(table_row(name, own, rows.get(OURS, [])) for name, own in rows.items() if own)
    result.rows.extend(beside_ours(rows))
    result.bars.extend(bars_of(rows))
    print_result(result, COLUMNS, arguments.output)
    if arguments.plot is not None:
        save_picture(lambda axes: draw(axes, {row["method"]: row for row in result.rows}), arguments.plot)


if __name__ == "__main__":
    main()
