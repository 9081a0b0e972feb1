"""A text table as a data frame: compression, encoding, separator, comments and ragged rows.

polars reads the cells. This module works out the rest from the first lines. It reads the whole
text a second time, record by record, only if polars refuses it or a last cell is empty.
"""

import bz2
import codecs
import csv
import difflib
import gzip
import io
import lzma
import re
import zlib
from collections.abc import Callable, Collection, Iterator
from importlib import import_module
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from lockstep.data_prep.table import Note, counted
from lockstep.errors import InputError
from lockstep.recipe import Data

if TYPE_CHECKING:
    import polars

__all__ = ["SEPARATORS", "is_number", "read_text"]

SEPARATORS = {"comma": ",", "semicolon": ";", "tab": "\t", "pipe": "|", "space": " "}

HEAD = 2**20
"""Bytes in which the column names must lie."""

SAMPLE = 10_000
"""Rows that decide the columns' types; all rows do where a later one does not fit."""

EXPANSION = 100
"""How many times larger than its file a compressed table may be; 64 MiB are always allowed."""

MAGIC = {
    "gzip": b"\x1f\x8b",
    "bzip2": b"BZh",
    "xz": b"\xfd7zXZ\0",
    "Zstandard": b"\x28\xb5\x2f\xfd",
}
"""Compression -> the bytes that its files begin with."""

ENCODINGS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
"""Byte-order mark -> encoding; the longer marks first."""

NUMBER = re.compile(r"\s*[+-]?(\d+([.,]\d*)?|[.,]\d+)([eE][+-]?\d+)?\s*")


class Survey(NamedTuple):
    """The result of reading record by record."""

    comments: list[int]
    """Numbers of the lines that are comments, from 0."""
    trailing: list[int]
    """Numbers of the empty lines that end the text, from 0."""
    fault: str
    """The first row with another number of cells than there are names, in words, or ""."""


def is_number(cell: str) -> bool:
    """Whether a cell is a number, with a point or a comma before the fraction."""
    return NUMBER.fullmatch(cell) is not None


def read_text(path: Path, data: Data, suffix: str) -> tuple["polars.DataFrame", list[Note]]:
    """The frame of a text table, and notes on how it was read: label and value.

    Args:
        path: the file.
        data: the section that names separator and target.
        suffix: ".csv" or ".tsv".

    Raises:
        InputError: another separator, no names, a ragged row, or an encoding that cannot be told.
    """
    notes: list[Note] = []
    source = _unpacked(path, notes)
    source = _decoded(path, source, notes)
    separator = SEPARATORS.get(data.separator, "\t" if suffix == ".tsv" else ",")
    head = _head(path, source, suffix)
    skipped, declared = _lines_before_names(head, separator, data)
    separator = declared or separator
    if declared:
        notes.append(("separator", f"{declared!r}, which the file declares"))
    elif data.separator != "suffix":
        notes.append(("separator", repr(separator)))
    if skipped:
        notes.append(("lines before the names", f"{skipped} left out"))
        source = _without_lines(source, range(skipped))
        head = _head(path, source, suffix)
    names = _names(path, head, separator, data)
    return _frame(path, source, separator, names, suffix, notes), notes


def _frame(
    path: Path,
    source: Path | bytes,
    separator: str,
    names: list[str],
    suffix: str,
    notes: list[Note],
) -> "polars.DataFrame":
    """The frame that polars reads from the text, without comments; ragged rows are refused."""
    import polars

    try:
        frame = _without_empty_end(_polars_csv(source, separator))
        if frame.width == len(names) and not frame[:, -1].null_count():
            return frame
        failure = ""
    # polars has error types of its own, which all mean an unreadable text; a panic is no Exception
    except (Exception, polars.exceptions.PanicException) as error:
        failure = (str(error).strip() or type(error).__name__).splitlines()[0]
    _refuse_other_encodings(path, source)
    survey = _survey(path, source, separator, len(names))
    if survey.fault:
        raise InputError(f"{path}: {survey.fault}")
    left_out = survey.comments + survey.trailing
    if survey.comments:
        lines = counted(len(survey.comments), "line")
        notes.append(("comments that begin with '#'", f"{lines} left out"))
    if left_out:
        return _frame(path, _without_lines(source, left_out), separator, names, suffix, notes)
    if failure:
        raise InputError(f"{path}: not a readable {suffix} file: {failure[:80]}")
    return frame


def _polars_csv(source: Path | bytes, separator: str) -> "polars.DataFrame":
    """The frame, with the types of the first rows if all rows fit them, else with wider types."""
    import polars

    def read(rows: int | None) -> "polars.DataFrame":
        return polars.read_csv(source, separator=separator, infer_schema_length=rows, glob=False)

    try:
        frame = read(SAMPLE)
    except polars.exceptions.ComputeError:
        return read(None)
    texts = [column for column in frame if column.dtype == polars.String]
    # polars takes a column whose first cells are all empty for text
    sampled = min(SAMPLE, frame.height)
    is_guessed = any(column.head(SAMPLE).null_count() == sampled for column in texts)
    return read(None) if is_guessed and frame.height > SAMPLE else frame


