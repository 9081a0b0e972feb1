"""The clip's alternatives, from the gradient as it was recorded before it."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from lockstep.diagnose.causes.alternatives import Alternative
from lockstep.diagnose.causes.knobs import fitted_knobs, other_choices
from lockstep.diagnose.causes.passes import compute, parts, variant_of
from lockstep.diagnose.causes.side import Side
from lockstep.diagnose.causes.tensors import Tensors, family, times
from lockstep.numbers import written
from lockstep.oracle.arithmetic import Exact
from lockstep.oracle.gradient import accumulate, clip
from lockstep.recipe import Gradient
from lockstep.schedules.rate_tables import decays
from lockstep.tensor_file import arrays_below

__all__ = ["alternatives", "null", "recorded_by"]

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def recorded_by(side: Side) -> Tensors:
    """The gradients after clipping."""
    return family("clip", side.detail("clip"))


def null(side: Side) -> Tensors | None:
    """The clip as the recipe has it; None where its input was not recorded."""
    gradients = side.detail("gradients")
    if side.recipe is None or not gradients or not side.declares("gradient"):
        return None
    return _clipped(side.recipe.gradient, gradients)


def alternatives(side: Side, recorded: Tensors) -> Iterator[Alternative]:
    """The known other ways, those with a free number last."""
    gradients = side.detail("gradients")
    if side.recipe is None or not gradients:
        return
    rule = side.recipe.gradient
    text = "{side} does not clip the gradient"
    yield Alternative("clip-missing", text, "", family("clip", gradients))
    if rule.clip == "norm":
        yield from _other_norms(rule, gradients)

    def with_rule(other: Gradient) -> Tensors | None:
        return None if other.clip == "none" else _clipped(other, gradients)

    yield from other_choices("gradient", rule, ["clip"], with_rule)
    yield from _each_batch(side)
    yield from _after_decay(side, gradients)
    knobs = ["clip_at", "clip_eps"] if rule.clip == "norm" else ["clip_at"]
    yield from fitted_knobs(
        "gradient", rule, knobs, lambda other: _clipped(other, gradients), recorded
    )


def _clipped(rule: Gradient, gradients: Tensors) -> Tensors:
    return family("clip", clip(rule, dict(sorted(gradients.items())), Exact()))


def _other_norms(rule: Gradient, gradients: Tensors) -> Iterator[Alternative]:
    """Another eps, the norm of a part, and a norm that short gradients are scaled to as well."""
    for eps in (0.0, 1e-6):
        text = (
            f"{{side}} adds {eps:.4g} to the norm that it clips by; the recipe says "
            f"{written(rule.clip_eps)}"
        )
        tensors = _clipped(replace(rule, clip_eps=eps), gradients)
        yield Alternative("clip-eps", text, "clip-grad-norm-eps", tensors)
    groupings = {
        "each tensor alone": {name: name for name in gradients},
        "each layer alone": {name: _layer_number(name) for name in gradients},
    }
    for words, group_of in groupings.items():
        text = f"{{side}} clips {words}; the recipe clips by the norm of all"
        tensors = _in_groups(rule, gradients, group_of)
        yield Alternative("clip-per-tensor", text, "clip-inside-partition", tensors)
    squares = [float(np.square(array).sum()) for array in gradients.values()]
    norm = np.sqrt(sum(squares))
    scaled = times(rule.clip_at / norm, gradients)
    text = "{side} scales the gradient to the norm even where it is shorter"
    yield Alternative("clip-always", text, "", family("clip", scaled))


def _layer_number(name: str) -> str:
    """The number of a parameter's layer: "2" of linear2.weight and norm2.bias."""
    return name.partition(".")[0].lstrip(LETTERS)


def _in_groups(rule: Gradient, gradients: Tensors, group_of: dict[str, str]) -> Tensors:
    """Each group of gradients clipped by itself."""
    clipped: Tensors = {}
    for group in set(group_of.values()):
        members = {name: array for name, array in gradients.items() if group_of[name] == group}
        clipped |= _clipped(rule, members)
    return clipped


def _each_batch(side: Side) -> Iterator[Alternative]:
    """Each batch's gradient clipped before they are accumulated."""
    variant = variant_of(side)
    if variant is None or len(parts(variant)) == 1:
        return
    summed: Tensors = {}
    for rows, share in parts(variant):
        alone = arrays_below(compute(variant, [(rows, 1.0)]), "gradients/")
        clipped = _clipped(variant.recipe.gradient, alone)
        summed = accumulate(summed, clipped, share, Exact())
    text = (
        "{side} clips the gradient of each batch before it accumulates them; the recipe clips "
        "their mean"
    )
    yield Alternative("clip-each-batch", text, "clip-each-micro-batch", summed)


def _after_decay(side: Side, gradients: Tensors) -> Iterator[Alternative]:
    """The gradient with the weight decay in it, clipped."""
    if side.recipe is None or not side.declares("optimizer"):
        return
    optimizer = side.recipe.optimizer
    decay = optimizer.decay_rate
    parameters = side.parameters(side.update)
    if not decay or optimizer.spec.decoupled or not parameters.keys() >= gradients.keys():
        return
    summed = {
        name: array + decay * decays(optimizer, name) * parameters[name]
        for name, array in gradients.items()
    }
    text = "{side} adds weight decay before it clips; the recipe adds it after"
    tensors = _clipped(side.recipe.gradient, summed)
    yield Alternative("decay-before-clip", text, "weight-decay-before-clip", tensors)
