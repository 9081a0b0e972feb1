"""How a tensor is laid out where its values do not tell: as the others of the pair are, or else as
the frameworks lay out a tensor of that name.
"""

from lockstep.diagnose.naming.layouts import Layout, Source, Values
from lockstep.diagnose.naming.search import Candidates, Search
from lockstep.diagnose.naming.words import IN_OUT, OUT_IN, Name, read_name

__all__ = ["Conventions", "out_axis"]

Kind = tuple[int, int, str, str]
"""The numbers of axes of A's and of B's array, and the words for their roles."""


class Conventions:
    """The layouts of a pair's weights, as far as they are settled."""

    def __init__(self, search: Search) -> None:
        self.a = search.a.arrays
        self.b = search.b.arrays
        self.orders: dict[Kind, set[tuple[int, ...]]] = {}
        for name, source in search.settled.items():
            self._learn(name, source)

    def _learn(self, name: str, source: Source) -> None:
        parts = (source,) if isinstance(source, Layout) else source.parts
        for part in parts:
            if name not in self.a or part.name not in self.b or _is_embedding(name, part.name):
                continue
            ndim = self.a[name].ndim
            if ndim > 1 and not part.shape:
                orders = self.orders.setdefault(self._kind(name, part.name), set())
                orders.add(part.axes or tuple(range(ndim)))

    def _kind(self, name: str, other: str) -> Kind:
        return (
            self.a[name].ndim,
            self.b[other].ndim,
            read_name(name).last,
            read_name(other).last,
        )

    def choose(self, name: str, live: Candidates) -> Layout | None:
        """The layout among those of one candidate; None where nothing chooses.

        Args:
            name: A's name.
            live: the layouts that lead from one tensor of B's to A's shape.
        """
        if len(live) == 1:
            return live[0]
        array = self.a[name]
        other = self.b[live[0].name]
        if _is_embedding(name, live[0].name) and array.shape == other.shape:
            orders = {tuple(range(array.ndim))}
        else:
            orders = self.orders.get(self._kind(name, live[0].name), set())
            orders = orders or self._of_frameworks(name, array, live[0].name)
        fitting = [layout for layout in live if (layout.axes or tuple(range(array.ndim))) in orders]
        return fitting[0] if len(fitting) == 1 else None

    def _of_frameworks(self, name: str, array: Values, other: str) -> set[tuple[int, ...]]:
        """The order of axes between a weight (out, in, ...) and a kernel (..., in, out); none where
        a name does not say which of them it is.
        """
        count = array.ndim
        a, b = read_name(name), read_name(other)
        if not {a.last, b.last} <= {*IN_OUT, *OUT_IN}:
            return set()
        if _is_in_out(a) == _is_in_out(b):
            return {tuple(range(count))}
        if _is_in_out(b):  # A is (out, in, places), B (places, in, out)
            return {(count - 1, count - 2, *range(count - 2))}
        return {(*range(2, count), 1, 0)}


def _is_embedding(name: str, other: str) -> bool:
    return read_name(name).is_embedding or read_name(other).is_embedding


def _is_in_out(name: Name) -> bool:
    return name.last in IN_OUT


def out_axis(name: str, array: Values) -> int:
    """The axis of a weight's outputs, as frameworks lay out a tensor of that name."""
    return array.ndim - 1 if _is_in_out(read_name(name)) else 0
