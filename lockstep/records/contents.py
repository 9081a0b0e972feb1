"""What a file of a run must hold: the names, shapes and dtypes of its arrays, as they follow from
recipe and header.

A file's seal shows damage, no more: anybody can seal a file again. What follows from the recipe is
therefore checked before an array is used.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lockstep.data_prep import PreparedData, layer_sizes, updates_per_epoch
from lockstep.errors import InputError
from lockstep.files import headers
from lockstep.files.headers import check_header
from lockstep.recipe import Loss, Recipe
from lockstep.records.bounds import SAFETY
from lockstep.records.tensor_statistics import STATISTICS
from lockstep.tensor_file import arrays_below

__all__ = [
    "PARTS",
    "UPDATE_SERIES",
    "Form",
    "check_arrays",
    "check_checkpoint",
    "check_data",
    "check_ensemble",
    "check_loop",
    "check_trace",
    "checked_recipe",
    "checkpoint_shapes",
    "metric_names",
    "parameter_shapes",
    "recorded_updates",
    "sizes_of",
    "without_row_axis",
]

UPDATE_SERIES = ("lr", "loss", "grad_norm", "update_norm")
PARTS = ("train", "held_out")
NAMED = 5
"""Names in a message; more are counted."""
WIDENED = 16
"""Updates that a bound's neighbours may lend it their own."""
FLOATS = ("float16", "float32", "float64")

Arrays = Mapping[str, NDArray[Any]]
Shape = tuple[int | None, ...]
"""None stands for any length of at least 1."""


class Form(NamedTuple):
    """What an array must be."""

    shape: Shape
    dtypes: tuple[str, ...]

    def fault(self, array: NDArray[Any]) -> str:
        """What an array is instead, in words; "" for nothing."""
        if array.dtype.name not in self.dtypes:
            return f"{array.dtype}, expected {' or '.join(self.dtypes)}"
        fits = array.ndim == len(self.shape) and all(
            (size or 0) > 0 if wanted is None else size == wanted
            for size, wanted in zip(array.shape, self.shape)
        )
        wanted = ", ".join("any" if size is None else str(size) for size in self.shape)
        return (
            ""
            if fits
            else f"shape {array.shape}, expected ({wanted}{',' * (len(self.shape) == 1)})"
        )


def metric_names(loss: Loss) -> tuple[str, ...]:
    """What a trace records at the end of each epoch: "train_loss", "train_accuracy", ..."""
    kinds = ("loss", "r2", "mae") if loss.predicts_number else ("loss", "accuracy")
    return tuple(f"{part}_{kind}" for part in PARTS for kind in kinds)


