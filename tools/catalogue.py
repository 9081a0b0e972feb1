"""Writes docs/catalogue.md, which lists everything that a recipe can name.

`python -m tools.catalogue`, or `make pages` for every such page.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo

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

This page lists everything that a recipe can name. PyTorch, JAX and the oracle have all of it, and
the [parity matrix](matrix.md) says how far they are apart. `lockstep recipe show` prints every
field of a recipe with its meaning. The [atlas](atlas/README.md) shows what goes wrong between the
two frameworks, and [library defaults](library_defaults.md) what follows from settings that are left
to the libraries.

A **preset** is a library's name for some knobs. It fixes the knobs that the library fixes. The
others have the library's defaults, and may be set beside the preset. If a phase has no length (no
warmup, or a warmup as long as the schedule), a preset has the library's rates, or is refused with
the library's reason. `make sweep` holds every preset against the library itself on 40 draws of all
its knobs. This is how a recipe names presets:

```toml
[optimizer]
preset = "optax.adamw"
weight_decay = 0.05

[schedule]
preset = "hf.cosine"
unit = "update"
warmup = 1000
```

Both frameworks train every preset: JAX trains one of torch's, and PyTorch one of Optax's.
`lockstep curve` draws the presets of schedules over one another.

`make pages` writes this page, and `make docs` checks it.
"""


def page() -> str:
    """The text of the page."""
    sections = [f"\n## {title}\n{_fields(name)}{_presets(name)}" for name, title in TITLES.items()]
    return INTRODUCTION + "".join(sections)


def _fields(section: str) -> str:
    """The fields of a section, and of its variants where it has some."""
    fields = field_infos(section)
    if section not in KNOBS:
        rows = [
            (f"`{name}`", _choices(field), _value(field.default)) for name, field in fields.items()
        ]
        return _table(("field", "one of", "default"), rows)
    knobs = KNOBS[section]
    options = OPTIONS.get(section, {})
    shared = _shared_knobs(section)
    text = f"\nAll have {_listed(shared)}.\n" if shared else ""
    rows = []
    for name, defaults in knobs.items():
        own = {knob: value for knob, value in defaults.items() if knob not in shared}
        rows.append((f"`{name}`", _listed(own)))
    text += _table(("name", "knobs and their defaults"), rows)
    if options:
        text += f"\nNot set unless given: {'; '.join(_options(options))}.\n"
    choices = {name: _choices(field) for name, field in fields.items() if name != "name"}
    listed = [f"`{name}`: {words}" for name, words in choices.items() if words]
    if listed:
        text += f"\nThe knobs that are a choice: {'; '.join(listed)}.\n"
    return text


def _shared_knobs(section: str) -> dict[str, Any]:
    """The knobs that every variant of a section has, each with its one default."""
    knobs = KNOBS[section]
    of_variants: set[str] = set()
    for names in (*knobs.values(), *OPTIONS.get(section, {}).values()):
        of_variants.update(names)
    shared = {
        name: field.default
        for name, field in field_infos(section).items()
        if name not in of_variants and name != "name"
    }
    first = next(iter(knobs.values()))
    return shared | {knob: value for knob, value in first.items() if _in_every(knobs, knob, value)}


def _options(options: Mapping[str, tuple[str, ...]]) -> list[str]:
    """Each option, with the variants that have it."""
    variants: dict[str, list[str]] = {}
    for name, knobs in options.items():
        for knob in knobs:
            variants.setdefault(knob, []).append(name)
    return [
        f"`{knob}` ({'all' if names == list(options) else ', '.join(names)})"
        for knob, names in variants.items()
    ]


def _in_every(knobs: Mapping[str, Mapping[str, Any]], knob: str, value: Any) -> bool:
    return all(knob in names and names[knob] == value for names in knobs.values())


def _presets(section: str) -> str:
    if section not in PRESETS:
        return ""
    rows = [
        (f"`{name}`", preset.source, _listed(preset.fixed), _listed(preset.free))
        for name, preset in PRESETS[section].items()
    ]
    text = _table(("preset", "stands for", "fixes", "leaves free"), rows)
    notes: dict[str, list[str]] = {}
    for name, preset in PRESETS[section].items():
        if preset.note:
            notes.setdefault(preset.note, []).append(f"`{name}`")
    for note, names in notes.items():
        text += f"\n{', '.join(names)}: {note}.\n"
    unsaid = [(f"`{name}`", line) for name, line in UNSAID.get(section, {}).items()]
    if unsaid:
        text += _table(("no preset", "why"), unsaid)
    return text


def _listed(knobs: Mapping[str, Any]) -> str:
    return ", ".join(
        knob if value is None else f"{knob} {_value(value)}" for knob, value in knobs.items()
    )


def _choices(field: FieldInfo) -> str:
    return ", ".join(choices_of(field.annotation))


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    text = str(list(value)) if isinstance(value, tuple) else str(value)
    return text or '""'


def _table(headers: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = ["", f"| {' | '.join(headers)} |", "|---" * len(headers) + "|"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
