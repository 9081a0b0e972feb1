"""Counterparts among outputs of layers and arrays of a batch.

What holds the same numbers is each other's. In a pair that parts, an output whose numbers part
follows the parameters of its layer; a layer without parameters follows its neighbours, by its name
and its place in the order of calls between two that are settled. Outputs are laid out as those that
hold the same numbers, or as the kernels are.

In a pair that agrees wherever it can be told, outputs of other numbers are other outputs, as one
side may record a layer before its activation and the other behind it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from lockstep.diagnose.naming.evidence import (
    Axes,
    least_difference,
    loss_parts,
    orders_of_kernels,
)
from lockstep.diagnose.naming.layouts import Arrays, Layout, Values
from lockstep.diagnose.naming.name_map import NameMap
from lockstep.diagnose.naming.values import CLOSE, closest, distance, distinct_layouts, is_constant
from lockstep.diagnose.naming.words import likeness, read_name
from lockstep.records.trace import Trace
from lockstep.tensor_file import arrays_below

__all__ = ["Outputs", "propose_outputs"]

WEIGHT = ".weight"
"""What makes a layer's name that of a tensor, which `read_name` takes apart."""
INPUT = ".input"
"""End of the name of a layer's recorded input."""

ALIKE = 0.5
"""Likeness of two layers' names from which on they are taken for one."""
ACTIVATIONS: tuple[Callable[[Values], Values], ...] = (
    lambda x: np.maximum(x, 0),
    np.tanh,
    lambda x: 1 / (1 + np.exp(-x)),
    lambda x: x / (1 + np.exp(-x)),
    lambda x: 0.5 * x * (1 + np.tanh(0.7978845608 * (x + 0.044715 * x**3))),
)

Candidates = list[Layout]


class Outputs(NamedTuple):
    """The tables [forward] and [batch] of a map, without names that are alike in both."""

    forward: dict[str, Layout]
    batch: dict[str, Layout]


def propose_outputs(a: Trace, b: Trace, names: NameMap) -> Outputs:
    """The tables of outputs and batches, by values and by the map of parameters.

    Args:
        a: a trace.
        b: the other.
        names: the map of parameters, with lines that are given.
    """
    kernels = set(orders_of_kernels(names, a))
    batch = _Family(_detail(a, "batch"), _detail(b, "batch"), names.batch, kernels)
    batch.follow_values()
    batch.follow_names()
    outputs_a = _in_order(_detail(a, "forward"), a.header["layers"])
    outputs_b = _in_order(_detail(b, "forward"), b.header["layers"])
    forward = _Family(outputs_a, outputs_b, names.forward, kernels)
    forward.learn(batch)
    forward.follow_values()
    least = least_difference(a, b)
    if loss_parts(a, b, least) or forward.parts(least):
        forward.follow_parameters(names, list(a.header["layers"]), least)
        forward.follow_names()
        forward.follow_calls(list(a.header["layers"]), list(b.header["layers"]), least)
    forward.follow_names()
    forward.follow_inputs()
    return Outputs(forward.lines, batch.lines)


def _detail(trace: Trace, family: str) -> dict[str, Values]:
    """The arrays of a family at the first update that was recorded."""
    updates = trace.header["detail"][:1]
    return arrays_below(trace.arrays, f"detail/{updates[0]}/{family}/") if updates else {}


def _in_order(outputs: Arrays, layers: Sequence[str]) -> dict[str, Values]:
    """Outputs in the order of calls."""
    in_order = {layer: outputs[layer] for layer in layers if layer in outputs}
    return in_order | dict(outputs)


