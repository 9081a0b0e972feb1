"""The names, shapes and dtypes that the arrays of a run's file must have by its recipe and header.

A file's seal shows damage and no more, since anybody can seal a file again. Each array is therefore
checked against the recipe before it is used.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lockstep.data_prep import PreparedData, Shapes, layer_sizes, updates_per_epoch
from lockstep.errors import InputError
from lockstep.files import headers
from lockstep.files.headers import check_header
from lockstep.recipe import Loss, Recipe
from lockstep.records.bounds import SAFETY
from lockstep.records.tensor_statistics import STATISTICS
from lockstep.records.tensor_summary import SKETCHES
from lockstep.tensor_file import Arrays, Header, arrays_below

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
"""Updates by which one array's bounds may turn infinite before another's: a bound of a series is
the largest among its neighbours' too."""
FLOATS = ("float16", "float32", "float64")

Shape = tuple[int | None, ...]
"""None stands for any length of at least 1."""


class Form(NamedTuple):
    """The shape that an array must have, and the dtypes that it may have."""

    shape: Shape
    dtypes: tuple[str, ...]

    def fault(self, array: NDArray[Any]) -> str:
        """How an array differs from this form, in words; "" where it does not."""
        if array.dtype.name not in self.dtypes:
            return f"{array.dtype}, expected {' or '.join(self.dtypes)}"
        if self._fits(array.shape):
            return ""
        sizes = ", ".join("any" if size is None else str(size) for size in self.shape)
        comma = "," if len(self.shape) == 1 else ""
        return f"shape {array.shape}, expected ({sizes}{comma})"

    def _fits(self, shape: tuple[int, ...]) -> bool:
        return len(shape) == len(self.shape) and all(
            size > 0 if expected is None else size == expected
            for size, expected in zip(shape, self.shape)
        )


Forms = dict[str, Form]
"""Name -> the form that the array must have."""


def _forms(prefix: str, shapes: Mapping[str, Shape], dtypes: tuple[str, ...]) -> Forms:
    """The forms of arrays of these shapes and dtypes, named below `prefix`."""
    return {f"{prefix}{name}": Form(shape, dtypes) for name, shape in shapes.items()}


def metric_names(loss: Loss) -> tuple[str, ...]:
    """The metrics that a trace has at each epoch's end: "train_loss", "train_accuracy", ..."""
    kinds = ("loss", "r2", "mae") if loss.predicts_number else ("loss", "accuracy")
    return tuple(f"{part}_{kind}" for part in PARTS for kind in kinds)


