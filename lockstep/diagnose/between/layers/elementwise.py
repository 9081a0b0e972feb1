"""Functions of single elements: activations, gates, clipping and soft caps.

Each function that people write is computed from the inputs of a layer, and each gate from the
products of two inputs or of the halves of one.
"""

import re
from collections.abc import Callable, Iterator
from itertools import permutations

import numpy as np

from lockstep.diagnose.between.explanation import Explanation
from lockstep.diagnose.between.layers.places import Place, contrast_of, gap
from lockstep.diagnose.between.layers.ways import Topic, Way, Words, told_apart
from lockstep.diagnose.between.pair import LoopPair
from lockstep.numbers import number
from lockstep.oracle.activations import activate
from lockstep.oracle.arithmetic import Array, Exact
from lockstep.recipe.activations import ACTIVATIONS

__all__ = ["elementwise"]

IDEA = "another function of the elements"
TOPICS = {
    "function": Topic("other-activation", ""),
    "gate": Topic("glu-halves", ""),
    "input": Topic("other-input", ""),
}
SLOPES = (0.2, 0.1, 0.3, 0.05, 1 / 5.5)
"""Slopes of LeakyReLU for negative numbers beside the usual 0.01."""
NEAREST = 8
"""Arrays before a layer that a gate may multiply."""
SAMPLED = 1024
"""Elements by which a gate is looked for."""
FEWEST = 32
"""Elements by which two functions are told apart, at least."""

Function = Callable[[Array], Array]


def elementwise(pair: LoopPair) -> Iterator[Explanation]:
    """That a layer is another function of its elements on either side."""
    place = contrast_of(pair)
    if place is None or place.mine.size < FEWEST:
        return
    if not place.is_finite:
        return
    for ways in (_functions, _gates):
        explanation = told_apart(pair, place, TOPICS, ways(place), IDEA)
        if explanation is None:
            continue
        functions_alone = re.fullmatch(r"at .+? b computes (.*), a (.*)", explanation.text)
        if functions_alone is not None:
            mine, other = functions_alone.groups()
            text = f"b's {place.layer} is {mine}, a's {other}"
            explanation = explanation._replace(text=text)
            if {mine, other} == {"gelu", "gelu_tanh"}:
                gelu = "gelu-is-approximate"
                explanation = explanation._replace(key="gelu-approximation", page=gelu)
        yield explanation
        return


def functions() -> dict[str, Function]:
    """Name -> the functions that are used as activations."""
    known: dict[str, Function] = {
        "the identity": lambda z: z,
        **{name: _of_catalogue(name) for name in ACTIVATIONS},
        "quick_gelu (z sigmoid(1.702 z))": lambda z: z * _sigmoid(1.702 * z),
        "relu squared": lambda z: np.square(np.maximum(z, 0)),
        "relu6": lambda z: np.clip(z, 0, 6),
        "hard_swish": lambda z: z * np.clip(z + 3, 0, 6) / 6,
        "hard_sigmoid": lambda z: np.clip(z + 3, 0, 6) / 6,
        "tanh_shrink": lambda z: z - np.tanh(z),
        "selu": lambda z: (
            1.0507009873554805 * np.where(z > 0, z, 1.6732632423543772 * np.expm1(np.minimum(z, 0)))
        ),
        "log_sigmoid": lambda z: -np.logaddexp(0, -z),
        "the exponential": lambda z: np.exp(np.minimum(z, 700)),
        "the square": np.square,
        "the negative": np.negative,
    }
    known |= {f"leaky_relu of slope {slope:.4g}": _leaky(slope) for slope in SLOPES}
    return known


def _of_catalogue(name: str) -> Function:
    return lambda z: activate(name, z, Exact())


def _leaky(slope: float) -> Function:
    return lambda z: np.where(z > 0, z, slope * z)


def _sigmoid(z: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-np.clip(z, -700, 700))))


