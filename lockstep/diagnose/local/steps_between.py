"""What may lie between a recorded array and the layer that takes it: steps that nobody recorded."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import product

import numpy as np

from lockstep.diagnose.local.forms import AFTER
from lockstep.diagnose.local.layer_view import Derived, LayerView
from lockstep.diagnose.local.pooling import reduced
from lockstep.diagnose.local.statistics import BATCH, RUNNING, normalised
from lockstep.oracle.activations import activate
from lockstep.oracle.arithmetic import Array, Exact

__all__ = ["EPS_WORDS", "with_steps"]

EPS_WORDS = " with an eps of "
MOST_BASES = 2
EPS = (1e-5, 1e-3)
USUAL = ("relu", "tanh", "gelu", "gelu_tanh", "silu", "sigmoid", "leaky_relu", "elu")
"""The activations that are written as functions most often."""
Step = Callable[[Array], Array]


def with_steps(view: LayerView, *, pools: bool) -> LayerView:
    """A layer whose inputs are what steps make of the nearest recorded arrays.

    Args:
        view: of the layer.
        pools: whether windows are pooled as well.
    """
    sources: dict[str, Callable[[], Array]] = {}
    bases = list(view.inputs.items())[:MOST_BASES]
    for (name, x), norm, activation, pool in product(
        bases, (None, *view.norms), (None, *USUAL), (None, *(POOLS if pools else ()))
    ):
        for by, eps in product((BATCH, RUNNING), EPS) if norm else ((None, None),):
            words = [name]
            steps: list[Step] = []
            if norm and by and eps is not None:
                roles = view.norms[norm]
                if norm == view.name or not _fits(x, roles):
                    continue
                words.append(f"{norm} by {by}" + (f"{EPS_WORDS}{eps:g}" if eps != EPS[0] else ""))
                steps.append(_norm_step(roles, by, eps))
            if activation:
                words.append(activation)
                steps.append(_activation_step(activation))
            if pool:
                if x.ndim < 3:
                    continue
                words.append(pool)
                steps.append(POOLS[pool])
            sources[AFTER.join(words)] = _chain(x, steps)
    return replace(view, inputs=Derived(sources))


def _chain(x: Array, steps: list[Step]) -> Callable[[], Array]:
    def made() -> Array:
        y = x
        for step in steps:
            y = step(y)
        return y

    return made


def _fits(x: Array, roles: Mapping[str, Array]) -> bool:
    channels = {len(array) for role, array in roles.items() if "mean" in role and array.ndim == 1}
    return any(x.shape[axis] in channels for axis in (1, -1))


def _norm_step(roles: Mapping[str, Array], by: str, eps: float) -> Step:
    def step(x: Array) -> Array:
        length = next(len(array) for role, array in roles.items() if "mean" in role)
        axis = 1 if x.shape[1] == length else x.ndim - 1
        settings = {"axis": axis, "by": by, "affine": True, "unbiased": False, "eps": eps}
        y = normalised(x, settings, roles)
        return x if y is None else y

    return step


def _activation_step(kind: str) -> Step:
    return lambda x: activate(kind, x, Exact())


def _windows(size: int, summary: str) -> Step:
    def step(x: Array) -> Array:
        if x.ndim < 3 or min(x.shape[2:]) < size:
            return x
        lengths = [length // size for length in x.shape[2:]]
        cut = x[(slice(None), slice(None), *(slice(0, n * size) for n in lengths))]
        split = [length for n in lengths for length in (n, size)]
        blocks = cut.reshape(*x.shape[:2], *split)
        over = tuple(range(3, blocks.ndim, 2))
        return np.asarray(blocks.mean(over) if summary == "mean" else blocks.max(over))

    return step


def _over_places(summary: str, axes_from: int) -> Step:
    def step(x: Array) -> Array:
        axes = tuple(range(2, x.ndim)) if axes_from == 2 else tuple(range(1, x.ndim - 1))
        return reduced(x, summary, axes)

    return step


POOLS: dict[str, Step] = {
    "largest of 2 x 2": _windows(2, "largest"),
    "mean of 2 x 2": _windows(2, "mean"),
    "largest of 3 x 3": _windows(3, "largest"),
    "mean of 3 x 3": _windows(3, "mean"),
    "mean of all places": _over_places("mean", 2),
    "largest of all places": _over_places("largest", 2),
    "mean over all axes but the last": _over_places("mean", 1),
    "largest over all axes but the last": _over_places("largest", 1),
}
"""Words -> a step that sums up places of an input (B, C, ...)."""
