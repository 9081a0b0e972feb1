"""A log from a file or a folder: its kind recognised, its steps in order, its names shared."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lockstep.errors import InputError
from lockstep.files.input_file import input_size, parsing
from lockstep.files.kinds import BEGINNING, foreign_kind
from lockstep.logs.column_names import (
    LOSS,
    NORM,
    RATE,
    is_clock,
    names_of,
    shared_name,
    step_rank,
)
from lockstep.logs.event_table import is_event_file, read_events
from lockstep.logs.folders import files_in
from lockstep.logs.json_table import read_json_log
from lockstep.logs.log import Cells, Log, Series, Table
from lockstep.logs.offline_run import OFFLINE, read_offline_run
from lockstep.logs.text_table import read_csv
from lockstep.records.trace import Trace

__all__ = ["is_trace", "log_of_trace", "read_log"]

KNOWN = (LOSS, RATE, NORM)
"""Quantities whose column must hold numbers."""
LARGEST = 2.0**53
"""The largest step that a float64 holds exactly."""
RETURNS = 0.1
"""Share of the steps that may go back: a run that resumed goes back once."""


def is_trace(path: Path) -> bool:
    """Whether a file is a trace by its name or its beginning."""
    if path.suffix == ".trace":
        return True
    try:
        with path.open("rb") as file:
            head = file.read(9)
    except OSError:
        return False
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**40


def read_log(path: Path, given: Mapping[str, Sequence[str]] | None = None) -> Log:
    """The log in a file or a folder.

    Args:
        path: CSV, JSON lines, JSON, a `trainer_state.json`, an event file of TensorBoard, a trace,
            or a folder that holds one log.
        given: name -> columns that are called so here, where a log has one of them.

    Raises:
        InputError: the file cannot be read, is of another kind (which is named), has no step, text
            where a number is due, or steps in no order.
    """
    if is_trace(path):
        return log_of_trace(str(path), Trace.load(path))
    files = files_in(path) if path.is_dir() else [path]
    return _log(str(path), _table(files), given or {})


def log_of_trace(path: str, trace: Trace) -> Log:
    """The series of a trace, by the update's number from 0."""
    series: dict[str, Series] = {}
    for key, values in trace.arrays.items():
        name = key.removeprefix("updates/")
        if name == key or values.ndim != 1:
            continue
        steps_N = trace.first_update + np.arange(len(values))
        series[name] = Series(key, steps_N, values.astype(np.float64))
    return Log(path, "trace", series)


def _table(files: Sequence[Path]) -> Table:
    path = files[0]
    size = input_size(path)
    with parsing(path, "cannot be read"), path.open("rb") as file:
        head = file.read(BEGINNING)
    if len(files) > 1 or is_event_file(path, head):
        return read_events(files)
    if not size or not head.strip():
        raise InputError(f"{path}: is empty")
    if head.startswith(OFFLINE):
        return read_offline_run(path)
    kind = foreign_kind(path, head)
    if kind:
        raise InputError(f"{path}: is {kind}")
    if head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"{", b"["):
        return read_json_log(path)
    return read_csv(path)


def _log(path: str, table: Table, given: Mapping[str, Sequence[str]]) -> Log:
    """The log of a table."""
    columns = dict(table.columns)
    chosen = _given_columns(path, columns, given)
    step = chosen.pop("step", "") or table.step or _step_column(path, columns, set(chosen.values()))
    steps = columns.pop(step)
    _refuse_text(path, table, step, steps)
    counts = {
        name: len(cells.values_N)
        for name, cells in columns.items()
        if (step_rank(name) is None and not is_clock(name)) or name in chosen.values()
    }
    names = names_of([name for name in counts if name not in chosen.values()], counts)
    names = {name: column for name, column in names.items() if name not in chosen} | chosen
    notes = list(table.notes)
    series: dict[str, Series] = {}
    for name, column in names.items():
        cells = columns[column]
        if name in KNOWN or name in chosen:
            _refuse_text(path, table, column, cells)
        if cells.text is None and len(cells.values_N):
            series[name] = _series(path, table.unit, column, cells, step, steps, notes)
    if step.lower().endswith("epoch"):
        notes.append(f"{step!r} counts its steps")
    columns_in_file = frozenset(table.columns)
    return Log(path, table.kind, series, columns_in_file, tuple(dict.fromkeys(notes)))


def _given_columns(
    path: str, columns: Mapping[str, Cells], given: Mapping[str, Sequence[str]]
) -> dict[str, str]:
    """Name -> the column of this log that was given for it."""
    chosen: dict[str, str] = {}
    for name, candidates in given.items():
        here = [column for column in candidates if column in columns]
        if len(here) > 1:
            raise InputError(f"{path}: --column {name}: has both {here[0]!r} and {here[1]!r}")
        if here:
            chosen[name] = here[0]
    return chosen


