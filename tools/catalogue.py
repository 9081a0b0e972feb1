"""Writes docs/catalogue.md, which lists all that a recipe can name.

`python -m tools.catalogue`, or `make pages` for every such page.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lockstep.recipe import KNOBS, OPTIONS, field_infos
from lockstep.recipe.presets import PRESETS, UNSAID
from lockstep.recipe.variants import choices_of

PAGE = Path(__file__).parent.parent / "docs" / "catalogue.md"
TITLES = {
    "schedule": "Schedules",
    "optimizer": "Optimizers",
    "loss": "Losses",
    "gradient": "Gradients",
    "average": "Averages of the parameters",
    "model": "Layers and initialisation",
    "training": "Batches and precision",
}
INTRODUCTION = """# The catalogue

This page lists all that a recipe can name. PyTorch, JAX and the oracle have all of it, and the [parity
matrix](matrix.md) says how far they are apart. `lockstep recipe show` prints every field of a recipe with its meaning.
The [atlas](atlas/README.md) shows what goes wrong between the two frameworks, and [library
defaults](library_defaults.md) what comes of leaving settings to the libraries.

A **preset** is a library's name for some knobs. It fixes the knobs that the library fixes. The others have the
library's defaults, and may be set beside the preset. If a phase has no length (no warmup, or a warmup as long as the
schedule), a preset has the library's rates, or is refused with the library's reason. `make sweep` holds every preset
against the library itself on 40 draws of all its knobs. This is how a recipe names presets:

```toml
[optimizer]
preset = "optax.adamw"
weight_decay = 0.05

[schedule]
preset = "hf.cosine"
unit = "update"
warmup = 1000
```

Both frameworks train every preset: JAX trains one of torch's, and PyTorch one of Optax's. `lockstep curve` draws the
presets of schedules over one another.

`make pages` writes this page, and `make docs` checks it.
"""  # noqa: E501


def page() -> str:
    return INTRODUCTION + "".join(
        f"\n## {title}\n{_fields(name)}{_presets(name)}" for name, title in TITLES.items()
    )


def _fields(section: str) -> str:
    fields = field_infos(section)
    if section not in KNOBS:
        rows = [
            (f"`{name}`", _choices(field), _value(field.default)) for name, field in fields.items()
        ]
        return _table(("field", "one of", "default"), rows)
    knobs = KNOBS[section]
    options = OPTIONS.get(section, {})
    known = {knob for having in (*knobs.values(), *options.values()) for knob in having}
    everywhere = {
        name: field.default
        for name, field in fields.items()
        if name not in known and name != "name"
    }
    everywhere |= {
        knob: value
        for knob, value in next(iter(knobs.values())).items()
        if _in_every(knobs, knob, value)
    }
    rows = [
        (
            f"`{name}`",
            _listed({knob: value for knob, value in having.items() if knob not in everywhere}),
        )
        for name, having in knobs.items()
    ]
    choices = [
        f"`{name}`: {_choices(field)}"
        for name, field in fields.items()
        if _choices(field) and name != "name"
    ]
    found = f"\nAll have {_listed(everywhere)}.\n" if everywhere else ""
    found += _table(("name", "knobs and their defaults"), rows)
    if options:
        found += f"\nNot set unless given: {'; '.join(_options(options))}.\n"
    return found + (f"\nThe knobs that are a choice: {'; '.join(choices)}.\n" if choices else "")


def _options(options: Mapping[str, tuple[str, ...]]) -> list[str]:
    every = list(dict.fromkeys(knob for having in options.values() for knob in having))
    names = {knob: [name for name, having in options.items() if knob in having] for knob in every}
    return [
        f"`{knob}` ({'all' if names[knob] == list(options) else ', '.join(names[knob])})"
        for knob in every
    ]


def _in_every(knobs: Mapping[str, Mapping[str, Any]], knob: str, value: Any) -> bool:
    return all(knob in having and having[knob] == value for having in knobs.values())


def _presets(section: str) -> str:
    if section not in PRESETS:
        return ""
    rows = [
        (f"`{name}`", p.source, _listed(p.fixed), _listed(p.free))
        for name, p in PRESETS[section].items()
    ]
    found = _table(("preset", "stands for", "fixes", "leaves free"), rows)
    notes: dict[str, list[str]] = {}
    for name, preset in PRESETS[section].items():
        if preset.note:
            notes.setdefault(preset.note, []).append(f"`{name}`")
    found += "".join(f"\n{', '.join(named)}: {note}.\n" for note, named in notes.items())
    unsaid = [(f"`{name}`", line) for name, line in UNSAID.get(section, {}).items()]
    return found + (_table(("no preset", "why"), unsaid) if unsaid else "")


def _listed(knobs: Mapping[str, Any]) -> str:
    return ", ".join(
        knob if value is None else f"{knob} {_value(value)}" for knob, value in knobs.items()
    )


def _choices(field: Any) -> str:
    return ", ".join(choices_of(field.annotation))


def _value(value: Any) -> str:
    shown = str(list(value)) if isinstance(value, tuple) else str(value)
    return shown.lower() if isinstance(value, bool) else shown or '""'


def _table(headers: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = ["", "| " + " | ".join(headers) + " |", "|---" * len(headers) + "|"]
    return "\n".join(lines + [f"| {' | '.join(row)} |" for row in rows]) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
