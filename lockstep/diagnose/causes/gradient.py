"""The backward pass's alternatives: scale, sign, stale or missing gradients, accumulation, kinks,
flipped units.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from lockstep.diagnose.causes import forward, loss
from lockstep.diagnose.causes.judge import BETTER, Alternative, Cause, Tensors, fitted, residual
from lockstep.diagnose.causes.passes import Variant, compute, parts, variant_of
from lockstep.diagnose.causes.precision import Kink, Signs
from lockstep.diagnose.causes.side import Side

__all__ = ["alternatives", "relu_flip"]


def alternatives(side: Side, found: Tensors) -> Iterator[Alternative]:
    """Of the whole pass: its forward part, where that is off, then its loss, then its gradients."""
    variant = variant_of(side)
    if variant is None:
        return
    null = compute(variant)
    outputs = {name: array for name, array in found.items() if name.startswith("forward/")}
    right_outputs = bool(outputs) and residual(null, outputs) <= side.tolerance
    if not right_outputs:
        yield from forward.alternatives(side, variant)
    yield from _accumulation(variant, len(parts(variant)))
    yield from loss.alternatives(side, variant, null)
    yield from _gradients(side, variant, null, found)
    if not right_outputs:
        yield from forward.fits(variant, found)
    yield from loss.fits(variant, found)
    yield from _fits(variant, null, found)


def _scaled(tensors: Tensors, factor: float, *, loss_too: bool = False) -> Tensors:
    return {
        name: factor * array
        if name.startswith("gradients/") or (loss_too and name == "loss/mean")
        else array
        for name, array in tensors.items()
    }


def _plus(tensors: Tensors, others: Tensors, factor: float = 1.0) -> Tensors:
    return tensors | {
        f"gradients/{name}": tensors[f"gradients/{name}"] + factor * array
        for name, array in others.items()
        if f"gradients/{name}" in tensors
    }


def _gradients(
    side: Side, variant: Variant, null: Tensors, found: Tensors
) -> Iterator[Alternative]:
    yield Alternative(
        "gradient-sign", "{side}'s gradient has the wrong sign", "", _scaled(null, -1.0)
    )
    zero = [
        name for name, array in found.items() if name.startswith("gradients/") and not array.any()
    ]
    if zero:
        told = ", ".join(name.removeprefix("gradients/") for name in zero)
        tensors = null | {name: np.zeros_like(found[name]) for name in zero}
        text = f"{{side}} has no gradient for {told}"
        yield Alternative("gradient-missing", text, "parameters-without-gradient", tensors)
    rows, batches = len(variant.y), len(parts(variant))
    before = side.detail("gradients", side.update - 1)
    if before:
        text = (
            "{side} adds this gradient to that of the update before: it is not set to zero in "
            "between"
        )
        yield Alternative("gradient-stale", text, "forgotten-zero-grad", _plus(null, before))
        text = "{side} has the gradient of the update before"
        yield Alternative(
            "gradient-stale", text, "", null | {f"gradients/{k}": v for k, v in before.items()}
        )
    for share, told in ((0.5, "half"), (1.0, "all")):
        text = (
            f"{{side}} passes {told} of the gradient where the input of ReLU is 0; the recipe none"
        )
        tensors = compute(replace(variant, arithmetic=Kink(share)))
        yield Alternative("gradient-at-the-kink", text, "gradient-at-the-kink", tensors)
    decay = side.recipe.optimizer.decay_rate if side.recipe and side.declares("optimizer") else None
    if decay:
        text = (
            f"{{side}} has the weight decay of {decay:.4g} in the gradient already, before clipping"
        )
        yield Alternative(
            "l2-in-gradient",
            text,
            "weight-decay-before-clip",
            _plus(null, variant.parameters, decay),
        )
    for count, told in (
        (rows, "rows"),
        (variant.recipe.training.batch, "rows of a full batch"),
        (batches, "batches"),
    ):
        if count > 1:
            for factor, text in (
                (float(count), f"{count}, the number of {told}"),
                (1 / count, f"1 / {count} ({told})"),
            ):
                text = f"{{side}}'s gradient is multiplied by {text}"
                yield Alternative(
                    "gradient-scaled",
                    text,
                    "optax-losses-do-not-reduce",
                    _scaled(null, factor),
                    rank=1,
                )


def _accumulation(variant: Variant, batches: int) -> Iterator[Alternative]:
    if batches == 1:
        return
    cuts = parts(variant)
    summed = compute(variant, [(rows, 1.0) for rows, _ in cuts])
    page = "accumulation-sum-or-mean"
    for scale_loss, told in ((True, ""), (False, ", and reports the mean of their losses")):
        kept = summed if scale_loss else summed | {"loss/mean": compute(variant)["loss/mean"]}
        text = (
            f"{{side}} sums the gradients of an update's {batches} batches; the recipe takes "
            f"their mean{told}"
        )
        yield Alternative("accumulation-sum", text, page, kept)
    mean = variant.recipe.gradient.accumulate_mean
    other = replace(
        variant.recipe.gradient, accumulate_mean="rows" if mean == "batches" else "batches"
    )
    text = (
        f"{{side}} weighs the batches of an update by {other.accumulate_mean}; the recipe by {mean}"
    )
    tensors = compute(replace(variant, recipe=replace(variant.recipe, gradient=other)))
    yield Alternative("accumulation-mean", text, "accumulation-short-last-micro-batch", tensors)
    full = replace(variant.recipe.gradient, accumulate_mean="batches")
    share = 1 / full.accumulate
    text = f"{{side}} divides by {full.accumulate} batches where an update has {batches}"
    tensors = compute(variant, [(rows, share) for rows, _ in cuts])
    yield Alternative("accumulation-mean", text, "accumulation-short-last-micro-batch", tensors)
    for place, told in ((0, "first"), (-1, "last")):
        tensors = {
            name: array
            for name, array in compute(variant, [(cuts[place][0], 1.0)]).items()
            if not name.startswith("forward/")
        }
        text = f"{{side}} takes the gradient of the {told} batch of the update only"
        yield Alternative("accumulation-dropped", text, "forgotten-zero-grad", tensors)


def _fits(variant: Variant, null: Tensors, found: Tensors) -> Iterator[Alternative]:
    text = "{side}'s gradient is multiplied by {value}"
    yield from fitted(
        "gradient-scaled", text, "", lambda c: _scaled(null, c), found, 1.0, (-1e12, 1e12)
    )
    text = "{side}'s loss and gradient are multiplied by {value}"
    yield from fitted(
        "gradient-scaled",
        text,
        "",
        lambda c: _scaled(null, c, loss_too=True),
        found,
        1.0,
        (-1e12, 1e12),
    )
    text = "{side} has a weight decay of {value} in the gradient, before clipping"
    yield from fitted(
        "l2-in-gradient",
        text,
        "weight-decay-before-clip",
        lambda wd: _plus(null, variant.parameters, wd),
        found,
        0.0,
        (-1e6, 1e6),
    )


def relu_flip(a: Side, b: Side) -> Cause | None:
    """Units whose input of ReLU has another sign on the other side, where these explain the
    gradients: each side's are right for its own signs, and not for the other's."""
    variants, forwards = (
        [variant_of(side) for side in (a, b)],
        [side.detail("forward") for side in (a, b)],
    )
    mine, its = variants
    if mine is None or its is None or "relu" not in mine.recipe.model.activation:
        return None
    kind = "linear" if mine.recipe.model.norm == "none" else "norm"
    layers = [f"{kind}{i}" for i in range(1, len(mine.recipe.model.hidden) + 1)]
    if not all(
        name in found and len(found[name]) == len(mine.y) for name in layers for found in forwards
    ):
        return None
    flips = [
        (name, int(row), int(unit))
        for name in layers
        for row, unit in np.argwhere((forwards[0][name] > 0) != (forwards[1][name] > 0))
    ]
    if not flips:
        return None
    recorded = [
        {f"gradients/{name}": array for name, array in side.detail("gradients").items()}
        for side in (a, b)
    ]
    found = max(
        residual(_with_signs(v, f, layers), g) for v, f, g in zip((mine, its), forwards, recorded)
    )
    without = min(
        residual(_with_signs(v, f, layers), g)
        for v, f, g in zip((mine, its), forwards[::-1], recorded)
    )
    tolerance = max(a.tolerance, b.tolerance)
    if found > tolerance or without <= tolerance or found * BETTER > without:
        return None
    name, row, unit = flips[0]
    more = f" and {len(flips) - 1} more" if len(flips) > 1 else ""
    text = (
        f"rounding turned the sign in front of a ReLU: unit {unit} of {name} in row {row} of "
        f"the batch{more}"
    )
    return Cause(
        "relu-flip", f"{text}; neither side is wrong", "gradient-at-the-kink", "", found, without
    )


def _with_signs(variant: Variant, forward_tensors: Tensors, layers: list[str]) -> Tensors:
    """The pass with each unit on the side of 0 that was recorded."""
    masks = (
        forward_tensors[name][cut] > 0 for cut, _ in parts(variant) for name in reversed(layers)
    )
    return compute(replace(variant, arithmetic=Signs(masks)))