def _without_empty_end(frame: "polars.DataFrame") -> "polars.DataFrame":
    """The frame without the empty rows that end it."""
    height = frame.height
    while height and all(cell is None for cell in frame.row(height - 1)):
        height -= 1
    return frame.head(height)


# ---- bytes


def _unpacked(path: Path, notes: list[Note]) -> Path | bytes:
    """The bytes of the file, decompressed if need be, of bounded size."""
    with path.open("rb") as file:
        mark = file.read(6)
    if mark[:2] in (b"x\x01", b"x\x9c", b"x\xda"):
        raise InputError(
            f"{path}: compressed by zlib, without a file format; gzip, bzip2 and xz are read"
        )
    kind = next((kind for kind, magic in MAGIC.items() if mark.startswith(magic)), "")
    if not kind:
        if path.suffix.lower() in (".gz", ".bz2", ".xz", ".zst"):
            raise InputError(f"{path}: not compressed, in spite of its name")
        return path
    largest = max(2**26, EXPANSION * path.stat().st_size)
    try:
        with _open_compressed(path, kind) as file:
            content: bytes = file.read(largest + 1)
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise InputError(f"{path}: not a readable {kind} file: {str(error)[:80]}") from None
    if len(content) > largest:
        raise InputError(
            f"{path}: expands to more than {EXPANSION} times its size and {largest >> 20} MiB; "
            "unpack it first, if it is to be trusted"
        )
    notes.append(("compression", kind))
    return content


def _open_compressed(path: Path, kind: str) -> Any:
    openers: dict[str, Callable[[Path], Any]] = {
        "gzip": gzip.open,
        "bzip2": bz2.open,
        "xz": lzma.open,
    }
    if kind in openers:
        return openers[kind](path)
    try:
        return import_module("compression.zstd").open(path)
    except ModuleNotFoundError:
        raise InputError(
            f"{path}: Zstandard needs Python 3.14; unpack it first, or take gzip"
        ) from None


def _decoded(path: Path, source: Path | bytes, notes: list[Note]) -> Path | bytes:
    """The text in UTF-8."""
    with _opened(source) as file:
        start = file.read(4096)
    encoding = next((name for mark, name in ENCODINGS.items() if start.startswith(mark)), "")
    if encoding:
        try:
            text = _content(source).decode(encoding)
        except UnicodeDecodeError as error:
            raise InputError(
                f"{path}: its byte-order mark says {encoding}, but: {error.reason}"
            ) from None
        notes.append(("encoding", encoding))
        return text.encode()
    zeros = max(start[::2].count(0), start[1::2].count(0))
    if zeros > len(start) // 4:
        raise InputError(
            f"{path}: zero bytes in every other place: UTF-16 without a byte-order mark? UTF-8 is "
            "read"
        )
    return source


def _refuse_other_encodings(path: Path, source: Path | bytes) -> None:
    """Raise InputError with the first line that is not UTF-8, if there is one."""
    with _opened(source) as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                byte = line[error.start]
                raise InputError(
                    f"{path}: line {number} is not UTF-8 (byte 0x{byte:02x}); of Latin-1 or "
                    "Windows-1252? convert it: iconv -f WINDOWS-1252 -t UTF-8"
                ) from None


def _opened(source: Path | bytes) -> IO[bytes]:
    return io.BytesIO(source) if isinstance(source, bytes) else source.open("rb")


def _content(source: Path | bytes) -> bytes:
    return source if isinstance(source, bytes) else source.read_bytes()


def _without_lines(source: Path | bytes, numbers: Collection[int]) -> bytes:
    """The text without the lines of these numbers, counted from 0."""
    left_out = set(numbers)
    with _opened(source) as file:
        return b"".join(line for number, line in enumerate(file) if number not in left_out)


# ---- the first lines


def _head(path: Path, source: Path | bytes, suffix: str) -> str:
    """The first whole lines."""
    with _opened(source) as file:
        content = file.read(HEAD)
        is_whole = not file.read(1)
    if not is_whole and b"\n" in content:
        content = content[: content.rfind(b"\n") + 1]
    try:
        text = content.removeprefix(codecs.BOM_UTF8).decode()
    except UnicodeDecodeError:
        _refuse_other_encodings(path, source)
        raise  # not reached, since a line is not UTF-8
    if not text.strip():
        raise InputError(f"{path}: not a readable {suffix} file: empty CSV")
    if "\n" not in text and "\r" in text:
        raise InputError(
            f"{path}: its lines end in a carriage return alone; those that end in a line feed are "
            "read"
        )
    return text


