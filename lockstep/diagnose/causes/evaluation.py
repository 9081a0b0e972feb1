"""The alternatives of what is read off the parameters: running statistics, their moving average,
and the metrics of an epoch.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from lockstep.diagnose.causes import passes
from lockstep.diagnose.causes.alternatives import Alternative, fitted
from lockstep.diagnose.causes.knobs import changed, fitted_knobs, other_choices
from lockstep.diagnose.causes.side import Side, prepared_data
from lockstep.diagnose.causes.tensors import Tensors, family, times
from lockstep.oracle.arithmetic import Array, Exact
from lockstep.oracle.average import averaged, start_average, update_average
from lockstep.oracle.trajectory import evaluate, rows_of
from lockstep.recipe import Average, Model, Recipe
from lockstep.records.contents import PARTS

__all__ = [
    "average_alternatives",
    "average_null",
    "average_recorded",
    "metric_alternatives",
    "metric_null",
    "metric_recorded",
    "statistics_alternatives",
    "statistics_null",
    "statistics_recorded",
]


# ---- running statistics


def statistics_recorded(side: Side) -> Tensors:
    """Running mean and variance after the update."""
    return family("statistics", side.statistics(side.update + 1))


def statistics_null(side: Side) -> Tensors | None:
    """The statistics as the recipe updates them; None where the batch was not recorded."""
    return _statistics(side, side.recipe.model) if side.recipe else None


def statistics_alternatives(side: Side, recorded: Tensors) -> Iterator[Alternative]:
    """The known other ways, those with a free number last."""
    if side.recipe is None:
        return
    model = side.recipe.model
    mirrored = _statistics(side, replace(model, norm_momentum=1 - model.norm_momentum))
    if mirrored is not None:
        text = "{side} keeps the share of the running statistics that the recipe replaces"
        yield Alternative("momentum-complement", text, "batchnorm-momentum", mirrored)
    text = "{side} does not update the running statistics"
    before = family("statistics", side.statistics(side.update))
    yield Alternative("update-skipped", text, "", before)

    def with_model(other: Model) -> Tensors | None:
        return _statistics(side, other)

    yield from other_choices("model", model, ["norm_variance"], with_model)
    yield from fitted_knobs("model", model, ["norm_momentum"], with_model, recorded)


def _statistics(side: Side, model: Model) -> Tensors | None:
    """The statistics after the update, by a model; None where they cannot be computed."""
    variant = passes.variant_of(side)
    before = side.statistics(side.update)
    if variant is None or not before or not 0 < model.norm_momentum <= 1:
        return None
    return passes.statistics(replace(variant, recipe=replace(variant.recipe, model=model)), before)


# ---- the moving average


def average_recorded(side: Side) -> Tensors:
    """The average as it is read after the update."""
    return family("average", side.below(f"average/{side.update + 1}/"))


def average_null(side: Side) -> Tensors | None:
    """The average as the recipe keeps it; None where the parameters were not recorded."""
    return _averaged(side, side.recipe.average) if side.recipe else None


def average_alternatives(side: Side, recorded: Tensors) -> Iterator[Alternative]:
    """The known other ways, those with a free number last."""
    if side.recipe is None:
        return
    average = side.recipe.average
    yield from _started_otherwise(side, average)
    if average.decay:
        mirrored = _averaged(side, replace(average, decay=1 - average.decay))
        if mirrored is not None:
            share = f"{1 - average.decay:.4g}"
            text = f"{{side}} keeps 1 minus the recipe's share of the average: {share}"
            yield Alternative("average-decay", text, "", mirrored)
    before = side.parameters(side.update)
    not_averaged = {
        "the parameters themselves": side.parameters(side.update + 1),
        "the parameters before the update": before,
    }
    for words, parameters in not_averaged.items():
        text = f"{{side}}'s average is {words}"
        tensors = family("average", parameters)
        yield Alternative("average-start", text, "ema-starts-at-zero", tensors)
    early = _averaged(side, average, parameters=before)
    if early is not None:
        text = "{side} averages the parameters from before each update"
        yield Alternative("average-late", text, "", early)

    def with_decay(decay: float) -> Tensors | None:
        other = changed(average, decay=decay)
        return None if other is None else _averaged(side, other)

    text = (
        "{side} keeps {value} of the average at each update; the recipe says "
        f"{average.decay:.4g}"
    )
    span = (0.0, 1 - 1e-9)
    yield from fitted("average-decay", text, "", with_decay, recorded, average.decay, span)


def _started_otherwise(side: Side, average: Average) -> Iterator[Alternative]:
    """An average that starts at zero or from a copy, or is debiased or not, against the recipe."""
    start = "copy" if average.start == "zero" else "zero"
    others = {
        "start": changed(average, start=start, debias=False),
        "debias": changed(average, debias=not average.debias),
    }
    for knob, other in others.items():
        tensors = None if other is None else _averaged_from_start(side, other)
        if tensors is not None:
            value = str(getattr(other, knob)).lower()
            mine = str(getattr(average, knob)).lower()
            text = f"{{side}} has average.{knob} = {value}; the recipe says {mine}"
            yield Alternative("average-start", text, "ema-starts-at-zero", tensors)


def _averaged(side: Side, average: Average, *, parameters: Tensors | None = None) -> Tensors | None:
    """The average after the update, from that before it; `parameters` in the place of the recorded
    ones. None where those were not recorded.
    """
    updates = side.update
    following = parameters or side.parameters(updates + 1)
    if updates <= 0:
        before = start_average(average, side.parameters(0))
    else:
        # what is read of a debiased average is divided by its weight
        mine = side.recipe.average if side.recipe else average
        weight = 1 - mine.decay**updates if mine.debias else 1.0
        recorded = side.below(f"average/{updates}/", agreed=True)
        before = times(weight, recorded)
    after = _moved(average, before, following)
    return None if after is None else _read(average, after, updates + 1)


def _averaged_from_start(side: Side, average: Average) -> Tensors | None:
    """The average after the update, from the first parameters on; None where any were not
    recorded.
    """
    moving: Tensors | None = start_average(average, side.parameters(0))
    for update in range(side.update + 1):
        moving = None if moving is None else _moved(average, moving, side.parameters(update + 1))
    return None if moving is None else _read(average, moving, side.update + 1)


def _moved(average: Average, before: Tensors, parameters: Tensors) -> Tensors | None:
    """The average after one more update; None where its parameters were not recorded."""
    if not before or not parameters.keys() >= before.keys():
        return None
    return update_average(average, before, parameters, Exact())


def _read(average: Average, moving: Tensors, updates: int) -> Tensors:
    """The average as it is read after so many updates."""
    return family("average", averaged(average, moving, updates, Exact()))


# ---- the metrics of an epoch


def metric_recorded(side: Side) -> Tensors:
    """The metrics at the end of the epoch that the update is the last of."""
    length = side.trace.header.get("updates_per_epoch", 1)
    if (side.update + 1) % length:
        return {}
    place = (side.update + 1) // length - 1 - side.trace.first_update // length
    tensors: Tensors = {}
    for name, array in side.trace.arrays.items():
        if name.startswith("epochs/") and 0 <= place < len(array):
            tensors[f"metrics/{name.removeprefix('epochs/')}"] = _number(array[place])
    return tensors


def metric_null(side: Side) -> Tensors | None:
    """The metrics of the recorded parameters; None where these, or the data, are not to be had."""
    return _metrics(side, side.update + 1)


def metric_alternatives(side: Side, recorded: Tensors) -> Iterator[Alternative]:
    """The known other ways; none has a free number."""
    updates = side.update + 1
    null = _metrics(side, updates)
    if null is None or side.recipe is None:
        return
    yield from _measured_otherwise(side)
    yield from _of_swapped_parts(null)
    yield from _running_loss(side, null)
    yield from _accuracies(side, side.recipe, null)


def _number(value: float) -> Array:
    """A number as (1, 1)."""
    return np.full((1, 1), float(value))


def _measured_otherwise(side: Side) -> Iterator[Alternative]:
    """Other parameters, other statistics, or the mean of the batches' means."""
    updates = side.update + 1
    options = [
        Alternative(
            "metrics-stale",
            "{side} measures the parameters from before the last update",
            "",
            _metrics(side, side.update) or {},
        ),
        Alternative(
            "metrics-in-training-mode",
            "{side} measures in training mode: by the rows' own statistics",
            "",
            _metrics(side, updates, training=True) or {},
        ),
        Alternative(
            "metrics-in-training-mode",
            "{side} measures in training mode, batch by batch",
            "",
            _metrics(side, updates, training=True, by_batch=True) or {},
        ),
        Alternative(
            "mean-of-means",
            "{side} takes the mean of the batches' means; the recipe takes the mean over the rows",
            "epoch-loss-mean-of-means",
            _metrics(side, updates, by_batch=True) or {},
        ),
    ]
    average = side.below(f"average/{updates}/")
    if average:
        text = "{side} measures the moving average of the parameters"
        tensors = _metrics(side, updates, parameters=average) or {}
        options.append(Alternative("metrics-of-average", text, "", tensors))
    yield from (alternative for alternative in options if alternative.tensors)


