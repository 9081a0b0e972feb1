"""The words of a refusal: one line that names the field, the value and the nearest right name."""

import difflib
import reprlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

__all__ = ["differing_fields", "near_miss", "nearest", "one_of", "printable_name", "short_repr"]

Sections = Mapping[str, Mapping[str, Any]]
"""Section -> field -> value."""


def nearest(name: str, known: Sequence[str]) -> str:
    """`; did you mean X?` for a near miss, else "".

    Field names also match by their last part alone.
    """
    by_leaf = [candidate for candidate in known if candidate.endswith("." + name)]
    best = by_leaf[0] if by_leaf else near_miss(name, known, cutoff=0.5)
    return f"; did you mean {best}?" if best else ""


def near_miss(name: str, known: Collection[str], cutoff: float = 0.6) -> str:
    """The known name that is most like this one, or "".

    Args:
        name: the name that somebody wrote.
        known: the names that there are.
        cutoff: the least likeness, from 0 to 1, as `difflib.get_close_matches` measures it.
    """
    matches = difflib.get_close_matches(name, known, n=1, cutoff=cutoff)
    return matches[0] if matches else ""


def differing_fields(a: Sections, b: Sections) -> str:
    """Name and both values of every field that differs: "schedule.warmup 2 and 3; ...".

    A field that a recipe lacks is None.

    Args:
        a: a recipe, as `Recipe.as_dict` gives it.
        b: the other recipe.
    """
    fields_a = _flat(a)
    fields_b = _flat(b)
    differences = []
    for name in fields_a | fields_b:
        value_a = fields_a.get(name)
        value_b = fields_b.get(name)
        if value_a != value_b:
            differences.append(f"{name} {value_a!r} and {value_b!r}")
    return "; ".join(differences)


def _flat(sections: Sections) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for section, values in sections.items():
        flat |= {f"{section}.{field}": value for field, value in values.items()}
    return flat


def one_of(names: Sequence[str]) -> str:
    """The names in a sentence: "'a', 'b' or 'c'"."""
    *others, last = (repr(name) for name in names)
    return f"{', '.join(others)} or {last}" if others else last


def printable_name(name: str) -> str:
    """A name that somebody wrote, fit for one line; quoted TOML keys may hold line breaks."""
    return name if name.isprintable() else repr(name)


def short_repr(value: object) -> str:
    """A value as Python writes it; a long one is cut in the middle."""
    short = reprlib.Repr()
    short.maxstring = 80
    short.maxother = 80
    short.maxlist = 12
    short.maxtuple = 12
    try:
        return short.repr(value)
    except ValueError:  # Python writes no integer of more than 4300 digits
        return "a number of thousands of digits"
