"""What a search may choose from: a record of options for each record that it fills in."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from search.architecture import BlockKind, Stage, Stem
from search.candidate import HyperParameters
from search.choices import (
    Change,
    Choices,
    check_choices,
    combine,
    count,
    draw_fields,
    field_changes,
    is_chosen_from,
    other_options,
    pick,
)


@dataclass(frozen=True)
class StemOptions:
    """Options of the first convolution; fields as in `search.architecture.Stem`."""

    widths: tuple[int, ...]
    kernels: tuple[int, ...] = (3,)
    strides: tuple[int, ...] = (1,)

    def __post_init__(self) -> None:
        check_choices(self.choices())
        _check_each(Stem(1), self.choices())

    def choices(self) -> Choices:
        """Options by field of `Stem`."""
        return {"width": self.widths, "kernel": self.kernels, "stride": self.strides}


@dataclass(frozen=True)
class StageOptions:
    """Options of every stage; fields as in `search.architecture.Stage`.

    Attributes:
        expansions: Of inverted blocks; depthwise blocks have 1 whatever is listed.
    """

    kinds: tuple[BlockKind, ...]
    widths: tuple[int, ...]
    depths: tuple[int, ...] = (1,)
    kernels: tuple[int, ...] = (3,)
    strides: tuple[int, ...] = (1,)
    expansions: tuple[int, ...] = (1,)

    def __post_init__(self) -> None:
        check_choices({**self.choices("inverted"), "kind": self.kinds})
        _check_each(Stage("inverted", 1), self.choices("inverted"))

    def __contains__(self, stage: Stage) -> bool:
        return stage.kind in self.kinds and is_chosen_from(stage, self.choices(stage.kind))

    def choices(self, kind: BlockKind) -> Choices:
        """Options by field of a stage of that kind, but for the kind."""
        return {
            "width": self.widths,
            "depth": self.depths,
            "kernel": self.kernels,
            "stride": self.strides,
            "expansion": self.expansions if kind == "inverted" else (1,),
        }

    def size(self) -> int:
        """Number of different stages."""
        return sum(count(self.choices(kind)) for kind in self.kinds)

    def enumerate_stages(self) -> list[Stage]:
        """Every stage once."""
        return [Stage(kind, **fields) for kind in self.kinds for fields in combine(self.choices(kind))]

    def sample(self, rng: np.random.Generator) -> Stage:
        """Draw a stage: first its kind, then each field, every option alike."""
        kind = pick(self.kinds, rng)
        return Stage(kind, **draw_fields(self.choices(kind), rng))

    def changes(self, stage: Stage) -> list[Change[Stage]]:
        """One change for each field with another option; another kind brings an expansion of its own."""
        others = tuple(kind for kind in self.kinds if kind != stage.kind)
        changes = field_changes(stage, other_options(stage, self.choices(stage.kind)))
        return [*changes, partial(self._change_kind, stage, others)] if others else changes

    def _change_kind(self, stage: Stage, others: tuple[BlockKind, ...], rng: np.random.Generator) -> Stage:
        kind = pick(others, rng)
        return replace(stage, kind=kind, expansion=pick(self.choices(kind)["expansion"], rng))


@dataclass(frozen=True)
class HyperParameterOptions:
    """Options of each hyper-parameter; fields as in `HyperParameters`, where an empty tuple here is None there."""

    learning_rate: tuple[float, ...]
    local_steps: tuple[int, ...] = ()
    local_epochs: tuple[int, ...] = ()
    batch_size: tuple[int, ...] = ()
    momentum: tuple[float, ...] = (0.0,)
    max_grad_norm: tuple[float, ...] = ()
    server_learning_rate: tuple[float, ...] = (1.0,)
    server_momentum: tuple[float, ...] = (0.0,)
    proximal: tuple[float, ...] = (0.0,)
    server_beta2: tuple[float, ...] = ()
    server_epsilon: tuple[float, ...] = ()
    weight_decay: tuple[float, ...] = (0.0,)
    architecture_learning_rate: tuple[float, ...] = ()
    architecture_weight_decay: tuple[float, ...] = (0.0,)

    def __post_init__(self) -> None:
        check_choices(self.choices())
        _check_each(HyperParameters(1.0), self.choices())

    def choices(self) -> Choices:
        """Options by field of `HyperParameters`."""
        return {
            "learning_rate": self.learning_rate,
            "local_steps": self.local_steps or (None,),
            "local_epochs": self.local_epochs or (None,),
            "batch_size": self.batch_size or (None,),
            "momentum": self.momentum,
            "max_grad_norm": self.max_grad_norm or (None,),
            "server_learning_rate": self.server_learning_rate,
            "server_momentum": self.server_momentum,
            "proximal": self.proximal,
            "server_beta2": self.server_beta2 or (None,),
            "server_epsilon": self.server_epsilon or (None,),
            "weight_decay": self.weight_decay,
            "architecture_learning_rate": self.architecture_learning_rate or (None,),
            "architecture_weight_decay": self.architecture_weight_decay,
        }

    def sample(self, rng: np.random.Generator) -> HyperParameters:
        """Draw each field, every option alike."""
        return HyperParameters(**draw_fields(self.choices(), rng))

    def only(self) -> HyperParameters:
        """The one combination there is.

        Raises:
            ValueError: A field has several options.
        """
        for name, options in self.choices().items():
            if len(options) > 1:
                raise ValueError(f"this search chooses no hyper-parameters: give {name} one value, got {list(options)}")
        return HyperParameters(**{name: options[0] for name, options in self.choices().items()})


def _check_each(record: Any, choices: Choices) -> None:
    """Let the record itself refuse an option that is out of its range."""
    for name, options in choices.items():
        for option in options:
            replace(record, **{name: option})