def _of_swapped_parts(null: Tensors) -> Iterator[Alternative]:
    """The metrics of the training rows for those of the held-out rows, and the other way round."""
    train, held_out = PARTS
    swapped: Tensors = {}
    for name, value in null.items():
        other = name.replace(train, "?").replace(held_out, train).replace("?", held_out)
        swapped[other] = value
    text = "{side} takes the held-out rows for the training rows"
    yield Alternative("metrics-swapped", text, "", swapped)


def _running_loss(side: Side, null: Tensors) -> Iterator[Alternative]:
    """The mean of the losses that the epoch's updates reported."""
    length = side.trace.header["updates_per_epoch"]
    losses = []
    for update in range(side.update, side.update - length, -1):
        loss = side.series("loss", update)
        if loss is None:
            return
        losses.append(loss)
    running = null | {"metrics/train_loss": _number(float(np.mean(losses)))}
    text = "{side} reports the mean of the updates' losses: each of other parameters"
    yield Alternative("mean-of-means", text, "epoch-loss-mean-of-means", running)


def _accuracies(side: Side, recipe: Recipe, null: Tensors) -> Iterator[Alternative]:
    """Another threshold, per cent, or the share of wrong answers."""
    last = f"linear{len(recipe.model.hidden) + 1}.bias"
    parameters = side.parameters(side.update + 1)
    if recipe.loss.spec.link == "sigmoid" and last in parameters:
        moved_parameters = parameters | {last: parameters[last] - 0.5}
        moved = _metrics(side, side.update + 1, parameters=moved_parameters) or {}
        accuracies = {name: value for name, value in moved.items() if name.endswith("accuracy")}
        text = (
            "{side} takes a logit for a probability: it counts as positive what is above 0.5, not "
            "above 0"
        )
        yield Alternative("accuracy-other", text, "", null | accuracies)
    for words, factor, offset in (
        ("in per cent", 100.0, 0.0),
        ("as the share of wrong answers", -1.0, 1.0),
    ):
        other = dict(null)
        for name, value in null.items():
            if name.endswith("accuracy"):
                other[name] = factor * value + offset
        yield Alternative("accuracy-other", f"{{side}} reports the accuracy {words}", "", other)


