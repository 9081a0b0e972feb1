"""The place of a difference: its stage, tensor, update and element, and its rank in the order of
cause.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from lockstep.diagnose.gaps import TABLES, Gap
from lockstep.diagnose.loops import is_loop
from lockstep.records.tensor_statistics import STATISTICS
from lockstep.records.tensor_summary import SKETCHES
from lockstep.records.trace import UPDATE_SERIES, Trace

__all__ = ["STAGES", "Difference", "place_in_stage", "worst_places"]

STAGES = (
    "init",
    "batch",
    "forward",
    "loss",
    "gradients",
    "clip",
    "lr",
    "moments",
    "update",
    "parameters",
    "average",
    "metrics",
)
"""The stages in the order in which one update causes the next."""
SERIES_STAGE = dict(zip(UPDATE_SERIES, ("lr", "loss", "gradients", "update")))
SKETCH_WORDS = tuple(f"sketch {number}" for number in range(SKETCHES))


@dataclass(frozen=True)
class Difference:
    """The worst element of one tensor at one update.

    `ratio` is |a - b| / bound: up to 1 is rounding. `update` is counted from 0; -1 is before
    training. `share` is the share of the tensor's elements, or of the series' updates, that are
    beyond the bound. `rank` is the tensor's place in its stage in the order of cause: layers
    forward, their gradients backward. `array` is its name in the traces. `quantity` is a setting
    that was measured from each side's own tensors, in words, and `a` and `b` are its values; "" for
    an element of an array.
    """

    stage: str
    tensor: str
    update: int
    element: tuple[int, ...]
    a: float
    b: float
    difference: float
    bound: float
    ratio: float
    share: float = 0.0
    rank: int = 0
    array: str = ""
    quantity: str = ""


def worst_places(a: Trace, name: str, gap: Gap, at: Difference | None = None) -> list[Difference]:
    """As `differences`."""
    if gap.unjudged.all() and gap.unjudged.size:
        return []
    ratio = gap.ratio
    share = float(np.mean(~(ratio <= 1))) if ratio.size else 0.0
    places = []
    for index in _worst_indices(name, gap, at, a.header["updates_per_epoch"]):
        place = _place(a, name, gap, index)
        difference = Difference(
            stage=place.stage,
            tensor=place.statistic + place.tensor,
            update=place.update,
            element=place.element,
            a=float(gap.a.flat[index]),
            b=float(gap.b.flat[index]),
            difference=float(gap.distance.flat[index]),
            bound=float(gap.bound.flat[index]),
            ratio=float(ratio.flat[index]),
            share=share,
            rank=place_in_stage(a, place.stage, place.tensor),
            array=name,
        )
        places.append(difference)
    return places


def _worst_indices(name: str, gap: Gap, at: Difference | None, epoch_length: int) -> list[int]:
    """The flat indices of the worst places, ascending."""
    ratio = gap.ratio
    kind = name.partition("/")[0]
    if kind in ("parameters", "average", "detail", "summaries", "hashes"):
        if not ratio.size:
            return []
        # where nothing is beyond 0 of its bound, distances without a bound still differ
        worst = ratio if ratio.max(initial=0) > 0 else gap.distance
        return [int(worst.argmax())]
    if at is not None:
        row = (at.update // epoch_length if kind == "epochs" else at.update) - gap.begin
        return [row * ratio[row].size + int(ratio[row].argmax())]
    return sorted({int(ratio.argmax()), int((ratio > 1).argmax())})


class _Place(NamedTuple):
    """An element of an array in the words of a `Difference`; `statistic` stands before the tensor's
    name, as in "mean of ".
    """

    stage: str
    tensor: str
    update: int
    element: tuple[int, ...] = ()
    statistic: str = ""


def _place(trace: Trace, name: str, gap: Gap, index: int) -> _Place:
    """The place of a flat index into an array."""
    kind, _, rest = name.partition("/")
    element = tuple(int(i) for i in np.unravel_index(index, gap.ratio.shape))
    if kind in ("parameters", "average"):
        updates, _, tensor = rest.partition("/")
        return _Place("init" if updates == "0" else kind, tensor, int(updates) - 1, element)
    if kind == "detail":
        update, stage, tensor = rest.split("/", 2)
        return _Place(stage, tensor, int(update), element)
    if kind == "updates":
        return _Place(SERIES_STAGE.get(rest, "lr"), rest, gap.begin + index)
    if kind in TABLES:
        stage, _, tensor = rest.partition("/")
        row, column = element
        numbers = STATISTICS if kind == "statistics" else SKETCH_WORDS
        return _Place(stage, tensor, gap.begin + row, statistic=f"{numbers[column]} of ")
    if kind in ("summaries", "hashes"):
        updates, _, tensor = rest.partition("/")
        stage = "init" if updates == "0" else "parameters"
        words = "the hash" if kind == "hashes" else (*STATISTICS, *SKETCH_WORDS)[index]
        return _Place(stage, tensor, int(updates) - 1, statistic=f"{words} of ")
    epochs = gap.begin + index + 1
    return _Place("metrics", rest, epochs * trace.header["updates_per_epoch"] - 1)


def place_in_stage(trace: Trace, stage: str, tensor: str) -> int:
    """A tensor's place within its stage. A recipe's layers are numbered, and of one number they
    stand as they are applied; a loop's layers stand as its trace lists them.
    """
    layer = tensor.rpartition("/")[2]
    layers = trace.header.get("layers", [])
    if layer not in layers:
        layer = layer.rpartition(".")[0] if is_loop(trace) else layer.partition(".")[0]
    activation = (trace.header.get("recipe") or {}).get("model", {}).get("activation", "")
    kinds = ("linear", "norm", activation, "dropout")
    kind = layer.rstrip("0123456789")
    number = layer[len(kind) :]
    if kind in kinds and number and not is_loop(trace):
        place = int(number) * len(kinds) + kinds.index(kind)
    else:
        place = layers.index(layer) if layer in layers else 0
    # the loss and the norms, which are of no layer, are at place 0
    return 1 - place if stage in ("gradients", "clip") else 1 + place
