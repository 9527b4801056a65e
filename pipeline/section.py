"""What every table of `run.toml` is, and the types of its values."""

from typing import Annotated, Any, Literal, Self, TypeVar

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

T = TypeVar("T")


class Section(BaseModel):
    """A table; unknown keys, other types, NaN and infinity are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Spread(Section):
    """Options from `low` to `high`, evenly spread: what stands for an interval where a search draws from options.

    Attributes:
        scale: `log` spreads their logarithms.
    """

    low: float
    high: float
    count: Annotated[int, Field(ge=2, le=1000)] = 100
    scale: Literal["log", "linear"] = "log"

    @model_validator(mode="after")
    def _check_ends(self) -> Self:
        if not self.low < self.high:
            raise ValueError(f"low must be < high = {self.high}, got {self.low}")
        if self.scale == "log" and not self.low > 0:
            raise ValueError(f"low must be > 0 on a log scale, got {self.low}; set scale = 'linear'")
        return self

    def options(self) -> tuple[float, ...]:
        """The options, in order."""
        spread = np.geomspace if self.scale == "log" else np.linspace
        return tuple(map(float, spread(self.low, self.high, self.count)))


def _as_options(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(value)
    if isinstance(value, dict):
        try:
            return Spread.model_validate(value).options()
        except ValidationError as error:
            raise ValueError("; ".join(map(_fault, error.errors()))) from error
    return value if isinstance(value, tuple) else (value,)


def _fault(error: ErrorDetails) -> str:
    place = ".".join(map(str, error["loc"]))
    return f"{place}: {error['msg']}" if place else error["msg"]


# What a search may choose from: `[8, 16]`; a single value is a list of one, `{ low = 1e-4, high = 0.1 }` one of many.
Options = Annotated[tuple[T, ...], BeforeValidator(_as_options), Field(min_length=1)]
Names = Annotated[tuple[str, ...], BeforeValidator(_as_options), Field(min_length=1)]

PositiveInt = Annotated[int, Field(ge=1)]
PositiveFloat = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Momentum = Annotated[float, Field(ge=0, lt=1)]