def _metrics(
    side: Side,
    updates: int,
    *,
    parameters: Tensors | None = None,
    training: bool = False,
    by_batch: bool = False,
) -> Tensors | None:
    """The metrics after so many updates; None where they cannot be computed.

    Args:
        side: gives recipe, data and running statistics.
        updates: how many were done.
        parameters: what is measured; None: the parameters of the side.
        training: batch normalisation takes the rows' own statistics.
        by_batch: the mean over the batches' metrics, not over the rows.
    """
    recipe = side.recipe
    parameters = parameters or side.parameters(updates)
    if recipe is None or not parameters or "recipe" not in side.trace.header:
        return None
    data = prepared_data(recipe, side.trace.header["data_hash"])
    if data is None or (training and recipe.model.norm != "batch"):
        return None
    rounded = rows_of(recipe, data)
    train, held_out = PARTS
    rows = {
        train: (rounded.train_x_ND, rounded.train_y_N),
        held_out: (rounded.held_out_x_ND, rounded.held_out_y_N),
    }
    statistics = None if training else side.statistics(updates)
    names = ("loss", "mae") if recipe.loss.predicts_number else ("loss", "accuracy")
    tensors: Tensors = {}
    for part, (x_ND, y_N) in rows.items():
        size = recipe.training.batch if by_batch else len(y_N)
        cuts = [slice(begin, begin + size) for begin in range(0, len(y_N), size)]
        metrics = [
            evaluate(parameters, statistics, x_ND[cut], y_N[cut], recipe, Exact())[0]
            for cut in cuts
        ]
        for name in names:
            values = [float(of_cut[name]) for of_cut in metrics]
            tensors[f"metrics/{part}_{name}"] = _number(float(np.mean(values)))
    return tensors
