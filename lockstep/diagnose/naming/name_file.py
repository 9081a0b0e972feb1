"""The TOML file of a name map."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tomlkit

from lockstep.diagnose.naming.layouts import Join, Layout, Source, Sum
from lockstep.diagnose.naming.name_map import TABLES, NameMap
from lockstep.errors import InputError
from lockstep.files.input_file import read_toml
from lockstep.files.outputs import NEW, write_file

__all__ = ["load_names", "save_names"]

NUMBERS = ("slice", "gates", "reshape", "axes", "flip", "shape")
"""The keys of a layout that are lists of whole numbers."""
KEYS = ("name", "layout", "axis", *NUMBERS)
JOINED = ("layout", "reshape", "axes", "flip")
"""The keys that a join may have for all its parts."""


def load_names(path: Path) -> NameMap:
    """Read a name map.

    Raises:
        InputError: no such file, not TOML, another form, or two names of A for one of B; names the
            line's key.
    """
    content = read_toml(path, "not TOML")
    unknown = content.keys() - {*TABLES, "sums", "same", "only"}
    if unknown:
        raise InputError(
            f"{path}: unknown table [{min(unknown)}]; there are [names], [forward], [batch], "
            "[sums], [same] and [only]"
        )
    names = _read_table(path, "names", content.get("names", {}))
    forward = _read_table(path, "forward", content.get("forward", {}))
    batch = _read_table(path, "batch", content.get("batch", {}))
    same = _sides(f"{path}: [same]: has tables of names", content.get("same", {}))
    only = _sides(f"{path}: [only]: has lists of names", content.get("only", {}))
    return NameMap(
        names,
        {name: _one_array(f"{path}: forward.{name}", source) for name, source in forward.items()},
        {name: _one_array(f"{path}: batch.{name}", source) for name, source in batch.items()},
        only_a=_read_only(path, "a", only.get("a", [])),
        only_b=_read_only(path, "b", only.get("b", [])),
        sums=_read_sums(path, content.get("sums", {})),
        same_a=_read_same(path, "a", same.get("a", {})),
        same_b=_read_same(path, "b", same.get("b", {})),
    )


def save_names(
    path: Path,
    names: NameMap,
    comments: Mapping[str, str] | None = None,
    remarks: Sequence[str] = (),
) -> None:
    """Write a name map.

    Args:
        path: the file.
        names: the map.
        comments: A's name, or a layer's as "forward/fc" -> what stands behind its line.
        remarks: comments that stand before everything else.

    Raises:
        InputError: the file cannot be written, or exists.
    """
    comments = comments or {}
    document = tomlkit.document()
    for remark in remarks:
        document.add(tomlkit.comment(remark))
    for title in TABLES:
        table = tomlkit.table()
        for name, source in getattr(names, title).items():
            item = tomlkit.item(_written(source))
            comment = comments.get(name if title == "names" else f"{title}/{name}")
            if comment:
                item.comment(comment)
            table[name] = item
        if table:
            document.add(title, table)
    for title, content in _written_others(names).items():
        document.add(title, content)
    write_file(path, tomlkit.dumps(document).encode(), NEW)


# ---- reading


def _read_table(path: Path, table: str, content: Any) -> dict[str, Source]:
    if not isinstance(content, dict):
        raise InputError(f"{path}: {table}: must be a table")
    sources: dict[str, Source] = {}
    for name, value in content.items():
        sources[name] = _read_source(f"{path}: {table}.{name}", value)
    whole: dict[str, str] = {}
    sliced: dict[str, str] = {}
    for name, source in sources.items():
        for part in source.parts if isinstance(source, Join) else (source,):
            other = whole.get(part.name) or ("" if part.span else sliced.get(part.name, ""))
            if other:
                raise InputError(f"{path}: [{table}]: {other} and {name} are both {part.name}")
            (sliced if part.span else whole)[part.name] = name
    return sources


def _one_array(where: str, source: Source) -> Layout:
    if isinstance(source, Join):
        raise InputError(f"{where}: an output or a batch is one array, not a join")
    return source


def _sides(fault: str, content: Any) -> dict[str, Any]:
    if not isinstance(content, dict) or content.keys() - {"a", "b"}:
        raise InputError(f"{fault}, a and b")
    return content


def _read_only(path: Path, side: str, names: Any) -> frozenset[str]:
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(f"{path}: only.{side}: must be a list of names")
    return frozenset(names)


def _read_same(path: Path, side: str, content: Any) -> dict[str, Layout]:
    if not isinstance(content, dict):
        raise InputError(f"{path}: same.{side}: must be a table of names")
    same = {}
    for name, value in content.items():
        where = f"{path}: same.{side}.{name}"
        same[name] = _one_array(where, _read_source(where, value))
    return same


def _read_sums(path: Path, content: Any) -> dict[str, Sum]:
    if not isinstance(content, dict):
        raise InputError(f"{path}: sums: must be a table")
    sums = {}
    for name, value in content.items():
        where = f"{path}: sums.{name}"
        if not isinstance(value, dict) or value.keys() != {"a", "b"}:
            raise InputError(f"{where}: must be {{ a = [...], b = [...] }}")
        sums[name] = Sum(*(_read_terms(f"{where}.{side}", value[side]) for side in "ab"))
    return sums


def _read_terms(where: str, value: Any) -> tuple[Source, ...]:
    if not isinstance(value, list) or not value:
        raise InputError(f"{where}: must be a list of names, slices or joins")
    return tuple(_read_source(where, term) for term in value)


def _read_source(where: str, value: Any) -> Source:
    if isinstance(value, dict) and "join" in value:
        return _read_join(where, value)
    return _read_layout(where, value)


def _read_join(where: str, value: Mapping[str, Any]) -> Join:
    unknown = value.keys() - {"join", "axis", *JOINED}
    if unknown:
        raise InputError(
            f"{where}: unknown key {min(unknown)}; a join has join, axis, {', '.join(JOINED)}"
        )
    parts = value["join"]
    if not isinstance(parts, list) or not parts:
        raise InputError(f"{where}: join: must be a list of names")
    for_all = {key: value[key] for key in JOINED if key in value}
    laid_out = []
    for part in parts:
        own = {"name": part} if isinstance(part, str) else part
        merged = for_all | own if isinstance(own, dict) else own
        laid_out.append(_read_layout(f"{where}: join", merged))
    return Join(tuple(laid_out), _read_whole_number(f"{where}: axis", value.get("axis", 0)))


def _read_layout(where: str, value: Any) -> Layout:
    if isinstance(value, str):
        return Layout(value)
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        raise InputError(f'{where}: must be a name, or {{ name = "...", layout, axes or reshape }}')
    unknown = value.keys() - set(KEYS)
    if unknown:
        raise InputError(
            f"{where}: unknown key {min(unknown)}; there are {', '.join(KEYS[:-1])} and {KEYS[-1]}"
        )
    numbers = {key: _read_whole_numbers(f"{where}: {key}", value.get(key, [])) for key in NUMBERS}
    axes = numbers["axes"]
    for key in ("axes", "gates"):
        order = numbers[key]
        if sorted(order) != list(range(len(order))):
            each = {"axes": "axis", "gates": "block"}[key]
            raise InputError(f"{where}: {key}: {list(order)} must name each {each} once")
    span = numbers["slice"]
    if span and not (len(span) == 2 and span[0] < span[1]):
        raise InputError(f"{where}: slice: {list(span)} must be a begin and a later end")
    if value.get("layout", "transpose") != "transpose" or (axes and "layout" in value):
        raise InputError(
            f'{where}: layout: there is "transpose" alone, without axes; write any other order as '
            "axes"
        )
    if "layout" in value:
        axes = (1, 0)
    return Layout(
        value["name"],
        axes,
        numbers["reshape"],
        span=span,
        gates=numbers["gates"],
        axis=_read_whole_number(f"{where}: axis", value.get("axis", 0)),
        flip=numbers["flip"],
        shape=numbers["shape"],
    )


def _read_whole_number(where: str, number: Any) -> int:
    if type(number) is not int or number < 0:
        raise InputError(f"{where}: must be a whole number")
    return number


def _read_whole_numbers(where: str, numbers: Any) -> tuple[int, ...]:
    is_list = isinstance(numbers, list)
    if not is_list or not all(type(number) is int and number >= 0 for number in numbers):
        raise InputError(f"{where}: must be a list of whole numbers")
    return tuple(numbers)


# ---- writing


def _written_others(names: NameMap) -> dict[str, tomlkit.items.Table]:
    """The tables [sums], [same] and [only], without those that are empty."""
    tables: dict[str, tomlkit.items.Table] = {}
    if names.sums:
        tables["sums"] = tomlkit.table()
        for name, of_both in names.sums.items():
            line = tomlkit.inline_table()
            line["a"] = [_written(term) for term in of_both.a]
            line["b"] = [_written(term) for term in of_both.b]
            tables["sums"][name] = line
    if names.same_a or names.same_b:
        tables["same"] = tomlkit.table()
        for side, copies in (("a", names.same_a), ("b", names.same_b)):
            lines = tomlkit.inline_table()
            for name, original in copies.items():
                lines[name] = _written(original)
            tables["same"][side] = lines
    if names.only_a or names.only_b:
        tables["only"] = tomlkit.table()
        tables["only"]["a"] = sorted(names.only_a)
        tables["only"]["b"] = sorted(names.only_b)
    return tables


def _written(source: Source) -> str | tomlkit.items.InlineTable:
    if isinstance(source, Layout):
        steps = _steps(source)
        return _inline({"name": source.name} | steps) if steps else source.name
    steps_of_parts = [_steps(part) for part in source.parts]
    shared = {key: value for key, value in steps_of_parts[0].items() if key in JOINED}
    for steps in steps_of_parts:
        shared = {key: value for key, value in shared.items() if steps.get(key) == value}
    if len(shared) != len({key for steps in steps_of_parts for key in steps if key in JOINED}):
        shared = {}  # a part without a step has no word for it
    parts = []
    for part, steps in zip(source.parts, steps_of_parts):
        own = {key: value for key, value in steps.items() if key not in shared}
        parts.append(_inline({"name": part.name} | own) if own else part.name)
    return _inline({"join": parts, "axis": source.axis} | shared)


def _inline(content: Mapping[str, Any]) -> tomlkit.items.InlineTable:
    table = tomlkit.inline_table()
    table.update(content)
    return table


def _steps(layout: Layout) -> dict[str, Any]:
    """The keys of a layout but for its name, without those that leave the array as it is."""
    steps: dict[str, Any] = {}
    if layout.span:
        steps["slice"] = list(layout.span)
    if layout.gates:
        steps["gates"] = list(layout.gates)
    if layout.axis:
        steps["axis"] = layout.axis
    if layout.reshape:
        steps["reshape"] = list(layout.reshape)
    if layout.axes == (1, 0) and not layout.reshape:
        steps["layout"] = "transpose"
    elif layout.axes:
        steps["axes"] = list(layout.axes)
    if layout.flip:
        steps["flip"] = list(layout.flip)
    if layout.shape:
        steps["shape"] = list(layout.shape)
    return steps
