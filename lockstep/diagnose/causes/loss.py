"""The loss's alternatives: sum for mean, other sizes, labels, weights, another loss, or a loss
reported otherwise.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from lockstep.diagnose.causes.alternatives import Alternative
from lockstep.diagnose.causes.knobs import changed, fitted_knobs
from lockstep.diagnose.causes.passes import PassVariant, compute, parts
from lockstep.diagnose.causes.side import Labels, Side
from lockstep.diagnose.causes.tensors import Tensors
from lockstep.recipe import CrossEntropy, Huber, Loss, SquaredError

__all__ = ["alternatives", "fits"]


def alternatives(side: Side, variant: PassVariant, null: Tensors) -> Iterator[Alternative]:
    """The known other ways without a free number; `null` is what the recipe's way gives."""
    yield from _other_divisors(variant)
    yield from _other_labels(variant)
    yield from _other_losses(variant)
    yield from _reported_otherwise(side, variant, null)


def fits(variant: PassVariant, recorded: Tensors) -> Iterator[Alternative]:
    """The numbers of the recipe's loss."""
    loss = variant.recipe.loss
    yield from fitted_knobs(
        "loss", loss, list(loss.knobs()), lambda other: _with_loss(variant, other), recorded
    )


def _with_loss(variant: PassVariant, loss: Loss) -> Tensors:
    return compute(replace(variant, recipe=replace(variant.recipe, loss=loss)))


def _outputs(variant: PassVariant) -> int:
    """The number of the model's outputs."""
    last = f"linear{len(variant.recipe.model.hidden) + 1}.weight"
    return int(variant.parameters[last].shape[-1])


def _total(variant: PassVariant, y_B: Labels) -> float:
    """What the mean of a batch divides by: the sum of its rows' weights."""
    if not isinstance(variant.recipe.loss, CrossEntropy):
        return float(len(y_B))
    weights = np.array(variant.recipe.loss.class_weights or (1.0,) * _outputs(variant))
    return float(weights[y_B[y_B >= 0]].sum())


def _counted(y_B: Labels) -> int:
    """The number of rows that count."""
    return int(np.count_nonzero(y_B >= 0))


def _other_divisors(variant: PassVariant) -> Iterator[Alternative]:
    """The right sum divided by something else."""
    loss = variant.recipe.loss
    size = variant.recipe.training.batch
    outputs = _outputs(variant)

    def multiplied(
        key: str, text: str, page: str, factor: Callable[[Labels], float]
    ) -> Alternative:
        return Alternative(key, text, page, compute(replace(variant, factor=factor)))

    of_rows = "the rows" if len(parts(variant)) == 1 else "the rows of each batch"
    yield multiplied(
        "sum-for-mean",
        f"{{side}} sums the loss over the rows; the recipe takes a mean over {of_rows}",
        "optax-losses-do-not-reduce",
        lambda y_B: _total(variant, y_B),
    )
    yield multiplied(
        "full-size-mean",
        f"{{side}} divides a short batch by the full size of {size} rows; the recipe takes a mean "
        f"over {of_rows}",
        "padded-batch-in-the-mean",
        lambda y_B: len(y_B) / size,
    )
    page = "l2-loss-is-half"
    yield multiplied("half-loss", "{side} takes half of the loss", page, lambda y_B: 0.5)
    yield multiplied("half-loss", "{side} takes twice the loss", page, lambda y_B: 2.0)
    if outputs > 1:
        yield multiplied(
            "mean-over-elements",
            f"{{side}} divides the loss by the {outputs} outputs as well: a mean over all elements",
            "kl-div-mean-over-elements",
            lambda y_B: 1 / outputs,
        )
    if loss.class_weights:
        yield multiplied(
            "weighted-mean",
            "{side} divides the weighted loss by the number of rows; the recipe divides it by the "
            "sum of their weights",
            "weighted-cross-entropy-mean",
            lambda y_B: _total(variant, y_B) / _counted(y_B),
        )
    if isinstance(loss, Huber):
        delta = loss.delta
        yield multiplied(
            "other-loss",
            "{side} divides the loss by delta, as SmoothL1Loss(beta) does",
            "huber-delta-or-smooth-l1-beta",
            lambda y_B: 1 / delta,
        )
    if (variant.y < 0).any() and not loss.predicts_number:
        yield multiplied(
            "ignored-label",
            "{side} counts the rows with an ignored label in the mean",
            "ignored-label-minus-one",
            lambda y_B: _counted(y_B) / len(y_B),
        )


