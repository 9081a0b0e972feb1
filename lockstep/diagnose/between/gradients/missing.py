"""Gradients that one loop has and the other lacks: of whole parameters, or of rows of one."""

from collections.abc import Iterator, Sequence

import numpy as np

from lockstep.diagnose.between.explanation import Explanation
from lockstep.diagnose.between.gradients.accumulation import common_gradients
from lockstep.diagnose.between.pair import Arrays, LoopPair, LoopSide

__all__ = ["rows_without_gradient", "without_gradient"]

NAMED = 6
"""Layers in a text; more are counted."""
FEW = 4
"""Layers that are still trained and are named."""
MOST_ROWS = 4
"""Rows without a gradient that are named."""


def without_gradient(pair: LoopPair) -> Iterator[Explanation]:
    """That a side has no gradient for some parameters: frozen, detached, or not in its graph."""
    mine, _ = common_gradients(pair)
    missing = [name for name in pair.differing("gradients") if not mine[name].any()]
    if not missing:
        return
    predicted = {name: np.zeros_like(mine[name]) for name in missing}
    name = pair.mine.name
    trained = [key for key in mine if mine[key].any()]
    text = f"{name} does not train {_layers(missing, mine)}: no gradient there"
    moves = _moves(pair.mine, missing, pair.update)
    if moves is not None:
        text += ", yet they move" if moves else ", and they do not move"
    if _are_first(pair, missing, trained):
        text += " (frozen, or cut off behind by a detach or stop_gradient)"
    left = sorted({_layer_of(key) for key in trained})
    if 0 < len(left) <= FEW and len(missing) > len(trained):
        text += f"; it trains {_joined(left)} alone"
    is_part = set(missing) != set(pair.differing("gradients"))
    yield Explanation(
        "gradient-missing",
        text,
        predicted,
        "parameters without a gradient",
        "parameters-without-gradient",
        is_part=is_part,
    )


def _are_first(pair: LoopPair, missing: Sequence[str], trained: Sequence[str]) -> bool:
    """Whether all layers up to one lack a gradient and all behind have one."""
    order = {layer: place for place, layer in enumerate(pair.mine.layers)}
    places = [order.get(_layer_of(name), -1) for name in missing]
    behind = [order.get(_layer_of(name), -1) for name in trained]
    return bool(places and behind) and min(places) >= 0 and max(places) < min(behind)


def _layers(missing: Sequence[str], gradients: Arrays) -> str:
    """Parameters in words: layers of which none has a gradient, and other parameters by name."""
    still = {_layer_of(name) for name, array in gradients.items() if array.any()}
    whole = [_layer_of(name) for name in missing if _layer_of(name) not in still]
    single = [name for name in missing if _layer_of(name) in still]
    names = [*dict.fromkeys(whole), *single]
    kinds = {name.rpartition(".")[2] for name in gradients if _layer_of(name) in whole}
    words = _joined(names)
    if whole and not single and kinds == {"weight", "bias"}:
        words += " (weights and biases)"
    return words


def _layer_of(name: str) -> str:
    return name.rpartition(".")[0] or name


def _joined(names: Sequence[str]) -> str:
    if len(names) > NAMED:
        return f"{', '.join(names[:NAMED])} and {len(names) - NAMED} more"
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"


def _moves(side: LoopSide, names: Sequence[str], update: int) -> bool | None:
    """Whether any of the parameters moves in an update; None where that was not recorded."""
    changes = side.tensors("parameters", update)
    if not all(name in changes for name in names):
        return None
    return any(changes[name].any() for name in names)


def rows_without_gradient(pair: LoopPair) -> Iterator[Explanation]:
    """That rows of a table have no gradient on one side, and all others are equal."""
    mine, other = common_gradients(pair)
    for name in pair.differing("gradients"):
        if mine[name].ndim != 2:
            continue
        for axis in (0, 1):
            rows = np.moveaxis(mine[name], axis, 0)
            others = np.moveaxis(other[name], axis, 0)
            missing = np.asarray(~rows.any(axis=1) & others.any(axis=1))
            if not missing.any() or 2 * missing.sum() >= len(rows):
                continue
            numbers = np.flatnonzero(missing).tolist()
            is_fed = _are_fed(pair, numbers)
            if len(numbers) > MOST_ROWS or not is_fed:
                continue
            predicted = np.where(missing[:, None], 0.0, others)
            text = _text(pair, name, numbers)
            yield Explanation(
                "padding-row",
                text,
                {name: np.moveaxis(predicted, 0, axis)},
                "rows without a gradient",
                "padding-index-of-an-embedding",
                is_part=pair.differing("gradients") != [name],
            )


def _text(pair: LoopPair, name: str, numbers: Sequence[int]) -> str:
    one = len(numbers) == 1
    rows = f"row {numbers[0]}" if one else f"rows {_joined([str(number) for number in numbers])}"
    what = "a padding index" if one else "left out of training"
    return (
        f"{rows} of {name}: {pair.mine.name}'s gradient is 0 ({what}), {pair.other.name}'s is not; "
        "all other rows are equal"
    )


def _are_fed(pair: LoopPair, numbers: Sequence[int]) -> bool:
    """Whether the batch holds the numbers of these rows, so that the table is an embedding; True
    where no whole numbers were recorded.
    """
    arrays = [
        array
        for array in pair.other.tensors("batch", pair.update).values()
        if array.dtype.kind in "iu"
    ]
    return not arrays or any(np.isin(numbers, array).all() for array in arrays)
