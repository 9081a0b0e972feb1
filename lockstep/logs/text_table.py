"""A CSV as columns of numbers, whatever its separator, marks and line ends."""

import codecs
import csv
import io
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lockstep.errors import InputError
from lockstep.files.input_file import parsing, reason_of
from lockstep.logs.log import Cells, Table, Text

if TYPE_CHECKING:
    import polars

__all__ = ["read_csv"]

SEPARATORS = ",;\t|"
HEAD = 2**20
"""Bytes in which the names must lie."""
WIDEN = {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
"""Byte-order marks of encodings that are turned into UTF-8."""
EMPTY = ("", "none", "null", "na", "n/a", "-")
"""Cells, in small letters, that say that nothing was logged."""
UNLOGGED = 0.5
"""Share of NaN from which on they stand for empty cells, if a number follows near the end."""
EXTREMES = ("__MIN", "__MAX")
"""Ends of the names that Weights & Biases exports beside each curve."""


def read_csv(path: Path) -> Table:
    """The columns of a CSV with a line of names.

    Commas, semicolons, tabs and bars separate; a decimal comma is read where no comma separates.

    Raises:
        InputError: no table, no names, two columns of one name, a line with too many cells, or text
            that is not UTF-8.
    """
    source, head = _source(path)
    skipped, names_line = _line_of_names(path, head)
    separator = _separator(path, names_line)
    names = next(csv.reader([names_line], delimiter=separator))
    _refuse_numbers(path, names, separator)
    frame = _frame(path, source, separator, skipped, names)
    shown = _plain_names(path, names)
    repeated = _repeated_names(frame, names)
    columns = {
        name: _cells(frame.to_series(i), skipped + 2, repeated, decimal_comma=separator != ",")
        for i, name in enumerate(shown)
        if name
    }
    notes: tuple[str, ...] = ()
    if repeated is not None:
        notes = (f"the names stand again in {len(repeated)} lines, as where a run was appended",)
    return Table("CSV", columns, "line", notes)


def _source(path: Path) -> tuple[Path | bytes, str]:
    """The file, or its text in UTF-8 where it has another encoding, and its first lines."""
    with parsing(path, "cannot be read"), path.open("rb") as file:
        start = file.read(HEAD)
    encoding = next((name for mark, name in WIDEN.items() if start.startswith(mark)), "")
    source: Path | bytes = path
    if encoding:
        with parsing(path, f"not {encoding.upper()}, as its byte-order mark says"):
            source = path.read_bytes().decode(encoding).encode()
        start = source[:HEAD]
    if len(start) == HEAD and b"\n" in start:
        start = start[: start.rfind(b"\n") + 1]
    try:
        head = start.removeprefix(codecs.BOM_UTF8).decode()
    except UnicodeDecodeError as error:
        line = start[: error.start].count(b"\n") + 1
        raise InputError(f"{path}: line {line} is not UTF-8") from None
    return source, head


def _line_of_names(path: Path, head: str) -> tuple[int, str]:
    """The number of lines before the names, and their line; comments begin with '#'."""
    if "\n" not in head and "\r" in head:
        raise InputError(f"{path}: its lines end in a carriage return alone; end them in a newline")
    for number, line in enumerate(head.split("\n")):
        text = line.strip("\r ")
        is_comment = text.startswith("#") and _widest(text.lstrip("# ")) == ""
        if text and not is_comment and not text.startswith("sep="):
            return number, text
    raise InputError(f"{path}: holds no line of names")


def _widest(line: str) -> str:
    """The separator that cuts a line into the most cells; "" where none cuts it."""
    counts = {mark: len(next(csv.reader([line], delimiter=mark), [])) for mark in SEPARATORS}
    mark = max(counts, key=lambda mark: counts[mark])
    return mark if counts[mark] > 1 else ""


def _separator(path: Path, line: str) -> str:
    separator = _widest(line)
    if not separator:
        shown = line if len(line) <= 60 else line[:57] + "..."
        raise InputError(
            f"{path}: line 1 is no line of names with a step and a number: {shown!r}; a CSV, JSON "
            "lines, a trainer_state.json or TensorBoard's files are read"
        )
    return separator


def _refuse_numbers(path: Path, names: list[str], separator: str) -> None:
    """Raise InputError where the first line holds numbers, or a name twice."""
    numbers = [name for name in names if re.fullmatch(r"\s*[-+]?[\d.]+([eE][-+]?\d+)?\s*", name)]
    if 2 * len(numbers) > len(names):
        raise InputError(
            f"{path}: the first line holds numbers ({', '.join(names[:3])}); it must hold the names"
        )
    filled = [name.strip() for name in names if name.strip()]
    twice = next((name for name in filled if filled.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"{path}: two columns are named {twice!r}")


def _frame(
    path: Path, source: Path | bytes, separator: str, skipped: int, names: list[str]
) -> "polars.DataFrame":
    """The cells as text, a row for each line after the names."""
    import polars

    try:
        frame = polars.read_csv(
            source,
            separator=separator,
            has_header=False,
            skip_lines=skipped + 1,
            new_columns=[str(i) for i in range(len(names))],
            schema={str(i): polars.String for i in range(len(names))},
            glob=False,
        )
    # polars has error types of its own, which all mean an unreadable text; a panic is no Exception
    except (Exception, polars.exceptions.PanicException) as error:
        fault = _first_fault(source, separator, skipped, len(names))
        raise InputError(f"{path}: {fault or reason_of(error)}") from None
    if not frame.height:
        raise InputError(f"{path}: holds names and no numbers")
    return frame


def _first_fault(source: Path | bytes, separator: str, skipped: int, width: int) -> str:
    """The first line with too many cells, or that is not UTF-8, in words; "" where all is well."""
    with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                text = line.decode("utf-8-sig")
            except UnicodeDecodeError:
                return f"line {number} is not UTF-8"
            cells = next(csv.reader([text], delimiter=separator), [])
            if number > skipped and len(cells) > width:
                return f"line {number} has {len(cells)} cells for {width} names"
    return ""


def _plain_names(path: Path, names: list[str]) -> list[str]:
    """The names without what Weights & Biases adds to them in an export of one run.

    "run-1 - train/loss" is "train/loss"; "run-1 - train/loss__MIN" becomes "", which is left out.
    """
    clean = [name.strip() for name in names]
    runs = {name.partition(" - ")[0] for name in clean if " - " in name}
    if len(runs) == 1 and "Step" in clean:
        clean = [name.partition(" - ")[2] or name for name in clean]
        clean = ["" if name.endswith(EXTREMES) else name for name in clean]
    if {"Wall time", "Step", "Value"} == set(clean):  # one curve, saved by TensorBoard
        curve = path.stem.partition("-tag-")[2] or path.stem
        clean = [curve if name == "Value" else name for name in clean]
    return clean


def _repeated_names(frame: "polars.DataFrame", names: list[str]) -> "polars.Series | None":
    """The rows that hold the names again; None where there are none."""
    import polars

    is_same = polars.all_horizontal(
        polars.col(str(i)).str.strip_chars() == name.strip() for i, name in enumerate(names)
    )
    rows = frame.with_row_index("row").filter(is_same)["row"]
    return rows if len(rows) else None


def _cells(
    column: "polars.Series", first: int, repeated: "polars.Series | None", *, decimal_comma: bool
) -> Cells:
    """The numbers of a column.

    Args:
        column: the text of each row.
        first: the line of the first row.
        repeated: the rows that hold the names again.
        decimal_comma: whether a comma may stand before decimals.
    """
    import polars

    text = column.str.strip_chars().alias("text")
    if decimal_comma:
        is_decimal = text.str.contains(r"^[-+]?\d*,\d+([eE][-+]?\d+)?$")
        text = polars.select(
            polars.when(is_decimal).then(text.str.replace(",", ".")).otherwise(text)
        ).to_series()
    values = text.cast(polars.Float64, strict=False)
    is_empty = text.is_null() | text.str.to_lowercase().is_in(list(EMPTY))
    if repeated is not None:
        is_empty = is_empty | polars.Series(np.isin(np.arange(len(text)), repeated.to_numpy()))
    wrong = (values.is_null() & ~is_empty).arg_true()
    fault = None
    if len(wrong):
        row = int(wrong[0])
        fault = Text(first + row, str(text[row]))
    rows = (values.is_not_null() & ~is_empty).arg_true()
    places_N = rows.to_numpy().astype(np.int64) + first
    values_N = values.gather(rows).to_numpy()
    decimals = _decimals(text.gather(rows))
    is_nan_N = np.isnan(values_N)
    last_tenth_N = is_nan_N[-max(len(values_N) // 10, 1) :]
    # a training that ended in NaN has no number at its end
    if is_nan_N.sum() > UNLOGGED * len(values_N) and not last_tenth_N.all():
        places_N, values_N = places_N[~is_nan_N], values_N[~is_nan_N]
    return Cells(places_N, values_N, decimals, fault)


def _decimals(text: "polars.Series") -> int | None:
    """The decimals that all numbers have, if some of them end in a zero."""
    fractions = text.str.extract(r"^[-+]?\d*\.(\d+)$").drop_nulls()
    if len(fractions) < 2 or len(fractions) < len(text):
        return None
    lengths = fractions.str.len_chars()
    if lengths.min() != lengths.max() or not fractions.str.ends_with("0").any():
        return None
    shortest = int(lengths[0])
    # 0.10, 0.20 and 2.0, 1.0 are what any program writes of such numbers
    return shortest if shortest > 1 else None