class _Family:
    """The outputs, or the batches, of both sides, and what is settled of them.

    Attributes:
        a: A's arrays.
        b: B's.
        settled: A's name -> B's array and its layout.
        gaps: A's name -> the distance of the two arrays, of those that hold the same numbers.
        orders: number of axes -> the orders of axes that are settled, by values.
        kernels: the orders of axes that the kernels' layouts give.
    """

    def __init__(
        self, a: Arrays, b: Arrays, given: Mapping[str, Layout], kernels: set[Axes]
    ) -> None:
        self.a = a
        self.b = b
        self.given = dict(given)
        self.settled: dict[str, Layout] = dict(given)
        self.gaps: dict[str, float] = {}
        self.orders: dict[int, set[Axes]] = {}
        self.kernels = kernels

    @property
    def lines(self) -> dict[str, Layout]:
        """The table of the map, in A's order; names that are alike in both need no line."""
        lines = dict(self.given)
        for name in self.a:
            if name in self.settled and self.settled[name] != Layout(name):
                lines[name] = self.settled[name]
        return lines

    @property
    def open_a(self) -> list[str]:
        """A's names that are not settled."""
        return [name for name in self.a if name not in self.settled]

    @property
    def open_b(self) -> list[str]:
        """B's names that are not settled."""
        taken = {layout.name for layout in self.settled.values()}
        return [name for name in self.b if name not in taken]

    def learn(self, other: "_Family") -> None:
        """Take over the orders of axes that are settled in another family."""
        for count, orders in other.orders.items():
            self.orders.setdefault(count, set()).update(orders)

    # ---- the rules

    def follow_values(self) -> None:
        """Settle what holds the same numbers, of one name before others."""
        candidates: dict[str, Candidates] = {}
        others = {name: self.b[name] for name in self.open_b}
        for name in self.open_a:
            array = self.a[name]
            of_its_size = {
                other: value for other, value in others.items() if value.size == array.size
            }
            candidates[name] = closest(array, of_its_size, fixed=1)
            if not candidates[name] and array.ndim > 2 and not is_constant(array):
                candidates[name] = closest(array, of_its_size)  # rows need not come first
        certain = _certain(candidates)
        for name, layout in (certain | self._copies(candidates, certain)).items():
            self.settled[name] = layout
            self.gaps[name] = distance(self.a[name], layout.turn(self.b[layout.name]))
            if not layout.reshape:
                axes = layout.axes or tuple(range(self.a[name].ndim))
                self.orders.setdefault(self.a[name].ndim, set()).add(axes)

    def _copies(
        self, candidates: Mapping[str, Candidates], certain: Mapping[str, Layout]
    ) -> dict[str, Layout]:
        """Counterparts among outputs of which a side has several of the same numbers, as a layer
        and the dropout behind it in evaluation: those that are called alike, or else in order.
        """
        taken = {layout.name for layout in certain.values()}
        groups: dict[frozenset[str], list[str]] = {}
        for name, live in candidates.items():
            others = frozenset(layout.name for layout in live) - taken
            if others and name not in certain and not is_constant(self.a[name]):
                groups.setdefault(others, []).append(name)
        chosen: dict[str, Layout] = {}
        for others, names in groups.items():
            if any(others & rivals for rivals in groups if rivals != others):
                continue
            in_order = [other for other in self.b if other in others]
            for name, other in _paired(names, in_order):
                of_other = [layout for layout in candidates[name] if layout.name == other]
                if len(of_other) == 1:
                    chosen[name] = of_other[0]
        return chosen

    def parts(self, least: float) -> bool:
        """Whether arrays of the same numbers differ by more than rounding somewhere."""
        return any(gap > least for gap in self.gaps.values())

    def _agrees_behind(self, layers: Sequence[str], least: float) -> set[str]:
        """A's layers whose next settled layer agrees but for rounding: they cannot be where the
        pair parts.
        """
        agreeing: set[str] = set()
        agrees = False
        for layer in reversed(layers):
            if layer in self.gaps:
                agrees = self.gaps[layer] <= least
            elif agrees:
                agreeing.add(layer)
        return agreeing

    def follow_parameters(self, names: NameMap, layers: Sequence[str], least: float) -> None:
        """Settle the outputs of layers whose parameters are each other's."""
        layers_of_b = {layer.partition("#")[0] for layer in self.b}
        counterparts: dict[str, set[str]] = {}
        for name, source in names.names.items():
            if not isinstance(source, Layout) or source.span:
                continue
            layer = _layer_of(name, self.a)
            other = _layer_of(source.name, layers_of_b)
            if layer and other:
                counterparts.setdefault(layer, set()).add(other)
        named = [other for others in counterparts.values() for other in others]
        agreeing = self._agrees_behind(layers, least)
        for layer, others in counterparts.items():
            if len(others) == 1 and named.count(min(others)) == 1 and layer not in agreeing:
                self._pair_calls(layer, min(others))

    def _pair_calls(self, layer: str, other: str) -> None:
        """Settle a layer's output, and those of its further calls in an update: layer#2."""
        for name in self.open_a:
            call = name.removeprefix(layer)
            is_call = name.startswith(layer) and (not call or call[0] == "#")
            if is_call and other + call in self.open_b:
                self._settle_as_others(name, other + call)

    def follow_names(self) -> None:
        """Settle what is called alike in both."""
        for name in self.open_a:
            if name in self.open_b:
                self._settle_as_others(name, name)

    def follow_calls(self, layers_a: Sequence[str], layers_b: Sequence[str], least: float) -> None:
        """Settle layers without parameters, which lie between two that are settled: where as many
        are open on both sides and fit one another in their order, or where one alone fits.
        """
        agreeing = self._agrees_behind(layers_a, least)
        spans_a = self._spans([layer for layer in layers_a if layer in self.a], of_a=True)
        spans_b = self._spans([layer for layer in layers_b if layer in self.b], of_a=False)
        for bounds, layers in spans_a.items():
            if not agreeing.intersection(layers):
                self._pair_span(layers, spans_b.get(bounds, []))

    def _spans(self, layers: Sequence[str], *, of_a: bool) -> dict[tuple[str, str], list[str]]:
        """A's names of the settled layers before and after -> the open layers between them."""
        name_of = {layer: layer for layer in self.settled}
        if not of_a:
            name_of = {layout.name: name for name, layout in self.settled.items()}
        spans: dict[tuple[str, str], list[str]] = {}
        before = ""
        between: list[str] = []
        for layer in layers:
            if layer.endswith(INPUT):
                continue
            if layer in name_of:
                spans[before, name_of[layer]] = between
                before, between = name_of[layer], []
            else:
                between.append(layer)
        spans[before, ""] = between
        return spans

    def _pair_span(self, layers: Sequence[str], others: Sequence[str]) -> None:
        if len(layers) == len(others) and all(map(self._may_be, layers, others)):
            for layer, other in zip(layers, others):
                self._settle_as_others(layer, other)
            return
        for layer in layers:
            alike = [other for other in others if _are_alike(layer, other)]
            if len(alike) != 1 or not self._may_be(layer, alike[0]):
                continue
            if sum(_are_alike(rival, alike[0]) for rival in layers) == 1:
                self._settle_as_others(layer, alike[0])

    def _may_be(self, name: str, other: str) -> bool:
        """Whether shapes and names allow two layers to be each other's; a number, as a layer of
        PyTorch's Sequential has, may be any.
        """
        words = bool(read_name(name + WEIGHT).words) and bool(read_name(other + WEIGHT).words)
        if words and not _are_alike(name, other):
            return False
        return self._laid_out(name, other) is not None

    def follow_inputs(self) -> None:
        """Settle recorded inputs of layers as their layers are."""
        for name in self.open_a:
            if not name.endswith(INPUT):
                continue
            layer = name.removesuffix(INPUT)
            other = self.settled[layer].name if layer in self.settled else ""
            if other + INPUT in self.open_b:
                self._settle_as_others(name, other + INPUT)

    # ---- layouts

    def _settle_as_others(self, name: str, other: str) -> None:
        layout = self._laid_out(name, other)
        if layout is None:
            return
        turned = layout.turn(self.b[other]).astype(np.float64)
        if name == other or not _is_activated(self.a[name].astype(np.float64), turned):
            self.settled[name] = layout

    def _laid_out(self, name: str, other: str) -> Layout | None:
        """How B's array becomes A's, where their numbers part; None where the shapes do not fit, or
        leave a choice that nothing decides.
        """
        array = self.a[name]
        value = self.b[other]
        layouts = list(distinct_layouts(array, other, value, fixed=1))
        if array.ndim == value.ndim == 0 or len(layouts) <= 1:
            return layouts[0] if layouts else None
        orders = self.orders.get(array.ndim, set())
        if len(orders) != 1:
            orders = {axes for axes in self.kernels if len(axes) == array.ndim}
        if len(orders) != 1 and array.shape == value.shape:
            orders = {tuple(range(array.ndim))}
        fitting = [
            layout for layout in layouts if (layout.axes or tuple(range(array.ndim))) in orders
        ]
        return fitting[0] if len(fitting) == 1 else None


