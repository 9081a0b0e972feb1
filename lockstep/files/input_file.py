"""The one way to read a user's file, which must be an ordinary file of a size that fits.

A named pipe, a device or a folder is refused before it is opened. A file that declares more than
it holds is refused before it is expanded. An error of any parser becomes one line.
"""

import json
import os
import re
import stat
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lockstep.errors import InputError
from lockstep.files.memory import in_bytes, refuse_too_large

__all__ = [
    "TEXT",
    "input_size",
    "kind_of_content",
    "parse_toml",
    "parsing",
    "read_input",
    "read_json",
    "read_toml",
    "reason_of",
    "refuse_expanding",
]

TEXT = 2**21
"""Bytes of the largest TOML or JSON file that is read."""
PARTS = 20
"""Parts of the longest dotted name in TOML; tomllib's work grows with their square."""
ROOM = 2**28
"""Bytes that a file may expand to, however small it is."""
RATIO = 500
"""How many times its size a larger file may expand to.

Text and numbers of real tables stay below 100 times; zeros reach 1000.
"""
REASON = 160
"""Characters of the longest reason in a message."""

QUOTED = re.compile(r'"(?:[^"\\\n]|\\.)*+"|\'[^\'\n]*+\'')
DOTTED = re.compile(rf"(?<![\w-])(?:[\w-]++[ \t]*+\.[ \t]*+){{{PARTS}}}")
CONTENTS = (
    (b"PK\x03\x04", "a zip archive, as .npz and .pt are"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"PAR1", "a Parquet table"),
    (b"\x89PNG", "a picture"),
    (b"<", "a page of HTML or XML"),
    (b"{", "JSON"),
    (b"[", "JSON or TOML"),
)
"""First bytes of a file, and the words for its kind."""
TABLES = (".csv", ".tsv", ".txt", ".log", ".parquet", ".npz")
"""Ends of the names of tables."""


def input_size(path: Path) -> int:
    """The size of an ordinary file in bytes.

    Raises:
        InputError: no such file, a folder, a named pipe, a socket or a device.
    """
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:  # ValueError: a name with a null character
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: cannot be read: {reason}") from None
    if stat.S_ISDIR(status.st_mode):
        raise InputError(f"{path}: cannot be read: Is a directory")
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{path}: cannot be read: not a regular file")
    return status.st_size


def read_input(path: Path, largest: int | None = None) -> bytes:
    """The content of an ordinary file.

    Args:
        path: the file.
        largest: bytes that it may have; None: as many as fit into memory.

    Raises:
        InputError: the file is missing, cannot be read, or is too large.
    """
    size = input_size(path)
    if largest is not None and size > largest:
        raise InputError(
            f"{path}: cannot be read: {in_bytes(size)}, and at most {in_bytes(largest)} are read"
        )
    refuse_too_large(str(path), size)
    with parsing(path, "cannot be read"):
        return path.read_bytes()


@contextmanager
def parsing(path: Path, failure: str) -> Iterator[None]:
    """Turn a parser's exception into an `InputError` with file, failure and a short reason.

    Args:
        path: the file.
        failure: "not a readable .npz file".
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # a parser may raise anything for absurd content
        if isinstance(error, OSError) and error.strerror:
            raise InputError(f"{path}: cannot be read: {error.strerror}") from None
        raise InputError(f"{path}: {failure}: {reason_of(error)}") from None


def reason_of(error: BaseException) -> str:
    """The message of an error, as one short line."""
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if isinstance(error, MemoryError):
        return "there is not the memory to hold what it declares"
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    return text if len(text) <= REASON else text[: REASON - 3] + "..."


def read_toml(path: Path, failure: str = "not a readable TOML file") -> dict[str, Any]:
    """The content of a TOML file.

    Raises:
        InputError: the file is missing, too large, or not TOML.
    """
    content = read_input(path, TEXT)
    with parsing(path, failure):
        return parse_toml(content.decode())


def parse_toml(text: str) -> dict[str, Any]:
    """The content of a text in TOML.

    Raises:
        ValueError: not TOML, or a name of too many parts.
        RecursionError: the text is nested too deeply.
    """
    if DOTTED.search(QUOTED.sub("q", text)):
        raise ValueError(f"a name has more than {PARTS} parts")
    return tomllib.loads(text)


def read_json(path: Path, failure: str = "not a readable JSON file", largest: int = TEXT) -> Any:
    """The content of a JSON file.

    Raises:
        InputError: the file is missing, too large, or not JSON.
    """
    content = read_input(path, largest)
    with parsing(path, failure):
        return json.loads(content)


def refuse_expanding(path: Path, stored: int, expanded: int) -> None:
    """Raise InputError if a file declares absurdly more than it holds, or more than fits.

    Args:
        path: the file.
        stored: its bytes on disk.
        expanded: the bytes that it declares.
    """
    if expanded > ROOM and expanded > RATIO * stored:
        raise InputError(
            f"{path}: refused: its {in_bytes(stored)} would expand to {in_bytes(expanded)}, "
            f"more than {RATIO} times"
        )
    refuse_too_large(str(path), expanded)


def kind_of_content(path: Path, head: bytes) -> str:
    """The kind of a file in words, "a .csv table" or "JSON"; "" if it is not known.

    Args:
        path: the file, whose name's end may say the kind.
        head: its first bytes.
    """
    end = path.suffix.lower()
    if end in TABLES and head:
        return f"a {end} table"
    for beginning, kind in CONTENTS:
        if head.startswith(beginning):
            return kind
    return ""
