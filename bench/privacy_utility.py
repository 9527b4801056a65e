"""What privacy costs in accuracy: the demo's private run, search and final training together, for both places of noise.

Each row is one run (place, seed) of `pipeline/demo/digits_private.toml` through the whole system: 30 emulated clients,
4 candidates compared by private scores, one model trained to the end, total epsilon <= 8 at delta 1e-5. Accuracies are
the emulator's exact ones over all test splits (rotated with the seed) beside what the run itself released. Runs lie
in --work and are not done again.

`selection` asks how good private scores choose: each run's candidates are scored again with fresh noise, 20 times over
all seeds of noise on the device, and compared with the exact best.
"""

import argparse
import shutil
import statistics
import tempfile
from collections.abc import Iterator
from math import comb
from pathlib import Path
from typing import Any

import numpy as np

from bench.measuring import Bar, new_result, print_result
from device_runtime.loaded import Examples, LoadedAssignment
from device_runtime.private_random import PrivateRandom
from device_runtime.scoring import evaluate
from device_runtime.session import StepSession
from device_runtime.terms import EvaluateTerms
from pipeline.run_file import read_run_file
from pipeline.run_result import RunResult, read_finished_run
from pipeline.searching.loop import Unwatched
from pipeline.searching.scenes import SearchRequest
from pipeline.searching.schedule import terms_of
from pipeline.searching.session import run_search, trained_candidates
from pipeline.searching.trials import Model

RUN_FILE = Path(__file__).parent.parent / "pipeline" / "demo" / "digits_private.toml"
PLACES = ("device", "sum")
SEEDS = (0, 1, 2, 3, 4)
VOTES_PER_SEED = 4
COLUMNS = ("noise_at", "seed", "epsilon", "test_accuracy", "released_accuracy", "winner")
_BLANK = dict.fromkeys(COLUMNS)


def main() -> None:
    """Run the bench; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed with noise on the device")
    parser.add_argument("--work", type=Path, help="folder of the runs; those that are finished are not done again")
    parser.add_argument("-o", "--output", type=Path, help="write the JSON object to this file as well")
    arguments = parser.parse_args()
    result = new_result("privacy_utility", ("torch", "onnxruntime-training-cpu", "numpy", "scikit-learn"))
    with tempfile.TemporaryDirectory() as temporary:
        work = arguments.work or Path(temporary)
        places, seeds = (PLACES[:1], SEEDS[:1]) if arguments.quick else (PLACES, SEEDS)
        for place in places:
            for seed in seeds:
                result.rows.append(run_row(place, run_one(work, place, seed)))
        votes = [vote for seed in seeds for vote in private_choices(work / f"device-{seed}", VOTES_PER_SEED)]
        result.rows.append({**_BLANK, "noise_at": "device", "selection": votes})
    result.rows.extend(summary_row(result.rows, place) for place in places)
    result.bars.extend(_bars(result.rows, votes))
    print_result(result, COLUMNS, arguments.output)


def run_one(work: Path, place: str, seed: int) -> RunResult:
    """The result of one run, done now if it is not finished yet."""
    folder = work / f"{place}-{seed}"
    run_file = work / f"{place}-{seed}.toml"
    work.mkdir(parents=True, exist_ok=True)
    text = RUN_FILE.read_text(encoding="utf-8")
    run_file.write_text(
        text.replace("seed = 0", f"seed = {seed}").replace('noise_at = "device"', f'noise_at = "{place}"'),
        encoding="utf-8",
    )
    if (folder / "run.toml").exists() and (folder / "run.toml").read_bytes() != run_file.read_bytes():
        shutil.rmtree(folder)  # of other settings
    if not (folder / "result.json").exists():
        run_search(SearchRequest(run_file, folder, is_resumed=(folder / "run.toml").exists()), Unwatched())
    return read_finished_run(folder).result


def run_row(place: str, result: RunResult) -> dict[str, Any]:
    """One run for the table."""
    if result.privacy is None or result.emulator_only is None:
        raise ValueError(f"{result.name} is not an emulated private run")
    return {
        "noise_at": place,
        "seed": result.seed,
        "epsilon": result.privacy.epsilon,
        "delta": result.privacy.delta,
        "test_accuracy": result.emulator_only.test_accuracies[str(result.main.trial)],
        "released_accuracy": result.main.accuracy.value,
        "winner": result.main.trial,
        "exact_search_accuracies": result.emulator_only.search_accuracies,
        "adversary": result.privacy.adversary,
    }


def summary_row(rows: list[dict[str, Any]], place: str) -> dict[str, Any]:
    """Mean, smallest and largest exact test accuracy of one place of noise."""
    found = [row["test_accuracy"] for row in _runs(rows) if row["noise_at"] == place]
    return {
        **_BLANK,
        "noise_at": f"{place}, mean",
        "test_accuracy": statistics.mean(found),
        "range": [min(found), max(found)],
    }


def private_choices(folder: Path, repetitions: int) -> Iterator[dict[str, Any]]:
    """Choose among a run's candidates again and again, each time by scores with fresh noise on each device."""
    run_file = read_run_file(folder / "run.toml")
    privacy = terms_of(run_file.privacy, "metrics", run_file.round.cohort_size)
    terms = EvaluateTerms("validation", ("accuracy",), privacy=privacy)
    models, shares = trained_candidates(SearchRequest(folder / "run.toml", folder, is_resumed=True), "validation")
    exact = [_score(model, EvaluateTerms("validation", ("accuracy",)), shares, b"") for model in models]
    for repetition in range(repetitions):
        labels = [f"{folder.name}/{repetition}/{i}".encode() for i in range(len(models))]  # no noise is drawn twice
        noisy = [_score(model, terms, shares, label) for model, label in zip(models, labels, strict=True)]
        chosen, best = int(np.argmax(noisy)), int(np.argmax(exact))
        yield {"run": folder.name, "chosen": chosen, "best": best, "exact": exact, "noisy": noisy}


