"""Rules of a run file with [privacy]: what cannot be accounted for, or would protect nothing, is refused by name."""

from collections.abc import Iterator

from device_runtime.terms import BOUNDS
from pipeline.joint_sections import FedExSection
from pipeline.privacy_sections import PrivacySection
from pipeline.run_sections import RunFile, TrainingSection
from pipeline.search_problem import CanBePlanned, NamesClients
from pipeline.search_sections import ALGORITHMS
from pipeline.searching.schedule import times_of


def privacy_rules(run: RunFile, privacy: PrivacySection) -> Iterator[str]:
    """One line for each rule that the file breaks."""
    yield from _table_rules(run, privacy)
    if privacy.unit == "client":
        yield from _client_rules(run, privacy)
    else:
        yield from _example_rules(run.training, privacy)
        yield from _device_noise_rules(run) if privacy.noise_at == "device" else _sum_noise_rules(run, privacy)


def _table_rules(run: RunFile, privacy: PrivacySection) -> Iterator[str]:
    """What is released has a table that says what it spends, and what has one is released."""
    search = run.search
    if not isinstance(search, CanBePlanned):
        able = [repr(name) for name, section in ALGORITHMS.items() if issubclass(section, CanBePlanned)]
        yield (
            f"[privacy] what {search.algorithm} will release cannot be planned, so it runs without [privacy] only; "
            f"choose {', '.join(able[:-1])} or {able[-1]}"
        )
        return
    released = {table for _, table in times_of(run)}
    for name, section in (("architecture", privacy.architecture), ("reward", privacy.reward)):
        if section is None and name in released:
            yield f"[privacy] lacks the table [privacy.{name}]: {search.algorithm} makes such releases"
        if section is not None and name not in released:
            yield f"[privacy.{name}] has no meaning: {search.algorithm} makes no such release here; remove it"


def _client_rules(run: RunFile, privacy: PrivacySection) -> Iterator[str]:
    for name, section in privacy.tables().items():
        if section.sample_rate is not None:
            yield (
                f"[privacy.{name}] sample_rate = {section.sample_rate:g} has no meaning for unit = 'client': phones "
                "that check in by themselves are no Poisson sample; remove it"
            )
    for name, example in (("max_participations", "10"), ("max_norm", "1.0")):
        if getattr(privacy, name) is None:
            yield f"[privacy] unit = 'client' needs {name}, e.g. {name} = {example}"
    if run.round.weighting != "uniform":
        yield "[round] unit = 'client' counts every client alike; set weighting = 'uniform'"
    if run.round.over_selection > 1:
        yield (
            f"[round] over_selection = {run.round.over_selection:g} has no meaning for unit = 'client': a round closes "
            "at its deadline with whoever reported, and its sums are divided by cohort_size; remove it"
        )
    yield from _participation_rules(run, privacy)


def _participation_rules(run: RunFile, privacy: PrivacySection) -> Iterator[str]:
    """Whether clients that step down after `max_participations` are enough for all rounds.

    Of rounds that take whoever comes all clients together; of rounds that name their clients each of them.
    """
    most, clients, cohort = privacy.max_participations, run.data.clients, run.round.cohort_size
    if most is None or not isinstance(run.search, CanBePlanned):
        return
    named = run.search.named_kinds if isinstance(run.search, NamesClients) else frozenset()
    for (phase, kind), count in times_of(run).items():
        if phase == "search" and kind in named:
            if count > most:
                yield (
                    f"[privacy] max_participations = {most} is too few: {run.search.algorithm} names the clients of "
                    f"its rounds, and asks each for up to {count} {kind} releases in the search; set "
                    f"max_participations = {count}, or plan fewer rounds"
                )
        elif clients is not None and count * cohort > clients * most:
            yield (
                f"[privacy] max_participations = {most} of {clients} clients gives {clients * most} reports, and the "
                f"{phase}'s {kind} releases are {count} rounds of {cohort}: raise it, or lower [round] cohort_size"
            )


