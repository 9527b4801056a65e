"""Rules of the server's hyper-parameters: what belongs to which optimiser, and which searches may tune them.

A search tunes the server's step where every candidate trains apart, in rounds with an optimiser of its own. Where what
several configurations learnt is one step of the server, there is one optimiser, and nothing to compare.
"""

from collections.abc import Iterator

from pipeline.joint_sections import FeathersSection, FedExSection
from pipeline.run_sections import RunFile, TrainingSection
from pipeline.search_sections import (
    ALGORITHMS,
    OF_BLOCKS,
    OF_CELLS,
    FedNasSection,
    NestedRaceSection,
    SearchSection,
)

_OF_THE_SERVER = ("server_learning_rate", "server_momentum", "server_beta2", "server_epsilon")
_UNTUNED: dict[type[SearchSection], str] = {
    FeathersSection: "takes one server's steps on weights that all configurations share, and rewards phones' own steps",
    FedExSection: "makes one step of the server of what all configurations learnt",
    FedNasSection: "tunes no hyper-parameters",
    NestedRaceSection: "makes one step of the server of what all networks learnt",
}


def server_rules(run: RunFile) -> Iterator[str]:
    """One line for each rule that the file breaks."""
    yield from _optimizer_rules(run.training)
    yield from _tuning_rules(run.training, run.search)
    if isinstance(run.search, NestedRaceSection) and (
        any(run.training.server_momentum) or run.training.server_optimizer != "fedavg"
    ):
        yield (
            "[training] server_optimizer and server_momentum remember steps of one network, and nested_race averages "
            "parts of many: leave both out"
        )


def _optimizer_rules(training: TrainingSection) -> Iterator[str]:
    given = training.model_fields_set
    if training.server_optimizer == "fedadam" and "server_learning_rate" not in given:
        yield "[training] fedadam moves each value by about server_learning_rate; give one, e.g. 0.01"
    for name in ("server_beta2", "server_epsilon"):
        if training.server_optimizer != "fedadam" and name in given:
            yield f"[training] {name} belongs to fedadam; remove it or set server_optimizer = 'fedadam'"


def _tuning_rules(training: TrainingSection, search: SearchSection) -> Iterator[str]:
    why = _UNTUNED.get(type(search))
    if why is None:
        return
    others = OF_CELLS if isinstance(search, OF_BLOCKS) else OF_BLOCKS  # of another table than the run's
    able = [repr(name) for name, section in ALGORITHMS.items() if section not in {*_UNTUNED, *others}]
    for name in _OF_THE_SERVER:
        options: tuple[float, ...] = getattr(training, name)
        if len(options) > 1:
            yield (
                f"[training] {name} has {len(options)} options, and {search.algorithm} {why}; give one value, or "
                f"choose {', '.join(able[:-1])} or {able[-1]}"
            )
