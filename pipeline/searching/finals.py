"""What comes after a search: each winner's final training and its one test."""

from collections.abc import Callable
from dataclasses import dataclass

from pipeline.searching.loop import Search
from pipeline.searching.progress import Progress
from pipeline.searching.trainees import Trainees
from pipeline.searching.trials import Job, Model, Part, RoundFailedError, Score
from search.architecture import Architecture


@dataclass(frozen=True)
class Final:
    """A winner after its final training, and its one test."""

    model: Model
    score: Score
    trainees: Trainees


def train_winners(
    search: Search, progress: Progress, winners: dict[str, int], trainees_of: Callable[[Architecture], Trainees]
) -> dict[int, Final]:
    """Each winner's final training and its one test with all clients, side by side.

    Raises:
        RoundFailedError: When a round cannot be held.
    """
    trainer, final = search.trainer, search.trainer.run_file.final
    trials = sorted(set(winners.values()))
    models = [search.model_of(progress, trial, final.start == "fresh") for trial in trials]
    asked = [trainees_of(one.candidate.architecture) if final.rounds else Trainees(None) for one in models]
    jobs = [
        Job(Part("final", trial), model, final.rounds, eligible=its.eligible)
        for trial, model, its in zip(trials, models, asked, strict=True)
    ]
    for job in jobs:
        search.watcher.began(job.part, None, final.rounds)
    trained = trainer.train(jobs)
    tests = [Job(Part("test", trial), one.model) for trial, one in zip(trials, trained, strict=True)]
    finals = {}
    for trial, its, one, score in zip(trials, asked, trained, trainer.evaluate(tests, "test"), strict=True):
        if one.failed or isinstance(score, str):
            raise RoundFailedError(one.failed or str(score))
        search.watcher.scored(Part("test", trial), "test", score)
        finals[trial] = Final(one.model, score, its)
    return finals
