"""A fault that is planted in own loops: what is wrong, in which loop, and what must be found."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from lockstep.studies.prove.own_loops.ways import Loop

__all__ = ["ADAMW", "ALL", "BASE", "BASES", "DTYPES", "EXACT", "STEP", "LoopFault", "planted"]

BASE = Loop(is_tiny=True, updates=4, optimizer="sgd", lr=0.05, weight_decay=0.0)
BASES = {
    "transformer": BASE,
    "rotary": replace(BASE, model="llama"),
    "perceptron": replace(BASE, model="mlp"),
    "convolutional": replace(BASE, model="convnet", norm="batch"),
    "upsampling": replace(BASE, model="upsampler", norm="batch"),
    "lstm": replace(BASE, model="lstm"),
    "gru": replace(BASE, model="gru"),
}
"""Name of a model -> its right loop, whose optimizer is the cheapest to measure."""
DTYPES: dict[str, dict[str, Any]] = {
    "float32": {},
    "float64": {"dtype": "float64"},
    "mixed": {"compute": "bfloat16"},
}
"""Precision -> the fields that a loop has in it."""
ALL = ("transformer", "perceptron", "convolutional", "lstm", "gru")
ADAMW: dict[str, Any] = {"optimizer": "adamw", "lr": 3e-3, "weight_decay": 0.1}
EXACT = ("float32", "float64")
STEP = "update parameters"
"""A wrong step shows in its norm or in what it leads to."""


@dataclass(frozen=True, kw_only=True)
class LoopFault:
    """A right loop, a wrong one, and what the diagnosis must say of the pair.

    Attributes:
        key: of the fault.
        text: what is wrong.
        model: a key of `BASES`.
        precision: a key of `DTYPES`.
        right: the right loop.
        wrong: the wrong one.
        update: at which the two part, counted from 0; -1 is before training.
        stages: where they may first part; any of these is right.
        cause: key of the cause; "" where none is known, so that the fault is placed alone.
        also: keys of causes that are true too.
        mirrored: key of the cause where the fault is in side A, if that is another one: what is
            late in b is early in a.
    """

    key: str
    text: str
    model: str
    precision: str
    right: Loop
    wrong: Loop
    update: int
    stages: tuple[str, ...]
    cause: str
    also: frozenset[str] = frozenset()
    mirrored: str = ""

    @property
    def name(self) -> str:
        """The key, the model and the precision."""
        return f"{self.key}, {self.model}, {self.precision}"

    def cause_in(self, side: str) -> str:
        """The key of the cause where the fault is in this side."""
        return self.mirrored if side == "a" and self.mirrored else self.cause


def planted(
    key: str,
    text: str,
    stages: str,
    cause: str,
    models: tuple[str, ...] = ALL,
    *,
    update: int = 0,
    right: dict[str, Any] | None = None,
    precisions: tuple[str, ...] = tuple(DTYPES),
    also: tuple[str, ...] = (),
    mirrored: str = "",
    **wrong: Any,
) -> Iterator[LoopFault]:
    """A fault in every model and precision.

    Args:
        key: of the fault.
        text: what is wrong.
        stages: where the two may first part, with spaces between.
        cause: key of the cause.
        models: keys of `BASES`.
        update: at which the two part.
        right: fields of both loops.
        precisions: keys of `DTYPES`.
        also: keys of causes that are true too.
        mirrored: key of the cause where the fault is in side A, if that is another one.
        wrong: fields of the wrong loop.
    """
    for model in models:
        for precision in precisions:
            loop = replace(BASES[model], **DTYPES[precision], **(right or {}))
            yield LoopFault(
                key=key,
                text=text,
                model=model,
                precision=precision,
                right=loop,
                wrong=replace(loop, **wrong),
                update=update,
                stages=tuple(stages.split()),
                cause=cause,
                also=frozenset(also),
                mirrored=mirrored,
            )
