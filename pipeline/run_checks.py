"""Rules of `run.toml` that join several keys; each broken one is a line that names table, values and cure."""

from collections.abc import Iterator

from pipeline.joint_sections import FeathersSection, FedExSection, MergedHalvingSection, TpeSection
from pipeline.privacy_rules import privacy_rules
from pipeline.run_sections import (
    CellsSection,
    DataSection,
    FleetSection,
    RunFile,
    SpaceSection,
    TrainingSection,
)
from pipeline.search_sections import (
    ALGORITHMS,
    OF_BLOCKS,
    OF_CELLS,
    EvolutionSection,
    Nsga2Section,
    SearchSection,
)
from pipeline.server_rules import server_rules
from search.algorithms.merged_halving import MergedHalving


def broken_rules(run: RunFile) -> list[str]:
    """One line for each rule that the file breaks."""
    lines = [*_data_rules(run.data), *_networks_rules(run), *_search_rules(run.search), *_round_rules(run)]
    if run.run.kind == "real" and run.fleet is not None:
        lines.append("[fleet] belongs to emulated runs: real phones bring their own profiles; remove it")
    lines.extend(_target_rules(run))
    lines.extend(server_rules(run))
    if run.fleet is not None:
        lines.extend(_fleet_rules(run.fleet))
    if run.final.rounds == 0 and run.final.start == "fresh":
        lines.append("[final] rounds = 0 would test a network that nobody trained: remove start = 'fresh'")
    if run.privacy is None or run.privacy.unit == "client":
        lines.extend(_ordinary_rules(run.training))
    if run.privacy is None:
        return lines
    return [*lines, *privacy_rules(run, run.privacy)]


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


def _networks_rules(run: RunFile) -> Iterator[str]:
    if (run.space is None) == (run.cells is None):
        given = "neither" if run.space is None else "both"
        yield f"needs exactly one of [space], networks of blocks, and [cells], networks of cells; got {given}"
    if run.space is not None:
        yield from _space_rules(run.space)
        yield from _kind_rules("[space]", "supernets of cells", "[cells]", run.search, OF_CELLS)
    if run.cells is not None:
        yield from _cells_rules(run.cells)
        yield from _kind_rules("[cells]", "networks of blocks", "[space]", run.search, OF_BLOCKS)
        yield from _architecture_rules(run, run.cells)
        yield from _depth_rules(run, run.cells)


def _cells_rules(cells: CellsSection) -> Iterator[str]:
    operations = list(cells.operations)
    if len(set(operations)) != len(operations):
        yield f"[cells] operations must list each option once, got {operations}"
    if operations == ["none"]:
        yield "[cells] operations must have one beside 'none', or nothing would be computed"


def _kind_rules(
    table: str, known: str, other: str, search: SearchSection, unable: tuple[type[SearchSection], ...]
) -> Iterator[str]:
    """Searches that know nothing of a table's networks."""
    if isinstance(search, unable):
        able = [repr(name) for name, section in ALGORITHMS.items() if not issubclass(section, unable)]
        yield (
            f"{table} {search.algorithm} knows {known} alone; put {other} in the place of {table}, or choose "
            f"{', '.join(able[:-1])} or {able[-1]}"
        )


def _architecture_rules(run: RunFile, cells: CellsSection) -> Iterator[str]:
    """What searches by architecture weights need."""
    search, rate = run.search, run.training.architecture_learning_rate
    if not isinstance(search, FeathersSection | FedExSection) or search.order == "tuning":
        return
    if len(cells.operations) == 1:
        yield (
            f"[cells] operations must be two or more for {search.algorithm}, whose architecture weights choose among "
            f"them, got {list(cells.operations)}: add one, e.g. 'skip', or set [search] algorithm = 'fedex' with "
            "order = 'tuning', which tunes without them"
        )
    default = search.default if isinstance(search, FedExSection) else None
    if search.order in {"nas", "nas_then_tuning"}:
        if default is None:
            yield f"[search] order = '{search.order}' needs the table [search.default], what it trains with untuned"
        elif default.architecture_learning_rate is None:
            yield "[search.default] needs architecture_learning_rate, e.g. architecture_learning_rate = 3e-3"
    elif rate is None:
        yield (
            f"[training] {search.algorithm} moves architecture weights; give architecture_learning_rate, e.g. "
            "architecture_learning_rate = { low = 1e-5, high = 1e-2 }"
        )


def _depth_rules(run: RunFile, cells: CellsSection) -> Iterator[str]:
    """A network of another depth than the supernet's has none of its weights, and some searches do not train it."""
    search = run.search
    is_trained = run.final.rounds > 0 or not isinstance(search, FeathersSection | FedExSection)
    if isinstance(search, FeathersSection):
        is_trained = is_trained or search.evaluation_rounds > 0
    elif isinstance(search, FedExSection):
        is_trained = is_trained or search.order in {"nas_then_tuning", "tuning"}
    if cells.final_depth not in {None, cells.depth} and not is_trained:
        yield (
            f"[final] rounds = 0 would test a network that nobody trained, as final_depth = {cells.final_depth} leaves "
            f"it no weights of a supernet of depth = {cells.depth}: give [final] rounds, or final_depth = {cells.depth}"
        )


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
    if isinstance(search, TpeSection) and search.random >= search.trials:
        yield (
            f"[search] random must be < trials = {search.trials}, got {search.random}: nothing would be learnt from "
            "the random ones; give more trials, or a smaller random"
        )
    if isinstance(search, MergedHalvingSection) and search.networks > MergedHalving.num_drawn:
        yield (
            f"[search] networks must be <= {MergedHalving.num_drawn}, as many as are drawn for the ranking, got "
            f"{search.networks}"
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


def _round_rules(run: RunFile) -> Iterator[str]:
    cohort, clients = run.round.cohort_size, run.data.clients
    if run.round.min_reports > cohort:
        yield f"[round] min_reports must be <= cohort_size = {cohort}, got {run.round.min_reports}"
    if clients is not None and cohort > clients:
        yield f"[round] cohort_size must be <= [data] clients = {clients}, got {cohort}"


def _fleet_rules(fleet: FleetSection) -> Iterator[str]:
    if fleet.profiles is not None and fleet.population is not None:
        yield f"[fleet] population = '{fleet.population}' draws the phones that profiles would list: remove one of them"
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


def _ordinary_rules(training: TrainingSection) -> Iterator[str]:
    if (training.local_steps is None) == (training.local_epochs is None):
        yield "[training] needs exactly one of local_steps and local_epochs"
    if training.batch_size is None:
        yield "[training] needs batch_size, the examples of one step, e.g. batch_size = 8"
