"""Scanned layers: a tensor of one side that holds those of all layers of the other, found by their
names where the values do not tell.
"""

from collections.abc import Iterator, Mapping

from lockstep.diagnose.naming.layouts import Arrays, Join, Layout, Values
from lockstep.diagnose.naming.search import Search
from lockstep.diagnose.naming.sides import Side
from lockstep.diagnose.naming.words import IN_OUT, likeness, read_name

__all__ = ["follow_stacks"]

ALIKE = 0.5
"""Likeness of names that a stack and its layers need at least."""
MARGIN = 0.05
"""How much more alike they must be than either is to any other."""
STACKED = "names of a stack of layers"

Shape = tuple[int, ...]


def follow_stacks(search: Search) -> bool:
    """Settle stacks of layers against the layers. Says whether there was any."""
    settled = False
    for stack, layers, axis in _pairs(search.b, search.open_b, search.a, search.open_a, search):
        for place, layer in enumerate(layers):
            array = search.a.arrays[layer]
            axes, flat = _flat(layer, array, stack)
            span = (place, place + 1)
            layout = Layout(stack, axes, flat, span=span, axis=axis)
            search.settle(layer, layout, STACKED)
        settled = True
    for stack, layers, axis in _pairs(search.a, search.open_a, search.b, search.open_b, search):
        whole = search.a.arrays[stack].shape
        shape = (*whole[:axis], 1, *whole[axis + 1 :])
        parts = []
        for layer in layers:
            axes, _ = _flat(layer, search.b.arrays[layer], stack)
            parts.append(Layout(layer, axes, shape=shape))
        search.settle(stack, Join(tuple(parts), axis), STACKED)
        settled = True
    return settled


def _pairs(
    stacks: Side, open_stacks: list[str], layers: Side, open_layers: list[str], search: Search
) -> Iterator[tuple[str, list[str], int]]:
    """Each stack with its layers in order and the axis along which they lie, where both are one
    another's most alike by far.
    """
    series = {
        template: names
        for template, names in layers.templates.items()
        if len(names) > 1 and set(names) <= set(open_layers)
    }
    scores: dict[tuple[str, str], float] = {}
    axes: dict[tuple[str, str], int] = {}
    for stack in open_stacks:
        for template, names in series.items():
            axis = _axis(stack, stacks.arrays, names, layers.arrays)
            pair = (names[0], stack) if stacks is search.b else (stack, names[0])
            if axis is not None and search.may_be(*pair):
                scores[stack, template] = likeness(stack, names[0])
                axes[stack, template] = axis
    for (stack, template), score in scores.items():
        if score >= max(ALIKE, _rival(scores, stack, template) + MARGIN):
            yield stack, series[template], axes[stack, template]


def _rival(scores: Mapping[tuple[str, str], float], stack: str, template: str) -> float:
    rivals = [
        score for (other, names), score in scores.items() if (other == stack) != (names == template)
    ]
    return max(rivals, default=0.0)


def _axis(stack: str, stacks: Arrays, names: list[str], layers: Arrays) -> int | None:
    """The one axis of a stack along which its layers may lie; None where there is none, or where
    two would do.
    """
    whole = stacks[stack].shape
    layer = layers[names[0]]
    if any(layers[name].shape != layer.shape for name in names):
        return None
    _, flat = _flat(names[0], layer, stack)
    fitting = []
    for axis, size in enumerate(whole):
        rest = (*whole[:axis], *whole[axis + 1 :])
        if size == len(names) and _fits(rest, flat):
            fitting.append(axis)
    return fitting[0] if len(fitting) == 1 else None


def _flat(layer: str, array: Values, stack: str) -> tuple[Shape, Shape]:
    """The order of axes between a layer's tensor and its part of the stack, and the shape of that
    part with as many axes.
    """
    is_turned = array.ndim == 2 and _is_in_out(layer) != _is_in_out(stack)
    return ((1, 0), array.shape[::-1]) if is_turned else ((), array.shape)


def _is_in_out(name: str) -> bool:
    return read_name(name).last in IN_OUT


def _fits(shape: Shape, flat: Shape) -> bool:
    """Whether a shape is another with its inputs or its outputs in heads."""
    if shape == flat:
        return True
    is_longer = len(shape) > len(flat) == 2
    sizes = 1
    for size in shape:
        sizes *= size
    is_as_large = sizes == flat[0] * flat[-1] if is_longer else False
    return is_as_large and (shape[0] == flat[0] or shape[-1] == flat[-1])
