"""JSON as columns of numbers: JSON lines, lists of entries, and Hugging Face's trainer state."""

import json
import math
from array import array
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lockstep.errors import InputError
from lockstep.files.input_file import input_size, parsing, reason_of
from lockstep.files.memory import refuse_too_large
from lockstep.logs.log import Cells, Table, Text

__all__ = ["TRAINER", "Columns", "read_json_log"]

GROWTH = 8
"""How many times its size a JSON text takes in memory as Python's objects, at most."""
HISTORY = "log_history"
TRAINER = "Hugging Face's trainer state"
"""The kind of a log that its Trainer wrote."""
WORDS = {"nan": math.nan, "infinity": math.inf, "inf": math.inf}
WORDS |= {"-infinity": -math.inf, "-inf": -math.inf}
"""Texts that stand for numbers that JSON does not have."""
DEEPEST = 4
"""Levels of entries within an entry that make names: {"train": {"loss": 1}} is train/loss."""


class Columns:
    """Columns that grow entry by entry."""

    def __init__(self) -> None:
        self.places: dict[str, array[int]] = {}
        self.values: dict[str, array[float]] = {}
        self.texts: dict[str, Text] = {}

    def add(self, place: int, entry: Mapping[str, Any], prefix: str = "", level: int = 0) -> None:
        """Add the numbers of an entry, by name."""
        for key, value in entry.items():
            name = prefix + key
            number = _number(value)
            if number is not None:
                if name not in self.values:
                    self.places[name] = array("q")
                    self.values[name] = array("d")
                self.places[name].append(place)
                self.values[name].append(number)
            elif isinstance(value, str):
                self.texts.setdefault(name, Text(place, value))
            elif isinstance(value, dict) and level < DEEPEST:
                self.add(place, value, f"{name}/", level + 1)

    def table(self, kind: str, unit: str, notes: tuple[str, ...] = ()) -> Table:
        """The table of all entries."""
        columns = {}
        for name in self.values | self.texts:
            columns[name] = Cells(
                np.array(self.places.get(name, []), dtype=np.int64),
                np.array(self.values.get(name, []), dtype=np.float64),
                text=self.texts.get(name),
            )
        return Table(kind, columns, unit, notes)


def _number(value: Any) -> float | None:
    if type(value) is float:
        return value
    if type(value) is int:
        try:
            return float(value)
        except OverflowError:
            return math.inf if value > 0 else -math.inf
    return WORDS.get(value.lower()) if isinstance(value, str) else None


def read_json_log(path: Path) -> Table:
    """The columns of JSON lines, of a list of entries, of columns, or of a `trainer_state.json`.

    Raises:
        InputError: the text is no JSON, or holds no entries with numbers.
    """
    lines = _first_lines(path)
    # a first line that is JSON by itself leaves room for no more but further lines
    if _is_entry(lines[0]) and (len(lines) > 1 or not _holds_log(json.loads(lines[0]))):
        return _read_lines(path)
    return _read_whole(path)


def _first_lines(path: Path) -> list[str]:
    """The first two lines that are not blank."""
    lines: list[str] = []
    with parsing(path, "cannot be read"), path.open(encoding="utf-8-sig") as file:
        for line in file:
            if line.strip():
                lines.append(line)
            if len(lines) == 2:
                break
    return lines


def _is_entry(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _holds_log(content: Mapping[str, Any]) -> bool:
    """Whether one object is a whole file: a trainer's state, columns, or a notebook."""
    return (
        HISTORY in content
        or "nbformat" in content
        or any(isinstance(value, list | dict) and value for value in content.values())
    )


def _read_lines(path: Path) -> Table:
    """The entries of JSON lines; a last line that was cut off is left out."""
    columns = Columns()
    notes: tuple[str, ...] = ()
    for number, line, is_last in _lines(path):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError) as error:
            if is_last and not line.endswith("\n"):
                notes = (f"line {number} is cut off, and is left out",)
                break
            raise InputError(f"{path}: line {number}: {_json_reason(error)}") from None
        if not isinstance(entry, dict):
            raise InputError(f"{path}: line {number} is no object with names")
        columns.add(number, entry)
    return columns.table("JSON lines", "line", notes)


def _lines(path: Path) -> Iterator[tuple[int, str, bool]]:
    """The number of each line from 1, its text, and whether it is the last."""
    with parsing(path, "cannot be read"), path.open(encoding="utf-8-sig") as file:
        number, before = 0, ""
        for line in file:
            if number:
                yield number, before, False
            number, before = number + 1, line
        if number:
            yield number, before, True


def _json_reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"column {error.colno}: {error.msg[0].lower()}{error.msg[1:]}"
    return reason_of(error)


def _read_whole(path: Path) -> Table:
    """The entries of a file that is one JSON value."""
    refuse_too_large(str(path), GROWTH * input_size(path))
    with parsing(path, "cannot be read"):
        text = path.read_text(encoding="utf-8-sig")
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        line = f"line {error.lineno}: " if isinstance(error, json.JSONDecodeError) else ""
        raise InputError(f"{path}: not readable JSON: {line}{_json_reason(error)}") from None
    kind, entries = _entries(path, content)
    columns = Columns()
    for number, entry in enumerate(entries, start=1):
        if not isinstance(entry, dict):
            raise InputError(f"{path}: entry {number} is no object with names")
        columns.add(number, entry)
    return columns.table(kind, "entry")


def _entries(path: Path, content: Any) -> tuple[str, list[Any]]:
    """The kind of log in words, and its entries.

    Raises:
        InputError: the JSON is no log.
    """
    if isinstance(content, dict) and HISTORY in content:
        history = content[HISTORY]
        if isinstance(history, list):
            return TRAINER, history
        raise InputError(f"{path}: {HISTORY} is no list")
    if isinstance(content, list):
        return "JSON", content
    if isinstance(content, dict):
        if "cells" in content and "nbformat" in content:
            raise InputError(f"{path}: is a Jupyter notebook, and no log")
        entries = _from_columns(content)
        if entries:
            return "JSON", entries
    raise InputError(
        f"{path}: is JSON without a log: neither entries with names, nor columns, nor {HISTORY}"
    )


def _from_columns(content: Mapping[str, Any]) -> list[Any]:
    """The entries of columns: {"loss": [2.3, 2.1]} or {"loss": {"0": 2.3, "1": 2.1}}."""
    columns: dict[str, dict[str, Any]] = {}
    for name, column in content.items():
        if isinstance(column, list):
            columns[name] = {str(row): value for row, value in enumerate(column)}
        elif isinstance(column, dict) and all(key.isdigit() for key in column):
            columns[name] = column
    rows = sorted({int(key) for column in columns.values() for key in column})
    return [
        {name: column[str(row)] for name, column in columns.items() if str(row) in column}
        for row in rows
    ]
