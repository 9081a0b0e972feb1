"""Vectors of a spectral normalisation that has been iterated on one side and not on the other."""

from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

import numpy as np

from lockstep.diagnose.between.explanation import Explanation
from lockstep.diagnose.between.pair import Arrays, LoopPair
from lockstep.oracle.arithmetic import Array

__all__ = ["iterated_vectors"]

PAGE = "spectral-norm-start"
IDEA = "power iterations of a spectral normalisation"
MOST_ITERATIONS = 50
ITERATED = 1e-5
"""Distance of two unit vectors in float32 that are one but for rounding."""
ROLES = (("u", "v"), ("_u", "_v"), ("0", "1"))
"""Ends of the names of the two vectors: of PyTorch's hook, and of its parametrisation."""


class _Layer(NamedTuple):
    """The names of a layer's vectors, and its weight as a matrix (out, rest)."""

    u: str
    v: str
    weight_name: str
    weight: Array


def iterated_vectors(pair: LoopPair) -> Iterator[Explanation]:
    """That the vectors of `mine` are those of `other` after so many power iterations, of the very
    weights that both have.
    """
    if pair.update >= 0:
        return
    mine, other = pair.mine.tensors("init", 0), pair.other.tensors("init", 0)
    apart = set(pair.differing("init"))
    layers = [layer for layer in _layers(other) if {layer.u, layer.v} & apart]
    if not layers or any(layer.weight_name in apart for layer in layers):
        return
    who, beside = pair.mine.name, pair.other.name
    best: tuple[float, int, Arrays] | None = None
    vectors = {layer.u: other[layer.u] for layer in layers}
    for count in range(1, MOST_ITERATIONS + 1):
        predicted: Arrays = {}
        for layer in layers:
            vectors[layer.u], v = _iterated(layer.weight, vectors[layer.u])
            predicted |= {layer.u: vectors[layer.u], layer.v: v}
        error = max(_distance(array, mine.get(name)) for name, array in predicted.items())
        if best is None or error < best[0]:
            best = error, count, predicted
    if best is None:
        return
    _, count, predicted = best
    times = "one power iteration" if count == 1 else f"{count} power iterations"
    names = sorted({layer.u for layer in layers} & apart)
    has, is_ = ("have", "are") if names[1:] else ("has", "is")
    where = f"of the spectral normalisation, {beside}'s {is_} as drawn"
    if any(_is_iterated(layer, other) for layer in layers):
        where = f"of the spectral normalisation more than {beside}'s"
    text = f"{who}'s {', '.join(names)} {has} been through {times} {where}; the weights are equal"
    yield Explanation("spectral-norm-start", text, predicted, IDEA, PAGE)


def _is_iterated(layer: _Layer, tensors: Arrays) -> bool:
    """Whether u is what a power iteration makes of v, which is not so of vectors as drawn."""
    u = _unit(layer.weight @ tensors[layer.v])
    return bool(np.linalg.norm(u - tensors[layer.u]) <= ITERATED)


def _distance(array: Array, recorded: Array | None) -> float:
    return np.inf if recorded is None else float(np.linalg.norm(array - recorded))


def _iterated(weight: Array, u: Array) -> tuple[Array, Array]:
    """u (out,) and v (rest,) after one power iteration that begins from u."""
    v = _unit(weight.T @ u)
    return _unit(weight @ v), v


def _unit(vector: Array) -> Array:
    return np.asarray(vector / max(float(np.linalg.norm(vector)), 1e-12))


def _layers(tensors: Arrays) -> Iterator[_Layer]:
    """Pairs of unit vectors that belong to one weight."""
    for name, vector in tensors.items():
        for (end_u, end_v), weight_name in product(ROLES, tensors):
            other = name.removesuffix(end_u) + end_v
            if not name.endswith(end_u) or other not in tensors or vector.ndim != 1:
                continue
            if not _shares_module(name, weight_name):
                continue
            weight = tensors[weight_name]
            v = tensors[other]
            if weight.ndim < 2 or v.ndim != 1 or weight.size != vector.size * v.size:
                continue
            if weight.shape[0] == len(vector):
                yield _Layer(name, other, weight_name, weight.reshape(len(vector), -1))
                break
            if weight.shape[-1] == len(vector):
                matrix = np.moveaxis(weight, -1, 0).reshape(len(vector), -1)
                yield _Layer(name, other, weight_name, matrix)
                break


def _shares_module(vector: str, weight: str) -> bool:
    """Whether a weight is of the module that a vector is of: "0.weight_u" and "0.weight_orig",
    "0.parametrizations.weight.0._u" and "0.parametrizations.weight.original".
    """
    module = vector.rpartition(".")[0]
    while module:
        if weight.startswith(f"{module}."):
            return True
        head, _, last = module.rpartition(".")
        if not (last.isdigit() or last in ("weight", "parametrizations")):
            return False
        module = head
    return False
