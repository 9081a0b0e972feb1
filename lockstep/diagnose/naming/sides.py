"""The two sides of a search for names: their parameters, kinds and order."""

import re
from collections import Counter
from functools import cached_property

from lockstep.diagnose.naming.layouts import Arrays, Values
from lockstep.diagnose.naming.words import read_name
from lockstep.records.trace import Trace
from lockstep.tensor_file import arrays_below

__all__ = ["Side", "in_numbers"]

STATISTICS = ("mean", "var")


class Side:
    """A trace's initial parameters, and what its header and names say of them.

    Attributes:
        trace: the trace.
        arrays: name -> initial value, without names that are known to have no counterpart.
    """

    def __init__(self, trace: Trace, left_out: frozenset[str]) -> None:
        self.trace = trace
        self.arrays: Arrays = {
            name: array for name, array in trace.parameters(0).items() if name not in left_out
        }
        self._buffers = set(trace.header["buffers"])
        self._has_gradient = self.of_first_update("gradients").keys()

    def of_first_update(self, family: str) -> dict[str, Values]:
        """The arrays of a family at the first update."""
        return arrays_below(self.trace.arrays, f"detail/0/{family}/")

    def changes(self) -> dict[str, Values]:
        """The first update of every parameter."""
        before = self.trace.parameters(0)
        after = self.trace.parameters(1)
        return {
            name: array.astype("f8") - before[name]
            for name, array in after.items()
            if name in before
        }

    def kind(self, name: str) -> str:
        """parameter, buffer, or "" where nothing says."""
        if name in self._buffers:
            return "buffer"
        if read_name(name).role in STATISTICS:  # a plain tree calls all its leaves parameters
            return "buffer" if self._has_gradient.isdisjoint([name]) else ""
        return "parameter" if self._buffers or name in self._has_gradient else ""

    @cached_property
    def has_modules(self) -> bool:
        """Whether names tell modules apart: some module has two tensors."""
        counts = Counter(read_name(name).module for name in self.arrays)
        return max(counts.values(), default=0) > 1

    @cached_property
    def templates(self) -> dict[str, list[str]]:
        """Template of a name -> the names of it, in the order of their numbers."""
        names: dict[str, list[str]] = {}
        for name in in_numbers(self.arrays):
            names.setdefault(read_name(name).template, []).append(name)
        return names

    @cached_property
    def _called(self) -> list[str]:
        """The modules in the order in which the trace lists their outputs."""
        modules = {read_name(name).module for name in self.arrays}
        return [layer for layer in self.trace.header["layers"] if layer in modules]

    @property
    def has_call_order(self) -> bool:
        """Whether `order` is that of calls, and not of declarations."""
        modules = {read_name(name).module for name in self.arrays}
        return len(self._called) * 2 >= len(modules)

    @cached_property
    def order(self) -> dict[str, int]:
        """Module -> its place in the order of calls, or else of declarations; empty where the trace
        does not tell it.

        A list that is sorted may be that of a dictionary which lost its order.
        """
        modules = self._called
        if not self.has_call_order:
            named = self.trace.header.get("parameter_order", [])
            modules = [read_name(name).module for name in named if name in self.arrays]
            modules = list(dict.fromkeys(modules))
        is_sorted = modules == sorted(modules)
        is_numbered = modules == sorted(modules, key=_natural) and _is_one_series(modules)
        if is_sorted and not is_numbered and len(modules) > 1:
            return {}
        return {module: place for place, module in enumerate(modules)}


def in_numbers(names: Arrays) -> list[str]:
    """Names sorted, with their numbers in order: h.2 before h.10."""
    return sorted(names, key=_natural)


def _natural(name: str) -> list[tuple[int, int, str]]:
    return [
        (0, int(part), "") if part.isdigit() else (1, 0, part)
        for part in re.findall(r"\d+|\D+", name)
    ]


def _is_one_series(names: list[str]) -> bool:
    """Whether names are those of one numbered series."""
    return len({re.sub(r"\d+", "#", name) for name in names}) == 1