def _other_labels(variant: PassVariant) -> Iterator[Alternative]:
    """The right loss of other labels."""
    loss = variant.recipe.loss
    if isinstance(loss, CrossEntropy) and (variant.y < 0).any():
        labels = {"the last class": _outputs(variant) - 1, "the first class": 0}
        for words, label in labels.items():

            def put(y_B: Labels, label: int = label) -> Labels:
                return np.where(y_B < 0, label, y_B)

            text = f"{{side}} takes an ignored label for {words}"
            tensors = compute(replace(variant, labels=put))
            yield Alternative("ignored-label", text, "ignored-label-minus-one", tensors)
    if isinstance(loss, SquaredError):
        text = (
            "{side} subtracts a row of targets from a column of outputs: each output meets every "
            "target"
        )
        broadcast = replace(
            variant, labels=lambda y_B: np.full_like(y_B, y_B.mean()), offset=lambda y_B: y_B.var()
        )
        page = "mse-broadcasts-column-and-row"
        yield Alternative("mse-broadcast", text, page, compute(broadcast))


def _other_losses(variant: PassVariant) -> Iterator[Alternative]:
    """Another loss, or the outputs squashed once more."""
    loss = variant.recipe.loss
    if isinstance(loss, CrossEntropy):
        yield from _other_targets(variant, loss)
    if loss.predicts_number:
        other = Huber() if isinstance(loss, SquaredError) else SquaredError()
        text = f"{{side}} has the loss {other.name}; the recipe says {loss.name}"
        tensors = _with_loss(variant, other)
        yield Alternative("other-loss", text, "huber-delta-or-smooth-l1-beta", tensors)
    else:
        squash = loss.spec.link
        text = f"{{side}} puts the outputs through a {squash} before a loss that has its own"
        tensors = compute(replace(variant, squash=squash))
        yield Alternative("softmax-twice", text, "sigmoid-then-log", tensors)


def _other_targets(variant: PassVariant, loss: CrossEntropy) -> Iterator[Alternative]:
    """No label smoothing, or one over the K - 1 other classes; no class weights."""
    outputs = _outputs(variant)
    if loss.label_smoothing:
        text = f"{{side}} leaves out the label smoothing of {loss.label_smoothing:.4g}"
        tensors = _with_loss(variant, replace(loss, label_smoothing=0.0))
        yield Alternative("label-smoothing", text, "", tensors)
        spread = changed(loss, label_smoothing=loss.label_smoothing * outputs / (outputs - 1))
        if spread is not None:
            text = (
                "{side} spreads the label smoothing over the K - 1 other classes; the recipe "
                "spreads it over all K"
            )
            page = "label-smoothing-over-k-or-k-minus-1"
            yield Alternative("label-smoothing", text, page, _with_loss(variant, spread))
    if loss.class_weights:
        text = "{side} leaves out the class weights"
        tensors = _with_loss(variant, replace(loss, class_weights=()))
        yield Alternative("weighted-mean", text, "", tensors)


def _reported_otherwise(side: Side, variant: PassVariant, null: Tensors) -> Iterator[Alternative]:
    """The gradient is right: only the reported number is another."""

    def reported(text: str, value: float) -> Alternative:
        return Alternative("loss-reported", text, "", null | {"loss/mean": np.full((1, 1), value)})

    cuts = parts(variant)
    mean = _mean(null)
    total = sum(_total(variant, variant.y[cut]) for cut, _ in cuts)
    text = "{side} reports the sum of the loss over the rows and trains on the mean"
    yield reported(text, mean * total)
    yield reported("{side} reports half of the loss that it trains on", mean / 2)
    decay = side.recipe.optimizer.decay_rate if side.recipe and side.declares("optimizer") else None
    squares = sum(float(np.square(array).sum()) for array in variant.parameters.values())
    text = "{side} reports the loss plus the penalty of the weight decay"
    yield reported(text, mean + (decay or 0.0) / 2 * squares)
    if len(cuts) > 1:
        for place, word in ((0, "first"), (-1, "last")):
            rows, _ = cuts[place]
            alone = compute(variant, [(rows, 1.0)])
            text = f"{{side}} reports the loss of the {word} batch of an update only"
            yield reported(text, _mean(alone))
        text = "{side} reports the sum of the losses of an update's batches"
        yield reported(text, mean * len(cuts))
    after = side.parameters(side.update + 1)
    if after.keys() == variant.parameters.keys():
        text = "{side} reports the loss after the update, not before it"
        yield reported(text, _mean(compute(replace(variant, parameters=after))))
    before = side.series("loss", side.update - 1)
    if before is not None:
        yield reported("{side} reports the loss of the update before", before)


def _mean(tensors: Tensors) -> float:
    """The mean loss of a pass."""
    return float(tensors["loss/mean"][0, 0])
