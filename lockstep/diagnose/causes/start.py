"""The initial parameters' alternatives: another layout, scale, rounding, distribution or seed."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import numpy as np

from lockstep.data_prep import initial_parameters
from lockstep.diagnose.causes.alternatives import Alternative
from lockstep.diagnose.causes.knobs import changed, choices
from lockstep.diagnose.causes.precision import FORMATS, rounded_to
from lockstep.diagnose.causes.side import Side, rows
from lockstep.diagnose.causes.tensors import Tensors, each, family
from lockstep.numbers import factor
from lockstep.recipe import Recipe

__all__ = ["alternatives", "null", "recorded_by"]

SEEDS = range(10)


def recorded_by(side: Side) -> Tensors:
    """The parameters before training."""
    return family("init", side.below("parameters/0/"))


def null(side: Side) -> Tensors | None:
    """The parameters that the recipe draws, or else those of the other traces."""
    is_known = side.declares("model", "training") and "recipe" in side.trace.header
    if side.recipe is not None and is_known:
        drawn = _drawn(side, side.recipe)
        if drawn is not None:
            return drawn
    for trace in side.others:
        tensors = recorded_by(Side("", trace, 0))
        if tensors:
            return tensors
    return None


def alternatives(side: Side, recorded: Tensors) -> Iterator[Alternative]:
    """The known other ways, those with a free number last."""
    right = null(side)
    if right is None:
        return
    yield from _transposed(right)
    for name in FORMATS:
        text = f"{{side}}'s initial parameters are rounded to {name}"
        low = each(partial(rounded_to, name), right)
        yield Alternative("init-rounded", text, "float64-becomes-float32", low)
    zero = [name for name, array in recorded.items() if not array.any() and name in right]
    if zero:
        text = f"{{side}} starts with {_listed(zero, ', ')} at 0"
        zeros = {name: np.zeros_like(right[name]) for name in zero}
        yield Alternative("other-init", text, "linear-initialisation", right | zeros)
    if side.recipe is not None and "recipe" in side.trace.header:
        yield from _drawn_otherwise(side, side.recipe)
    yield _scaled(right, recorded)


def _listed(names: list[str], separator: str) -> str:
    return separator.join(name.removeprefix("init/") for name in names)


def _transposed(right: Tensors) -> Iterator[Alternative]:
    """Each square kernel transposed, then all of them."""
    square = [name for name, array in right.items() if array.shape[0] == array.shape[1] > 1]
    groups = [[name] for name in square]
    if len(square) > 1:
        groups.append(square)
    for names in groups:
        text = f"{{side}} starts with {_listed(names, ' and ')} transposed"
        tensors = right | {name: right[name].T for name in names}
        yield Alternative("init-transposed", text, "kernel-layout", tensors)


def _drawn(side: Side, recipe: Recipe) -> Tensors | None:
    """The initial parameters of a recipe, for the sizes that were recorded."""
    initial = side.below("parameters/0/")
    first = initial.get("linear1.weight")
    last = initial.get(f"linear{len(recipe.model.hidden) + 1}.weight")
    if first is None or last is None:
        return None
    drawn = initial_parameters(recipe, first.shape[0], last.shape[-1])
    rounded = {name: rows(array.astype(recipe.dtype)) for name, array in drawn.items()}
    return family("init", rounded)


def _drawn_otherwise(side: Side, recipe: Recipe) -> Iterator[Alternative]:
    """Another distribution, or another seed."""
    model = recipe.model
    for init in choices(model, "init"):
        other = _drawn(side, replace(recipe, model=replace(model, init=init)))
        if other is not None and init != model.init:
            text = f"{{side}} draws its initial parameters as {init}; the recipe says {model.init}"
            yield Alternative("other-init", text, "linear-initialisation", other)
    mine = recipe.training.seed
    for seed in dict.fromkeys((mine + 1, mine - 1, *SEEDS)):
        training = changed(recipe.training, seed=seed)
        other = None if training is None else _drawn(side, replace(recipe, training=training))
        if other is not None and seed != mine:
            text = f"{{side}}'s initial parameters are those of seed {seed}; the recipe says {mine}"
            yield Alternative("other-init", text, "", other)


def _scaled(right: Tensors, recorded: Tensors) -> Alternative:
    """Each tensor by a factor of its own."""
    scaled = dict(right)
    factors = []
    for name, array in right.items():
        size = float(np.square(array).sum())
        mine = recorded.get(name)
        if mine is None or mine.shape != array.shape or not size or array.size < 2:
            continue
        scale = float((mine * array).sum()) / size
        scaled[name] = scale * array
        if scale != 1:
            factors.append(f"{name.removeprefix('init/')} by {factor(scale)}")
    text = f"{{side}}'s initial parameters are scaled: {', '.join(factors)}"
    return Alternative("init-scaled", text, "fan-in-of-a-transposed-weight", scaled, rank=2)
