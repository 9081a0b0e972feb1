"""A small loop whose gradients are drawn, and whose clip and step are written by hand, recorded."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lockstep import Recorder
from lockstep.diagnose.diagnosis import Diagnosis, diagnose
from lockstep.diagnose.pairs import make_pair
from lockstep.records.trace import Trace

__all__ = ["adam", "causes_of", "clipped_to", "record", "sgd"]

Arrays = dict[str, NDArray[Any]]
Memory = dict[str, dict[str, NDArray[Any]]]
"""Slot -> parameter -> array."""
Step = Callable[[str, Any, Any, dict[str, Any], int], Any]
"""(name, parameter, gradient, its slots, t from 1) -> the parameter after; changes the slots."""
Clip = Callable[[Arrays, int], Arrays]

SHAPES = {
    "fc.weight": (6, 5),
    "fc.bias": (6,),
    "norm.weight": (6,),
    "norm.bias": (6,),
    "out.weight": (3, 6),
}
RATE = 0.01


def _arrays(seed: int, dtype: Any, scale: float) -> Arrays:
    draw = np.random.Generator(np.random.PCG64(seed))
    return {name: draw.normal(0, scale, shape).astype(dtype) for name, shape in SHAPES.items()}


def record(
    path: Path,
    step: Step,
    *,
    dtype: Any = np.float64,
    clip: Clip | None = None,
    before: Callable[[Memory, int], int | None] | None = None,
    gradient_scale: Callable[[int], float] = lambda update: 1.0,
    settings: Mapping[str, Any] | None = None,
    updates: int = 4,
) -> Path:
    """Train and record.

    Args:
        path: of the trace.
        step: the optimizer.
        dtype: of all arrays.
        clip: what happens to the gradients first; None for nothing.
        before: may change the memory before an update, and return another count of the updates.
        gradient_scale: update -> what the drawn gradients are multiplied by.
        settings: declared.
        updates: the length.
    """
    parameters = _arrays(0, dtype, 0.5)
    memory: dict[str, dict[str, Any]] = {name: {} for name in parameters}
    count = 0
    with Recorder(path, backend="loop", settings=settings) as recorder:
        recorder.start(parameters)
        for update in range(updates):
            gradients = _arrays(100 + update, dtype, 0.3)
            gradients = {
                name: array * dtype(gradient_scale(update)) for name, array in gradients.items()
            }
            by_slot = before and before(memory, update)
            count = (by_slot if by_slot is not None else count) + 1
            given = gradients if clip is None else clip(gradients, update)
            parameters = {
                name: step(name, array, given[name], memory[name], count).astype(dtype)
                for name, array in parameters.items()
            }
            recorder.update(
                loss=dtype(1.0),
                gradients=gradients,
                lr=RATE,
                moments=_by_slot(memory),
                parameters=parameters,
                **({} if clip is None else {"clipped": given}),
            )
    return path


def _by_slot(memory: Memory) -> Memory:
    """Slot -> parameter -> array, of parameter -> slot -> array."""
    slots: Memory = {}
    for name, arrays in memory.items():
        for slot, array in arrays.items():
            slots.setdefault(slot, {})[name] = array
    return slots


def sgd(
    momentum: float = 0.9, *, nesterov: bool = False, decay: float = 0.0, apart: float = 0.0
) -> Step:
    """SGD with momentum; `decay` is added to the gradient, `apart` decays the parameters."""

    def step(name: str, p: Any, g: Any, slots: dict[str, Any], t: int) -> Any:
        g = g + p.dtype.type(decay) * p
        mean = g if "momentum" not in slots else p.dtype.type(momentum) * slots["momentum"] + g
        slots["momentum"] = mean
        way = g + p.dtype.type(momentum) * mean if nesterov else mean
        return p - p.dtype.type(RATE) * (way + p.dtype.type(apart) * p)

    return step


def adam(
    *,
    beta1: float = 0.9,
    beta2: float = 0.99,
    corrects: tuple[int, int] = (1, 1),
    shift: int = 0,
    decays: Callable[[str], float] = lambda name: 0.0,
    with_rate: bool = True,
    after: bool = False,
) -> Step:
    """Adam with a decoupled decay; `corrects` is how often each moment is corrected."""

    def step(name: str, p: Any, g: Any, slots: dict[str, Any], t: int) -> Any:
        kind = p.dtype.type
        zero = np.zeros_like(p)
        first = kind(beta1) * slots.get("first", zero) + kind(1 - beta1) * g
        second = kind(beta2) * slots.get("second", zero) + kind(1 - beta2) * g * g
        slots |= {"first": first, "second": second}
        first = first / kind((1 - beta1 ** (t + shift)) ** corrects[0])
        second = second / kind((1 - beta2 ** (t + shift)) ** corrects[1])
        way = kind(RATE) * first / (np.sqrt(second) + kind(1e-8))
        decay = kind(decays(name) * (RATE if with_rate else 1.0))
        return (p - way) * (1 - decay) if after else p * (1 - decay) - way

    return step


def clipped_to(
    bound: Callable[[int], float] | float, eps: float = 1e-6, *, always: bool = False
) -> Clip:
    """The gradients scaled by min(1, bound / (norm + eps))."""

    def clip(gradients: Arrays, update: int) -> Arrays:
        at = bound(update) if callable(bound) else bound
        norm = np.sqrt(sum(np.square(array).sum() for array in gradients.values()))
        with np.errstate(all="ignore"):
            factor = np.asarray(at, norm.dtype) / (norm + np.asarray(eps, norm.dtype))
        factor = factor if always or not factor > 1 else np.ones_like(factor)
        return {name: array * factor for name, array in gradients.items()}

    return clip


def causes_of(a: Path, b: Path) -> Diagnosis:
    """The diagnosis of two traces."""
    pair = make_pair(Trace.load(a), Trace.load(b), names=None, noise=[])
    return diagnose(pair.a, pair.b, bounds=pair.bounds)
