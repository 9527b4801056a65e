"""The search space of blocks: all candidates that can be made of given options; how to draw and how to change one."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Any, Protocol

import numpy as np

from search.architecture import Activation, Architecture, BlockKind, HeadKind, Normalization, Stage, Stem
from search.candidate import Candidate, HyperParameters
from search.choices import (
    Change,
    Choices,
    check_choices,
    combine,
    count,
    draw_fields,
    field_changes,
    is_chosen_from,
    lift,
    next_options,
    other_options,
    pick,
)
from search.options import HyperParameterOptions, StageOptions, StemOptions

Stack = tuple[Stage, ...]

# The cheaper first.
_KINDS: tuple[BlockKind, ...] = ("depthwise", "inverted")
_HEADS: tuple[HeadKind, ...] = ("global_average", "flatten")
_NORMALIZATIONS: tuple[Normalization, ...] = ("none", "group")
_ACTIVATIONS: tuple[Activation, ...] = ("relu", "hard_swish")


class Space(Protocol):
    """What most searches need of a space: this one, or that of `search.cell_space`."""

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one example."""

    @property
    def num_classes(self) -> int:
        """Outputs of the last linear layer."""

    @property
    def hyper_parameters(self) -> HyperParameterOptions:
        """What candidates may train with."""

    def __contains__(self, candidate: Candidate) -> bool:
        """Whether a candidate is made of the space's options."""

    def size(self) -> int:
        """Number of candidates."""

    def enumerate_candidates(self) -> Iterator[Candidate]:
        """Every candidate once, lazily; ask for `size` first."""

    def sample(self, rng: np.random.Generator) -> Candidate:
        """Draw a candidate."""

    def mutate(self, candidate: Candidate, rng: np.random.Generator) -> Candidate:
        """Draw one change.

        Raises:
            ValueError: When the candidate is not of this space.
        """

    def smallest(self) -> Architecture:
        """The network of the cheapest options."""

    def largest(self) -> Architecture:
        """The network of the dearest options."""


