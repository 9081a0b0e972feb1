"""The name map of two loops: what trace B calls and lays out otherwise than trace A.

A TOML file, as `lockstep names` proposes it. Names that are alike in both need no line.

    [names]                                   # parameters; so too gradients, moments, statistics
    "fc.bias" = "Dense_0.bias"
    "fc.weight" = { name = "Dense_0.kernel", layout = "transpose" }
    "conv.weight" = { name = "Conv_0.kernel", axes = [3, 2, 0, 1] }
    "query.weight" = { name = "query.kernel", reshape = [32, 32], axes = [1, 0] }

    [forward]                                 # outputs of layers
    "conv" = { name = "conv", axes = [0, 3, 1, 2] }

    [batch]                                   # arrays of a batch
    "x" = { name = "x", axes = [0, 3, 1, 2] }

    [only]                                    # names without a counterpart in the other trace
    a = ["position_ids"]
    b = []

`reshape`, then `axes` (as `numpy.transpose` takes them), lead from B's array to A's; "transpose"
stands for axes 1, 0.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tomlkit
from numpy.typing import NDArray

from lockstep.errors import InputError
from lockstep.files.input_file import read_toml
from lockstep.files.outputs import NEW, write_file
from lockstep.records.trace import Trace

__all__ = ["Layout", "NameMap", "apply", "load_names", "save_names"]

TABLES = ("names", "forward", "batch")
FAMILY_TABLE = {
    "parameters": "names",
    "average": "names",
    "gradients": "names",
    "clip": "names",
    "moments": "names",
    "forward": "forward",
    "batch": "batch",
}
"""Family of arrays in a trace -> the table that maps its names."""
PREFIX_PARTS = {"detail": 3, "statistics": 2, "parameters": 2, "average": 2}
"""First part of an array's name -> how many parts stand before the tensor's; 1 for all others."""


@dataclass(frozen=True)
class Layout:
    """An array of trace B, and how it becomes one of A: `reshape` first, then `axes`; () leaves it
    as it is.
    """

    name: str
    axes: tuple[int, ...] = ()
    reshape: tuple[int, ...] = ()

    def turn(self, array: NDArray[Any]) -> NDArray[Any]:
        """The array as A lays it out.

        Raises:
            InputError: an array of another number of axes or elements; names it.
        """
        try:
            turned = array.reshape(self.reshape) if self.reshape else array
            return np.transpose(turned, self.axes) if self.axes else turned
        except ValueError:
            steps = [f"reshape {list(self.reshape)}"] if self.reshape else []
            steps.append(f"axes {list(self.axes)}")
            raise InputError(
                f"names: {self.name}: shape {array.shape} cannot be laid out by {', '.join(steps)}"
            ) from None


@dataclass(frozen=True)
class NameMap:
    """A's name -> B's, of parameters, layers and arrays of a batch; and the names that only one of
    them has.
    """

    names: Mapping[str, Layout] = field(default_factory=dict)
    forward: Mapping[str, Layout] = field(default_factory=dict)
    batch: Mapping[str, Layout] = field(default_factory=dict)
    only_a: frozenset[str] = frozenset()
    only_b: frozenset[str] = frozenset()


def load_names(path: Path) -> NameMap:
    """Read a name map.

    Raises:
        InputError: no such file, not TOML, another form, or two names of A for one of B; names the
            line's key.
    """
    content = read_toml(path, "not TOML")
    unknown = content.keys() - {*TABLES, "only"}
    if unknown:
        raise InputError(
            f"{path}: unknown table [{min(unknown)}]; there are [names], [forward], [batch] and "
            "[only]"
        )
    tables = {table: _read_table(path, table, content.get(table, {})) for table in TABLES}
    only = content.get("only", {})
    if not isinstance(only, dict) or only.keys() - {"a", "b"}:
        raise InputError(f"{path}: [only]: has lists of names, a and b")
    return NameMap(
        **tables,
        only_a=_read_only(path, "a", only.get("a", [])),
        only_b=_read_only(path, "b", only.get("b", [])),
    )


def save_names(path: Path, names: NameMap, comments: Mapping[str, str] | None = None) -> None:
    """Write a name map; a comment of a name stands at its line.

    Raises:
        InputError: the file cannot be written, or exists.
    """
    document = tomlkit.document()
    for title in TABLES:
        table = tomlkit.table()
        for name, layout in getattr(names, title).items():
            item = tomlkit.item(_write_layout(layout))
            if comments and name in comments:
                item.comment(comments[name])
            table[name] = item
        if table:
            document.add(title, table)
    if names.only_a or names.only_b:
        only = tomlkit.table()
        only["a"] = sorted(names.only_a)
        only["b"] = sorted(names.only_b)
        document.add("only", only)
    write_file(path, tomlkit.dumps(document).encode(), NEW)


def apply(names: NameMap, trace: Trace) -> Trace:
    """Trace B in A's names and layouts, of every family.

    Raises:
        InputError: a name that the trace does not hold, two arrays that end up with one name, or a
            layout that does not fit.
    """
    held: dict[str, set[str]] = {table: set() for table in TABLES}
    arrays: dict[str, NDArray[Any]] = {}
    by_name_of_b = {table: _by_name_of_b(getattr(names, table)) for table in TABLES}
    for key, array in trace.arrays.items():
        prefix, family, name = split_name(key)
        table = FAMILY_TABLE.get(family, "")
        if not table:
            arrays[key] = array
            continue
        held[table].add(name)
        if table == "names" and name in names.only_b:
            continue
        new, layout = by_name_of_b[table].get(name, (name, None))
        if prefix + new in arrays:
            raise InputError(f"names: {new}: two arrays of {trace.backend} would have this name")
        is_summary = key.startswith(("statistics/", "bounds/"))
        arrays[prefix + new] = array if layout is None or is_summary else layout.turn(array)
    for table in TABLES:
        missing = sorted(by_name_of_b[table].keys() - held[table])
        if missing and (table == "names" or held[table]):
            raise InputError(
                f"names: [{table}]: not in the trace of {trace.backend}: {', '.join(missing)}"
            )
    lists = {
        "layers": _renamed(trace.header.get("layers", []), by_name_of_b["forward"]),
        "buffers": _renamed(trace.header.get("buffers", []), by_name_of_b["names"]),
    }
    return Trace(trace.header | lists, arrays)


def split_name(key: str) -> tuple[str, str, str]:
    """An array's name in a trace as (what stands before the tensor, family, tensor):
    "detail/3/moments/first/fc.weight" is ("detail/3/moments/first/", "moments", "fc.weight").
    """
    parts = key.split("/")
    begin = int(parts[0] == "bounds")
    kind = parts[begin]
    cut = begin + PREFIX_PARTS.get(kind, 1)
    family = parts[cut - 1] if kind in ("detail", "statistics") else kind
    cut += family == "moments"
    prefix = "".join(f"{part}/" for part in parts[:cut])
    return prefix, family, "/".join(parts[cut:])


def _by_name_of_b(table: Mapping[str, Layout]) -> dict[str, tuple[str, Layout]]:
    """B's name -> A's name, and the layout."""
    return {layout.name: (name, layout) for name, layout in table.items()}


def _renamed(names: Iterable[str], by_name_of_b: Mapping[str, tuple[str, Layout]]) -> list[str]:
    """Names of B in A's words, where A has others."""
    return [by_name_of_b[name][0] if name in by_name_of_b else name for name in names]


