"""The types of a recipe's fields: the numbers and names that a field takes."""

from typing import Annotated

from pydantic import BeforeValidator, ConfigDict, Field

__all__ = ["CONFIG", "Count", "Decay", "Names", "NonNegative", "Positive", "Seed"]

CONFIG = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, defer_build=True)

Count = Annotated[int, Field(ge=1, le=2**31 - 1)]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
NonNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Decay = Annotated[float, Field(ge=0, lt=1)]


def _listed(value: object) -> tuple[object, ...]:
    values = value if isinstance(value, list | tuple) else (value,)
    return tuple(str(item) if type(item) in (int, float) else item for item in values)


Names = Annotated[tuple[str, ...], Field(strict=False), BeforeValidator(_listed)]
"""Names; a single one may be written without a list, and a number without quotes."""