@dataclass(frozen=True)
class SearchSpace:
    """All candidates made of a stem, `min_stages` to `max_stages` stages, a head and hyper-parameters.

    Attributes:
        input_shape: (channels, height, width) of one example.
        num_classes: Outputs of the last linear layer.
        stages: Options of each stage, alike for all.
    """

    input_shape: tuple[int, int, int]
    num_classes: int
    stem: StemOptions
    stages: StageOptions
    hyper_parameters: HyperParameterOptions
    max_stages: int
    min_stages: int = 0
    heads: tuple[HeadKind, ...] = ("flatten",)
    normalizations: tuple[Normalization, ...] = ("none",)
    activations: tuple[Activation, ...] = ("relu",)
    schema: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.min_stages <= self.max_stages:
            raise ValueError(f"min_stages must be >= 0 and <= max_stages = {self.max_stages}, got {self.min_stages}")
        check_choices(self._network_choices())
        self.smallest()  # lets Architecture refuse the input shape and the number of classes

    def __contains__(self, candidate: Candidate) -> bool:
        network = candidate.architecture
        return (
            (network.input_shape, network.num_classes) == (self.input_shape, self.num_classes)
            and self.min_stages <= len(network.stages) <= self.max_stages
            and is_chosen_from(network, self._network_choices())
            and is_chosen_from(network.stem, self.stem.choices())
            and all(stage in self.stages for stage in network.stages)
            and is_chosen_from(candidate.hyper_parameters, self.hyper_parameters.choices())
        )

    def size(self) -> int:
        """Number of candidates."""
        stacks: int = sum(self.stages.size() ** length for length in range(self.min_stages, self.max_stages + 1))
        networks = stacks * count(self.stem.choices()) * count(self._network_choices())
        return networks * count(self.hyper_parameters.choices())

    def enumerate_candidates(self) -> Iterator[Candidate]:
        """Every candidate once, lazily; ask for `size` first."""
        stems = [Stem(**fields) for fields in combine(self.stem.choices())]
        networks = list(combine(self._network_choices()))
        trainings = [HyperParameters(**fields) for fields in combine(self.hyper_parameters.choices())]
        for length in range(self.min_stages, self.max_stages + 1):
            for stack in product(self.stages.enumerate_stages(), repeat=length):
                for stem, network, training in product(stems, networks, trainings):
                    yield Candidate(self._architecture(stem, stack, network), training)

    def sample(self, rng: np.random.Generator) -> Candidate:
        """Draw a candidate: first the number of stages, then each field, every option alike."""
        num_stages = int(rng.integers(self.min_stages, self.max_stages + 1))
        architecture = self._architecture(
            Stem(**draw_fields(self.stem.choices(), rng)),
            tuple(self.stages.sample(rng) for _ in range(num_stages)),
            draw_fields(self._network_choices(), rng),
        )
        return Candidate(architecture, HyperParameters(**draw_fields(self.hyper_parameters.choices(), rng)))

    def mutate(self, candidate: Candidate, rng: np.random.Generator) -> Candidate:
        """Draw one change: another option of a field, a stage more or less, or a hyper-parameter's next option.

        All fields alike, then all options of the field. The candidate itself comes back only where the space has no
        other. A stage that changes its kind takes an expansion of the new kind.

        Raises:
            ValueError: When the candidate is not of this space.
        """
        if candidate not in self:
            raise ValueError(f"a candidate to mutate must be of the search space, got {candidate}")
        network, training = candidate.architecture, candidate.hyper_parameters
        changes = [
            *lift(self._network_changes(network), lambda new: replace(candidate, architecture=new)),
            *lift(
                field_changes(training, next_options(training, self.hyper_parameters.choices())),
                lambda new: replace(candidate, hyper_parameters=new),
            ),
        ]
        return pick(changes, rng)(rng) if changes else candidate

    def smallest(self) -> Architecture:
        """The network of the cheapest option of every field and the fewest stages."""
        return self._extreme(0, min, max, self.min_stages)

    def largest(self) -> Architecture:
        """The network of the dearest option of every field and the most stages."""
        return self._extreme(-1, max, min, self.max_stages)

    def _network_choices(self) -> Choices:
        return {"head": self.heads, "normalization": self.normalizations, "activation": self.activations}

    def _architecture(self, stem: Stem, stack: Stack, fields: dict[str, Any]) -> Architecture:
        return Architecture(self.input_shape, self.num_classes, stem, stack, **fields)

    def _extreme(
        self, end: int, side: Callable[..., Any], stride_side: Callable[..., Any], num_stages: int
    ) -> Architecture:
        def choose(choices: Choices) -> dict[str, Any]:
            return {name: (stride_side if name == "stride" else side)(options) for name, options in choices.items()}

        kind = _ordered(_KINDS, self.stages.kinds)[end]
        fields = {
            "head": _ordered(_HEADS, self.heads)[end],
            "normalization": _ordered(_NORMALIZATIONS, self.normalizations)[end],
            "activation": _ordered(_ACTIVATIONS, self.activations)[end],
        }
        stage = Stage(kind, **choose(self.stages.choices(kind)))
        return self._architecture(Stem(**choose(self.stem.choices())), (stage,) * num_stages, fields)

    def _network_changes(self, network: Architecture) -> list[Change[Architecture]]:
        stem = field_changes(network.stem, other_options(network.stem, self.stem.choices()))
        return [
            *field_changes(network, other_options(network, self._network_choices())),
            *lift(stem, lambda new: replace(network, stem=new)),
            *lift(self._stack_changes(network.stages), lambda new: replace(network, stages=new)),
        ]

    def _stack_changes(self, stack: Stack) -> list[Change[Stack]]:
        changes: list[Change[Stack]] = []
        for i, stage in enumerate(stack):
            changes += lift(self.stages.changes(stage), partial(_replace_stage, stack, i))
        if len(stack) < self.max_stages:
            changes.append(partial(self._add_stage, stack))
        if len(stack) > self.min_stages:
            changes.append(partial(_remove_stage, stack))
        return changes

    def _add_stage(self, stack: Stack, rng: np.random.Generator) -> Stack:
        place = int(rng.integers(len(stack) + 1))
        return (*stack[:place], self.stages.sample(rng), *stack[place:])


def _replace_stage(stack: Stack, place: int, stage: Stage) -> Stack:
    return (*stack[:place], stage, *stack[place + 1 :])


def _remove_stage(stack: Stack, rng: np.random.Generator) -> Stack:
    place = int(rng.integers(len(stack)))
    return (*stack[:place], *stack[place + 1 :])


def _ordered(order: tuple[Any, ...], options: tuple[Any, ...]) -> list[Any]:
    return sorted(options, key=order.index)
