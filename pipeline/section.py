"""What every table of `run.toml` is, and the types of its values."""

from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

T = TypeVar("T")


def _as_options(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(value)
    return value if isinstance(value, tuple) else (value,)


# What a search may choose from: `[8, 16]`; a single value is a list of one.
Options = Annotated[tuple[T, ...], BeforeValidator(_as_options), Field(min_length=1)]
Names = Annotated[tuple[str, ...], BeforeValidator(_as_options), Field(min_length=1)]

PositiveInt = Annotated[int, Field(ge=1)]
PositiveFloat = Annotated[float, Field(gt=0)]
Momentum = Annotated[float, Field(ge=0, lt=1)]


class Section(BaseModel):
    """A table; unknown keys, other types, NaN and infinity are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
