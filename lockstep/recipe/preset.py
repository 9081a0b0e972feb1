"""A preset: the knobs of a section as a library sets them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Preset"]


@dataclass(frozen=True)
class Preset:
    """Knobs that a library fixes and knobs that it leaves to its user.

    `free` has the library's own default for each, or None where the recipe's default stays; `ties`
    are fixed knobs
    that take the value of a free one; `derived` are free knobs whose default follows from the
    others, None being none; `only` are the values of a knob that the library takes, and `least` the
    smallest; `source` is what is meant, with its version; `note` is what one must know beside its
    numbers.
    """

    source: str
    fixed: Mapping[str, Any]
    free: Mapping[str, Any]
    ties: Mapping[str, str] = field(default_factory=dict)
    derived: Mapping[str, Callable[[Mapping[str, Any]], Any]] = field(default_factory=dict)
    only: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    least: Mapping[str, float] = field(default_factory=dict)
    note: str = ""
