"""The rules by which an optimizer may have made its step, each as columns whose sum the step is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from lockstep.diagnose.local.samples import Sample
from lockstep.diagnose.local.slot_fits import with_decay
from lockstep.oracle.arithmetic import Array

__all__ = ["RULES", "Memory", "Rule"]


@dataclass(frozen=True)
class Memory:
    """What is known of an optimizer's memory before its step is looked at.

    Attributes:
        kind: slot -> how it follows from the gradient: "mean", "square", "difference", "largest",
            "corrected" (the largest of what is corrected for the start at 0) or "unknown".
        betas: slot -> the share that it keeps; NaN where that is not known. "mixed": the share of
            the memory in the sign by which Lion steps.
        count: the updates done, with this one.
        decay: parameter -> weight decay in the gradient (L2).
    """

    kind: Mapping[str, str]
    betas: Mapping[str, float]
    count: int
    decay: Mapping[str, float]


Columns = Callable[[Sample, Memory, float], tuple[Array, Array]]
"""(sample, memory, eps) -> the directions (n, C), and their derivatives by eps."""


@dataclass(frozen=True)
class Rule:
    """One way to make a step of the gradient and what is remembered.

    Attributes:
        name: as in the catalogue of optimizers.
        slots: what it remembers.
        kinds: slot -> the kind of its memory.
        columns: the directions of the step.
        width: how many directions there are.
        has_eps: whether the directions depend on eps.
        only_first: whether it is a rule of the first update alone.
    """

    name: str
    slots: frozenset[str]
    kinds: Mapping[str, str]
    columns: Columns
    width: int = 1
    has_eps: bool = False
    eps_in_root: bool = False
    only_first: bool = False


def _quotient(
    numerators: list[Array], second: Array, eps: float, in_root: bool
) -> tuple[Array, Array]:
    """Each numerator over the root of the second moment, and the derivatives by eps.

    Where numerator and root are 0 the quotient is 0.
    """
    root = np.sqrt(np.maximum(second + eps, 0.0)) if in_root else np.sqrt(second) + eps
    top = np.stack(numerators, axis=1)
    divisor = root[:, None]
    with np.errstate(all="ignore"):
        direction = np.where(top == 0, 0.0, top / divisor)
        slope = -direction / (2 * divisor**2) if in_root else -direction / divisor
    return direction, np.where(top == 0, 0.0, slope)


def _flat(*columns: Array) -> tuple[Array, Array]:
    direction = np.stack(columns, axis=1)
    return direction, np.zeros_like(direction)


def _gradient(sample: Sample, memory: Memory, eps: float) -> tuple[Array, Array]:
    return _flat(sample.gradient)


def _momentum(sample: Sample, memory: Memory, eps: float) -> tuple[Array, Array]:
    return _flat(sample.moments["momentum"], with_decay(sample, memory.decay))


def _first_momentum(sample: Sample, memory: Memory, eps: float) -> tuple[Array, Array]:
    return _flat(sample.moments["momentum"])


def _adam(in_root: bool) -> Columns:
    def columns(sample: Sample, memory: Memory, eps: float) -> tuple[Array, Array]:
        second = sample.moments["second"]
        return _quotient([sample.moments["first"]], second, eps, in_root)

    return columns


def _amsgrad(sample: Sample, memory: Memory, eps: float) -> tuple[Array, Array]:
    largest = sample.moments["largest_second"]
    return _quotient([sample.moments["first"]], largest, eps, False)


def _nadam(sample: Sample, memory: Memory, eps: float) -> tuple[Array, Array]:
    gradient = with_decay(sample, memory.decay)
    second = sample.moments["second"]
    return _quotient([sample.moments["first"], gradient], second, eps, False)


def _adamax(slot: str) -> Columns:
    def columns(sample: Sample, memory: Memory, eps: float) -> tuple[Array, Array]:
        return _quotient([sample.moments["first"]], sample.moments[slot] ** 2, 0.0, False)

    return columns


def _scaled(in_root: bool) -> Columns:
    def columns(sample: Sample, memory: Memory, eps: float) -> tuple[Array, Array]:
        gradient = with_decay(sample, memory.decay)
        return _quotient([gradient], sample.moments["second"], eps, in_root)

    return columns


def _centered(in_root: bool) -> Columns:
    def columns(sample: Sample, memory: Memory, eps: float) -> tuple[Array, Array]:
        gradient = with_decay(sample, memory.decay)
        variance = sample.moments["second"] - sample.moments["first"] ** 2
        return _quotient([gradient], np.maximum(variance, 0.0), eps, in_root)

    return columns


def _own_momentum(sample: Sample, memory: Memory, eps: float) -> tuple[Array, Array]:
    return _flat(sample.moments["momentum"])


def _mean(sample: Sample, memory: Memory, eps: float) -> tuple[Array, Array]:
    return _flat(sample.moments["first"])


def _lion(sample: Sample, memory: Memory, eps: float) -> tuple[Array, Array]:
    gradient = sample.gradient
    if not sample.earlier:
        return _flat(np.sign(gradient))
    kept = memory.betas["mixed"]
    return _flat(np.sign(kept * sample.earlier["first"] + (1 - kept) * gradient))


def _sign(slot: str) -> Columns:
    def columns(sample: Sample, memory: Memory, eps: float) -> tuple[Array, Array]:
        return _flat(np.sign(sample.moments[slot]))

    return columns


def _normalised(sample: Sample, memory: Memory, eps: float) -> tuple[Array, Array]:
    return _quotient([sample.gradient], sample.gradient**2, eps, False)


MEAN = {"first": "mean", "second": "square"}


def _rule(name: str, kinds: Mapping[str, str], columns: Columns, **others: bool | int) -> Rule:
    return Rule(name, frozenset(kinds), kinds, columns, **others)  # type: ignore[arg-type] # fields by name


RULES = (
    _rule("sgd", {}, _gradient),
    _rule("normalised", {}, _normalised, has_eps=True, only_first=True),
    _rule("sgd", {"momentum": "mean"}, _first_momentum, only_first=True),
    _rule("sgd", {"momentum": "mean"}, _momentum, width=2),
    _rule("adam", MEAN, _adam(False), has_eps=True),
    _rule("adam", MEAN, _adam(True), has_eps=True, eps_in_root=True),
    _rule("nadam", MEAN, _nadam, width=2, has_eps=True),
    _rule("radam", MEAN, _mean),
    _rule("amsgrad", MEAN | {"largest_second": "largest"}, _amsgrad, has_eps=True),
    _rule("amsgrad", MEAN | {"largest_second": "corrected"}, _amsgrad, has_eps=True),
    _rule("adamax", {"first": "mean", "infinity": "largest"}, _adamax("infinity")),
    _rule("adamax", {"first": "mean", "second": "largest"}, _adamax("second")),
    _rule("adabelief", {"first": "mean", "second": "difference"}, _adam(False), has_eps=True),
    _rule("rmsprop", {"second": "square"}, _scaled(False), has_eps=True),
    _rule("rmsprop", {"second": "square"}, _scaled(True), has_eps=True, eps_in_root=True),
    _rule("rmsprop", MEAN, _centered(False), has_eps=True),
    _rule("rmsprop", MEAN, _centered(True), has_eps=True, eps_in_root=True),
    _rule("rmsprop", {"second": "square", "momentum": "steps"}, _own_momentum),
    _rule("lion", {"first": "mean"}, _lion),
    _rule("signum", {"mean": "mean"}, _sign("mean")),
)
"""The simplest first: of those that explain a step the first counts."""
