"""Does a whole private search leak no more than it claims? Attacks real runs and turns what they find into epsilons.

A run is `handheld search` with rewards: FedEx over a supernet of tiny cells with steps on its architecture in turns,
then final training and the test, on an emulated fleet of two clients with the noise on the device. The auditor hears
one client's every message and knows all but whether its canaries are there: an example of the validation split
(architecture steps, rewards, metrics) and one of the training split (updates), each the example or a null record by
turns. His statistic is the log-likelihood ratio of all releases on the canary's split together, each at the parameters
that were sent ("Adversary Instantiation", arXiv:2101.04535, over a whole run); it becomes an epsilon as in
`bench.audit`. A run of which he did not see just what the ledger charged is an error.

Data, splits, weights and configurations are the same in all runs; the noise is not, since it follows from the run's
name. Each example counts in full: rates are 1, and the clip is so small (learning rates are as much larger) that Adam,
which else would tell signs alone, tells sizes. The canary of the validation split adds to the metrics only where it is
classified rightly; these have the least of the budget. Where rewards are not clipped its loss is far beyond
`loss_bound`, and once more with the code as it is shipped, which must hold it.

The code as it is shipped, and three copies broken here and only here: rewards are not clipped; rewards and metrics, or
gradients, get no noise. Bars: as shipped, the lower bound (95%, delta 1e-5) stays at or below the claimed epsilon of
the canary's split; broken, it is above. The bound takes the noise to be Gaussian, `any_mechanism` does not;
`epsilon_of_mu_canary` is what infinitely many runs would show. Sampling is not audited, nor are several local steps,
which nobody sees one by one. A pass shows that these attacks found nothing, no more.

Runs are kept in --work, one line a chunk of them: what was stopped goes on from there. Lines know their run file and
not the code: after a change of it take another folder.
"""

import argparse
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from math import sqrt
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from bench.audit_bounds import gaussian_epsilon, two_worlds_bounds
from bench.audit_search_releases import Auditor, Observation, Wire, charged_releases, listening
from bench.measuring import Bar, Result, new_result, print_result
from bench.search_runs import Sitting, Task, replace_lines
from device_runtime.accounting import Release
from device_runtime.arrays import Floats, Inputs, Labels
from device_runtime.examples.splits import split_of
from device_runtime.loaded import Examples
from device_runtime.terms import Split
from device_runtime.wire import SPLITS
from pipeline.fleet.from_run_file import emulated_seed, splitting_of
from pipeline.fleet.workers import phone_key
from pipeline.run_file import parse_run_file
from pipeline.run_result import RunResult
from pipeline.searching.loop import Unwatched
from pipeline.searching.scenes import SearchRequest
from pipeline.searching.session import run_search

DELTA, LEVEL = 1e-5, 0.05
NUM_EXAMPLES = 30  # of two clients in turns; the first is audited
BRIGHTNESS = 10_000.0  # for a loss far beyond its bound; all other pixels are in [0, 1]
CANARY_SPLITS: tuple[Split, ...] = ("validation", "train")
RUNS, BROKEN_RUNS, QUICK_RUNS, CHUNK = 1_200, 60, 40, 20
CALIBRATION_SHARE, LEAST_CALIBRATING = 0.1, 4
ALL = "all"
PACKAGES = ("onnxruntime-training-cpu", "onnxruntime", "numpy", "scipy", "torch")
COLUMNS = (
    "variant",
    "canary",
    "claimed_epsilon",
    "lower_bound",
    "any_mechanism",
    "mu_canary",
    "mu_lower_bound",
    "runs",
)
NAME, SOURCE = 'name = "audit"', 'source = "npz:world.npz"'
RUN_FILE = Path(__file__).with_suffix(".toml").read_text(encoding="utf-8")
Row = dict[str, Any]


@dataclass(frozen=True)
class Scene:
    """The clients' examples and who knows them.

    Attributes:
        device_id: Of the audited client.
        x, y: All examples, by id.
        canaries: Id of each canary, by split.
    """

    device_id: str
    x: Inputs = field(repr=False)
    y: Labels = field(repr=False)
    canaries: dict[Split, int]
    auditor: Auditor = field(repr=False)

    def write(self, path: Path, is_in: Sequence[bool]) -> None:
        """The data of one of four worlds: by `CANARY_SPLITS`, a canary that is out is a null record."""
        x = self.x.copy()
        x[[self.canaries[split] for split, one in zip(CANARY_SPLITS, is_in, strict=True) if not one]] = np.nan
        np.savez(path, x=x, y=self.y, client=np.arange(NUM_EXAMPLES) % 2)


