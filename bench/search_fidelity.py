"""How well FedNAS's short trainings on few clients rank a step's candidates as the straightforward search does.

The first step's candidates on digits, which begin with untrained weights: their scores after R_pre rounds on one of G
groups, against the mean scores of the straightforward search after R_full rounds on everybody, over five seeds set
apart. After two rounds from fresh weights candidates are hardly better than guessing; later steps begin with trained
weights, and of them this says nothing. Beside each G stand two anchors: a random ranking, and what would be left if the
training were perfect and only the group's few validation examples blurred the scores (binomial draws around the
reference's means; with one group the candidates share their examples, which blurs less than that). The reference's own
row tells what its ranking is worth: where one seed does not rank as the means of the others do, its means are no truth
that anything could come near, and the ceiling stands too high.
"""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from bench.measuring import Bar
from bench.search_cost import APART, KEEP, LIMIT, LIMIT_OF_A_STEP, PRETRAIN, RULE, RUN_FILE, full_rounds
from bench.search_rows import Row
from bench.search_runs import Method, Sitting, mean_of, tasks_of

GROUPS, SEEDS = (1, 5, 10), range(20)
DRAWS = 100  # of each anchor and seed
SHORT = {LIMIT: LIMIT_OF_A_STEP, "[final]\nrounds = 40": "[final]\nrounds = 1"}  # no final training is looked at


@dataclass(frozen=True)
class Fidelity:
    """Of one ranking.

    Attributes:
        tau: Kendall's tau-b with the reference, in [-1, 1]; 0 where all scores of one of them are equal.
        has_best: Whether the reference's best is among the first k.
    """

    tau: float
    has_best: bool


def fidelity(sitting: Sitting) -> tuple[list[Row], list[Bar]]:
    """Rows of the reference and of each number of groups; there is no bar."""
    text = RUN_FILE.read_text(encoding="utf-8")
    reference = sitting.rows(tasks_of(text, [RULE], APART))
    full, _ = full_rounds(reference)
    means = mean_scores(reference, full)
    rows = [{"method": "straightforward", "seeds": len(reference), "R_full": full, "mean scores": means}]
    if len(reference) > 1:
        rows[0] |= summary([compare(one, others) for one, others in _one_and_others(reference, full)])
    methods = [Method(f"fednas, G {groups}", _section(groups), SHORT) for groups in GROUPS]
    for method in methods:
        own = sitting.rows(tasks_of(text, [method], sitting.seeds(SEEDS)))
        rows.append({"method": method.name, "seeds": len(own), **_of_groups(own, means)})
    return rows, []


def first_step(row: Row) -> list[int]:
    """Trials of a run that began with the first network, in the order of its blocks."""
    return [index for index, start_from, *_ in row["steps"] if start_from == 0]


def mean_scores(rows: Sequence[Row], rounds: int) -> list[float]:
    """Mean accuracy of each candidate of the first step after so many rounds."""
    return [statistics.mean(row["curves"][str(t)][rounds - 1] for row in rows) for t in first_step(rows[0])]


def compare(scores: Sequence[float], means: Sequence[float], keep: int = KEEP) -> Fidelity:
    """A ranking beside the reference's; equal scores rank in the order of the blocks, as in the search.

    Raises:
        ValueError: They are not of the same candidates.
    """
    if len(scores) != len(means):
        raise ValueError(f"a ranking of {len(means)} candidates has {len(means)} scores, got {len(scores)}")
    kept = sorted(range(len(scores)), key=lambda i: -scores[i])[:keep]
    is_tied = 1 in (len(set(scores)), len(set(means)))  # where tau-b is 0 / 0
    tau = 0.0 if is_tied else float(stats.kendalltau(scores, means).statistic)
    return Fidelity(tau, int(np.argmax(means)) in kept)


def summary(found: Sequence[Fidelity]) -> dict[str, Any]:
    """Mean tau and the share that kept the best, with 95% intervals (Student's t; Clopper and Pearson)."""
    hits = sum(one.has_best for one in found)
    taus = [one.tau for one in found]
    share = stats.binomtest(hits, len(found)).proportion_ci()
    return {
        "tau": statistics.mean(taus),
        "tau_interval": mean_of(taus),
        "has_best": {"mean": hits / len(found), "low": float(share.low), "high": float(share.high)},
    }


def binomial_ceiling(means: Sequence[float], num_examples: Sequence[int], rng: np.random.Generator) -> list[Fidelity]:
    """Rankings by scores that only the examples' number blurs.

    Args:
        num_examples: Validation examples behind each candidate's score.
    """
    draws = rng.binomial(num_examples, means, (DRAWS, len(means))) / np.asarray(num_examples)
    return [compare([*map(float, one)], means) for one in draws]


def random_rankings(means: Sequence[float], rng: np.random.Generator) -> list[Fidelity]:
    """Rankings that know nothing."""
    return [compare([*map(float, rng.permutation(len(means)))], means) for _ in range(DRAWS)]


def _of_groups(rows: Sequence[Row], means: Sequence[float]) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    found = [compare([row["steps"][t][4] for t in first_step(row)], means) for row in rows]
    examples = [[row["num_scored"][t] for t in first_step(row)] for row in rows]
    return {
        **summary(found),
        "examples": statistics.mean(number for own in examples for number in own),
        "binomial ceiling": _means(f for own in examples for f in binomial_ceiling(means, own, rng)),
        "random": _means(f for _ in rows for f in random_rankings(means, rng)),
        "taus": [round(one.tau, 4) for one in found],
    }


def _means(found: Iterable[Fidelity]) -> dict[str, float]:
    pairs = [(one.tau, one.has_best) for one in found]
    tau, has_best = (statistics.mean(map(float, column)) for column in zip(*pairs, strict=True))
    return {"tau": tau, "has_best": has_best}


def _one_and_others(rows: Sequence[Row], rounds: int) -> list[tuple[list[float], list[float]]]:
    """Scores of each seed of the reference, and the others' means: what a single straightforward search is worth."""
    return [
        (mean_scores([row], rounds), mean_scores([other for other in rows if other is not row], rounds)) for row in rows
    ]


def _section(groups: int) -> dict[str, Any]:
    """Only the scores before the first choice are looked at."""
    return {"algorithm": "fednas", "groups": groups, "pretrain_rounds": PRETRAIN, "keep": KEEP, "rounds": 0}
