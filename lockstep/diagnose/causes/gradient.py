"""The backward pass's alternatives: scale, sign, stale or missing gradients, accumulation, kinks,
flipped units.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from lockstep.diagnose.causes import forward, loss
from lockstep.diagnose.causes.alternatives import BETTER, Alternative, Cause, fitted
from lockstep.diagnose.causes.passes import PassVariant, compute, parts, variant_of
from lockstep.diagnose.causes.precision import Kink, Signs
from lockstep.diagnose.causes.side import Side
from lockstep.diagnose.causes.tensors import Tensors, family, only, residual, times

__all__ = ["alternatives", "relu_flip"]

FACTORS = (-1e12, 1e12)


def alternatives(side: Side, recorded: Tensors) -> Iterator[Alternative]:
    """The known other ways of the whole pass: its forward part, where that is off, then its loss,
    then its gradients.
    """
    variant = variant_of(side)
    if variant is None:
        return
    null = compute(variant)
    outputs = only("forward/", recorded)
    has_right_outputs = bool(outputs) and residual(null, outputs) <= side.tolerance
    if not has_right_outputs:
        yield from forward.alternatives(side, variant)
    if len(parts(variant)) > 1:
        yield from _accumulated_otherwise(variant)
    yield from loss.alternatives(side, variant, null)
    yield from _other_gradients(side, variant, null, recorded)
    if not has_right_outputs:
        yield from forward.fits(variant, recorded)
    yield from loss.fits(variant, recorded)
    yield from _fits(variant, null, recorded)


def _scaled(tensors: Tensors, factor: float, *, loss_too: bool = False) -> Tensors:
    """The pass with its gradients multiplied, or its loss as well."""
    scaled = tensors | times(factor, only("gradients/", tensors))
    if loss_too:
        scaled |= times(factor, only("loss/", tensors))
    return scaled


def _plus(tensors: Tensors, others: Tensors, factor: float = 1.0) -> Tensors:
    """The pass with a multiple of other tensors added to its gradients."""
    summed = dict(tensors)
    for name, array in others.items():
        key = f"gradients/{name}"
        if key in tensors:
            summed[key] = tensors[key] + factor * array
    return summed


def _other_gradients(
    side: Side, variant: PassVariant, null: Tensors, recorded: Tensors
) -> Iterator[Alternative]:
    """Another sign, missing or stale gradients, another slope at 0, decay, and known factors."""
    text = "{side}'s gradient has the wrong sign"
    yield Alternative("gradient-sign", text, "", _scaled(null, -1.0))
    gradients = only("gradients/", recorded)
    zero = [name for name, array in gradients.items() if not array.any()]
    if zero:
        names = ", ".join(name.removeprefix("gradients/") for name in zero)
        tensors = null | {name: np.zeros_like(gradients[name]) for name in zero}
        text = f"{{side}} has no gradient for {names}"
        yield Alternative("gradient-missing", text, "parameters-without-gradient", tensors)
    before = side.detail("gradients", side.update - 1)
    if before:
        text = (
            "{side} adds this gradient to that of the update before: it is not set to zero in "
            "between"
        )
        yield Alternative("gradient-stale", text, "forgotten-zero-grad", _plus(null, before))
        text = "{side} has the gradient of the update before"
        tensors = null | family("gradients", before)
        yield Alternative("gradient-stale", text, "", tensors)
    for share, words in ((0.5, "half"), (1.0, "all")):
        text = (
            f"{{side}} passes {words} of the gradient where the input of ReLU is 0; the recipe "
            "passes none"
        )
        tensors = compute(replace(variant, arithmetic=Kink(share)))
        yield Alternative("gradient-at-the-kink", text, "gradient-at-the-kink", tensors)
    decay = side.recipe.optimizer.decay_rate if side.recipe and side.declares("optimizer") else None
    if decay:
        text = (
            f"{{side}} has the weight decay of {decay:.4g} in the gradient already, before clipping"
        )
        tensors = _plus(null, variant.parameters, decay)
        yield Alternative("l2-in-gradient", text, "weight-decay-before-clip", tensors)
    yield from _named_factors(variant, null)


def _named_factors(variant: PassVariant, null: Tensors) -> Iterator[Alternative]:
    """The gradient multiplied or divided by a count of rows or batches."""
    counts = (
        (len(variant.y), "rows"),
        (variant.recipe.training.batch, "rows of a full batch"),
        (len(parts(variant)), "batches"),
    )
    for count, noun in counts:
        if count <= 1:
            continue
        factors = {
            f"{count}, the number of {noun}": float(count),
            f"1 / {count} ({noun})": 1 / count,
        }
        for words, factor in factors.items():
            text = f"{{side}}'s gradient is multiplied by {words}"
            tensors = _scaled(null, factor)
            page = "optax-losses-do-not-reduce"
            yield Alternative("gradient-scaled", text, page, tensors, rank=1)


def _accumulated_otherwise(variant: PassVariant) -> Iterator[Alternative]:
    """The batches of an update summed, weighed or dropped otherwise."""
    cuts = parts(variant)
    rule = variant.recipe.gradient
    page = "accumulation-sum-or-mean"
    text = (
        f"{{side}} sums the gradients of an update's {len(cuts)} batches; the recipe takes their "
        "mean"
    )
    summed = compute(variant, [(rows, 1.0) for rows, _ in cuts])
    yield Alternative("accumulation-sum", text, page, summed)
    text = f"{text}, and reports the mean of their losses"
    reported = summed | {"loss/mean": compute(variant)["loss/mean"]}
    yield Alternative("accumulation-sum", text, page, reported)

    page = "accumulation-short-last-micro-batch"
    other = replace(
        rule, accumulate_mean="rows" if rule.accumulate_mean == "batches" else "batches"
    )
    text = (
        f"{{side}} weighs the batches of an update by {other.accumulate_mean}; the recipe weighs "
        f"them by {rule.accumulate_mean}"
    )
    tensors = compute(replace(variant, recipe=replace(variant.recipe, gradient=other)))
    yield Alternative("accumulation-mean", text, page, tensors)
    text = f"{{side}} divides by {rule.accumulate} batches where an update has {len(cuts)}"
    tensors = compute(variant, [(rows, 1 / rule.accumulate) for rows, _ in cuts])
    yield Alternative("accumulation-mean", text, page, tensors)
    for place, word in ((0, "first"), (-1, "last")):
        rows, _ = cuts[place]
        alone = compute(variant, [(rows, 1.0)])
        # the outputs that were recorded are of all batches
        tensors = {name: array for name, array in alone.items() if not name.startswith("forward/")}
        text = f"{{side}} takes the gradient of the {word} batch of the update only"
        yield Alternative("accumulation-dropped", text, "forgotten-zero-grad", tensors)


def _fits(variant: PassVariant, null: Tensors, recorded: Tensors) -> Iterator[Alternative]:
    """Factors on the gradient, and a weight decay in it."""
    text = "{side}'s gradient is multiplied by {value}"
    yield from fitted(
        "gradient-scaled", text, "", lambda factor: _scaled(null, factor), recorded, 1.0, FACTORS
    )

    def with_loss(factor: float) -> Tensors:
        return _scaled(null, factor, loss_too=True)

    text = "{side}'s loss and gradient are multiplied by {value}"
    yield from fitted("gradient-scaled", text, "", with_loss, recorded, 1.0, FACTORS)
    text = "{side} has a weight decay of {value} in the gradient, before clipping"
    yield from fitted(
        "l2-in-gradient",
        text,
        "weight-decay-before-clip",
        lambda decay: _plus(null, variant.parameters, decay),
        recorded,
        0.0,
        (-1e6, 1e6),
    )


def relu_flip(a: Side, b: Side) -> Cause | None:
    """Units whose input of ReLU has another sign on the other side, where these explain the
    gradients: each side's are right for its own signs, and not for the other's.
    """
    variant_a = variant_of(a)
    variant_b = variant_of(b)
    if variant_a is None or variant_b is None or "relu" not in variant_a.recipe.model.activation:
        return None
    model = variant_a.recipe.model
    kind = "linear" if model.norm == "none" else "norm"
    layers = [f"{kind}{i}" for i in range(1, len(model.hidden) + 1)]
    forward_a = a.detail("forward")
    forward_b = b.detail("forward")
    for name in layers:
        for outputs in (forward_a, forward_b):
            if name not in outputs or len(outputs[name]) != len(variant_a.y):
                return None
    flips = []
    for name in layers:
        for row, unit in np.argwhere((forward_a[name] > 0) != (forward_b[name] > 0)):
            flips.append((name, int(row), int(unit)))
    if not flips:
        return None
    gradients_a = family("gradients", a.detail("gradients"))
    gradients_b = family("gradients", b.detail("gradients"))
    by_own_signs = max(
        residual(_with_signs(variant_a, forward_a, layers), gradients_a),
        residual(_with_signs(variant_b, forward_b, layers), gradients_b),
    )
    by_other_signs = min(
        residual(_with_signs(variant_a, forward_b, layers), gradients_a),
        residual(_with_signs(variant_b, forward_a, layers), gradients_b),
    )
    tolerance = max(a.tolerance, b.tolerance)
    if by_own_signs > tolerance or by_other_signs <= tolerance:
        return None
    if by_own_signs * BETTER > by_other_signs:
        return None
    name, row, unit = flips[0]
    more = f" and {len(flips) - 1} more" if len(flips) > 1 else ""
    text = (
        f"rounding turned the sign in front of a ReLU: unit {unit} of {name} in row {row} of the "
        f"batch{more}; neither side is wrong"
    )
    return Cause("relu-flip", text, "gradient-at-the-kink", "", by_own_signs, by_other_signs)


def _with_signs(variant: PassVariant, outputs: Tensors, layers: list[str]) -> Tensors:
    """The pass with each unit on the side of 0 that was recorded."""
    masks = (outputs[name][cut] > 0 for cut, _ in parts(variant) for name in reversed(layers))
    return compute(replace(variant, arithmetic=Signs(masks)))