@dataclass(frozen=True)
class Variant:
    """The code as it is, or broken on purpose.

    Attributes:
        broken: Breaks it inside a `with` block.
        caught_by: Splits whose canary must show it; none for the code as it is.
        brightness: Times the pixels of the validation canary.
    """

    broken: Callable[[], AbstractContextManager[Any]]
    caught_by: tuple[Split, ...]
    brightness: float = 1.0


VARIANTS = {
    "as shipped": Variant(nullcontext, ()),
    "as shipped, loss beyond its bound": Variant(nullcontext, (), BRIGHTNESS),
    "rewards unclipped": Variant(
        lambda: patch("device_runtime.scoring._bounded_losses", lambda losses, bound: losses / bound),
        ("validation",),
        BRIGHTNESS,
    ),
    "rewards and metrics without noise": Variant(
        lambda: patch("device_runtime.scoring.add_lattice_noise", lambda values, *_: values), ("validation",)
    ),
    "gradients without noise": Variant(
        lambda: patch("device_runtime.training.add_lattice_noise", lambda values, *_: values), CANARY_SPLITS
    ),
}


def make_scene(brightness: float = 1.0) -> Scene:
    """Deal out examples; which split each is in, its id says, so the audited client's first ones become canaries."""
    seed = parse_run_file(RUN_FILE).run.seed
    secret, rng = emulated_seed(seed), np.random.default_rng(0)
    x, y = rng.random((NUM_EXAMPLES, 1, 4, 4)).astype(np.float32), np.arange(NUM_EXAMPLES) % 3
    key, rotation = splitting_of(seed)
    splits = [split_of(key, str(i), rotation) for i in range(NUM_EXAMPLES)]
    own = {split: [i for i in range(0, NUM_EXAMPLES, 2) if splits[i] == split] for split in SPLITS}
    canaries = {split: own[split].pop(0) for split in CANARY_SPLITS}
    x[canaries["validation"]] *= brightness
    auditor = Auditor(
        {split: Examples(x[rows], y[rows]) for split, rows in own.items()},
        {split: Examples(x[[one]], y[[one]]) for split, one in canaries.items()},
    )
    return Scene(phone_key(secret, 0).key_id, x, y, canaries, auditor)


def hear_run(scene: Scene, work: Path, variant: str, number: int) -> tuple[RunResult, Wire, tuple[Release, ...]]:
    """One whole search: its result, what the audited client said, and what it was charged for.

    From the number follows which canaries are there, from the run's name what noise is drawn.

    Args:
        work: Folder that keeps compiled networks.
    """
    (work / "artifacts").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=work, prefix="run-") as temporary:
        folder, run_file, data = (Path(temporary) / name for name in ("run", "run.toml", "world.npz"))
        folder.mkdir()
        (folder / "artifacts").symlink_to((work / "artifacts").resolve(), target_is_directory=True)
        scene.write(data, canaries_in(number))
        name = "".join(one if one.isalnum() else "-" for one in variant)
        lines = {NAME: f'name = "{name}-{number}"', SOURCE: f'source = "npz:{data.resolve()}"'}
        run_file.write_text(replace_lines(RUN_FILE, lines), encoding="utf-8")
        with VARIANTS[variant].broken(), listening(scene.device_id) as wire:
            result = run_search(SearchRequest(run_file, folder), Unwatched())
        return result, wire, charged_releases(folder / "handheld.db", scene.device_id)


def canaries_in(number: int) -> list[bool]:
    """Which of `CANARY_SPLITS` have theirs in a run: all four worlds by turns."""
    return [bool(number >> i & 1) for i in range(len(CANARY_SPLITS))]


def run_chunk(task: Task, work: Path) -> Row:
    """Some runs of a variant, from the task's seed on, and what each told by split.

    `kinds` holds for each kind of release the log-likelihood ratio, the information and how many there were.
    """
    scene, runs = make_scene(VARIANTS[task.method].brightness), []
    for number in range(task.seed, task.seed + CHUNK):
        result, wire, charged = hear_run(scene, work, task.method, number)
        with VARIANTS[task.method].broken():
            observations = scene.auditor.observe(wire, charged)
        if result.privacy is None:
            raise ValueError("a run without [privacy] claims nothing")
        run = {}
        for split, is_in in zip(CANARY_SPLITS, canaries_in(number), strict=True):
            own = [one for one in observations if one.release.split == split]
            run[split] = {"is_in": is_in, **_scores(own), "claimed_epsilon": result.privacy.epsilon_by_split[split]}
        runs.append(run)
    return {"runs": runs}


