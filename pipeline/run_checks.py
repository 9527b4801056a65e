"""Rules of `run.toml` that join several keys; each broken one is a line that names table, values and cure."""

from collections.abc import Iterator

from device_runtime.terms import BOUNDS
from pipeline.run_sections import (
    DataSection,
    FleetSection,
    PrivacySection,
    RunFile,
    SpaceSection,
    TrainingSection,
)
from pipeline.search_sections import EvolutionSection, Nsga2Section, RandomSearchSection, SearchSection


def broken_rules(run: RunFile) -> list[str]:
    """One line for each rule that the file breaks."""
    lines = [*_data_rules(run.data), *_space_rules(run.space), *_search_rules(run.search), *_round_rules(run)]
    if run.run.kind == "real" and run.fleet is not None:
        lines.append("[fleet] belongs to emulated runs: real phones bring their own profiles; remove it")
    lines.extend(_target_rules(run))
    lines.extend(_server_rules(run.training))
    if run.search.algorithm == "nested_race" and (
        run.training.server_momentum or run.training.server_optimizer != "fedavg"
    ):
        lines.append(
            "[training] server_optimizer and server_momentum remember steps of one network, and nested_race averages "
            "parts of many: leave both out"
        )
    if run.fleet is not None:
        lines.extend(_fleet_rules(run.fleet))
    if run.privacy is None:
        return [*lines, *_ordinary_rules(run.training)]
    lines.extend(_plan_rules(run.search))
    return [*lines, *_private_rules(run.training, run.privacy), *_noise_place_rules(run, run.privacy)]


def _target_rules(run: RunFile) -> Iterator[str]:
    if run.run.kind == "emulated" and run.run.targets is not None:
        yield "[run] targets belong to real runs: an emulated one keeps the limits of its fleet; name them in [fleet]"
    if run.run.kind == "real" and run.budgets and run.run.targets is None:
        yield "[budgets] of a real run need [run] targets, the profiles that the limits are checked on"


def _data_rules(data: DataSection) -> Iterator[str]:
    if data.partition == "file":
        if data.source == "digits":
            yield "[data] digits come without clients; set partition to 'dirichlet' or 'iid'"
        if data.clients is not None:
            yield f"[data] partition = 'file' reads the clients from the data; remove clients = {data.clients}"
    elif data.clients is None:
        yield f"[data] partition = '{data.partition}' needs clients, the number of parts, e.g. clients = 30"
    if data.partition == "dirichlet" and data.alpha is None:
        yield "[data] partition = 'dirichlet' needs alpha, its concentration, e.g. alpha = 0.5"
    if data.partition != "dirichlet" and data.alpha is not None:
        yield f"[data] alpha = {data.alpha} has no meaning for partition = '{data.partition}'; remove it"


def _space_rules(space: SpaceSection) -> Iterator[str]:
    even = [kernel for kernel in space.kernels if kernel % 2 == 0]
    if even:
        yield f"[space] kernels must be odd, got {even}; an even kernel has no centre"
    for name, value in space:
        if isinstance(value, tuple) and len(set(value)) != len(value):
            yield f"[space] {name} must list each option once, got {list(value)}"
    if "inverted" not in space.kinds and max(space.expansions) > 1:
        yield f"[space] expansions = {list(space.expansions)} needs 'inverted' in kinds; depthwise blocks do not expand"


def _search_rules(search: SearchSection) -> Iterator[str]:
    if isinstance(search, EvolutionSection):
        if search.population_size > search.trials:
            yield (
                f"[search] population_size must be <= trials = {search.trials}, got {search.population_size}: "
                "evolution would never begin"
            )
        if search.tournament_size > search.population_size:
            yield (
                f"[search] tournament_size must be <= population_size = {search.population_size}, "
                f"got {search.tournament_size}"
            )
    if isinstance(search, Nsga2Section) and search.population_size >= search.trials:
        yield (
            f"[search] population_size must be < trials = {search.trials}, got {search.population_size}: "
            "nothing would be bred"
        )
    if isinstance(search, Nsga2Section) and search.parallel >= search.trials:
        yield (
            f"[search] parallel must be < trials = {search.trials}, got {search.parallel}: "
            "all would be drawn before one was scored"
        )


def _plan_rules(search: SearchSection) -> Iterator[str]:
    if not isinstance(search, RandomSearchSection | EvolutionSection | Nsga2Section):
        yield (
            f"[privacy] what {search.algorithm} will release cannot be planned, so it runs without [privacy] only; "
            "choose 'random_search', 'regularized_evolution' or 'nsga2'"
        )


def _round_rules(run: RunFile) -> Iterator[str]:
    cohort, clients = run.round.cohort_size, run.data.clients
    if run.round.min_reports > cohort:
        yield f"[round] min_reports must be <= cohort_size = {cohort}, got {run.round.min_reports}"
    if clients is not None and cohort > clients:
        yield f"[round] cohort_size must be <= [data] clients = {clients}, got {cohort}"


def _fleet_rules(fleet: FleetSection) -> Iterator[str]:
    if fleet.availability == 1 and "mean_spell_s" in fleet.model_fields_set:
        yield (
            f"[fleet] mean_spell_s = {fleet.mean_spell_s:g} has no meaning for phones that are always there; "
            "remove it or set availability below 1"
        )
    if fleet.straggler_share == 0 and "straggler_factor" in fleet.model_fields_set:
        yield (
            f"[fleet] straggler_factor = {fleet.straggler_factor:g} has no meaning without stragglers; "
            "remove it or set straggler_share above 0"
        )


def _server_rules(training: TrainingSection) -> Iterator[str]:
    given = training.model_fields_set
    if training.server_optimizer == "fedadam" and "server_learning_rate" not in given:
        yield "[training] fedadam moves each value by about server_learning_rate; give one, e.g. 0.01"
    for name in ("server_beta2", "server_epsilon"):
        if training.server_optimizer != "fedadam" and name in given:
            yield f"[training] {name} belongs to fedadam; remove it or set server_optimizer = 'fedadam'"


def _ordinary_rules(training: TrainingSection) -> Iterator[str]:
    if (training.local_steps is None) == (training.local_epochs is None):
        yield "[training] needs exactly one of local_steps and local_epochs"
    if training.batch_size is None:
        yield "[training] needs batch_size, the examples of one step, e.g. batch_size = 8"


def _private_rules(training: TrainingSection, privacy: PrivacySection) -> Iterator[str]:
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
            f"[training] a private step draws by [privacy.update] sample_rate = {privacy.update.sample_rate}; "
            f"remove batch_size = {list(training.batch_size)} (artifact_batch_size is the one for memory)"
        )


def _noise_place_rules(run: RunFile, privacy: PrivacySection) -> Iterator[str]:
    training = run.training
    if privacy.noise_at == "device":
        if "flatten" not in run.space.heads:
            yield (
                "[space] heads must offer 'flatten' where noise_at = 'device': "
                "a global average over few channels learns nothing under that noise"
            )
        return
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
    if run.round.weighting != "examples":
        yield "[round] noise_at = 'sum' divides by the clients' counts; set weighting = 'examples'"
