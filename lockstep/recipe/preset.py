"""A preset: the knobs of a section as a library sets them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Preset"]


@dataclass(frozen=True)
class Preset:
    """Knobs that a library fixes and knobs that it leaves to its user."""

    source: str
    """The library's function or class, with its version."""
    fixed: Mapping[str, Any]
    """Knob -> the value that the library fixes."""
    free: Mapping[str, Any]
    """Knob -> the library's default; None where the recipe's default stays."""
    ties: Mapping[str, str] = field(default_factory=dict)
    """Fixed knob -> the free knob whose value it takes."""
    derived: Mapping[str, Callable[[Mapping[str, Any]], Any]] = field(default_factory=dict)
    """Free knob -> a function that derives its default from the other knobs; None sets none."""
    only: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    """Knob -> the values that the library takes."""
    least: Mapping[str, float] = field(default_factory=dict)
    """Knob -> the smallest value that the library takes."""
    note: str = ""
    """A remark that one needs beside the numbers."""
