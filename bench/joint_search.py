"""What searches over networks of cells and their training together find, at about equal cost to the clients.

All on digits with 30 emulated clients under settings that were fixed before (`bench/joint_search.toml`): ours, FEATHERS
and FedEx as published, federated DARTS with tuning after it, before it and without, and the controls. Rounds are such
that every search costs its clients about the same seconds (50, read from the cost ledger; FEATHERS explores so
widely that one of its periods costs four times that). Accuracies are the emulator's over all test splits after the same
final training from fresh weights with the configuration that was found; FEATHERS has its own second phase besides.
`one network` is our tuner on the network that ranks first: what choosing a network by training adds. NAS before tuning
has five rounds of some five steps on the architecture, each about its learning rate long: with 3e-3 the share of an
operation goes from one in seven to 16% at most. So it stands there with ten times that, too.

`random networks` puts the network that ours found among 20 random ones within the limits, all trained by the
configuration that ours found, from fresh weights, by the exact accuracy over all validation splits. Those also chose
the found network, which favours it.

Rows are kept, one line a method and seed: what was stopped goes on from there. The methods of the primary
claim have 20 paired seeds, the others fewer.
"""

import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from bench.measuring import Bar, new_result, print_result
from bench.search_comparison import COLUMNS, Comparison, paired, summary
from bench.search_rows import Row
from bench.search_runs import Method, Sitting, parser_of, sitting_of, tasks_of

RUN_FILE = Path(__file__).with_suffix(".toml")
PACKAGES = ("torch", "onnxruntime-training-cpu", "numpy", "scikit-learn", "optuna")
SEEDS, FEWER, NUM_RANDOM = range(20), 5, 20
MOST_UNEQUAL = 0.9  # a search that costs more than its rival by more than a tenth is not at equal cost
OURS, AFTER, FEATHERS, NETWORKS = "merged_halving", "nas then tuning", "feathers", "random networks"
AFTER_FASTER = f"{AFTER}, ten times the step on the architecture"
DEFAULT = {
    "learning_rate": 0.025,
    "momentum": 0.9,
    "weight_decay": 3e-4,
    "architecture_learning_rate": 3e-3,
    "architecture_weight_decay": 1e-3,
}  # DARTS' own (arXiv:1806.09055, section A), but for ten times its step on the architecture: rounds are few
FASTER = {**DEFAULT, "architecture_learning_rate": 3e-2}
LISTS = (
    "learning_rate = { low = 1e-4, high = 0.1 }\n"
    'momentum = { low = 0.0, high = 0.99, scale = "linear" }\n'
    "weight_decay = { low = 1e-5, high = 0.1 }\n"
)
UNTUNED = {  # what tunes before the architecture moves cannot tell how fast it should
    "architecture_learning_rate = { low = 1e-5, high = 1e-2 }": "architecture_learning_rate = 3e-3",
    "architecture_weight_decay = { low = 1e-5, high = 0.1 }": "architecture_weight_decay = 1e-3",
}
FINAL, TWO_PHASES = 'rounds = 40\nstart = "fresh"', 'rounds = 0\nstart = "search"'


def methods() -> list[tuple[Method, int]]:
    """All methods, the primary claim's first, and how many of the seeds each has."""
    fedex = {"algorithm": "fedex", "configurations": 27}
    feathers = {"algorithm": "feathers", "rounds": 10}
    one = {"algorithm": "random_search", "trials": 1, "rounds": 1}
    after = {**fedex, "order": "nas_then_tuning", "rounds": 21, "tuning_share": 0.76}
    primary = (
        Method(OURS, {"algorithm": OURS, "rounds": 2}),
        Method(AFTER, {**after, "default": DEFAULT}),
    )
    others = (
        Method(AFTER_FASTER, {**after, "default": FASTER}),
        Method(f"{OURS}, half the cost", {"algorithm": OURS, "rounds": 1}),
        Method(f"{OURS}, one network", {"algorithm": OURS, "rounds": 2, "networks": 1}),
        Method(FEATHERS, feathers),
        Method("feathers, two phases", {**feathers, "evaluation_rounds": 40}, {FINAL: TWO_PHASES}),
        Method("fedex", {**fedex, "rounds": 7}),
        Method("tuning then nas", {**fedex, "order": "tuning_then_nas", "rounds": 10, "tuning_share": 0.6}, UNTUNED),
        Method("nas only", {**fedex, "order": "nas", "rounds": 7, "default": DEFAULT}),
        Method("tuning only", {**fedex, "order": "tuning", "rounds": 62}),
        Method("random search", {"algorithm": "random_search", "trials": 6, "rounds": 10, "parallel": 6}),
        Method("successive halving", {"algorithm": "successive_halving", "candidates": 18, "eta": 3}),
        Method("tpe", {"algorithm": "tpe", "trials": 16, "rounds": 4, "random": 4, "parallel": 2}),
        Method("default", one, {LISTS: fixed(DEFAULT)}),
    )
    return [(method, count) for ones, count in ((primary, len(SEEDS)), (others, FEWER)) for method in ones]


