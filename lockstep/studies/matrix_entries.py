"""The entries of the parity matrix: everything that a recipe can name, as small recipes."""

import dataclasses
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from lockstep.recipe import KNOBS, Optimizer, Recipe, variants_of
from lockstep.recipe.variants import NamedSection

__all__ = ["Entry", "entries"]

BASE: dict[str, Any] = {
    # 90 rows in batches of 32: two full ones and one of 26; 67 epochs of 3 updates are 201
    "data.rows": 90,
    "data.features": 6,
    "data.classes": 3,
    "model.hidden": (6, 5),
    "model.activation": "tanh",
    "schedule.unit": "update",
    "schedule.warmup": 20,
    "schedule.peak": 0.02,
    "training.epochs": 67,
}

OTHER: dict[str, Any] = {
    "gradient.clip_eps": 1e-6,
    "gradient.accumulate": 2,
    "model.norm_eps": 1e-3,
    "model.norm_momentum": 0.01,
    "model.dropout": 0.2,
    "average.decay": 0.9,
    "schedule.warmup": 10,
    "schedule.warmup_start": 0.5,
    "schedule.length": 150,
    "schedule.floor": 0.4,
}
"""A second value of the fields that are no choice; a field without one keeps its default."""

UNTUNED = {"optimizer.name": "adamw", "optimizer.beta2": 0.95, "schedule.warmup": 0}
NEEDS: dict[str, dict[str, Any]] = {
    "gradient.clip": {"gradient.clip_at": 0.05},
    "gradient.clip_eps": {"gradient.clip": "norm", "gradient.clip_at": 0.05},
    # with 2 no update has batches of different rows
    "gradient.accumulate_mean": {"gradient.accumulate": 3},
    "average.start": {"average.decay": 0.9},
    "average.debias": {"average.decay": 0.9, "average.start": "zero"},
    "model.norm_eps": {"model.norm": "batch"},
    "model.norm_momentum": {"model.norm": "batch"},
    "model.norm_variance": {"model.norm": "batch"},
    "schedule.after_end": {"schedule.length": 150},
    # every decay begins within the warmup
    "schedule.warmup_of": {"schedule.decay_start": "0", "schedule.warmup": 60},
    "schedule.warmup_shape=untuned_linear": UNTUNED,
    "schedule.warmup_shape=untuned_exponential": UNTUNED,
}
"""What must be set for a field, or for one value of it, to have an effect."""

SHARED = {"schedule": ("constant", "cosine"), "loss": ("cross_entropy",)}
"""The names whose every field is varied, and not only the knobs of their own."""


@dataclass(frozen=True)
class Entry:
    """One row of the matrix."""

    group: str
    """A section of the recipe."""
    name: str
    """The choice in that section."""
    recipe: Recipe
    without: Recipe
    """The recipe without the choice."""


def entries() -> list[Entry]:
    """Every choice that a recipe can make, at its defaults and with each knob at another value."""
    rows: list[Entry] = []
    for section in KNOBS:
        knobs = _knobs(section)
        names = list(knobs)
        for name in names:
            needed = _needs(section, name)
            chosen = needed | {f"{section}.name": name}
            other = names[1] if name == names[0] else names[0]
            elsewhere = {
                key: value for key, value in needed.items() if not key.startswith(f"{section}.")
            }
            without = elsewhere | _needs(section, other) | {f"{section}.name": other}
            rows.append(Entry(section, name, _recipe(chosen), _recipe(without)))
            in_full = name in SHARED.get(section, ()) or _is_in_full(section, name)
            rows += _vary(section, chosen, None if in_full else set(knobs[name]))
    for section in ("gradient", "average", "model"):
        rows += _vary(section, {}, None)
    # the rest of this section is no choice, or stands in every row, as both dtypes do
    rows += _vary("training", {}, {"drop_last", "compute"})
    return rows


def _vary(section: str, chosen: dict[str, Any], fields: set[str] | None) -> Iterator[Entry]:
    """The section with one field after another at another value.

    Args:
        section: its name.
        chosen: the fields that are set in every entry.
        fields: the fields to vary; None for all.
    """
    part = getattr(_recipe(chosen), section)
    for field in _field_order(part):
        value = getattr(part, field)
        if value is None or field == "name" or (fields is not None and field not in fields):
            continue
        for other in _others(section, part, field):
            base = chosen | _field_needs(section, part, field)
            base |= NEEDS.get(f"{section}.{field}={other}", {})
            varied = base | {f"{section}.{field}": other}
            text = json.dumps(other) if isinstance(other, bool | tuple) else other
            names = [str(chosen[key]) for key in chosen if key.endswith(".name")]
            label = ", ".join([*names, f"{field} {text}"])
            yield Entry(section, label, _recipe(varied), _recipe(base))


def _knobs(section: str) -> Mapping[str, Collection[str]]:
    """Name -> its knobs. Where names are variants, one that was added at run time has a row too."""
    variants = variants_of(section)
    if not variants:
        return KNOBS[section]
    return {name: kind.knobs() for name, kind in variants.items()}


def _needs(section: str, name: str) -> dict[str, Any]:
    """What must be set for a section of that name to have an effect."""
    variants = variants_of(section)
    if not variants:
        return NEEDS.get(f"{section}.name={name}", {})
    return dict(variants[name].spec.needs)


def _is_in_full(section: str, name: str) -> bool:
    kind = variants_of(section).get(name)
    return kind is not None and issubclass(kind, Optimizer) and kind.spec.in_full


def _field_order(part: Any) -> list[str]:
    if isinstance(part, NamedSection):
        return part.field_names()
    return [field.name for field in dataclasses.fields(part)]


def _field_needs(section: str, part: Any, field: str) -> dict[str, Any]:
    """What must be set for another value of a field to have an effect."""
    if isinstance(part, Optimizer):
        return dict(part.spec.knob_needs.get(field, {}))
    return NEEDS.get(f"{section}.{field}", {})


def _others(section: str, part: Any, field: str) -> list[Any]:
    """Other values of a field: all of a choice, else one or none."""
    annotation = type(part).__pydantic_fields__[field].annotation
    value = getattr(part, field)
    if get_origin(annotation) is Literal:
        return [choice for choice in get_args(annotation) if choice != value]
    if isinstance(value, bool):
        return [not value]
    other = OTHER.get(f"{section}.{field}", value)
    if isinstance(part, NamedSection):
        other = part.spec.others.get(field, other)
    return [other] if other != value else []


def _recipe(values: dict[str, Any]) -> Recipe:
    return Recipe().with_values(BASE | values)