def _choice_bar(share: float, num_choices: int) -> Bar:
    """More often than by chance (one in four), at a one-sided level of 5%."""
    hits = next(k for k in range(num_choices + 2) if _chance_of_at_least(k, num_choices) <= 0.05)
    name = f"true best of four chosen in {num_choices} private choices over {len(SEEDS)} sets (chance 0.25, 5% level)"
    return Bar(name, share, hits / num_choices, share >= hits / num_choices)


def _chance_of_at_least(hits: int, num_choices: int) -> float:
    return sum(comb(num_choices, k) * 0.25**k * 0.75 ** (num_choices - k) for k in range(hits, num_choices + 1))


def _runs(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in rows if row["seed"] is not None]


def _score(model: Model, terms: EvaluateTerms, shares: tuple[Examples, ...], label: bytes) -> float:
    assignment = LoadedAssignment(StepSession(model.artifact), model.parameters, terms)
    total, count = 0.0, 0
    for i, examples in enumerate(shares):
        if len(examples) == 0:
            continue
        random = PrivateRandom.derived(b"bench " + label, f"phone {i}")
        total += evaluate(assignment, examples, random).sums[0]
        count += len(examples)
    return total / count


def _bars(rows: list[dict[str, Any]], votes: list[dict[str, Any]]) -> list[Bar]:
    runs = _runs(rows)
    device = [row["test_accuracy"] for row in runs if row["noise_at"] == "device"]
    epsilons = [row["epsilon"] for row in runs]
    share = statistics.mean(vote["chosen"] == vote["best"] for vote in votes)
    mean, largest = statistics.mean(device), max(epsilons)
    return [
        Bar("noise on the device: mean test accuracy", mean, 0.75, mean >= 0.75),
        Bar("largest total epsilon (at most)", largest, 8.0, largest <= 8.0),
        _choice_bar(share, len(votes)),
    ]


if __name__ == "__main__":
    main()
