"""What every table of `run.toml` is, and the types of its values."""

from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from profiles.spelling import cure_of

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

    def options(self) -> tuple[float, ...]:
        """The options, in order."""
        spread = np.geomspace if self.scale == "log" else np.linspace
        return tuple(map(float, spread(self.low, self.high, self.count)))


def _as_options(value: Any) -> Any:
    if isinstance(value, dict):
        raise _fault("be a value or a list: an interval stands for real numbers, and not for these")
    if isinstance(value, list):
        return tuple(value)
    return value if isinstance(value, tuple) else (value,)


def _with_intervals(value: Any, check: ValidatorFunctionWrapHandler) -> Any:
    """Options as they stand, or those that an interval stands for; `check` is of a tuple of options."""
    if not isinstance(value, dict):
        return check(_as_options(value))
    try:
        spread = Spread.model_validate(value)
    except ValidationError as error:
        raise _fault(_faults(error.errors())) from error
    if not spread.low < spread.high:
        raise _fault(f"have low < high, got low = {spread.low:g} and high = {spread.high:g}; or give one value")
    try:
        check((spread.low, spread.high))  # all between them are in range where they are
    except ValidationError as error:
        first = error.errors()[0]
        end = ("low", "high")[int(first["loc"][-1])]
        raise _fault(f"have a {end} that is {_rule(first).removeprefix('be ')}, got {first['input']:g}") from error
    if spread.scale == "log" and not spread.low > 0:
        raise _fault(f"have low > 0 on a log scale, got low = {spread.low:g}; give a higher one or scale = 'linear'")
    options = spread.options()
    if len(set(options)) < spread.count:
        raise _fault(f"have low and high farther apart: {spread.count} options between them are not all different")
    return check(options)


def _fault(rule: str) -> PydanticCustomError:
    """As pydantic's own: what a value must do."""
    return PydanticCustomError("interval", "{rule}", {"rule": rule})


def _faults(errors: list[ErrorDetails]) -> str:
    """Keys that are unknown, with the nearest one, or else all other faults of an interval's table."""
    unknown = [str(error["loc"][-1]) for error in errors if error["type"] == "extra_forbidden"]
    known = list(Spread.model_fields)
    if unknown:
        return f"have no key {unknown[0]!r} in its interval; {cure_of(unknown[0], known)}"
    lacking = [str(error["loc"][-1]) for error in errors if error["type"] == "missing"]
    if lacking:
        return f"have {' and '.join(lacking)} in its interval, e.g. {{ low = 1e-4, high = 0.1 }}"
    return "; ".join(f"have a {error['loc'][-1]} that must {_rule(error)}, got {error['input']!r}" for error in errors)


def _rule(error: ErrorDetails) -> str:
    return error["msg"].removeprefix("Input should ")


def _float32(value: float) -> float:
    """What phones and the server's step compute with knows no smaller numbers in full, and no larger ones."""
    if not 1.2e-38 <= value <= 3.4e38:
        raise PydanticCustomError("float32", "be from 1.2e-38 to 3.4e38, as a float32 holds it")
    return value


# What a search may choose from: `[8, 16]`; a single value is a list of one.
Options = Annotated[tuple[T, ...], BeforeValidator(_as_options), Field(min_length=1)]
# Likewise of real numbers, where `{ low = 1e-4, high = 0.1 }` is a list of many.
RealOptions = Annotated[tuple[T, ...], Field(min_length=1), WrapValidator(_with_intervals)]
Names = Annotated[tuple[str, ...], BeforeValidator(_as_options), Field(min_length=1)]

PositiveInt = Annotated[int, Field(ge=1)]
PositiveFloat = Annotated[float, Field(gt=0)]
PositiveFloat32 = Annotated[PositiveFloat, AfterValidator(_float32)]
NonNegative = Annotated[float, Field(ge=0)]
Momentum = Annotated[float, Field(ge=0, lt=1)]
