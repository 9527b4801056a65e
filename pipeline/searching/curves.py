"""The emulator's exact accuracies, round by round: for reading, never for a choice or a stop."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from device_runtime.terms import Split
from pipeline.run_result import CurvePoint
from pipeline.searching.trials import Model, Part


@dataclass
class Curves:
    """Collects the emulator's exact accuracies while a search runs.

    Attributes:
        accuracy: Exact accuracy of a model on a split; None where nobody knows it (a real run).
    """

    accuracy: Callable[[Model, Split], float] | None
    _points: dict[tuple[str, int, int], CurvePoint] = field(default_factory=dict)

    def add(self, part: Part, num_rounds: int, model: Model) -> None:
        """Note the model after a round."""
        key = (part.phase, part.trial, num_rounds)
        if self.accuracy is None or key in self._points:  # a round that is read again has its point
            return
        self._points[key] = CurvePoint(*key, self.accuracy(model, "validation"))

    def restore(self, points: Sequence[CurvePoint]) -> None:
        """Take back the points that were kept with the progress of a search."""
        self._points.update({(point.phase, point.trial, point.round): point for point in points})

    @property
    def points(self) -> tuple[CurvePoint, ...]:
        """All points, the search's first; a resumed search notes them in another order."""
        return tuple(sorted(self._points.values(), key=lambda p: (p.phase != "search", p.trial, p.round)))

    def of_trials(self, trials: Collection[int]) -> tuple[CurvePoint, ...]:
        """Points of some trials of the search."""
        return tuple(point for point in self.points if point.phase == "search" and point.trial in trials)

    def last_of_trials(self) -> dict[str, float]:
        """Exact accuracy of each trial when it was over, by trial."""
        return {str(point.trial): point.accuracy for point in self.points if point.phase == "search"}