def _are_alike(name: str, other: str) -> bool:
    """Whether two layers are called alike."""
    return likeness(name + WEIGHT, other + WEIGHT) > ALIKE


def _paired(names: Sequence[str], others: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs of two lists of layers in the order of calls: where there are not as many, those that
    are called alike, or the first ones.
    """
    if len(names) == len(others):
        return list(zip(names, others))
    alike = [(name, other) for name in names for other in others if _are_alike(name, other)]
    is_clear = len({name for name, _ in alike}) == len({other for _, other in alike}) == len(alike)
    return alike if alike and is_clear else list(zip(names, others))[:1]


def _is_activated(a: Values, b: Values) -> bool:
    """Whether one of two outputs is the other behind an activation."""
    if is_constant(a) or is_constant(b):
        return False
    with np.errstate(all="ignore"):
        for activation in ACTIVATIONS:
            for before, behind in ((a, b), (b, a)):
                if distance(behind, activation(before)) <= CLOSE:
                    return True
    return False


def _layer_of(name: str, layers: Mapping[str, Values] | set[str]) -> str:
    """The layer that a parameter is of: the longest name of a layer that its own begins with, or
    "".
    """
    path = name.split(".")
    for length in range(len(path) - 1, 0, -1):
        layer = ".".join(path[:length])
        if layer in layers:
            return layer
    return ""


def _certain(candidates: Mapping[str, Candidates]) -> dict[str, Layout]:
    """The names with one candidate of the same name, or else with one that no other name has."""
    certain: dict[str, Layout] = {}
    for name, layouts_of_name in candidates.items():
        same_name = [layout for layout in layouts_of_name if layout.name == name]
        rivals: set[str] = set()
        for other, layouts_of_other in candidates.items():
            if other != name:
                rivals |= {layout.name for layout in layouts_of_other}
        left = same_name or [layout for layout in layouts_of_name if layout.name not in rivals]
        if len(left) == 1:
            certain[name] = left[0]
    return certain