def fixed(training: dict[str, Any]) -> str:
    """Lines of [training] with one value in the place of each list."""
    return "".join(f"{name} = {training[name]!r}\n" for name in ("learning_rate", "momentum", "weight_decay"))


def random_networks(ours: Iterable[Row]) -> list[Method]:
    """A method for each seed of ours: random networks trained as what ours found is."""
    drawn = {"algorithm": "random_search", "trials": NUM_RANDOM, "rounds": 40, "parallel": NUM_RANDOM}
    return [
        Method(f"{NETWORKS}, seed {row['seed']}", drawn, {LISTS: fixed(_training(row)), "rounds = 40": "rounds = 1"})
        for row in ours
    ]


def place(row: Row, networks: Row) -> float:
    """Share of the random networks that the found one is better than, a half of those it equals."""
    found = row["final_curves"][str(row["models"][0]["trial"])][-1]
    others = [curve[-1] for curve in networks["curves"].values()]
    return sum((found > other) + 0.5 * (found == other) for other in others) / len(others)


def compare(rows: dict[str, list[Row]]) -> tuple[list[Row], list[Bar]]:
    """Ours beside each other method on their common seeds, and the bars."""
    found = [Comparison(OURS, name, tuple(paired(rows[OURS], own))) for name, own in rows.items() if name != OURS]
    found = [one for one in found if len(one.pairs) > 1]
    bars = [bar for one in found for bar in _bars(one)]
    if rows.get(OURS):
        lost = statistics.mean(row["thrown_away"] for row in rows[OURS])
        bars.append(Bar(f"{OURS}: share of client-rounds thrown away (at most)", lost, 0.1, lost <= 0.1))
    return [one.row() for one in found], bars


def _bars(one: Comparison) -> list[Bar]:
    if one.other != AFTER:
        return []
    bound, num_pairs, times = one.accuracy["bound"], len(one.pairs), one.search["client_seconds"]
    told = f"{OURS} against {one.other}"
    return [
        Bar(f"{told}: times fewer client-seconds of search", times, MOST_UNEQUAL, times >= MOST_UNEQUAL),
        Bar(f"{told}: paired seeds", num_pairs, len(SEEDS), num_pairs >= len(SEEDS)),
        Bar(f"{told}: one-sided 95% bound of the difference", bound, -0.01, bound > -0.01),
    ]


def _training(row: Row) -> dict[str, Any]:
    return dict(next(iter(row["trainings"].values())))


def networks_row(sitting: Sitting, ours: Sequence[Row], text: str) -> tuple[list[Row], list[Bar]]:
    """Where the found networks stand among random ones, and its bar."""
    places = {}
    for row, method in zip(ours, random_networks(ours), strict=True):
        (networks,) = sitting.rows(tasks_of(text, [method], [row["seed"]]))
        places[row["seed"]] = place(row, networks)
    if not places:
        return [], []
    mean = statistics.mean(places.values())
    row = {**dict.fromkeys(COLUMNS), "method": NETWORKS, "seeds": len(places), "place": mean, "places": places}
    return [row], [Bar("place of the found network among random ones", mean, 0.75, mean > 0.75)]


def main() -> None:
    """Run the bench; see the module's docstring."""
    parser = parser_of("joint_search", __doc__, [method.name for method, _ in methods()])
    parser.add_argument("--networks", type=int, default=5, help="seeds with random networks beside the found one")
    arguments = parser.parse_args()
    sitting, text = sitting_of(parser, arguments), RUN_FILE.read_text(encoding="utf-8")
    rows = sitting.rows_by_method(
        methods(), SEEDS, lambda method, seeds: tasks_of(text, [method], seeds), arguments.methods
    )
    result = new_result("joint_search", PACKAGES)
    for name, own in rows.items():
        thrown = {"thrown_away": statistics.mean(row["thrown_away"] for row in own)} if own else {}
        result.rows.extend([{**summary(name, own), **thrown}] if own else [])
    compared, bars = compare(rows) if rows.get(OURS) else ([], [])
    beside, place_bars = networks_row(sitting, rows.get(OURS, [])[: arguments.networks], text)
    result.rows.extend([*compared, *beside])
    result.bars.extend([*bars, *place_bars])
    print_result(result, COLUMNS, arguments.output)


if __name__ == "__main__":
    main()
