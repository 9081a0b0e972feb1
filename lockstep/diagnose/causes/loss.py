"""The loss's alternatives: sum for mean, other sizes, labels, weights, another loss, or a loss
reported otherwise.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from lockstep.diagnose.causes.judge import Alternative, Tensors
from lockstep.diagnose.causes.knobs import changed, fitted_knobs
from lockstep.diagnose.causes.passes import Labels, Variant, compute, parts
from lockstep.diagnose.causes.side import Side
from lockstep.recipe import CrossEntropy, Huber, Loss, SquaredError

__all__ = ["alternatives", "fits"]


def alternatives(side: Side, variant: Variant, null: Tensors) -> Iterator[Alternative]:
    """The known other ways without a free number; `null` is what the recipe's way gives."""
    yield from _factors(variant)
    yield from _labels(variant)
    yield from _other_losses(variant)
    yield from _reported(side, variant, null)


def fits(variant: Variant, found: Tensors) -> Iterator[Alternative]:
    """The numbers of the recipe's loss."""
    loss = variant.recipe.loss
    yield from fitted_knobs(
        "loss", loss, list(loss.knobs()), lambda other: _with_loss(variant, other), found
    )


def _with_loss(variant: Variant, loss: Loss) -> Tensors:
    return compute(replace(variant, recipe=replace(variant.recipe, loss=loss)))


def _outputs(variant: Variant) -> int:
    return int(variant.parameters[f"linear{len(variant.recipe.model.hidden) + 1}.weight"].shape[-1])


def _total(variant: Variant, y_B: Labels) -> float:
    """What the mean of a batch divides by: the sum of its rows' weights."""
    if not isinstance(variant.recipe.loss, CrossEntropy):
        return float(len(y_B))
    weights = np.array(variant.recipe.loss.class_weights or (1.0,) * _outputs(variant))
    return float(weights[y_B[y_B >= 0]].sum())


def _factors(variant: Variant) -> Iterator[Alternative]:
    """The right sum divided by something else."""
    recipe, size, outputs = variant.recipe, variant.recipe.training.batch, _outputs(variant)
    of = f"a mean over {'the rows' if len(parts(variant)) == 1 else 'the rows of each batch'}"
    options = [
        (
            "sum-for-mean",
            f"{{side}} sums the loss over the rows; the recipe takes {of}",
            "optax-losses-do-not-reduce",
            lambda y_B: _total(variant, y_B),
        ),
        (
            "full-size-mean",
            f"{{side}} divides a short batch by the full size of {size} rows; the recipe "
            f"takes {of}",
            "padded-batch-in-the-mean",
            lambda y_B: len(y_B) / size,
        ),
        ("half-loss", "{side} takes half of the loss", "l2-loss-is-half", lambda y_B: 0.5),
        ("half-loss", "{side} takes twice the loss", "l2-loss-is-half", lambda y_B: 2.0),
    ]
    if outputs > 1:
        text = (
            f"{{side}} divides the loss by the {outputs} outputs as well: a mean over all elements"
        )
        options.append(
            ("mean-over-elements", text, "kl-div-mean-over-elements", lambda y_B: 1 / outputs)
        )
    if recipe.loss.class_weights:
        text = (
            "{side} divides the weighted loss by the number of rows; the recipe by the sum of "
            "their weights"
        )
        by_rows = ("weighted-mean", text, "weighted-cross-entropy-mean")
        options.append((*by_rows, lambda y_B: _total(variant, y_B) / np.count_nonzero(y_B >= 0)))
    if isinstance(recipe.loss, Huber):
        delta = recipe.loss.delta
        text = "{side} divides the loss by delta, as SmoothL1Loss(beta) does"
        options.append(("other-loss", text, "huber-delta-or-smooth-l1-beta", lambda y_B: 1 / delta))
    if (variant.y < 0).any() and not recipe.loss.predicts_number:
        text = "{side} counts the rows with an ignored label in the mean"
        options.append(("ignored-label", text, "ignored-label-minus-one",
                        lambda y_B: np.count_nonzero(y_B >= 0) / len(y_B)))  # fmt: skip
    for key, text, page, factor in options:
        yield Alternative(key, text, page, compute(replace(variant, factor=factor)))


