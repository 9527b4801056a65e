"""From a run file's tables to the search's own records: space, limits, algorithm."""

from collections.abc import Iterable
from typing import Any

from device_runtime.specs import ExampleSpec
from pipeline.run_sections import BudgetSection, CellsSection, RunFile, SpaceSection, TrainingSection
from pipeline.search_problem import Problem
from pipeline.search_sections import NARROWING
from pipeline.searching.rounds import RunClient
from profiles.schema import DeviceProfile
from search import CellSpace, Feasibility, Limits, SearchAlgorithm, SearchSpace
from search.clients import Client
from search.options import HyperParameterOptions, StageOptions, StemOptions
from search.pruning import narrowed


class UnfitDataError(ValueError):
    """The data are not what the search space makes networks for."""


def space_of(run_file: RunFile, spec: ExampleSpec) -> SearchSpace | CellSpace:
    """The search space of a run over examples of a specification.

    Raises:
        UnfitDataError: The examples are no images.
    """
    if len(spec.shape) != 3:
        table = "[space]" if run_file.cells is None else "[cells]"
        raise UnfitDataError(
            f"{table} makes networks for images of (channels, height, width), the data are {list(spec.shape)}: "
            "reshape x in the npz"
        )
    channels, height, width = spec.shape
    training = _training_options(run_file.training)
    if run_file.cells is not None:
        return _cell_space(run_file.cells, (channels, height, width), len(spec.labels), training)
    if run_file.space is None:
        raise ValueError("a run file must have one of [space] and [cells]")
    return _block_space(run_file.space, (channels, height, width), len(spec.labels), training)


def reachable_space(run_file: RunFile, spec: ExampleSpec) -> SearchSpace | CellSpace:
    """All networks that a run's search may come to: also narrower ones than the run file lists, where it prunes.

    Raises:
        UnfitDataError: The examples are no images.
    """
    space = space_of(run_file, spec)
    return narrowed(space) if isinstance(run_file.search, NARROWING) and isinstance(space, SearchSpace) else space


def _block_space(
    space: SpaceSection, input_shape: tuple[int, int, int], num_classes: int, training: HyperParameterOptions
) -> SearchSpace:
    return SearchSpace(
        input_shape=input_shape,
        num_classes=num_classes,
        stem=StemOptions(space.widths, space.kernels, space.stem_strides or space.strides),
        stages=StageOptions(space.kinds, space.widths, space.depths, space.kernels, space.strides, space.expansions),
        hyper_parameters=training,
        max_stages=space.max_stages,
        heads=space.heads,
        normalizations=space.normalizations,
        activations=space.activations,
    )


def _cell_space(
    cells: CellsSection, input_shape: tuple[int, int, int], num_classes: int, training: HyperParameterOptions
) -> CellSpace:
    return CellSpace(
        input_shape=input_shape,
        num_classes=num_classes,
        hyper_parameters=training,
        **(dict(cells) | {"final_depth": cells.final_depth or cells.depth}),
    )


def _training_options(training: TrainingSection) -> HyperParameterOptions:
    is_adam = training.server_optimizer == "fedadam"
    return HyperParameterOptions(
        learning_rate=training.learning_rate,
        local_steps=training.local_steps or (),
        local_epochs=training.local_epochs or (),
        batch_size=training.batch_size or (),
        momentum=training.momentum,
        max_grad_norm=training.max_grad_norm or (),
        server_learning_rate=training.server_learning_rate,
        server_momentum=training.server_momentum,
        proximal=training.proximal,
        server_beta2=training.server_beta2 if is_adam else (),
        server_epsilon=training.server_epsilon if is_adam else (),
        weight_decay=training.weight_decay,
        architecture_learning_rate=training.architecture_learning_rate or (),
        architecture_weight_decay=training.architecture_weight_decay,
    )


def algorithm_of(
    run_file: RunFile, spec: ExampleSpec, profiles: tuple[DeviceProfile, ...], clients: Iterable[RunClient]
) -> SearchAlgorithm[Any]:
    """The algorithm that a run file names, with its settings."""
    feasibility = feasibility_of(run_file, profiles)
    known = tuple(Client(one.device_id, one.num_examples["train"], one.profile, one.device_class) for one in clients)
    return run_file.search.make(Problem(space_of(run_file, spec), feasibility, known))


def feasibility_of(run_file: RunFile, profiles: tuple[DeviceProfile, ...]) -> Feasibility:
    """The run file's limits on the devices of its fleet, or on its targets."""
    budgets = {name: _limits(budget) for name, budget in run_file.budgets.items()}
    return Feasibility(profiles, budgets, run_file.training.artifact_batch_size)


def limits_as_plain(run_file: RunFile) -> dict[str, dict[str, float | None]]:
    """The limits by device class, for the result."""
    return {name: vars(_limits(budget)) for name, budget in run_file.budgets.items()}


def _limits(budget: BudgetSection) -> Limits:
    return Limits(budget.latency_ms, budget.training_step_ms, budget.memory_mib, budget.size_kib)
