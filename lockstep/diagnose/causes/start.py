"""The initial parameters' alternatives: another layout, scale, rounding, distribution or seed."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from lockstep.data_prep import initial_parameters
from lockstep.diagnose.causes.judge import Alternative, Tensors
from lockstep.diagnose.causes.knobs import changed, choices
from lockstep.diagnose.causes.precision import FORMATS, rounded_to
from lockstep.diagnose.causes.side import Side, rows
from lockstep.numbers import factor
from lockstep.recipe import Recipe

__all__ = ["alternatives", "null", "recorded"]

SEEDS = range(10)


def recorded(side: Side) -> Tensors:
    """The parameters before training."""
    return {f"init/{name}": array for name, array in side.below("parameters/0/").items()}


def null(side: Side) -> Tensors | None:
    """As the recipe draws them, or else as the other traces have them."""
    if (
        side.recipe is not None
        and side.declares("model", "training")
        and "recipe" in side.trace.header
    ):
        drawn = _drawn(side, side.recipe)
        if drawn is not None:
            return drawn
    for trace in side.others:
        found = Side("", trace, 0).below("parameters/0/")
        if found:
            return {f"init/{name}": array for name, array in found.items()}
    return None


def alternatives(side: Side, found: Tensors) -> Iterator[Alternative]:
    """The known other ways, those with a free number last."""
    wanted, recipe = null(side), side.recipe
    if wanted is None:
        return
    square = [name for name, array in wanted.items() if array.shape[0] == array.shape[1] > 1]
    for names in [[name] for name in square] + [square] * (len(square) > 1):
        told = " and ".join(name.removeprefix("init/") for name in names)
        tensors = wanted | {name: wanted[name].T for name in names}
        yield Alternative(
            "init-transposed", f"{{side}} starts with {told} transposed", "kernel-layout", tensors
        )
    for name in FORMATS:
        tensors = {key: rounded_to(name, array) for key, array in wanted.items()}
        text = f"{{side}}'s initial parameters are rounded to {name}"
        yield Alternative("init-rounded", text, "float64-becomes-float32", tensors)
    zero = [name for name, array in found.items() if not array.any() and name in wanted]
    if zero:
        told = ", ".join(name.removeprefix("init/") for name in zero)
        tensors = wanted | {name: np.zeros_like(wanted[name]) for name in zero}
        yield Alternative(
            "other-init", f"{{side}} starts with {told} at 0", "linear-initialisation", tensors
        )
    if recipe is not None and "recipe" in side.trace.header:
        yield from _drawn_otherwise(side, recipe)
    yield _scaled(wanted, found)


def _drawn(side: Side, recipe: Recipe) -> Tensors | None:
    """The initial parameters of a recipe, for the sizes that were recorded."""
    mine = side.below("parameters/0/")
    first, last = (mine.get(f"linear{i}.weight") for i in (1, len(recipe.model.hidden) + 1))
    if first is None or last is None:
        return None
    drawn = initial_parameters(recipe, first.shape[0], last.shape[-1])
    return {f"init/{name}": rows(array.astype(recipe.dtype)) for name, array in drawn.items()}


def _drawn_otherwise(side: Side, recipe: Recipe) -> Iterator[Alternative]:
    for init in choices(recipe.model, "init"):
        other = _drawn(side, replace(recipe, model=replace(recipe.model, init=init)))
        if other is not None and init != recipe.model.init:
            text = (
                f"{{side}} draws its initial parameters as {init}; the recipe says "
                f"{recipe.model.init}"
            )
            yield Alternative("other-init", text, "linear-initialisation", other)
    for seed in dict.fromkeys((recipe.training.seed + 1, recipe.training.seed - 1, *SEEDS)):
        training = changed(recipe.training, seed=seed)
        other = None if training is None else _drawn(side, replace(recipe, training=training))
        if other is not None and seed != recipe.training.seed:
            text = (
                f"{{side}}'s initial parameters are those of seed {seed}; the recipe says "
                f"{recipe.training.seed}"
            )
            yield Alternative("other-init", text, "", other)


def _scaled(wanted: Tensors, found: Tensors) -> Alternative:
    """Each tensor by a factor of its own."""
    tensors, told = dict(wanted), []
    for name, array in wanted.items():
        size, mine = float(np.square(array).sum()), found.get(name)
        if mine is None or mine.shape != array.shape or not size or array.size < 2:
            continue
        scale = float((mine * array).sum()) / size
        tensors[name] = scale * array
        if scale != 1:
            told.append(f"{name.removeprefix('init/')} by {factor(scale)}")
    text = f"{{side}}'s initial parameters are scaled: {', '.join(told)}"
    return Alternative("init-scaled", text, "fan-in-of-a-transposed-weight", tensors, rank=2)
