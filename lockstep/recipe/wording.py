"""The words of a refusal: one line that names the field, the value and the nearest right name."""

import difflib
import reprlib
from collections.abc import Sequence
from typing import Any

__all__ = ["nearest", "one_of", "printable_name", "short_repr"]


def nearest(name: str, known: Sequence[str]) -> str:
    """`; did you mean X?` for a near miss. Field names also match by their last part alone."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    by_leaf = [candidate for candidate in known if candidate.endswith("." + name)]
    best = by_leaf[:1] or close
    return f"; did you mean {best[0]}?" if best else ""


def one_of(names: Sequence[str]) -> str:
    """The names in a sentence: "'a', 'b' or 'c'"."""
    *others, last = (repr(name) for name in names)
    return f"{', '.join(others)} or {last}" if others else last


def printable_name(name: str) -> str:
    """A name that someone wrote, fit for one line: quoted TOML keys may hold line breaks."""
    return name if name.isprintable() else repr(name)


def short_repr(value: Any) -> str:
    """A value as it is written in Python; of a long one, its beginning and end."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = 80
    short.maxlist = short.maxtuple = 12
    try:
        return short.repr(value)
    except ValueError:  # Python writes no integer of more than 4300 digits
        return "a number of thousands of digits"