def _step_column(path: str, columns: Mapping[str, Cells], chosen: set[str]) -> str:
    """The column of steps: the one that stands beside the most numbers, then the plainest name."""
    ranks = {
        name: step_rank(name)
        for name, cells in columns.items()
        if name not in chosen and len(cells.values_N)
    }
    candidates = [(name, rank) for name, rank in ranks.items() if rank is not None]
    if not candidates:
        shown = ", ".join(list(columns)[:6]) or "none"
        raise InputError(
            f"{path}: has no column of steps (columns: {shown}); name it with --column step=COLUMN"
        )
    known = [cells for name, cells in columns.items() if _is_known(name) and len(cells.values_N)]
    others = (
        known
        or [cells for name, cells in columns.items() if name not in ranks]
        or [columns[name] for name, _ in candidates]
    )
    last = max(int(cells.places_N[-1]) for cells in columns.values() if len(cells.places_N))
    is_needed_N = np.zeros(last + 1, dtype=bool)
    for cells in others:
        is_needed_N[cells.places_N] = True

    def place(candidate: tuple[str, tuple[int, int]]) -> tuple[int, tuple[int, int], int]:
        name, rank = candidate
        covered = is_needed_N[columns[name].places_N].sum()
        return -int(covered), rank, list(columns).index(name)

    return min(candidates, key=place)[0]


def _is_known(column: str) -> bool:
    shared = shared_name(column)
    return shared is not None and shared[0] in KNOWN


def _refuse_text(path: str, table: Table, column: str, cells: Cells) -> None:
    if cells.text is not None:
        shown = cells.text.content
        shown = shown if len(shown) <= 40 else shown[:37] + "..."
        raise InputError(
            f"{path}: {table.unit} {cells.text.place}, column {column!r} holds {shown!r}, text "
            "where a number is due"
        )


def _series(
    path: str, unit: str, column: str, cells: Cells, step: str, steps: Cells, notes: list[str]
) -> Series:
    """The numbers of a column by step; of a step that occurs again the later number counts."""
    index_N = np.searchsorted(steps.places_N, cells.places_N)
    index_N = np.minimum(index_N, len(steps.places_N) - 1)
    has_step_N = steps.places_N[index_N] == cells.places_N
    if not has_step_N.all():
        first = cells.places_N[np.argmin(has_step_N)]
        missing = int((~has_step_N).sum())
        if missing == len(has_step_N):
            raise InputError(f"{path}: {unit} {first}, column {step!r} is empty beside {column!r}")
        notes.append(f"numbers without a step are left out: {missing}, first in {unit} {first}")
    places_N = cells.places_N[has_step_N]
    numbers_N = steps.values_N[index_N[has_step_N]]
    wrong_N = ~((np.abs(numbers_N) < LARGEST) & (numbers_N == np.floor(numbers_N)))
    if wrong_N.any():
        at = int(np.argmax(wrong_N))
        raise InputError(
            f"{path}: {unit} {places_N[at]}, column {step!r} holds {numbers_N[at]:g}, which is no "
            "whole number"
        )
    steps_N, kept_N = _in_order(path, unit, step, numbers_N.astype(np.int64), places_N, notes)
    return Series(column, steps_N, cells.values_N[has_step_N][kept_N], cells.decimals)


def _in_order(
    path: str,
    unit: str,
    step: str,
    steps_N: NDArray[np.int64],
    places_N: NDArray[np.int64],
    notes: list[str],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Ascending steps, and the places of their numbers among all.

    Where the steps go back, a run resumed: what it had from there on does not count.

    Raises:
        InputError: the steps go back again and again.
    """
    backward_N = np.flatnonzero(np.diff(steps_N) < 0) + 1
    if len(backward_N) > max(1, RETURNS * len(steps_N)):
        first, second = backward_N[0], backward_N[1]
        raise InputError(
            f"{path}: {unit} {places_N[first]}, column {step!r}: the steps are in no order: they "
            f"fall from {steps_N[first - 1]} to {steps_N[first]}, and in {unit} {places_N[second]} "
            f"from {steps_N[second - 1]} to {steps_N[second]}"
        )
    # a number counts if no later one has its step or an earlier one
    later_N = np.minimum.accumulate(steps_N[::-1])[::-1]
    counts_N = np.ones(len(steps_N), dtype=bool)
    counts_N[:-1] = steps_N[:-1] < later_N[1:]
    if len(backward_N):
        at = backward_N[0]
        again = f", and {len(backward_N) - 1} more times" if len(backward_N) > 1 else ""
        notes.append(
            f"the steps go back from {steps_N[at - 1]} to {steps_N[at]} in {unit} {places_N[at]}"
            f"{again}, as of a run that resumed: the later numbers count"
        )
    elif not counts_N.all():
        at = int(np.argmin(counts_N))
        notes.append(
            f"step {steps_N[at]} occurs more than once ({unit} {places_N[at]} first), and "
            f"{int((~counts_N).sum()) - 1} others: the later number counts"
            if (~counts_N).sum() > 1
            else f"step {steps_N[at]} occurs twice ({unit} {places_N[at]}): the later number counts"
        )
    kept_N = np.flatnonzero(counts_N)
    return steps_N[kept_N], kept_N
