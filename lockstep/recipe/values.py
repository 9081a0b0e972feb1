"""The types of the fields of a recipe: what numbers and names a field takes."""

from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Field

__all__ = ["CONFIG", "Count", "Decay", "Names", "NonNegative", "Positive", "Seed"]

CONFIG = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, defer_build=True)

Count = Annotated[int, Field(ge=1, le=2**31 - 1)]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
NonNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Decay = Annotated[float, Field(ge=0, lt=1)]


def _listed(value: Any) -> Any:
    """A single name may be written without a list, and one that is a number as one."""
    values = value if isinstance(value, list | tuple) else (value,)
    return tuple(str(item) if type(item) in (int, float) else item for item in values)


Names = Annotated[tuple[str, ...], Field(strict=False), BeforeValidator(_listed)]