def recorded_updates(
    first: int, updates: int, length: int, every: int, detail: Collection[int]
) -> set[int]:
    """After how many updates a run records its parameters: where it begins, at each epoch's end,
    after every so many updates, and before and after those recorded in detail.

    Args:
        first: the update that the run begins with.
        updates: of the whole run.
        length: updates of an epoch.
        every: record after every so many; 0: at epoch ends only.
        detail: the updates recorded in detail.
    """
    due = {first, *range(-(-first // length) * length, updates + 1, length)}
    if every:
        due |= set(range(-(-first // every) * every, updates + 1, every))
    for update in detail:
        due |= {update, update + 1}
    return due


def parameter_shapes(recipe: Recipe, inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
    """Canonical name -> shape of every parameter, weights laid out (in, out)."""
    model = recipe.model
    shapes: dict[str, tuple[int, ...]] = {}
    for i, (layer, fan_in, fan_out) in enumerate(
        layer_sizes(inputs, model.hidden, outputs), start=1
    ):
        shapes[f"{layer}.weight"] = (fan_in, fan_out)
        if model.bias:
            shapes[f"{layer}.bias"] = (fan_out,)
        if model.norm != "none" and i <= len(model.hidden):
            shapes |= {f"norm{i}.weight": (fan_out,), f"norm{i}.bias": (fan_out,)}
    return shapes


def statistic_shapes(recipe: Recipe) -> dict[str, tuple[int, ...]]:
    """Canonical name -> shape of every running statistic."""
    model = recipe.model
    if model.norm != "batch":
        return {}
    return {
        f"norm{i}.{kind}": (units,)
        for i, units in enumerate(model.hidden, start=1)
        for kind in ("mean", "var")
    }


def without_row_axis(array: Any, ndim: int) -> NDArray[Any]:
    """A moment as it is stored: of a parameter with `ndim` axes, a vector's without the row
    axis.
    """
    stored: NDArray[Any] = np.asarray(array)
    return stored[0] if ndim == 1 and stored.ndim == 2 else stored


def checkpoint_shapes(
    recipe: Recipe, shapes: Mapping[str, tuple[int, ...]], update: int, accumulated: int
) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every array of a checkpoint.

    Args:
        recipe: what is trained.
        shapes: of the parameters, by canonical name.
        update: updates done.
        accumulated: batches done of the next one.
    """
    expected = {f"parameters/{name}": shape for name, shape in shapes.items()}
    expected |= {f"statistics/{name}": shape for name, shape in statistic_shapes(recipe).items()}
    if update:
        for name, shape in shapes.items():
            slots = recipe.optimizer.slots(shape)
            expected |= {f"optimizer/{slot}/{name}": of_slot for slot, of_slot in slots.items()}
    if recipe.average.decay:
        expected |= {f"average/{name}": shape for name, shape in shapes.items()}
    if accumulated:
        expected |= {f"accumulated/{name}": shape for name, shape in shapes.items()} | {
            "accumulated/loss": ()
        }
    return expected


def checked_recipe(whose: str, header: Mapping[str, Any]) -> Recipe:
    """The recipe in a header that was checked.

    Raises:
        InputError: no recipe, or not the one whose hash the header has.
    """
    try:
        recipe = Recipe.from_dict(header["recipe"])
    except InputError as error:
        raise InputError(f"{whose}: header: recipe: {error}") from None
    if recipe.hash != header["recipe_hash"]:
        raise InputError(
            f"{whose}: header: recipe_hash: {header['recipe_hash'][:12]}, and the recipe "
            "beside it has "
            f"{recipe.hash[:12]}: changed by hand, or this lockstep reads it as another recipe"
        )
    return recipe


def sizes_of(whose: str, recipe: Recipe, arrays: Arrays, prefix: str) -> tuple[int, int]:
    """Input features and output units of the model: as the recipe says; where its data say it, as
    the weights below `prefix` have them.

    Raises:
        InputError: a weight that is missing or no matrix.
    """
    first, last = (f"{prefix}linear{i}.weight" for i in (1, len(recipe.model.hidden) + 1))
    for name in (first, last):
        if name not in arrays:
            raise InputError(f"{whose}: missing: {name}")
        if arrays[name].ndim != 2 or not arrays[name].size:
            raise InputError(f"{whose}: {name}: shape {arrays[name].shape}, expected a matrix")
    inputs, outputs = arrays[first].shape[0], arrays[last].shape[1]
    if recipe.data.source == "synthetic":
        inputs, outputs = (
            recipe.data.features,
            recipe.data.classes - bool(recipe.loss.ignored_class),
        )
    return inputs, recipe.loss.outputs(outputs)


def check_trace(whose: str, header: dict[str, Any], arrays: Arrays) -> None:
    """Raise InputError unless a recipe's trace holds what its recipe and its header say.

    Args:
        whose: the file, for the message.
        header: as it was read.
        arrays: likewise.

    Raises:
        InputError: a header with a field that is missing, wrong or contradicts another; arrays that
            are missing, extra, or of another shape or dtype; bounds that cannot be.
    """
    check_header(whose, headers.Trace, header)
    recipe = checked_recipe(whose, header)
    _check_position(whose, recipe, header)
    series = _series(header)
    _check_present(whose, arrays, series)  # their lengths bound all that is derived below
    expected = series | _metrics(recipe, header) | _tensors(whose, recipe, header, arrays)
    is_bounded = any(name.startswith("bounds/") for name in arrays)
    if is_bounded and header["backend"] != "oracle":
        raise InputError(
            f"{whose}: has bounds, which an oracle's trace alone has, and is of {header['backend']}"
        )
    if is_bounded:
        expected |= _bounds(header, expected)
    check_arrays(whose, arrays, expected)
    if is_bounded:
        _check_bounds(whose, recipe, header, arrays)


def check_checkpoint(whose: str, header: Any, arrays: Arrays) -> None:
    """Raise InputError unless a checkpoint holds what its recipe and its header say.

    Args:
        whose: the file, for the message.
        header: as it was read.
        arrays: likewise.

    Raises:
        InputError: as `check_trace`.
    """
    check_header(whose, headers.Checkpoint, header)
    recipe = checked_recipe(whose, header)
    update, epoch, batch, accumulated = (
        header[name] for name in ("update", "epoch", "batch", "accumulated")
    )
    many, epochs = recipe.gradient.accumulate, recipe.training.epochs
    if accumulated != batch % many or epoch > epochs or header["batches"] < max(batch, update):
        raise InputError(
            f"{whose}: header: {header['batches']} batches, {update} updates, epoch "
            f"{epoch}, batch {batch} and "
            f"{accumulated} accumulated are no place in a run of {epochs} epochs, {many} "
            "batches an update"
        )
    sizes = sizes_of(whose, recipe, arrays, "parameters/")
    dtypes = ("float64",) if header["backend"] == "oracle" else (recipe.training.dtype,)
    shapes = parameter_shapes(recipe, *sizes)
    parameters = {f"parameters/{name}": Form(shape, dtypes) for name, shape in shapes.items()}
    _check_present(whose, arrays, parameters)  # slots are derived from them
    expected = checkpoint_shapes(recipe, shapes, update, accumulated)
    check_arrays(whose, arrays, {name: Form(shape, dtypes) for name, shape in expected.items()})


def check_data(whose: str, recipe: Recipe, data: PreparedData) -> None:
    """Raise InputError unless prepared data are what a recipe is trained on.

    Raises:
        InputError: a setting of another recipe, or parameters that are not those of its model.
    """
    training, gradient, model, loss = recipe.training, recipe.gradient, recipe.model, recipe.loss
    wanted = {
        "batch": training.batch,
        "drop_last": training.drop_last,
        "epochs": training.epochs,
        "seed": training.seed,
        "accumulate": gradient.accumulate,
        "accumulate_mean": gradient.accumulate_mean,
        "hidden": model.hidden,
        "dropout": model.dropout,
        "outputs": loss.outputs(len(data.classes)),
    }
    for name, value in wanted.items():
        if getattr(data, name) != value:
            raise InputError(
                f"{whose}: header: {name}: {getattr(data, name)}, and the recipe has {value}"
            )
    if bool(data.classes) == loss.predicts_number:
        raise InputError(
            f"{whose}: header: classes: {len(data.classes)} of them do not fit loss.name = "
            f"{loss.name}"
        )
    shapes = parameter_shapes(recipe, len(data.columns), data.outputs)
    check_arrays(
        whose, data.parameters, {name: Form(shape, ("float64",)) for name, shape in shapes.items()}
    )


def check_ensemble(whose: str, header: Any, arrays: Arrays) -> None:
    """Raise InputError unless an ensemble's arrays fit its header and one another; it does not hold
    its recipe.

    Args:
        whose: the file, for the message.
        header: as it was read.
        arrays: likewise.

    Raises:
        InputError: a header with a field that is missing or wrong; arrays that are missing, extra,
            or of other numbers of members, updates or epochs.
    """
    check_header(whose, headers.Ensemble, header)
    updates, length = header["updates"], header["updates_per_epoch"]
    if updates % length:
        raise InputError(
            f"{whose}: header: updates: {updates}, no multiple of the {length} updates_per_epoch"
        )
    dtypes = FLOATS[1:]
    expected = {"lr": Form((updates,), dtypes), "loss": Form((None, updates), dtypes)}
    _check_present(whose, arrays, expected)
    members = len(arrays["loss"]) if "loss" in arrays else 0
    kinds = ("loss", "r2", "mae") if "held_out/r2" in arrays else ("loss", "accuracy")
    expected |= {
        f"held_out/{kind}": Form((members, updates // length), ("float64",)) for kind in kinds
    }
    for name, array in arrays.items():
        if name.startswith("parameters/"):
            expected[name] = Form((members, *array.shape[1:]), dtypes)
    check_arrays(whose, arrays, expected)


def check_loop(whose: str, header: Any, arrays: Arrays) -> None:
    """Raise InputError unless the trace of somebody's own loop holds what its header says.

    Args:
        whose: the file, for the message.
        header: as it was read.
        arrays: likewise.

    Raises:
        InputError: a header with a field that is missing or wrong; arrays whose names no recorder
            writes, or whose shapes contradict the number of updates or one another.
    """
    check_header(whose, headers.Loop, header)
    updates, shapes = header["updates"], dict[str, tuple[int, ...]]()
    if header["updates_per_epoch"] != updates:
        raise InputError(
            f"{whose}: header: updates_per_epoch: must be as many as the {updates} updates"
        )
    if header["detail"] != sorted({update for update in header["detail"] if update < updates}):
        raise InputError(
            f"{whose}: header: detail: must be updates from 0 to {updates - 1}, ascending"
        )
    for name, array in arrays.items():
        place = _LOOP_ARRAY.match(name)
        shown = name if name.isprintable() else repr(name)
        if place is None:
            raise InputError(f"{whose}: extra: {shown}")
        if array.dtype.kind not in "biuf":
            raise InputError(f"{whose}: {shown}: {array.dtype}, expected numbers")
        if place["series"] and array.shape != (updates,):
            raise InputError(f"{whose}: {shown}: shape {array.shape}, expected ({updates},)")
        if place["summary"] and (
            array.shape[1:] != (len(STATISTICS),) or len(array) > updates or array.dtype != "f8"
        ):
            raise InputError(
                f"{whose}: {shown}: {array.dtype} {array.shape}, expected float64 "
                f"({updates}, {len(STATISTICS)})"
            )
        if place["update"] and int(place["update"]) not in header["detail"]:
            raise InputError(f"{whose}: {shown}: is of no update in detail")
        if place["done"]:
            known = shapes.setdefault(place["tensor"], array.shape)
            if int(place["done"]) > updates or array.shape != known or array.dtype.kind != "f":
                raise InputError(
                    f"{whose}: {shown}: {array.dtype} {array.shape}, after one of {updates} "
                    "updates; expected floats "
                    f"{known}"
                )


_LOOP_ARRAY = re.compile(
    r"(?P<series>updates/(loss|lr\d*|grad_norm|update_norm))\Z"
    r"|parameters/(?P<done>0|[1-9]\d{0,15})/(?P<tensor>.+)\Z"
    r"|detail/(?P<update>0|[1-9]\d{0,15})/((batch|forward|gradients|clip)/.+|moments/[^/]+/.+)\Z"
    r"|(?P<summary>statistics/((forward|gradients|clip|parameters)/.+|moments/[^/]+/.+))\Z",
    re.DOTALL,
)
"""What a recorder calls its arrays."""


def check_arrays(whose: str, arrays: Arrays, expected: Mapping[str, Form]) -> None:
    """Raise InputError unless the arrays are those expected.

    Raises:
        InputError: names that are missing or extra, or arrays of another shape or dtype; names
        them.
    """
    faults = []
    missing, extra = expected.keys() - arrays.keys(), arrays.keys() - expected.keys()
    for word, names in (("missing", missing), ("extra", extra)):
        if names:
            faults.append(f"{word}: {_listed(names)}")
    wrong = {
        name: expected[name].fault(arrays[name]) for name in sorted(expected.keys() & arrays.keys())
    }
    faults += [f"{name}: {fault}" for name, fault in wrong.items() if fault]
    if faults:
        more = f" and {len(faults) - NAMED} more" if len(faults) > NAMED else ""
        raise InputError(f"{whose}: {'; '.join(faults[:NAMED])}{more}")


def _check_present(whose: str, arrays: Arrays, expected: Mapping[str, Form]) -> None:
    check_arrays(whose, {name: arrays[name] for name in expected if name in arrays}, expected)


def _check_position(whose: str, recipe: Recipe, header: Mapping[str, Any]) -> None:
    """The numbers of a header, against the recipe and one another."""
    updates, length, first = header["updates"], header["updates_per_epoch"], header["first_update"]
    training, data, faults = recipe.training, recipe.data, []
    dtype = "float64" if header["backend"] == "oracle" else training.dtype
    if header["dtype"] != dtype:
        faults.append(
            f"dtype: {header['dtype']}, and a run of this recipe by {header['backend']} is "
            f"in {dtype}"
        )
    if updates != training.epochs * length:
        faults.append(
            f"updates: {updates}, and {training.epochs} epochs of {length} are "
            f"{training.epochs * length}"
        )
    if data.source == "synthetic":
        batches = updates_per_epoch(data.rows, training.batch, drop_last=training.drop_last)
        wanted = -(-batches // recipe.gradient.accumulate)
        if length != wanted:
            faults.append(f"updates_per_epoch: {length}, and the recipe's is {wanted}")
    if first >= updates:
        faults.append(f"first_update: {first}, of a run of {updates} updates")
    detail = header.get("detail", [])
    if detail != sorted(set(detail)) or any(not first <= update < updates for update in detail):
        faults.append(f"detail: must be updates from {first} to {updates - 1}, ascending")
    begin = header.get("statistics")
    if begin is not None and begin not in (first, first + 1):
        faults.append(f"statistics: {begin}, and the run begins with update {first}")
    if faults:
        raise InputError(f"{whose}: header: {'; '.join(faults)}")


def _series(header: Mapping[str, Any]) -> dict[str, Form]:
    count = header["updates"] - header["first_update"]
    return {f"updates/{name}": Form((count,), (header["dtype"],)) for name in UPDATE_SERIES}


def _metrics(recipe: Recipe, header: Mapping[str, Any]) -> dict[str, Form]:
    epochs = recipe.training.epochs - header["first_update"] // header["updates_per_epoch"]
    return {f"epochs/{name}": Form((epochs,), ("float64",)) for name in metric_names(recipe.loss)}


def _tensors(
    whose: str, recipe: Recipe, header: Mapping[str, Any], arrays: Arrays
) -> dict[str, Form]:
    """Parameters, average, prediction, detail and statistics."""
    last, dtypes = header["updates"], (header["dtype"],)
    sizes = sizes_of(whose, recipe, arrays, f"parameters/{last}/")
    shapes = parameter_shapes(recipe, *sizes)
    layers = _layers(recipe, *sizes, trains=False)
    if header["layers"] != list(layers):
        raise InputError(f"{whose}: header: layers: must be {', '.join(layers)}")
    state = {
        "parameters": shapes | statistic_shapes(recipe),
        "average": shapes if recipe.average.decay else {},
    }
    expected = {f"prediction/{layer}": Form((units,), dtypes) for layer, units in layers.items()}
    for done in _recorded(header, arrays):
        for kind, tensors in state.items():
            expected |= {
                f"{kind}/{done}/{name}": Form(shape, dtypes) for name, shape in tensors.items()
            }
    begin, detail = header.get("statistics"), header.get("detail", [])
    if begin is None and not detail:
        return expected
    _check_present(whose, arrays, expected)  # slots are derived from them
    watched = _watched(recipe, header, sizes, shapes)
    for update in detail:
        expected |= {f"detail/{update}/{name}": form for name, form in watched.items()}
    if begin is not None:
        names = [name for name in watched if not name.startswith("batch/")]
        names += [f"{kind}/{name}" for kind, tensors in state.items() for name in tensors]
        rows = Form((last - begin, len(STATISTICS)), ("float64",))
        expected |= {f"statistics/{name}": rows for name in names}
    return expected


def _recorded(header: Mapping[str, Any], arrays: Arrays) -> set[int]:
    """After how many updates the parameters must be there. The first golden files do not say how
    often theirs are; a run that goes on in the midst of an accumulation does not record those that
    it begins with."""
    first, last, length = header["first_update"], header["updates"], header["updates_per_epoch"]
    due = recorded_updates(
        first, last, length, header.get("parameters_every", 0), header.get("detail", ())
    )
    if "parameters_every" not in header:
        numbers = [re.match(r"parameters/(\d{1,15})/", name) for name in arrays]
        due |= {int(number[1]) for number in numbers if number and int(number[1]) <= last}
    if first and not any(name.startswith(f"parameters/{first}/") for name in arrays):
        due.discard(first)
    return due


def _layers(recipe: Recipe, inputs: int, outputs: int, *, trains: bool) -> dict[str, int]:
    """Layer -> units, in order, as they are recorded of a sample, or of a batch in training."""
    model, layers = recipe.model, {} if trains else {"input": inputs}
    for i, units in enumerate(model.hidden, start=1):
        layers[f"linear{i}"] = units
        if model.norm != "none":
            layers[f"norm{i}"] = units
        layers[f"{model.activation}{i}"] = units
        if trains and model.dropout:
            layers[f"dropout{i}"] = units
    layers[f"linear{len(model.hidden) + 1}"] = outputs
    link = recipe.loss.spec.link
    return layers | ({link: outputs} if link and not trains else {})


def _watched(
    recipe: Recipe,
    header: Mapping[str, Any],
    sizes: tuple[int, int],
    shapes: Mapping[str, tuple[int, ...]],
) -> dict[str, Form]:
    """What is recorded of one update in detail. How many rows it was fed, and whether a tensor was
    computed in less than the recipe's dtype, is for the comparison to judge."""
    floats = FLOATS[: FLOATS.index(header["dtype"]) + 1]
    labels = floats if recipe.loss.predicts_number else ("int32", "int64")
    watched = {"batch/x": Form((None, sizes[0]), floats), "batch/y": Form((None,), labels)}
    if recipe.model.dropout:
        hidden = enumerate(recipe.model.hidden, start=1)
        watched |= {f"batch/mask{i}": Form((None, units), ("bool",)) for i, units in hidden}
    layers = _layers(recipe, *sizes, trains=True)
    watched |= {f"forward/{layer}": Form((None, units), floats) for layer, units in layers.items()}
    for family in ("gradients", "clip")[: 1 + (recipe.gradient.clip != "none")]:
        watched |= {f"{family}/{name}": Form(shape, floats) for name, shape in shapes.items()}
    for name, shape in shapes.items():
        slots = recipe.optimizer.slots(shape)
        watched |= {
            f"moments/{slot}/{name}": Form(of_slot, floats) for slot, of_slot in slots.items()
        }
    return watched


def _bounds(header: Mapping[str, Any], bounded: Mapping[str, Form]) -> dict[str, Form]:
    """The bounds of these arrays, always of the whole run; what must be the same bits has none."""
    updates, epochs = header["updates"], header["updates"] // header["updates_per_epoch"]
    shapes: dict[str, Shape] = {
        "updates": (updates,),
        "epochs": (epochs,),
        "statistics": (updates, 1),
    }
    exact = ("updates/lr", "parameters/0/", "average/0/", "prediction/")
    return {
        f"bounds/{name}": Form(shapes.get(name.partition("/")[0], ()), ("float64",))
        for name in bounded
        if not name.startswith(exact) and "/batch/" not in name
    }


def _check_bounds(whose: str, recipe: Recipe, header: Mapping[str, Any], arrays: Arrays) -> None:
    """Raise InputError for bounds that the oracle cannot have derived.

    A bound is a distance: not negative, not NaN, and within what the dtype can hold, of which a
    share has bounds up
    to 1. It is infinite where nothing is known, which is so from some update on: of every array,
    and not of all of the run. Of a series' neighbours each lends its bound to the next, so that one
    may be infinite some updates earlier.
    """
    bounds = arrays_below(arrays, "bounds/")
    largest, length = float(np.finfo(recipe.dtype).max), header["updates_per_epoch"]
    begins: list[int] = []
    ends: list[int] = []
    for name, bound in bounds.items():
        finite = np.isfinite(bound)
        most = 1.0 if name.endswith("accuracy") else _reach(name, largest)
        wrong = np.isnan(bound) | (bound < 0) | (finite & (bound > most))
        if wrong.any():
            raise InputError(
                f"{whose}: bounds/{name}: {bound[wrong].flat[0]:g}; a bound is at least 0 "
                "and, where it is finite, at "
                f"most {most:.3g}"
            )
        updates, known = _updates_of(name, bound, length), finite.reshape(-1)
        if (known[1:] & ~known[:-1]).any():
            raise InputError(f"{whose}: bounds/{name}: is finite again after it was infinite")
        begins += [update for update, is_known in zip(updates, known) if not is_known][:1]
        ends += [update for update, is_known in zip(updates, known) if is_known][-1:]
    first, last = min(begins, default=header["updates"]), max(ends, default=-1)
    if last < 0 or not np.isfinite(bounds["updates/loss"][0]):
        raise InputError(
            f"{whose}: bounds are infinite from the first update on: they judge nothing"
        )
    if last >= first + WIDENED:
        raise InputError(
            f"{whose}: bounds are infinite from update {first} on, and others are finite at "
            f"{last}: where nothing is "
            "known it is so in every array"
        )


def _reach(name: str, largest: float) -> float:
    """The largest bound that can have been derived: members that leave the range in which a square
    stays finite have none; what a square or a loss over all rows is recorded of may reach the
    dtype's end."""
    is_plain = name.startswith(("updates/", "parameters/", "average/"))
    return 2 * SAFETY * float(np.sqrt(largest)) if is_plain else largest


def _updates_of(name: str, bound: NDArray[Any], length: int) -> range:
    """The update that each bound of an array is of, counted from 0."""
    kind, _, rest = name.partition("/")
    if kind == "epochs":
        return range(length - 1, len(bound) * length, length)
    if kind in ("updates", "statistics"):
        return range(len(bound))
    number = int(rest.partition("/")[0]) - (kind != "detail")
    return range(number, number + 1)


def _listed(names: Collection[str]) -> str:
    shown = [name if name.isprintable() else repr(name) for name in sorted(names)[:NAMED]]
    return ", ".join(shown) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
