"""Everything that a recipe can name, as small recipes: what the parity matrix trains."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args, get_origin

from lockstep.recipe import KNOBS, Recipe, variants_of
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
    "optimizer.momentum": 0.8,
    "optimizer.dampening": 0.3,
    "optimizer.weight_decay": 0.05,
    "optimizer.initial_accumulator": 0.1,
    "optimizer.lr_decay": 0.01,
    "optimizer.momentum_decay": 0.5,
    "optimizer.shrink": 0.4,
    "optimizer.grow": 1.3,
    "optimizer.step_min": 0.01,
    "optimizer.step_max": 0.02,
    "optimizer.decay_power": 0.5,
    "optimizer.eps_scale": 0.5,
    "optimizer.clip_threshold": 0.5,
    "optimizer.min_factored": 6,
    "optimizer.orthogonalisations": 3,
    "optimizer.multipliers": (0.5, 1.0, 2.0),
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
    # each step is a share of the parameter's norm, and 2 % of it makes rounding grow
    "optimizer.name=lamb": {"schedule.peak": 0.005},
    "optimizer.decay_on": {"optimizer.weight_decay": 0.05},
    "optimizer.momentum": {"schedule.peak": 0.005},  # rmsprop with momentum steps 5 times as far
    "optimizer.rate_in_momentum": {"optimizer.momentum": 0.8, "schedule.peak": 0.005},
    "optimizer.rate_cap": {"schedule.peak": 0.1},
    "gradient.clip": {"gradient.clip_at": 0.05},
    "gradient.clip_eps": {"gradient.clip": "norm", "gradient.clip_at": 0.05},
    "gradient.accumulate_mean": {"gradient.accumulate": 3},  # with 2 no update has batches of different rows
    "average.start": {"average.decay": 0.9},
    "average.debias": {"average.decay": 0.9, "average.start": "zero"},
    "model.norm_eps": {"model.norm": "batch"},
    "model.norm_momentum": {"model.norm": "batch"},
    "model.norm_variance": {"model.norm": "batch"},
    "schedule.after_end": {"schedule.length": 150},
    "schedule.warmup_of": {"schedule.decay_start": "0", "schedule.warmup": 60},  # every decay begins within it
    "schedule.warmup_shape=untuned_linear": UNTUNED,
    "schedule.warmup_shape=untuned_exponential": UNTUNED,
}
"""What must be set for a choice, for a field, or for one value of it, to have an effect."""

SHARED = {"optimizer": ("sgd", "adamw", "muon"), "schedule": ("constant", "cosine"), "loss": ("cross_entropy",)}
"""Where the fields that are no knob of one name alone are varied too."""


@dataclass(frozen=True)
class Entry:
    """One row of the matrix: a section of the recipe, what of it is chosen, a recipe that trains with it and the same
    recipe without it."""

    group: str
    name: str
    recipe: Recipe
    without: Recipe


def entries() -> list[Entry]:
    """Every choice that the recipe declares, at its defaults and with each knob at another value."""
    found: list[Entry] = []
    for section, knobs in KNOBS.items():
        names = list(knobs)
        for name in names:
            needed = _needs(section, name)
            chosen = needed | {f"{section}.name": name}
            other = names[1] if name == names[0] else names[0]
            elsewhere = {key: value for key, value in needed.items() if not key.startswith(f"{section}.")}
            without = elsewhere | _needs(section, other) | {f"{section}.name": other}
            found += [Entry(section, name, _recipe(chosen), _recipe(without))]
            found += _vary(section, chosen, None if name in SHARED.get(section, ()) else set(knobs[name]))
    for section in ("gradient", "average", "model"):
        found += _vary(section, {}, None)
    # the rest of this section is no choice, or is in every row: both dtypes
    return found + list(_vary("training", {}, {"drop_last", "compute"}))


def _vary(section: str, chosen: dict[str, Any], fields: set[str] | None) -> Iterator[Entry]:
    """The section with one field after another at another value."""
    part = getattr(_recipe(chosen), section)
    for field, value in asdict(part).items():
        if value is None or field == "name" or (fields is not None and field not in fields):
            continue
        for other in _others(section, part, field):
            base = chosen | NEEDS.get(f"{section}.{field}", {}) | NEEDS.get(f"{section}.{field}={other}", {})
            shown = json.dumps(other) if isinstance(other, bool | tuple) else other
            label = ", ".join([*(str(chosen[key]) for key in chosen if key.endswith(".name")), f"{field} {shown}"])
            yield Entry(section, label, _recipe(base | {f"{section}.{field}": other}), _recipe(base))


def _needs(section: str, name: str) -> dict[str, Any]:
    """What must be set for a section of that name to have an effect."""
    variants = variants_of(section)
    return dict(variants[name].spec.needs) if variants else NEEDS.get(f"{section}.name={name}", {})


def _others(section: str, part: Any, field: str) -> list[Any]:
    annotation, value = type(part).__pydantic_fields__[field].annotation, getattr(part, field)
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
