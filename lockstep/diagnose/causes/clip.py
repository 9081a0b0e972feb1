"""The clip's alternatives, from the gradient as it was recorded before it."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from lockstep.diagnose.causes.judge import Alternative, Tensors
from lockstep.diagnose.causes.knobs import fitted_knobs, other_choices
from lockstep.diagnose.causes.passes import compute, parts, variant_of
from lockstep.diagnose.causes.side import Side
from lockstep.numbers import written
from lockstep.oracle.arithmetic import Exact
from lockstep.oracle.gradient import accumulate, clip
from lockstep.recipe import Gradient
from lockstep.schedules.rate_tables import decays
from lockstep.tensor_file import arrays_below

__all__ = ["alternatives", "null", "recorded"]


def recorded(side: Side) -> Tensors:
    """The gradients after clipping."""
    return _named(side.detail("clip"))


def null(side: Side) -> Tensors | None:
    """The clip as the recipe has it; None where its input was not recorded."""
    gradients = side.detail("gradients")
    if side.recipe is None or not gradients or not side.declares("gradient"):
        return None
    return _clipped(side.recipe.gradient, gradients)


def alternatives(side: Side, found: Tensors) -> Iterator[Alternative]:
    """The known other ways, those with a free number last."""
    gradients = side.detail("gradients")
    if side.recipe is None or not gradients:
        return
    recipe, rule = side.recipe, side.recipe.gradient
    yield Alternative("clip-missing", "{side} does not clip the gradient", "", _named(gradients))
    if rule.clip == "norm":
        for eps in (0.0, 1e-6):
            text = (
                f"{{side}} adds {eps:.4g} to the norm that it clips by; the recipe says "
                f"{written(rule.clip_eps)}"
            )
            yield Alternative(
                "clip-eps",
                text,
                "clip-grad-norm-eps",
                _clipped(replace(rule, clip_eps=eps), gradients),
            )
        for key, told in (("tensor", "each tensor alone"), ("layer", "each layer alone")):
            groups = {
                name: name
                if key == "tensor"
                else name.partition(".")[0].lstrip("abcdefghijklmnopqrstuvwxyz")
                for name in gradients
            }
            text = f"{{side}} clips {told}; the recipe clips by the norm of all"
            yield Alternative(
                "clip-per-tensor",
                text,
                "clip-inside-partition",
                _in_groups(rule, gradients, groups),
            )
        size = np.sqrt(sum(float(np.square(array).sum()) for array in gradients.values()))
        always = {name: array * (rule.clip_at / size) for name, array in gradients.items()}
        text = "{side} scales the gradient to the norm even where it is shorter"
        yield Alternative("clip-always", text, "", _named(always))
    yield from other_choices(
        "gradient",
        rule,
        ["clip"],
        lambda other: None if other.clip == "none" else _clipped(other, gradients),
    )
    yield from _each_batch(side)
    decay = recipe.optimizer.decay_rate if side.declares("optimizer") else None
    parameters = side.parameters(side.update)
    if decay and not recipe.optimizer.spec.decoupled and parameters.keys() >= gradients.keys():
        summed = {name: array + decay * decays(recipe.optimizer, name) * parameters[name]
                  for name, array in gradients.items()}  # fmt: skip
        text = "{side} adds weight decay before it clips; the recipe after"
        yield Alternative(
            "decay-before-clip", text, "weight-decay-before-clip", _clipped(rule, summed)
        )
    knobs = ["clip_at", "clip_eps"] if rule.clip == "norm" else ["clip_at"]
    yield from fitted_knobs(
        "gradient", rule, knobs, lambda other: _clipped(other, gradients), found
    )


def _named(tensors: Tensors) -> Tensors:
    return {f"clip/{name}": array for name, array in tensors.items()}


def _clipped(rule: Gradient, gradients: Tensors) -> Tensors:
    return _named(clip(rule, dict(sorted(gradients.items())), Exact()))


def _in_groups(rule: Gradient, gradients: Tensors, groups: dict[str, str]) -> Tensors:
    found: Tensors = {}
    for group in set(groups.values()):
        found |= _clipped(
            rule, {name: array for name, array in gradients.items() if groups[name] == group}
        )
    return found


def _each_batch(side: Side) -> Iterator[Alternative]:
    """Each batch's gradient clipped before they are accumulated."""
    variant = variant_of(side)
    if variant is None or len(parts(variant)) == 1:
        return
    summed: Tensors = {}
    for rows, share in parts(variant):
        alone = arrays_below(compute(variant, [(rows, 1.0)]), "gradients/")
        summed = accumulate(summed, _clipped(variant.recipe.gradient, alone), share, Exact())
    text = (
        "{side} clips the gradient of each batch before it accumulates them; the recipe clips "
        "their mean"
    )
    yield Alternative("clip-each-batch", text, "clip-each-micro-batch", summed)
