"""The files that commands write, which replace no input, no link and no file of another kind.

A file that exists is replaced only if it is a regular file and its content says that lockstep
wrote it as the same kind. A kind is known by its beginning, which whatever writes the kind keeps.
"""

import os
import re
import stat
import zipfile
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lockstep.errors import InputError
from lockstep.files.partial import partial_file, settle

__all__ = [
    "NEW",
    "Kind",
    "archive",
    "check_folder",
    "check_output",
    "check_outputs",
    "is_of_kind",
    "json_document",
    "markdown",
    "page",
    "picture",
    "tensor_kind",
    "write_file",
    "xml",
]

BEGINNING = 2**16
"""Bytes that are read to tell the kind of a file."""


@dataclass(frozen=True)
class Kind:
    """A kind of file: its name for people, and a test of whether a file is one."""

    name: str
    is_kind_of: Callable[[Path], bool]


NEW = Kind("", lambda _: False)
"""The kind of files that never replace another."""


def tensor_kind(kind: str) -> Kind:
    """Files of `lockstep.tensor_file` with the schema `kind`, in any version: "lockstep.trace"."""

    def is_kind_of(path: Path) -> bool:
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="numpy") as file:
                schema = str((file.metadata() or {}).get("schema"))
        except (SafetensorError, ValueError):
            return False
        return schema.rpartition("/")[0] == kind

    return Kind(f"{kind} file", is_kind_of)


def page(writer: str) -> Kind:
    """HTML pages whose generator is `writer`: "lockstep curve"."""
    generator = re.escape(f'<meta name="generator" content="{writer}">').encode()
    return _beginning(f"page of {writer}", rb"<!doctype html>\s[^\0]{0,200}?" + generator)


def picture(writer: str) -> Kind:
    """PNG pictures whose software is `writer`: "lockstep curve"."""
    return _beginning(
        f"picture of {writer}",
        rb"\x89PNG\r\n\x1a\n.{0,1000}?tEXtSoftware\0" + re.escape(writer.encode()),
    )


def markdown(writer: str, pattern: str) -> Kind:
    """Markdown pages whose beginning fits a regular expression."""
    return _beginning(f"page of {writer}", pattern.encode())


def xml(writer: str, root: str, text: str) -> Kind:
    """XML documents with this root, near whose beginning there is this text."""
    pattern = rf"<\?xml[^>]*\?>\s*<{root}\b.*?{re.escape(text)}"
    return _beginning(f"{root} of {writer}", pattern.encode())


def json_document(schema: str) -> Kind:
    """JSON documents whose first field is the schema, in any version: "lockstep.bench"."""
    pattern = rb'\{\s*"schema":\s*"' + re.escape(schema.encode()) + rb"/"
    return _beginning(f"{schema} file", pattern)


def archive(writer: str, names: Collection[str]) -> Kind:
    """NumPy archives that hold these arrays and no others."""
    files = sorted(f"{name}.npy" for name in names)

    def is_kind_of(path: Path) -> bool:
        try:
            with zipfile.ZipFile(path) as content:
                return sorted(content.namelist()) == files
        except (zipfile.BadZipFile, ValueError, NotImplementedError):
            return False

    return Kind(f"archive of {writer}", is_kind_of)


def _beginning(name: str, pattern: bytes) -> Kind:
    compiled = re.compile(pattern, re.DOTALL)

    def is_kind_of(path: Path) -> bool:
        with path.open("rb") as file:
            return compiled.match(file.read(BEGINNING)) is not None

    return Kind(name, is_kind_of)


def check_output(
    path: Path, kind: Kind, *, option: str = "", inputs: Iterable[Path | None] = ()
) -> None:
    """Check before any work that a file may be written.

    Whatever killed processes left of it is settled.

    Args:
        path: the file.
        kind: the kind of file that it will be.
        option: its option on the command line: "--out".
        inputs: files that the command reads; None stands for an option that was not used.

    Raises:
        InputError: the folder is missing or cannot be written to, or the file must not be replaced.
    """
    check_outputs([path], kind, option=option, inputs=inputs)


def check_outputs(
    paths: Sequence[Path], kind: Kind, *, option: str = "", inputs: Iterable[Path | None] = ()
) -> None:
    """Check several files in one folder as `check_output` does."""
    input_files = [path for path in inputs if path is not None]
    for path in paths:
        whose = f"{option} {path}".strip()
        try:
            _check_place(path, kind, whose, input_files)
        except OSError as error:
            raise InputError(f"{whose}: cannot be written: {error.strerror}") from None
    if paths:
        settle(paths[0], [path.name for path in paths])


def _check_place(path: Path, kind: Kind, whose: str, inputs: Sequence[Path]) -> None:
    """Raise InputError unless the file may be written; `whose` names it in the message."""
    if not path.parent.is_dir():
        raise InputError(f"{whose}: no folder {path.parent}")
    if any(_is_same(path, file) for file in inputs):
        raise InputError(f"{whose}: is an input of this command, and is kept; name another file")
    _refuse_replacing(path, kind, whose)
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise InputError(f"{whose}: cannot be written: no permission to write in {path.parent}")


def check_folder(place: Path, *, option: str = "") -> None:
    """Check before any work that a folder may be made here.

    Whatever killed processes left of it is settled.

    Raises:
        InputError: the path ends in no name.
    """
    if place.name in ("", ".."):
        raise InputError(f"{option} {place}: ends in no name; name a folder to make".lstrip())
    settle(place)


def is_of_kind(path: Path, kind: Kind | None) -> bool:
    """Whether this is a regular file of a kind, and no link to one; None stands for any kind.

    Raises:
        OSError: the file cannot be read.
    """
    return stat.S_ISREG(path.lstat().st_mode) and (kind is None or kind.is_kind_of(path))


def write_file(path: Path, content: bytes, kind: Kind) -> None:
    """Write a file, whole or not at all: on a full disk an old file stays as it was.

    Raises:
        InputError: the file cannot be written, or must not be replaced.
    """
    try:
        is_new = not _refuse_replacing(path, kind, str(path))
        with partial_file(path) as (partial, descriptor):
            with open(descriptor, "wb", closefd=False) as file:
                file.write(content)
                file.flush()
                os.fsync(descriptor)
            if not (is_new and _linked(partial, path)):
                _refuse_replacing(path, kind, str(path))  # a file may have appeared meanwhile
                partial.replace(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from None


def _refuse_replacing(path: Path, kind: Kind, whose: str) -> bool:
    """Whether a file is there, which may be replaced.

    Args:
        path: the file.
        kind: the kind that may replace it.
        whose: its name in the message.

    Raises:
        InputError: the file must stay.
    """
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return False
    if kind is NEW:
        raise InputError(f"{whose}: exists already, and is kept; name another file")
    if stat.S_ISLNK(mode):
        raise InputError(
            f"{whose}: is a link, which is neither replaced nor written through; name another file"
        )
    if not stat.S_ISREG(mode):
        raise InputError(f"{whose}: is not a regular file, and is kept; name another file")
    if not is_of_kind(path, kind):
        raise InputError(
            f"{whose}: exists already, is no {kind.name}, and is kept; name another file"
        )
    return True


def _is_same(path: Path, other: Path) -> bool:
    try:
        return path.samefile(other)
    except (FileNotFoundError, NotADirectoryError):
        return False


def _linked(partial: Path, path: Path) -> bool:
    """Give a file a second name, and say whether that went well.

    It fails where another file has the name, and on file systems without second names.
    """
    try:
        os.link(partial, path)
    except OSError:
        return False
    return True