def _functions(place: Place) -> Iterator[Way]:
    """The functions of an input of the output's shape."""
    for name, z in place.floats():
        if z.shape != place.mine.shape:
            continue
        source = Words("takes in", name)
        for words, function in functions().items():
            yield Way({"function": Words("computes", words), "input": source}, function(z))
        for target in place.targets:
            for words, given in _measured(z, target):
                yield Way({"function": Words("computes", words), "input": source}, given)


def _measured(z: Array, target: Array) -> Iterator[tuple[str, Array]]:
    """Functions with a number that the output shows: bounds, a soft cap, a slope, a factor."""
    low, high = float(target.min()), float(target.max())
    if low < high and (z.min() < low or z.max() > high):
        clipped = np.clip(z, low, high)
        if (clipped == z).mean() < 1 and np.abs(clipped - target).max() <= 1e-5 * np.abs(z).max():
            yield f"its input clipped to {number(low)} and {number(high)}", clipped
    cap = _soft_cap(z, target)
    if cap is not None:
        yield f"{number(cap)} tanh(z / {number(cap)}) (a soft cap)", cap * np.tanh(z / cap)
    below = z < 0
    squares = float(np.square(z[below]).sum())
    if squares:
        slope = float((z * target)[below].sum()) / squares
        if abs(slope) > 1e-6:
            yield f"leaky_relu of slope {number(slope)}", np.where(z > 0, z, slope * z)
    factor = float((z * target).sum() / max(float(np.square(z).sum()), 1e-300))
    if factor and abs(factor - 1) > 1e-3:
        yield f"its input times {number(factor)}", factor * z


def _soft_cap(z: Array, target: Array) -> float | None:
    """The c of c tanh(z / c), by Newton steps from the cubic term; None where there is none."""
    quartic = float(np.square(z).max()) ** 2
    if not quartic:
        return None
    top = float(np.abs(target).max())
    # as z grows the output stays below the cap, and z - y is z^3 / (3 c^2) at first
    if not 0 < top < np.abs(z).max():
        return None
    low, high = np.log(top), np.log(1e4 * float(np.abs(z).max()))
    for _ in range(200):
        middle = (low + high) / 2
        cap = np.exp(middle)
        is_small = float((np.abs(cap * np.tanh(z / cap)) - np.abs(target)).sum()) < 0
        low, high = (middle, high) if is_small else (low, middle)
    return float(np.exp((low + high) / 2))


def _gates(place: Place) -> Iterator[Way]:
    """Products of one input and a function of another, as of GLU, and of the halves of one."""
    shape = place.mine.shape
    arrays: dict[str, Array] = {}
    for name, array in place.inputs.items():
        is_finite = array.dtype.kind == "f" and array.ndim and np.isfinite(array).all()
        if not is_finite or array.shape[:-1] != shape[:-1]:
            continue
        if array.shape[-1] == 2 * shape[-1]:
            first, second = np.split(array, 2, axis=-1)
            arrays |= {f"the first half of {name}": first, f"the second half of {name}": second}
            arrays |= {
                f"the even columns of {name}": array[..., 0::2],
                f"the odd columns of {name}": array[..., 1::2],
            }
        elif array.shape == shape:
            arrays[name] = array
    nearest = list(arrays)[:NEAREST]
    few = np.random.default_rng(0).permutation(place.mine.size)[:SAMPLED]
    targets = [target.reshape(-1)[few] for target in place.targets]
    parts = {name: arrays[name].reshape(-1)[few] for name in nearest}
    for gate, up in permutations(nearest, 2):
        for words, function in functions().items():
            sample = function(parts[gate]) * parts[up]
            if min(gap(sample, target) for target in targets) > 10 * place.tolerance:
                continue
            knobs = {
                "function": Words("gates by", words),
                "gate": Words("applies it to", gate),
                "input": Words("", ""),
            }
            yield Way(knobs, function(arrays[gate]) * arrays[up])
