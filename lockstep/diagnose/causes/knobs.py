"""The knobs of a recipe as alternatives: which values a knob could have had instead, and what that
is called.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from lockstep.diagnose.causes.judge import Alternative, Tensors, fitted
from lockstep.numbers import written
from lockstep.recipe import Optimizer
from lockstep.recipe.variants import Cause, NamedSection, choices_of

__all__ = ["changed", "choices", "fitted_knobs", "made", "other_choices"]

Part = TypeVar("Part")
Make = Callable[[Any], Tensors | None]
"""What a stage gives with another part of the recipe in its place; None where that cannot be
computed.
"""

KEYS = {
    "clip_eps": "clip-eps",
    "clip": "clip-by-value",
    "norm_eps": "norm-eps",
    "dropout": "dropout-scale",
    "norm_variance": "norm-variance",
    "activation": "other-activation",
    "accumulate_mean": "accumulation-mean",
    "clip_at": "other-clip",
}
"""Knob -> key of the cause; of the others it is "other-" and the section, for these two, or the
knob.
"""
WHOLE = ("loss", "schedule")

PAGES = {
    "clip_eps": "clip-grad-norm-eps",
    "norm_eps": "layernorm-eps",
    "norm_variance": "batchnorm-running-variance", "norm_momentum": "batchnorm-momentum",
    "accumulate_mean": "accumulation-short-last-micro-batch",
}  # fmt: skip

SHARE = (0.0, 1 - 1e-9)
SPANS: Mapping[str, tuple[float, float]] = dict.fromkeys(
    ("label_smoothing", "dropout", "norm_momentum"), SHARE
) | {
    **dict.fromkeys(("floor", "first", "rise", "fall", "warmup_start"), (0.0, 1.0)),
    "factor": (1e-6, 1.0),
}
POSITIVE = (1e-16, 1e6)
LOGARITHMIC: tuple[str, ...] = ("norm_eps", "clip_eps", "clip_at")


def changed(part: Part, **values: Any) -> Part | None:
    """A copy of a part of a recipe with other values; None where they do not go together."""
    try:
        return replace(part, **values)  # type: ignore[type-var]  # every part is a dataclass
    except ValueError:
        return None


def made(part: Callable[..., Part], **values: Any) -> Part | None:
    """A part of a recipe; None where the values do not go together."""
    try:
        return part(**values)
    except ValueError:
        return None


def choices(part: Any, knob: str) -> tuple[Any, ...]:
    """The values that a knob of a few words, or a flag, can have."""
    annotation = type(part).__pydantic_fields__[knob].annotation
    if annotation is bool:
        return (True, False)
    return tuple(choices_of(annotation))


def other_choices(
    section: str, part: Any, knobs: Iterator[str] | list[str], make: Make
) -> Iterator[Alternative]:
    """Every knob of words or flags with each other value that it can have."""
    for knob in knobs:
        mine = getattr(part, knob)
        for value in choices(part, knob) if mine is not None else ():
            other = changed(part, **{knob: value}) if value != mine else None
            tensors = make(other) if other is not None else None
            if tensors is not None:
                cause = _cause(section, part, knob)
                yield Alternative(
                    cause.key, _told(section, knob, _written(value), mine), cause.page, tensors
                )


def fitted_knobs(
    section: str, part: Any, knobs: Iterator[str] | list[str], make: Make, recorded: Tensors
) -> Iterator[Alternative]:
    """Every knob that is a number, with the value that fits best."""
    for knob in knobs:
        mine = getattr(part, knob)
        if not isinstance(mine, float):
            continue

        def with_value(value: float, knob: str = knob) -> Tensors | None:
            other = changed(part, **{knob: value})
            return None if other is None else make(other)

        cause = _cause(section, part, knob)
        span, by_magnitude = _span(part, knob)
        yield from fitted(
            cause.key,
            _told(section, knob, "{value}", mine),
            cause.page,
            with_value,
            recorded,
            mine,
            span,
            log=by_magnitude,
        )


def _cause(section: str, part: Any, knob: str) -> Cause:
    """What another value of a knob is called, and the atlas page about it."""
    if isinstance(part, NamedSection):
        causes: dict[str, Cause] = {**part.section_causes, **part.spec.causes}
        if knob in causes:
            return causes[knob]
    key = KEYS.get(knob, f"other-{section if section in WHOLE else knob.replace('_', '-')}")
    return Cause(key, PAGES.get(knob, ""))


def _span(part: Any, knob: str) -> tuple[tuple[float, float], bool]:
    """Between which values a knob is fitted, and whether its powers of 10 are tried."""
    spans, logarithmic = SPANS, LOGARITHMIC
    if isinstance(part, Optimizer):
        spans, logarithmic = part.spec.spans, part.spec.by_magnitude
    by_magnitude = knob in logarithmic
    return spans.get(knob, POSITIVE if by_magnitude else (0.0, POSITIVE[1])), by_magnitude


def _told(section: str, knob: str, value: str, mine: Any) -> str:
    return f"{{side}} has {section}.{knob} = {value}; the recipe says {_written(mine)}"


def _written(value: Any) -> str:
    """As in a recipe."""
    if isinstance(value, bool):
        return str(value).lower()
    return written(value) if isinstance(value, float) else str(value)