def _example_rules(training: TrainingSection, privacy: PrivacySection) -> Iterator[str]:
    for name, section in privacy.tables().items():
        if section.sample_rate is None:
            yield f"[privacy.{name}] lacks sample_rate"
    for name in ("max_participations", "max_norm"):
        if getattr(privacy, name) is not None:
            yield f"[privacy] {name} belongs to unit = 'client'; remove it"
    if training.local_steps is None:
        yield "[training] a private run needs local_steps: a phone's spending is counted in steps"
    if training.max_grad_norm is None:
        yield "[training] a private run needs max_grad_norm: without a clip noise protects nothing"
    elif not BOUNDS[0] <= min(training.max_grad_norm) <= max(training.max_grad_norm) <= BOUNDS[1]:
        least, most = BOUNDS
        yield f"[training] a private max_grad_norm must be in [{least:g}, {most:g}], got {list(training.max_grad_norm)}"
    if training.local_epochs is not None:
        yield f"[training] a private run counts local_steps; remove local_epochs = {list(training.local_epochs)}"
    if training.batch_size is not None:
        yield (
            "[training] a private step draws by [privacy.update] sample_rate; "
            f"remove batch_size = {list(training.batch_size)} (artifact_batch_size is the one for memory)"
        )


def _device_noise_rules(run: RunFile) -> Iterator[str]:
    if "flatten" not in run.heads:
        table = "[space] heads" if run.space else "[cells] head"
        yield (
            f"{table} must offer 'flatten' where noise_at = 'device': a global average over few channels learns "
            "nothing under that noise"
        )


def _sum_noise_rules(run: RunFile, privacy: PrivacySection) -> Iterator[str]:
    """A client sends one clipped sum of the example unit, and the server takes the step."""
    training = run.training
    if training.local_steps not in (None, (1,)):
        yield f"[training] noise_at = 'sum' is one step a round; set local_steps = 1, got {list(training.local_steps)}"
    if training.max_grad_norm is not None and len(training.max_grad_norm) > 1:
        yield f"[training] noise_at = 'sum' needs one max_grad_norm for all clients, got {list(training.max_grad_norm)}"
    if any(training.momentum):
        yield (
            "[training] noise_at = 'sum' uploads raw clipped sums; set momentum = 0 and use server_momentum, "
            f"got {list(training.momentum)}"
        )
    if any(training.proximal):
        yield (
            f"[training] noise_at = 'sum' is one step from the received parameters, where FedProx pulls nothing; "
            f"set proximal = 0, got {list(training.proximal)}"
        )
    if any(training.weight_decay) or any(training.architecture_weight_decay):
        yield (
            "[training] noise_at = 'sum' uploads raw clipped sums, which know no decay; set weight_decay = 0 and "
            "architecture_weight_decay = 0"
        )
    default = run.search.default if isinstance(run.search, FedExSection) else None
    for name in ("momentum", "weight_decay", "architecture_weight_decay"):
        if getattr(default, name, 0):
            yield (
                f"[search.default] {name} = {getattr(default, name):g} must be 0 with noise_at = 'sum', which uploads "
                "raw clipped sums; [training] server_momentum is the server's"
            )
    if run.round.weighting != "examples":
        yield "[round] noise_at = 'sum' divides by the clients' counts; set weighting = 'examples'"
    yield from _sum_table_rules(run, privacy)


def _sum_table_rules(run: RunFile, privacy: PrivacySection) -> Iterator[str]:
    if privacy.architecture is not None:
        yield (
            f"[privacy.architecture] noise_at = 'sum' is one step a round, and {run.search.algorithm} takes steps of "
            "two kinds in turns; set moves = 'all', or noise_at = 'device'"
        )
    if privacy.reward is not None:
        yield (
            "[privacy.reward] noise_at = 'sum' takes no step on the phone that a reward could be of; set "
            "noise_at = 'device', or choose a search that scores instead"
        )
