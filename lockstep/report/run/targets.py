"""The target in a report: classes with the share of right answers, or a number with its fit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lockstep.backends import BACKENDS
from lockstep.data_prep import IGNORED, PreparedData, Table
from lockstep.numbers import name, number, percent, short
from lockstep.recipe import Loss
from lockstep.records.trace import Trace

__all__ = [
    "LISTED",
    "Score",
    "describe_loss",
    "describe_targets",
    "final_error",
    "first_target",
    "in_its_unit",
    "named",
    "score_of",
    "target_before_and_after",
    "target_in_short",
]

LISTED = 8
"""How many classes, layers or learning rates a list names before it is cut."""


@dataclass(frozen=True)
class Score:
    """The metric beside the loss."""

    key: str
    """Its name in a trace, without the prefix of a part."""
    head: str
    """The head of its column."""
    note: str
    """What it is, for the note below the table."""
    title: str
    """The title of its chart."""
    axis: str
    """The label of its chart's axis."""

    def cell(self, value: float, narrow: bool = False) -> str:
        """The value in a table: 96.5 (per cent), or 0.482; if narrow 0.48 or -0.1."""
        if self.key == "accuracy":
            return percent(value)
        if narrow:
            for digits in (2, 1, 0):
                text = f"{value:.{digits}f}"
                if len(text) <= 4:
                    return text
        return short(value, 5)

    def text(self, value: float) -> str:
        """The value in a sentence."""
        return f"{percent(value)} % right" if self.key == "accuracy" else f"R² {short(value, 5)}"


def score_of(loss: Loss) -> Score:
    """Accuracy for classes, R^2 for a number."""
    if loss.predicts_number:
        note = "R²: share of the target's variance that is explained"
        return Score("r2", "R²", note, "R² per epoch", "share of the variance explained")
    return Score(
        "accuracy", "%", "%: right answers", "Accuracy per epoch", "share of right answers"
    )


def named(names: Sequence[str], limit: int = LISTED) -> str:
    """The first few names, and how many more there are."""
    listed = ", ".join(name(text) for text in names[:limit])
    more = len(names) - limit
    return f"{listed} and {more} more" if more > 0 else listed


def target_in_short(data: PreparedData) -> str:
    """The target in a few words: "2 classes" or "target progression"."""
    return f"{len(data.classes)} classes" if data.classes else f"target {name(data.target)}"


def describe_loss(loss: Loss) -> str:
    """The loss with the knobs that are set: "cross entropy (label smoothing 0.1)"."""
    knobs = [f"{knob} {_in_short(value)}" for knob, value in loss.words().items() if value]
    return f"{loss.spec.title} ({'; '.join(knobs)})" if knobs else loss.spec.title


def _in_short(value: Any) -> str:
    """A knob's value: a number, the first few of several, or a name."""
    if isinstance(value, tuple):
        return ", ".join(f"{part:g}" for part in value[:LISTED])
    return f"{value:g}" if isinstance(value, float) else name(value)


def describe_targets(data: PreparedData) -> list[tuple[str, str]]:
    """Facts about the training rows' targets, each a label and a value."""
    if not data.classes:
        y_N = in_its_unit(data, data.train_y_N)
        spread = f"mean {number(data.target_mean)}, deviation {number(data.target_scale)}"
        return [
            ("a number to predict", name(data.target)),
            ("in the training rows", f"{number(y_N.min())} to {number(y_N.max())}, {spread}"),
        ]
    counts = np.bincount(data.train_y_N[data.train_y_N != IGNORED], minlength=len(data.classes))
    per_class = [f"{name(text)}: {count}" for text, count in zip(data.classes[:LISTED], counts)]
    if counts.min() == counts.max():
        per_class = [f"{counts[0]} each"]
    elif len(data.classes) > LISTED:
        per_class.append(f"of all: least {counts.min()}, most {counts.max()}")
    described = [
        (f"{len(data.classes)} classes", named(data.classes)),
        ("training rows by class", ", ".join(per_class)),
    ]
    ignored = int((data.train_y_N == IGNORED).sum())
    if ignored:
        described.append(("training rows ignored", str(ignored)))
    return described


def first_target(raw: Table) -> tuple[str, str]:
    """The label and the value of the first row's target."""
    if raw.classes:
        return "its class", name(raw.classes[int(raw.y_N[0])])
    return f"its {name(raw.target, 24)}", number(raw.y_N[0])


def target_before_and_after(data: PreparedData) -> list[tuple[str, str]]:
    """The first training row's number before and after it is standardised; of classes nothing."""
    if data.classes:
        return []
    before = in_its_unit(data, data.train_y_N[:1])[0]
    after = data.train_y_N[0]
    return [(f"{name(data.target, 24)} before, after", f"{number(before)} -> {number(after)}")]


def final_error(data: PreparedData, traces: Mapping[str, Trace]) -> str:
    """The mean absolute error at the end, in the target's unit; "" for classes."""
    if data.classes:
        return ""
    errors = {}
    for part in ("train", "held_out"):
        of_backends = []
        for backend in BACKENDS:
            error = float(traces[backend].metric(f"{part}_mae")[-1]) * data.target_scale
            of_backends.append(f"{number(error)} ({backend})")
        errors[part] = " and ".join(of_backends)
    return (
        f"At the end {name(data.target)} is missed on average by {errors['train']} in the training "
        f"rows and by {errors['held_out']} in the held-out rows; it deviates from its mean by "
        f"{number(data.target_scale)}. Losses are those of the standardised target."
    )


def in_its_unit(data: PreparedData, y: Any) -> Any:
    """A standardised target in its own unit."""
    return np.asarray(y, dtype=np.float64) * data.target_scale + data.target_mean