def _labels(variant: Variant) -> Iterator[Alternative]:
    """The right loss of other labels."""
    outputs, loss = _outputs(variant), variant.recipe.loss
    if isinstance(loss, CrossEntropy) and (variant.y < 0).any():
        for label, told in ((outputs - 1, "the last class"), (0, "the first class")):

            def put(y_B: Labels, label: int = label) -> Labels:
                return np.where(y_B < 0, label, y_B)

            text = f"{{side}} takes an ignored label for {told}"
            tensors = compute(replace(variant, labels=put))
            yield Alternative("ignored-label", text, "ignored-label-minus-one", tensors)
    if isinstance(loss, SquaredError):
        text = (
            "{side} subtracts a row of targets from a column of outputs: each output meets "
            "every target"
        )
        broadcast = replace(
            variant, labels=lambda y_B: np.full_like(y_B, y_B.mean()), offset=lambda y_B: y_B.var()
        )
        yield Alternative(
            "mse-broadcast", text, "mse-broadcasts-column-and-row", compute(broadcast)
        )


def _other_losses(variant: Variant) -> Iterator[Alternative]:
    loss = variant.recipe.loss
    if isinstance(loss, CrossEntropy):
        yield from _other_labels(variant, loss)
    if loss.predicts_number:
        other = Huber() if isinstance(loss, SquaredError) else SquaredError()
        text = f"{{side}} has the loss {other.name}; the recipe says {loss.name}"
        yield Alternative(
            "other-loss", text, "huber-delta-or-smooth-l1-beta", _with_loss(variant, other)
        )
    else:
        squash = loss.spec.link
        text = f"{{side}} puts the outputs through a {squash} before a loss that has its own"
        yield Alternative(
            "softmax-twice", text, "sigmoid-then-log", compute(replace(variant, squash=squash))
        )


def _other_labels(variant: Variant, loss: CrossEntropy) -> Iterator[Alternative]:
    """No label smoothing, or one over the K - 1 other classes; no class weights."""
    outputs = _outputs(variant)
    if loss.label_smoothing:
        text = f"{{side}} leaves out the label smoothing of {loss.label_smoothing:.4g}"
        yield Alternative(
            "label-smoothing", text, "", _with_loss(variant, replace(loss, label_smoothing=0.0))
        )
        spread = changed(loss, label_smoothing=loss.label_smoothing * outputs / (outputs - 1))
        if spread is not None:
            text = (
                "{side} spreads the label smoothing over the K - 1 other classes; the recipe "
                "over all K"
            )
            page = "label-smoothing-over-k-or-k-minus-1"
            yield Alternative("label-smoothing", text, page, _with_loss(variant, spread))
    if loss.class_weights:
        text = "{side} leaves out the class weights"
        yield Alternative(
            "weighted-mean", text, "", _with_loss(variant, replace(loss, class_weights=()))
        )


def _reported(side: Side, variant: Variant, null: Tensors) -> Iterator[Alternative]:
    """The gradient is right: only the reported number is another."""
    total = sum(_total(variant, variant.y[cut]) for cut, _ in parts(variant))
    mean = float(null["loss/mean"][0, 0])
    decay = side.recipe.optimizer.decay_rate if side.recipe and side.declares("optimizer") else None
    squares = sum(float(np.square(p).sum()) for p in variant.parameters.values())
    values = {
        "{side} reports the sum of the loss over the rows and trains on the mean": mean * total,
        "{side} reports half of the loss that it trains on": mean / 2,
        "{side} reports the loss plus the penalty of the weight decay": mean
        + (decay or 0.0) / 2 * squares,
    }
    if len(parts(variant)) > 1:
        for place, told in ((0, "first"), (-1, "last")):
            rows, _ = parts(variant)[place]
            alone = compute(variant, [(rows, 1.0)])["loss/mean"]
            values[f"{{side}} reports the loss of the {told} batch of an update only"] = float(
                alone[0, 0]
            )
        values["{side} reports the sum of the losses of an update's batches"] = mean * len(
            parts(variant)
        )
    after, before = side.parameters(side.update + 1), side.series("loss", side.update - 1)
    if after.keys() == variant.parameters.keys():
        later = compute(replace(variant, parameters=after))["loss/mean"]
        values["{side} reports the loss after the update, not before it"] = float(later[0, 0])
    if before is not None:
        values["{side} reports the loss of the update before"] = before
    for text, value in values.items():
        yield Alternative("loss-reported", text, "", null | {"loss/mean": np.full((1, 1), value)})
