"""The knobs of a recipe as alternatives: the values that a knob could have had instead, and the
name of that cause.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from lockstep.diagnose.causes.alternatives import Alternative, fitted
from lockstep.diagnose.causes.tensors import Tensors
from lockstep.numbers import written
from lockstep.recipe import Optimizer
from lockstep.recipe.variants import Cause, NamedSection, choices_of

__all__ = ["changed", "choices", "created", "fitted_knobs", "other_choices"]

Section = TypeVar("Section")
"""The type of a recipe's section: Optimizer, Loss, Schedule, Gradient, Model."""
Make = Callable[[Section], Tensors | None]
"""Gives a stage's tensors with another section in the place of the recipe's; None where these
cannot be computed.
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
"""Knob -> key of the cause. The key of all others is "other-" and the knob, or the section where it
is one of `WHOLE`.
"""
WHOLE = ("loss", "schedule")

PAGES = {
    "clip_eps": "clip-grad-norm-eps",
    "norm_eps": "layernorm-eps",
    "norm_variance": "batchnorm-running-variance",
    "norm_momentum": "batchnorm-momentum",
    "accumulate_mean": "accumulation-short-last-micro-batch",
}
"""Knob -> page of the atlas."""

Span = tuple[float, float]
BELOW_1: Span = (0.0, 1 - 1e-9)
UP_TO_1: Span = (0.0, 1.0)
POSITIVE: Span = (1e-16, 1e6)
SPANS: Mapping[str, Span] = {
    "label_smoothing": BELOW_1,
    "dropout": BELOW_1,
    "norm_momentum": BELOW_1,
    "floor": UP_TO_1,
    "first": UP_TO_1,
    "rise": UP_TO_1,
    "fall": UP_TO_1,
    "warmup_start": UP_TO_1,
    "factor": (1e-6, 1.0),
}
"""Knob -> the values between which it is fitted; those of an optimizer stand in its spec."""
BY_MAGNITUDE: tuple[str, ...] = ("norm_eps", "clip_eps", "clip_at")
"""Knobs whose powers of 10 are tried; those of an optimizer stand in its spec."""


def changed(section: Section, **values: Any) -> Section | None:
    """A copy of a section with other values; None where they do not go together."""
    try:
        return replace(section, **values)  # type: ignore[type-var]  # every section is a dataclass
    except ValueError:
        return None


def created(kind: Callable[..., Section], **values: Any) -> Section | None:
    """A section of a recipe; None where the values do not go together."""
    try:
        return kind(**values)
    except ValueError:
        return None


def choices(section: Any, knob: str) -> tuple[Any, ...]:
    """The values that a knob of a few words, or a flag, can have."""
    annotation = type(section).__pydantic_fields__[knob].annotation
    if annotation is bool:
        return (True, False)
    return tuple(choices_of(annotation))


def other_choices(
    name: str, section: Section, knobs: Iterable[str], make: Make[Section]
) -> Iterator[Alternative]:
    """Every knob of words or flags with each other value that it can have.

    Args:
        name: of the section, for the text.
        section: as the recipe has it.
        knobs: the names of the fields to change.
        make: gives the tensors of another section.
    """
    for knob in knobs:
        mine = getattr(section, knob)
        if mine is None:
            continue
        for value in choices(section, knob):
            other = changed(section, **{knob: value}) if value != mine else None
            tensors = make(other) if other is not None else None
            if tensors is not None:
                cause = _cause(name, section, knob)
                text = _text(name, knob, _written(value), mine)
                yield Alternative(cause.key, text, cause.page, tensors)


def fitted_knobs(
    name: str,
    section: Section,
    knobs: Iterable[str],
    make: Make[Section],
    recorded: Tensors,
) -> Iterator[Alternative]:
    """Every knob that is a number, with the value that fits best.

    Args:
        name: of the section, for the text.
        section: as the recipe has it.
        knobs: the names of the fields to fit; those that are no numbers are passed over.
        make: gives the tensors of another section.
        recorded: what these are to come near.
    """
    for knob in knobs:
        mine = getattr(section, knob)
        if not isinstance(mine, float):
            continue

        def with_value(value: float, knob: str = knob) -> Tensors | None:
            other = changed(section, **{knob: value})
            return None if other is None else make(other)

        cause = _cause(name, section, knob)
        span, by_magnitude = _span(section, knob)
        yield from fitted(
            cause.key,
            _text(name, knob, "{value}", mine),
            cause.page,
            with_value,
            recorded,
            mine,
            span,
            log=by_magnitude,
        )


def _cause(name: str, section: object, knob: str) -> Cause:
    """What another value of a knob is called, and the atlas page about it."""
    if isinstance(section, NamedSection):
        causes: dict[str, Cause] = {**section.section_causes, **section.spec.causes}
        if knob in causes:
            return causes[knob]
    noun = name if name in WHOLE else knob.replace("_", "-")
    return Cause(KEYS.get(knob, f"other-{noun}"), PAGES.get(knob, ""))


def _span(section: object, knob: str) -> tuple[Span, bool]:
    """Between which values a knob is fitted, and whether its powers of 10 are tried."""
    spans = SPANS
    logarithmic = BY_MAGNITUDE
    if isinstance(section, Optimizer):
        spans = section.spec.spans
        logarithmic = section.spec.by_magnitude
    if knob in logarithmic:
        return spans.get(knob, POSITIVE), True
    return spans.get(knob, (0.0, POSITIVE[1])), False


def _text(name: str, knob: str, value: str, mine: object) -> str:
    return f"{{side}} has {name}.{knob} = {value}; the recipe says {_written(mine)}"


def _written(value: object) -> str:
    """A value as in a recipe."""
    if isinstance(value, bool):
        return str(value).lower()
    return written(value) if isinstance(value, float) else str(value)