# ---- the file


def _read_table(path: Path, table: str, content: Any) -> dict[str, Layout]:
    if not isinstance(content, dict):
        raise InputError(f"{path}: {table}: must be a table")
    layouts: dict[str, Layout] = {}
    for name, value in content.items():
        layouts[name] = _read_layout(f"{path}: {table}.{name}", value)
    first_name: dict[str, str] = {}
    for name, layout in layouts.items():
        if layout.name in first_name:
            raise InputError(
                f"{path}: [{table}]: {first_name[layout.name]} and {name} are both {layout.name}"
            )
        first_name[layout.name] = name
    return layouts


def _read_only(path: Path, side: str, names: Any) -> frozenset[str]:
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(f"{path}: only.{side}: must be a list of names")
    return frozenset(names)


def _read_layout(where: str, value: Any) -> Layout:
    if isinstance(value, str):
        return Layout(value)
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        raise InputError(f'{where}: must be a name, or {{ name = "...", layout, axes or reshape }}')
    unknown = value.keys() - {"name", "layout", "axes", "reshape"}
    if unknown:
        raise InputError(
            f"{where}: unknown key {min(unknown)}; there are name, layout, axes and reshape"
        )
    axes = _read_whole_numbers(f"{where}: axes", value.get("axes", []))
    reshape = _read_whole_numbers(f"{where}: reshape", value.get("reshape", []))
    if sorted(axes) != list(range(len(axes))):
        raise InputError(f"{where}: axes: {list(axes)} must name each axis once")
    if value.get("layout", "transpose") != "transpose" or (axes and "layout" in value):
        raise InputError(
            f'{where}: layout: there is "transpose" alone, without axes; write any other order as '
            "axes"
        )
    if "layout" in value:
        axes = (1, 0)
    return Layout(value["name"], axes, reshape)


def _read_whole_numbers(where: str, numbers: Any) -> tuple[int, ...]:
    is_list = isinstance(numbers, list)
    if not is_list or not all(type(number) is int and number >= 0 for number in numbers):
        raise InputError(f"{where}: must be a list of whole numbers")
    return tuple(numbers)


def _write_layout(layout: Layout) -> str | tomlkit.items.InlineTable:
    if not layout.axes and not layout.reshape:
        return layout.name
    table = tomlkit.inline_table()
    table["name"] = layout.name
    if layout.reshape:
        table["reshape"] = list(layout.reshape)
    if layout.axes == (1, 0) and not layout.reshape:
        table["layout"] = "transpose"
    elif layout.axes:
        table["axes"] = list(layout.axes)
    return table
