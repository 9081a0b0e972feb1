"""What is read off the parameters: running statistics, their moving average, and the metrics of an
epoch.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from lockstep.diagnose.causes import passes
from lockstep.diagnose.causes.judge import Alternative, Tensors, fitted
from lockstep.diagnose.causes.knobs import changed, fitted_knobs, other_choices
from lockstep.diagnose.causes.side import Side, prepared_data
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
    return {f"statistics/{name}": array for name, array in side.statistics(side.update + 1).items()}


def statistics_null(side: Side) -> Tensors | None:
    """As the recipe updates them; None where the batch was not recorded."""
    return _statistics(side, side.recipe.model) if side.recipe else None


def statistics_alternatives(side: Side, found: Tensors) -> Iterator[Alternative]:
    """The known other ways, those with a free number last."""
    if side.recipe is None:
        return
    model, before = side.recipe.model, side.statistics(side.update)
    mirrored = _statistics(side, replace(model, norm_momentum=1 - model.norm_momentum))
    if mirrored is not None:
        text = "{side} keeps the share of the running statistics that the recipe replaces"
        yield Alternative("momentum-complement", text, "batchnorm-momentum", mirrored)
    kept = {f"statistics/{name}": array for name, array in before.items()}
    yield Alternative("update-skipped", "{side} does not update the running statistics", "", kept)
    yield from other_choices(
        "model", model, ["norm_variance"], lambda other: _statistics(side, other)
    )
    yield from fitted_knobs(
        "model", model, ["norm_momentum"], lambda other: _statistics(side, other), found
    )


def _statistics(side: Side, model: Model) -> Tensors | None:
    variant, before = passes.variant_of(side), side.statistics(side.update)
    if variant is None or not before or not 0 < model.norm_momentum <= 1:
        return None
    return passes.statistics(replace(variant, recipe=replace(variant.recipe, model=model)), before)


# ---- the moving average


def average_recorded(side: Side) -> Tensors:
    """The average as it is read after the update."""
    return {
        f"average/{name}": array
        for name, array in side.below(f"average/{side.update + 1}/").items()
    }


def average_null(side: Side) -> Tensors | None:
    """As the recipe keeps it; None where the parameters were not recorded."""
    return _averaged(side, side.recipe.average) if side.recipe else None


def average_alternatives(side: Side, found: Tensors) -> Iterator[Alternative]:
    """The known other ways, those with a free number last."""
    if side.recipe is None:
        return
    average = side.recipe.average
    after, before = side.parameters(side.update + 1), side.parameters(side.update)
    starts = {
        "start": changed(
            average, start="copy" if average.start == "zero" else "zero", debias=False
        ),
        "debias": changed(average, debias=not average.debias),
    }
    for knob, other in starts.items():
        tensors = None if other is None else _averaged(side, other, whole=True)
        if other is not None and tensors is not None:
            value, mine = (str(getattr(part, knob)).lower() for part in (other, average))
            text = f"{{side}} has average.{knob} = {value}; the recipe says {mine}"
            yield Alternative("average-start", text, "ema-starts-at-zero", tensors)
    mirrored = _averaged(side, replace(average, decay=1 - average.decay)) if average.decay else None
    if mirrored is not None:
        text = f"{{side}} keeps 1 minus the recipe's share of the average: {1 - average.decay:.4g}"
        yield Alternative("average-decay", text, "", mirrored)
    for parameters, told in (
        (after, "the parameters themselves"),
        (before, "the parameters before the update"),
    ):
        named = {f"average/{name}": array for name, array in parameters.items()}
        yield Alternative(
            "average-start", f"{{side}}'s average is {told}", "ema-starts-at-zero", named
        )
    early = _averaged(side, average, parameters=before)
    if early is not None:
        yield Alternative(
            "average-late", "{side} averages the parameters from before each update", "", early
        )

    def with_decay(decay: float) -> Tensors | None:
        other = changed(average, decay=decay)
        return None if other is None else _averaged(side, other)

    text = (
        f"{{side}} keeps {{value}} of the average at each update; the recipe says "
        f"{average.decay:.4g}"
    )
    yield from fitted("average-decay", text, "", with_decay, found, average.decay, (0.0, 1 - 1e-9))


def _averaged(
    side: Side, average: Average, *, parameters: Tensors | None = None, whole: bool = False
) -> Tensors | None:
    """The average after the update from that before it; `whole`: from the first parameters on, all
    recorded.
    """
    done, mine = side.update, side.recipe.average if side.recipe else average
    updates = range(done + 1) if whole else range(done, done + 1)
    if whole or done <= 0:
        kept = start_average(average, side.parameters(0))
    else:
        weight = 1 - mine.decay**done if mine.debias and done else 1.0
        kept = {
            name: array * weight
            for name, array in side.below(f"average/{done}/", agreed=True).items()
        }
    for update in updates:
        following = parameters or side.parameters(update + 1)
        if not kept or not following.keys() >= kept.keys():
            return None
        kept = update_average(average, kept, following, Exact())
    return {
        f"average/{name}": array
        for name, array in averaged(average, kept, done + 1, Exact()).items()
    }


# ---- the metrics of an epoch


def metric_recorded(side: Side) -> Tensors:
    """The metrics at the end of the epoch that the update is the last of."""
    length = side.trace.header.get("updates_per_epoch", 1)
    if (side.update + 1) % length:
        return {}
    place = (side.update + 1) // length - 1 - side.trace.first_update // length
    found = {name: array for name, array in side.trace.arrays.items() if name.startswith("epochs/")}
    return {
        f"metrics/{name.removeprefix('epochs/')}": np.full((1, 1), float(array[place]))
        for name, array in found.items()
        if 0 <= place < len(array)
    }


def metric_null(side: Side) -> Tensors | None:
    """The metrics of the recorded parameters; None where these, or the data, are not to be had."""
    return _metrics(side, side.update + 1)


def metric_alternatives(side: Side, found: Tensors) -> Iterator[Alternative]:
    """The known other ways; none has a free number."""
    null = _metrics(side, side.update + 1)
    if null is None or side.recipe is None:
        return
    options = [
        (
            "metrics-stale",
            "{side} measures the parameters from before the last update",
            "",
            _metrics(side, side.update),
        ),
        (
            "metrics-in-training-mode",
            "{side} measures in training mode: by the rows' own statistics",
            "",
            _metrics(side, side.update + 1, training=True),
        ),
        (
            "metrics-in-training-mode",
            "{side} measures in training mode, batch by batch",
            "",
            _metrics(side, side.update + 1, training=True, by_batch=True),
        ),
        (
            "mean-of-means",
            "{side} takes the mean of the batches' means; the recipe the mean over the rows",
            "epoch-loss-mean-of-means",
            _metrics(side, side.update + 1, by_batch=True),
        ),
    ]
    average = side.below(f"average/{side.update + 1}/")
    if average:
        options.append(
            (
                "metrics-of-average",
                "{side} measures the moving average of the parameters",
                "",
                _metrics(side, side.update + 1, parameters=average),
            )
        )
    yield from (
        Alternative(key, text, page, tensors)
        for key, text, page, tensors in options
        if tensors is not None
    )
    swapped = {name.replace(PARTS[0], "?").replace(PARTS[1], PARTS[0]).replace("?", PARTS[1]): value
               for name, value in null.items()}  # fmt: skip
    yield Alternative(
        "metrics-swapped", "{side} takes the held-out rows for the training rows", "", swapped
    )
    losses = [
        side.series("loss", side.update - i) for i in range(side.trace.header["updates_per_epoch"])
    ]
    if None not in losses:
        running = np.full((1, 1), np.mean([loss for loss in losses if loss is not None]))
        text = "{side} reports the mean of the updates' losses: each of other parameters"
        yield Alternative(
            "mean-of-means",
            text,
            "epoch-loss-mean-of-means",
            null | {"metrics/train_loss": running},
        )
    last = f"linear{len(side.recipe.model.hidden) + 1}.bias"
    parameters = side.parameters(side.update + 1)
    if side.recipe.loss.spec.link == "sigmoid" and last in parameters:
        moved = (
            _metrics(side, side.update + 1, parameters=parameters | {last: parameters[last] - 0.5})
            or {}
        )
        right = {name: value for name, value in moved.items() if name.endswith("accuracy")}
        text = (
            "{side} takes a logit for a probability: it counts as positive what is above 0.5, "
            "not above 0"
        )
        yield Alternative("accuracy-other", text, "", null | right)
    for told, factor, offset in (
        ("in per cent", 100.0, 0.0),
        ("as the share of wrong answers", -1.0, 1.0),
    ):
        other = {
            name: factor * value + offset if name.endswith("accuracy") else value
            for name, value in null.items()
        }
        yield Alternative("accuracy-other", f"{{side}} reports the accuracy {told}", "", other)


def _metrics(
    side: Side,
    done: int,
    *,
    parameters: Tensors | None = None,
    training: bool = False,
    by_batch: bool = False,
) -> Tensors | None:
    recipe, parameters = side.recipe, parameters or side.parameters(done)
    if recipe is None or not parameters or "recipe" not in side.trace.header:
        return None
    data = prepared_data(recipe, side.trace.header["data_hash"])
    if data is None or (training and recipe.model.norm != "batch"):
        return None
    seen, statistics = rows_of(recipe, data), side.statistics(done)
    found: Tensors = {}
    for part, x_ND, y_N in zip(
        PARTS,
        (seen.train_x_ND, seen.held_out_x_ND),
        (seen.train_y_N, seen.held_out_y_N),
        strict=True,
    ):
        size = recipe.training.batch if by_batch else len(y_N)
        cuts = [slice(begin, begin + size) for begin in range(0, len(y_N), size)]
        for name in ("loss", "accuracy") if not recipe.loss.predicts_number else ("loss", "mae"):
            values = [
                _one(recipe, parameters, statistics, x_ND[cut], y_N[cut], training)[name]
                for cut in cuts
            ]
            found[f"metrics/{part}_{name}"] = np.full((1, 1), np.mean(values))
    return found


def _one(
    recipe: Recipe,
    parameters: Tensors,
    statistics: Tensors,
    x_BD: Array,
    y_B: Array,
    training: bool,
) -> dict[str, float]:
    """The metrics over some rows; in training mode batch normalisation takes their own
    statistics.
    """
    known = None if training else statistics
    found, _ = evaluate(parameters, known, x_BD, y_B, recipe, Exact())
    return {name: float(value) for name, value in found.items()}