def _scores(observations: Sequence[Observation]) -> Row:
    kinds = {one.release.kind: [0.0, 0.0, 0] for one in observations}
    for one in observations:
        terms = zip(kinds[one.release.kind], (one.log_likelihood_ratio(), one.information(), 1), strict=True)
        kinds[one.release.kind] = [before + more for before, more in terms]
    return {"kinds": kinds, "mu_claimed": sqrt(sum(1 / one.release.noise_multiplier**2 for one in observations))}


def assess(variant: str, split: Split, runs: Sequence[Row]) -> Row:
    """A lower bound on epsilon from the runs with and without a split's canary; some of them only choose the test."""
    own = [run[split] for run in runs]
    worlds = [_ratios([one["kinds"] for one in own if one["is_in"] == is_in]) for is_in in (False, True)]
    least = min(len(world[ALL]) for world in worlds)
    num_calibrating = max(LEAST_CALIBRATING, int(least * CALIBRATION_SHARE))
    kind, threshold = choose_test(*({name: part[:num_calibrating] for name, part in one.items()} for one in worlds))
    out, inside = (world[kind][num_calibrating:least] for world in worlds)
    information = {name: float(np.mean([one["kinds"][name][1] for one in own])) for name in own[-1]["kinds"]}
    mu_canary = sqrt(sum(information.values()))
    return {
        "variant": variant,
        "canary": split,
        "delta": DELTA,
        "claimed_epsilon": own[-1]["claimed_epsilon"],
        "mu_claimed": own[-1]["mu_claimed"],
        "mu_canary": mu_canary,
        "epsilon_of_mu_canary": gaussian_epsilon(mu_canary, DELTA),
        "information": information,
        "releases": {name: count for name, (_, _, count) in own[-1]["kinds"].items()},
        "runs": len(runs),
        "test": kind,
        **two_worlds_bounds(out, inside, threshold, DELTA, LEVEL),
    }


def _ratios(runs: Sequence[dict[str, list[float]]]) -> dict[str, Floats]:
    """Log-likelihood ratios f64[runs] by kind of release, and of all releases together."""
    by_kind = {kind: np.array([run[kind][0] for run in runs]) for kind in runs[0]}
    return {ALL: np.sum([*by_kind.values()], axis=0), **by_kind}


def choose_test(out: dict[str, Floats], inside: dict[str, Floats]) -> tuple[str, float]:
    """The kind of release to test by, and the threshold, from runs that are not tested.

    All releases together, unless one kind alone is twice as far apart: where noise is missing that kind tells
    everything, and the others would drown it.
    """

    def distance(kind: str) -> float:
        gap = float(inside[kind].mean() - out[kind].mean())
        return gap / max(float(np.hypot(out[kind].std(), inside[kind].std())), 1e-12)

    best = max(out, key=distance)
    kind = best if distance(best) > 2 * distance(ALL) else ALL
    return kind, float(out[kind].mean() + inside[kind].mean()) / 2


def bars_of(row: Row) -> Iterator[Bar]:
    """What one row must show."""
    claimed, bound, variant = row["claimed_epsilon"], row["lower_bound"], row["variant"]
    name = f"{variant}, canary of the {row['canary']} split: lower bound"
    if not VARIANTS[variant].caught_by:
        yield Bar(f"{name} at most the claim", bound, claimed, bound <= claimed)
    elif row["canary"] in VARIANTS[variant].caught_by:
        yield Bar(f"{name} above the claim", bound, claimed, bound > claimed)


def measure(work: Path, num_runs: int, num_broken: int) -> Result:
    """All rows and bars."""
    result = new_result("audit_search", PACKAGES)
    for variant, what in VARIANTS.items():
        num_wanted = num_broken if what.caught_by else num_runs
        tasks = [Task(variant, first, RUN_FILE) for first in range(0, num_wanted, CHUNK)]
        runs = [run for chunk in Sitting(work).rows(tasks, run_chunk) for run in chunk["runs"]]
        result.rows.extend(assess(variant, split, runs) for split in CANARY_SPLITS)
    return replace(result, bars=[bar for row in result.rows for bar in bars_of(row)])


def main() -> None:
    """Run the bench; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_RUNS} runs of each variant")
    parser.add_argument("--runs", type=int, default=RUNS, help="runs of the code as it is shipped")
    parser.add_argument("--work", type=Path, help="folder that keeps the runs; without it none are kept")
    parser.add_argument("-o", "--output", type=Path, help="write the JSON object to this file as well")
    arguments = parser.parse_args()
    counts = (QUICK_RUNS, QUICK_RUNS) if arguments.quick else (arguments.runs, BROKEN_RUNS)
    with tempfile.TemporaryDirectory() as temporary:
        result = measure(arguments.work or Path(temporary), *counts)
    print_result(result, COLUMNS, arguments.output)


if __name__ == "__main__":
    main()