def _records(text: str, separator: str) -> Iterator[list[str]]:
    """The records of some lines; a malformed record ends them."""
    try:
        yield from csv.reader(io.StringIO(text, newline="\n"), delimiter=separator)
    except csv.Error:
        return


def _lines_before_names(head: str, separator: str, data: Data) -> tuple[int, str]:
    """The number of lines before the names, and the separator that one of them declares, or "".

    Such lines are comments, and a spreadsheet's `sep=;`.
    """
    declared = ""
    for number, line in enumerate(head.split("\n")):
        stripped = line.strip()
        match = re.fullmatch(r"sep=(.|\\t)", stripped)
        if match:
            declared = match[1].replace("\\t", "\t")
            continue
        names = next(_records(line + "\n", declared or separator), [])
        if not stripped.startswith("#") or data.target in names:
            return number, declared
    return 0, ""


def _names(path: Path, head: str, separator: str, data: Data) -> list[str]:
    """The columns' names.

    Raises:
        InputError: the text has another separator, or no names in its first line.
    """
    names, _ = _first_records(head, separator)
    if data.target not in names:
        other = _other_separator(head, separator, data, is_single=len(names) == 1)
        if other:
            raise InputError(
                f"{path}: the separator is {SEPARATORS[other]!r}, not {separator!r}: "
                f"data.separator = {other} reads it"
            )
    if _is_a_row(names, head, separator, data):
        shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        raise InputError(
            f"{path}: the first row holds numbers ({shown}); it must hold the columns' names"
        )
    return names


def _other_separator(head: str, separator: str, data: Data, *, is_single: bool) -> str:
    """The name of a separator that fits the first lines better, or "".

    It gives a column of the target's name. Where the expected separator gives a single column, it
    is enough that it gives several in the first two records, since the target may be misspelt.
    """
    records = {
        name: _first_records(head, other)
        for name, other in SEPARATORS.items()
        if other != separator
    }
    for name, (cells, _) in records.items():
        if name != "space" and data.target in cells:
            return name
    if is_single:
        for name, (cells, row) in records.items():
            if len(cells) == len(row) > 1:
                return name
    return ""


def _is_a_row(names: list[str], head: str, separator: str, data: Data) -> bool:
    """Whether the line of the names is a row of numbers, which do not just count the columns."""
    target = data.target
    numbers = [name for name in names if is_number(name)]
    counting = [str(i) for i in range(len(numbers) + 1)]
    if not numbers or (len(numbers) > 2 and numbers in (counting[:-1], counting[1:])):
        return False
    if target not in names:
        return 2 * len(numbers) >= len(names) and not difflib.get_close_matches(target, names)
    others = [name for name in names if name and name != target]
    if not others or not all(is_number(name) for name in others):
        return False
    return is_number(target) or target in _column(head, separator, target)


def _first_records(head: str, separator: str) -> tuple[list[str], list[str]]:
    """The first two records that are not blank, names and first row; [] for one that is missing."""
    filled = filter(_is_filled, _records(head, separator))
    return next(filled, []), next(filled, [])


def _is_filled(cells: list[str]) -> bool:
    return any(cell.strip() for cell in cells)


def _column(head: str, separator: str, target: str) -> set[str]:
    """The cells of the target's column in the first rows."""
    records = [cells for cells in _records(head, separator) if cells]
    place = records[0].index(target)
    return {cells[place] for cells in records[1:] if len(cells) > place}


# ---- all lines


def _survey(path: Path, source: Path | bytes, separator: str, width: int) -> Survey:
    """Read record by record, to find faults that polars does not report."""
    comments: list[int] = []
    empty: list[int] = []
    fault = ""
    row = -1  # the line of the names is not a row
    with _opened(source) as file:
        lines = _Lines(io.TextIOWrapper(file, encoding="utf-8-sig", newline="\n"))
        reader = csv.reader(lines, delimiter=separator, strict=True)
        while True:
            lines.first = ""
            number = lines.count
            try:
                cells = next(reader, None)
            except csv.Error as error:
                what = "a quote is not closed" if "end of data" in str(error) else str(error)
                return Survey([], [], fault or f"row {row + 1}: {what}")
            if cells is None:
                break
            if not _is_filled(cells):
                if row >= 0:  # blank lines before the names are not rows
                    empty.append(number)
                    row += 1
                continue
            is_comment = lines.first.startswith("#") and len(cells) != width
            if is_comment:
                comments.append(number)
                continue
            empty.clear()
            row += 1
            if len(cells) != width and not fault and row > 0:
                fault = f"row {row} has {counted(len(cells), 'cell')} for {width}"
    return Survey(comments, empty, fault)


class _Lines:
    """Lines, counted as they are read; `first` is the first line since it was emptied."""

    def __init__(self, lines: Iterator[str]) -> None:
        self.lines = lines
        self.count = 0
        self.first = ""

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self.lines)
        self.count += 1
        self.first = self.first or line
        return line