def recorded_updates(
    first: int, updates: int, length: int, every: int, detail: Collection[int]
) -> set[int]:
    """The numbers of updates done after which a run records its parameters.

    The run records them where it begins, at each epoch's end, after every `every` updates, and
    before and after each update in detail.

    Args:
        first: the update that the run begins with.
        updates: the updates of the whole run.
        length: the updates of an epoch.
        every: the updates between two records; 0: none but those at epoch ends.
        detail: the updates recorded in detail.
    """
    due = {first, *range(-(-first // length) * length, updates + 1, length)}
    if every:
        due |= set(range(-(-first // every) * every, updates + 1, every))
    for update in detail:
        due |= {update, update + 1}
    return due


def parameter_shapes(recipe: Recipe, inputs: int, outputs: int) -> Shapes:
    """Canonical name -> shape of every parameter, weights laid out (in, out)."""
    model = recipe.model
    layers = layer_sizes(inputs, model.hidden, outputs)
    shapes: Shapes = {}
    for i, (layer, fan_in, fan_out) in enumerate(layers, start=1):
        shapes[f"{layer}.weight"] = (fan_in, fan_out)
        if model.bias:
            shapes[f"{layer}.bias"] = (fan_out,)
        if model.norm != "none" and i <= len(model.hidden):
            shapes[f"norm{i}.weight"] = (fan_out,)
            shapes[f"norm{i}.bias"] = (fan_out,)
    return shapes


def statistic_shapes(recipe: Recipe) -> Shapes:
    """Canonical name -> shape of every running statistic."""
    model = recipe.model
    if model.norm != "batch":
        return {}
    return {
        f"norm{i}.{kind}": (units,)
        for i, units in enumerate(model.hidden, start=1)
        for kind in ("mean", "var")
    }


def without_row_axis(array: ArrayLike, ndim: int) -> NDArray[Any]:
    """A moment of a parameter with `ndim` axes, without the row axis that a vector's may have."""
    moment: NDArray[Any] = np.asarray(array)
    return moment[0] if ndim == 1 and moment.ndim == 2 else moment


def slot_shapes(recipe: Recipe, shapes: Shapes) -> Shapes:
    """slot/name -> shape of every slot of the optimizer, for parameters of these shapes."""
    slots: Shapes = {}
    for name, shape in shapes.items():
        for slot, slot_shape in recipe.optimizer.slots(shape).items():
            slots[f"{slot}/{name}"] = slot_shape
    return slots


def _below(prefix: str, shapes: Shapes) -> Shapes:
    return {f"{prefix}/{name}": shape for name, shape in shapes.items()}


def checkpoint_shapes(recipe: Recipe, shapes: Shapes, update: int, accumulated: int) -> Shapes:
    """Name -> shape of every array of a checkpoint.

    Args:
        recipe: what is trained.
        shapes: canonical name -> shape of every parameter.
        update: updates done.
        accumulated: batches done of the next one.
    """
    expected = _below("parameters", shapes)
    expected |= _below("statistics", statistic_shapes(recipe))
    if update:
        expected |= _below("optimizer", slot_shapes(recipe, shapes))
    if recipe.average.decay:
        expected |= _below("average", shapes)
    if accumulated:
        expected |= _below("accumulated", shapes)
        expected["accumulated/loss"] = ()
    return expected


def checked_recipe(whose: str, header: Header) -> Recipe:
    """The recipe in a header, whose fields were checked before.

    Raises:
        InputError: no recipe, or not the one whose hash the header has.
    """
    try:
        recipe = Recipe.from_dict(header["recipe"])
    except InputError as error:
        raise InputError(f"{whose}: header: recipe: {error}") from None
    if recipe.hash != header["recipe_hash"]:
        raise InputError(
            f"{whose}: header: recipe_hash: {header['recipe_hash'][:12]}, and the recipe beside it "
            f"has {recipe.hash[:12]}: changed by hand, or this lockstep reads it as another recipe"
        )
    return recipe


def sizes_of(whose: str, recipe: Recipe, arrays: Arrays, prefix: str) -> tuple[int, int]:
    """Input features and output units of the model.

    The recipe says them where its data are synthetic. Otherwise the weights below `prefix` do.

    Raises:
        InputError: a weight that is missing or no matrix.
    """
    first = f"{prefix}linear1.weight"
    last = f"{prefix}linear{len(recipe.model.hidden) + 1}.weight"
    for name in (first, last):
        if name not in arrays:
            raise InputError(f"{whose}: missing: {name}")
        if arrays[name].ndim != 2 or not arrays[name].size:
            raise InputError(f"{whose}: {name}: shape {arrays[name].shape}, expected a matrix")
    if recipe.data.source == "synthetic":
        inputs = recipe.data.features
        outputs = recipe.data.classes - bool(recipe.loss.ignored_class)
    else:
        inputs = arrays[first].shape[0]
        outputs = arrays[last].shape[1]
    return inputs, recipe.loss.outputs(outputs)


def check_trace(whose: str, header: Header, arrays: Arrays) -> None:
    """Raise InputError unless a recipe's trace holds what its recipe and its header say.

    Args:
        whose: the file, for the message.
        header: the header as the file has it.
        arrays: the arrays as the file has them.

    Raises:
        InputError: a field of the header that is missing, is wrong or contradicts another; an array
            that is missing, extra, or of another shape or dtype; a bound that cannot be.
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


def check_checkpoint(whose: str, header: Header, arrays: Arrays) -> None:
    """Raise InputError unless a checkpoint holds what its recipe and its header say.

    Args:
        whose: the file, for the message.
        header: the header as the file has it.
        arrays: the arrays as the file has them.

    Raises:
        InputError: as in `check_trace`.
    """
    check_header(whose, headers.Checkpoint, header)
    recipe = checked_recipe(whose, header)
    batches = header["batches"]
    update = header["update"]
    epoch = header["epoch"]
    batch = header["batch"]
    accumulated = header["accumulated"]
    epochs = recipe.training.epochs
    many = recipe.gradient.accumulate
    if accumulated != batch % many or epoch > epochs or batches < max(batch, update):
        raise InputError(
            f"{whose}: header: {batches} batches, {update} updates, epoch {epoch}, batch {batch} "
            f"and {accumulated} accumulated are no place in a run of {epochs} epochs, "
            f"{many} batches an update"
        )
    sizes = sizes_of(whose, recipe, arrays, "parameters/")
    dtypes = ("float64",) if header["backend"] == "oracle" else (recipe.training.dtype,)
    shapes = parameter_shapes(recipe, *sizes)
    _check_present(whose, arrays, _forms("parameters/", shapes, dtypes))  # slots follow from them
    expected = checkpoint_shapes(recipe, shapes, update, accumulated)
    check_arrays(whose, arrays, _forms("", expected, dtypes))


def check_data(whose: str, recipe: Recipe, data: PreparedData) -> None:
    """Raise InputError unless prepared data are what a recipe is trained on.

    Raises:
        InputError: a setting of another recipe, or parameters that are not those of its model.
    """
    training = recipe.training
    gradient = recipe.gradient
    model = recipe.model
    loss = recipe.loss
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
    check_arrays(whose, data.parameters, _forms("", shapes, ("float64",)))


def check_ensemble(whose: str, header: Header, arrays: Arrays) -> None:
    """Raise InputError unless an ensemble's arrays fit its header and one another.

    An ensemble's file does not hold its recipe.

    Args:
        whose: the file, for the message.
        header: the header as the file has it.
        arrays: the arrays as the file has them.

    Raises:
        InputError: a field of the header that is missing or wrong; an array that is missing, extra,
            or of another number of members, updates or epochs.
    """
    check_header(whose, headers.Ensemble, header)
    updates = header["updates"]
    length = header["updates_per_epoch"]
    if updates % length:
        raise InputError(
            f"{whose}: header: updates: {updates}, no multiple of the {length} updates_per_epoch"
        )
    dtypes = FLOATS[1:]
    expected = {
        "lr": Form((updates,), dtypes),
        "loss": Form((None, updates), dtypes),
    }
    _check_present(whose, arrays, expected)
    members = len(arrays["loss"]) if "loss" in arrays else 0
    kinds = ("loss", "r2", "mae") if "held_out/r2" in arrays else ("loss", "accuracy")
    held_out = Form((members, updates // length), ("float64",))
    expected |= {f"held_out/{kind}": held_out for kind in kinds}
    for name, array in arrays.items():
        if name.startswith("parameters/"):
            expected[name] = Form((members, *array.shape[1:]), dtypes)
    check_arrays(whose, arrays, expected)


def check_loop(whose: str, header: Header, arrays: Arrays) -> None:
    """Raise InputError unless the trace of somebody's own loop holds what its header says.

    Args:
        whose: the file, for the message.
        header: the header as the file has it.
        arrays: the arrays as the file has them.

    Raises:
        InputError: a field of the header that is missing or wrong; an array whose name no recorder
            writes, or whose shape contradicts the number of updates or another array.
    """
    check_header(whose, headers.Loop, header)
    updates = header["updates"]
    detail = header["detail"]
    if header["updates_per_epoch"] != updates:
        raise InputError(
            f"{whose}: header: updates_per_epoch: must be as many as the {updates} updates"
        )
    if detail != sorted({update for update in detail if update < updates}):
        raise InputError(
            f"{whose}: header: detail: must be updates from 0 to {updates - 1}, ascending"
        )
    shapes: Shapes = {}
    for name, array in arrays.items():
        shown = _shown(name)
        place = _LOOP_ARRAY.match(name)
        if place is None:
            raise InputError(f"{whose}: extra: {shown}")
        fault = _fault_in_loop(array, place, updates, shapes)
        if fault:
            raise InputError(f"{whose}: {shown}: {fault}")
        if place["update"] and int(place["update"]) not in detail:
            raise InputError(f"{whose}: {shown}: is of no update in detail")
    for update, operations in header.get("operations", {}).items():
        _check_operations(f"{whose}: operations/{_shown(update)}", operations, arrays, update)


def _check_operations(
    whose: str, operations: Sequence[Mapping[str, Any]], arrays: Arrays, update: str
) -> None:
    """Raise InputError unless a listing has its norms, and each operation reads earlier ones."""
    norms = arrays.get(f"operations/{update}")
    expected = (len(operations), 4)
    if norms is None or norms.shape != expected or norms.dtype != "f8":
        raise InputError(f"{whose}: must be float64 {expected}, as the header lists operations")
    if not np.isfinite(norms).all():
        raise InputError(f"{whose}: must be finite")
    for index, operation in enumerate(operations):
        if any(entry >= index for entry in operation.get("inputs", [])):
            raise InputError(f"{whose}: operation {index} reads a later one")


def _fault_in_loop(array: NDArray[Any], place: re.Match[str], updates: int, shapes: Shapes) -> str:
    """What is wrong with a recorder's array, or "".

    Args:
        array: the array.
        place: its name, as `_LOOP_ARRAY` matches it.
        updates: the updates of the loop.
        shapes: name -> shape of the parameters so far; a new one is added.
    """
    if array.dtype.kind not in "biuf":
        return f"{array.dtype}, expected numbers"
    if place["series"] and array.shape != (updates,):
        return f"shape {array.shape}, expected ({updates},)"
    if place["summary"]:
        columns = len(STATISTICS) if place["summary"] == "statistics" else SKETCHES
        is_table = array.shape[1:] == (columns,) and len(array) <= updates
        if not is_table or array.dtype != "f8":
            expected = f"float64 ({updates}, {columns})"
            return f"{array.dtype} {array.shape}, expected {expected}"
    if place["end"]:
        form = _HASH if place["end"] == "hashes" else _SUMMARY
        fault = form.fault(array)
        if fault or int(place["ended"]) not in (0, updates):
            return fault or f"is of neither update 0 nor {updates}"
    if place["done"]:
        shape = shapes.setdefault(place["tensor"], array.shape)
        if int(place["done"]) > updates or array.shape != shape or array.dtype.kind != "f":
            return (
                f"{array.dtype} {array.shape}, after one of {updates} updates; "
                f"expected floats {shape}"
            )
    return ""


_SUMMARY = Form((len(STATISTICS) + SKETCHES,), ("float64",))
_HASH = Form((32,), ("uint8",))
_LOOP_ARRAY = re.compile(
    r"(?P<series>updates/(loss|lr\d*|grad_norm|update_norm))\Z"
    r"|parameters/(?P<done>0|[1-9]\d{0,15})/(?P<tensor>.+)\Z"
    r"|detail/(?P<update>0|[1-9]\d{0,15})/((batch|forward|gradients|clip)/.+|moments/[^/]+/.+)\Z"
    r"|operations/(?P<listed>0|[1-9]\d{0,15})\Z"
    r"|(?P<summary>statistics|sketches)/((forward|gradients|clip|parameters)/.+|moments/[^/]+/.+)\Z"
    r"|(?P<end>summaries|hashes)/(?P<ended>0|[1-9]\d{0,15})/.+\Z",
    re.DOTALL,
)
"""The names that a recorder gives its arrays."""


def check_arrays(whose: str, arrays: Arrays, expected: Forms) -> None:
    """Raise InputError unless the arrays have the expected names and forms.

    Raises:
        InputError: names that are missing or extra, or arrays of another shape or dtype; names
            them.
    """
    faults = []
    missing = expected.keys() - arrays.keys()
    extra = arrays.keys() - expected.keys()
    for word, names in (("missing", missing), ("extra", extra)):
        if names:
            faults.append(f"{word}: {_listed(names)}")
    for name in sorted(expected.keys() & arrays.keys()):
        fault = expected[name].fault(arrays[name])
        if fault:
            faults.append(f"{name}: {fault}")
    if faults:
        more = f" and {len(faults) - NAMED} more" if len(faults) > NAMED else ""
        raise InputError(f"{whose}: {'; '.join(faults[:NAMED])}{more}")


def _check_present(whose: str, arrays: Arrays, expected: Forms) -> None:
    check_arrays(whose, {name: arrays[name] for name in expected if name in arrays}, expected)


def _check_position(whose: str, recipe: Recipe, header: Header) -> None:
    """Raise InputError where a header's numbers contradict the recipe or one another."""
    updates = header["updates"]
    length = header["updates_per_epoch"]
    first = header["first_update"]
    training = recipe.training
    faults = []
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
    if recipe.data.source == "synthetic":
        rows = recipe.data.rows
        batches = updates_per_epoch(rows, training.batch, drop_last=training.drop_last)
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


def _series(header: Header) -> Forms:
    count = header["updates"] - header["first_update"]
    return {f"updates/{name}": Form((count,), (header["dtype"],)) for name in UPDATE_SERIES}


def _metrics(recipe: Recipe, header: Header) -> Forms:
    epochs = recipe.training.epochs - header["first_update"] // header["updates_per_epoch"]
    return {f"epochs/{name}": Form((epochs,), ("float64",)) for name in metric_names(recipe.loss)}


def _tensors(whose: str, recipe: Recipe, header: Header, arrays: Arrays) -> Forms:
    """Parameters, average, prediction, detail and statistics."""
    last = header["updates"]
    dtypes = (header["dtype"],)
    sizes = sizes_of(whose, recipe, arrays, f"parameters/{last}/")
    shapes = parameter_shapes(recipe, *sizes)
    layers = _layers(recipe, *sizes, trains=False)
    if header["layers"] != list(layers):
        raise InputError(f"{whose}: header: layers: must be {', '.join(layers)}")
    state = {
        "parameters": shapes | statistic_shapes(recipe),
        "average": shapes if recipe.average.decay else {},
    }
    outputs = {layer: (units,) for layer, units in layers.items()}
    expected = _forms("prediction/", outputs, dtypes)
    for update in _recorded(header, arrays):
        for kind, tensors in state.items():
            expected |= _forms(f"{kind}/{update}/", tensors, dtypes)
    begin = header.get("statistics")
    detail = header.get("detail", [])
    if begin is None and not detail:
        return expected
    _check_present(whose, arrays, expected)  # slots follow from them
    watched = _watched(recipe, header, sizes, shapes)
    for update in detail:
        expected |= {f"detail/{update}/{name}": form for name, form in watched.items()}
    if begin is not None:
        names = [name for name in watched if not name.startswith("batch/")]
        names += [f"{kind}/{name}" for kind, tensors in state.items() for name in tensors]
        rows = Form((last - begin, len(STATISTICS)), ("float64",))
        expected |= {f"statistics/{name}": rows for name in names}
    return expected


def _recorded(header: Header, arrays: Arrays) -> set[int]:
    """The numbers of updates done after which the parameters must be there.

    The first golden files do not say how often theirs were recorded. A run that resumes in the
    midst of an accumulation does not record the parameters that it begins with.
    """
    first = header["first_update"]
    last = header["updates"]
    length = header["updates_per_epoch"]
    every = header.get("parameters_every", 0)
    due = recorded_updates(first, last, length, every, header.get("detail", ()))
    if "parameters_every" not in header:
        matches = [re.match(r"parameters/(\d{1,15})/", name) for name in arrays]
        due |= {int(match[1]) for match in matches if match and int(match[1]) <= last}
    if first and not any(name.startswith(f"parameters/{first}/") for name in arrays):
        due.discard(first)
    return due


def _layers(recipe: Recipe, inputs: int, outputs: int, *, trains: bool) -> dict[str, int]:
    """Layer -> units, in order, as recorded of a batch in training, or else of one sample."""
    model = recipe.model
    layers = {} if trains else {"input": inputs}
    for i, units in enumerate(model.hidden, start=1):
        layers[f"linear{i}"] = units
        if model.norm != "none":
            layers[f"norm{i}"] = units
        layers[f"{model.activation}{i}"] = units
        if trains and model.dropout:
            layers[f"dropout{i}"] = units
    layers[f"linear{len(model.hidden) + 1}"] = outputs
    link = recipe.loss.spec.link
    if link and not trains:
        layers[link] = outputs
    return layers


def _watched(recipe: Recipe, header: Header, sizes: tuple[int, int], shapes: Shapes) -> Forms:
    """The arrays of one update in detail.

    The comparison judges how many rows the update was fed, and whether a tensor was computed in
    less than the recipe's dtype.
    """
    floats = FLOATS[: FLOATS.index(header["dtype"]) + 1]
    labels = floats if recipe.loss.predicts_number else ("int32", "int64")
    inputs, _ = sizes
    watched: Forms = {}
    watched["batch/x"] = Form((None, inputs), floats)
    watched["batch/y"] = Form((None,), labels)
    if recipe.model.dropout:
        for i, units in enumerate(recipe.model.hidden, start=1):
            watched[f"batch/mask{i}"] = Form((None, units), ("bool",))
    for layer, units in _layers(recipe, *sizes, trains=True).items():
        watched[f"forward/{layer}"] = Form((None, units), floats)
    watched |= _forms("gradients/", shapes, floats)
    if recipe.gradient.clip != "none":
        watched |= _forms("clip/", shapes, floats)
    return watched | _forms("moments/", slot_shapes(recipe, shapes), floats)


def _bounds(header: Header, bounded: Forms) -> Forms:
    """The bounds of these arrays, always of the whole run; an array of exact bits has none."""
    updates = header["updates"]
    shapes: dict[str, Shape] = {
        "updates": (updates,),
        "epochs": (updates // header["updates_per_epoch"],),
        "statistics": (updates, 1),
    }
    exact = ("updates/lr", "parameters/0/", "average/0/", "prediction/")
    return {
        f"bounds/{name}": Form(shapes.get(name.partition("/")[0], ()), ("float64",))
        for name in bounded
        if not name.startswith(exact) and "/batch/" not in name
    }


def _check_bounds(whose: str, recipe: Recipe, header: Header, arrays: Arrays) -> None:
    """Raise InputError for bounds that the oracle cannot have derived.

    A bound is a distance: it is not negative, not NaN, and within the dtype's range; the bound of a
    share is at most 1. It is infinite where nothing is known. That is so from some update on, in
    every array, but not from the first update on. A bound of a series is the largest among its
    neighbours' too, so that it may turn infinite some updates earlier.
    """
    bounds = arrays_below(arrays, "bounds/")
    largest = float(np.finfo(recipe.dtype).max)
    length = header["updates_per_epoch"]
    begins: list[int] = []
    ends: list[int] = []
    for name, bound in bounds.items():
        finite = np.isfinite(bound)
        most = 1.0 if name.endswith("accuracy") else _reach(name, largest)
        wrong = np.isnan(bound) | (bound < 0) | (finite & (bound > most))
        if wrong.any():
            raise InputError(
                f"{whose}: bounds/{name}: {bound[wrong].flat[0]:g}; a bound is at least 0 and, "
                f"where it is finite, at most {most:.3g}"
            )
        known = finite.reshape(-1)
        if (known[1:] & ~known[:-1]).any():
            raise InputError(f"{whose}: bounds/{name}: is finite again after it was infinite")
        updates = _updates_of(name, bound, length)
        count = int(known.sum())
        if count < len(known):
            begins.append(updates[count])
        if count:
            ends.append(updates[count - 1])
    first = min(begins, default=header["updates"])
    last = max(ends, default=-1)
    if last < 0 or not np.isfinite(bounds["updates/loss"][0]):
        raise InputError(
            f"{whose}: bounds are infinite from the first update on: they judge nothing"
        )
    if last >= first + WIDENED:
        raise InputError(
            f"{whose}: bounds are infinite from update {first} on, and others are finite at "
            f"{last}: where nothing is known it is so in every array"
        )


def _reach(name: str, largest: float) -> float:
    """The largest bound that the oracle can derive for an array.

    Members beyond the range in which a square stays finite have no bound. An array that is computed
    as a square, or as a loss over all rows, may reach the dtype's end.
    """
    is_plain = name.startswith(("updates/", "parameters/", "average/"))
    return 2 * SAFETY * float(np.sqrt(largest)) if is_plain else largest


def _updates_of(name: str, bound: NDArray[Any], length: int) -> range:
    """The updates, counted from 0, that an array's bounds belong to."""
    kind, _, rest = name.partition("/")
    if kind == "epochs":
        return range(length - 1, len(bound) * length, length)
    if kind in ("updates", "statistics"):
        return range(len(bound))
    number = int(rest.partition("/")[0])
    update = number if kind == "detail" else number - 1  # parameters are counted by updates done
    return range(update, update + 1)


def _listed(names: Collection[str]) -> str:
    listed = ", ".join(_shown(name) for name in sorted(names)[:NAMED])
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return listed + more


def _shown(name: str) -> str:
    return name if name.isprintable() else repr(name)
