"""Every file of a user is read through this module: it must be an ordinary file of a size that
fits.

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
"""Parts of the longest dotted name of TOML; what tomllib does with one grows with their square."""
ROOM = 2**28
"""Bytes that a file may expand to, however small it is."""
RATIO = 500
"""Larger ones, times their size: text and numbers of real tables stay below 100, and zeros reach
1000.
"""
REASON = 160

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
"""What a file begins with -> what it is."""
TABLES = (".csv", ".tsv", ".txt", ".log", ".parquet", ".npz")


def input_size(path: Path) -> int:
    """The size of an ordinary file in bytes.

    Raises:
        InputError: no such file, a folder, a named pipe, a socket or a device.
    """
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:  # ValueError: a name with a null character
        raise InputError(
            f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}"
        ) from None
    if stat.S_ISDIR(status.st_mode):
        raise InputError(f"{path}: cannot be read: Is a directory")
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{path}: cannot be read: not a regular file")
    return status.st_size


def read_input(path: Path, largest: int | None = None) -> bytes:
    """The content of an ordinary file.

    Args:
        path: of the file.
        largest: bytes that it may have; None: what fits into memory.

    Raises:
        InputError: no such file, none that can be read, or one that is too large.
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
    """Turn any exception of a parser into an `InputError` with the file, the failure and the
    parser's reason, shortened.

    Args:
        path: of the file.
        failure: "not a readable .npz file".
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # a parser has error types of its own, and for absurd content any
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
        InputError: no such file, one that is too large, or not TOML.
    """
    content = read_input(path, TEXT)
    with parsing(path, failure):
        return parse_toml(content.decode())


def parse_toml(text: str) -> dict[str, Any]:
    """The content of TOML.

    Raises:
        ValueError: not TOML, or a name of too many parts.
        RecursionError: nested too deeply.
    """
    if DOTTED.search(QUOTED.sub("q", text)):
        raise ValueError(f"a name has more than {PARTS} parts")
    return tomllib.loads(text)


def read_json(path: Path, failure: str = "not a readable JSON file", largest: int = TEXT) -> Any:
    """The content of a JSON file.

    Raises:
        InputError: no such file, one that is too large, or not JSON.
    """
    content = read_input(path, largest)
    with parsing(path, failure):
        return json.loads(content)


def refuse_expanding(path: Path, stored: int, expanded: int) -> None:
    """Raise InputError if a file declares more bytes than there is memory for, or so many more than
    it holds that nobody can have written it for use.

    Args:
        path: of the file.
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
    """The kind of a file by the end of its name and its first bytes: "a .csv table", "JSON"; "" if
    unknown."""
    end = path.suffix.lower()
    if end in TABLES and head:
        return f"a {end} table"
    return next((kind for begin, kind in CONTENTS if head.startswith(begin)), "")
