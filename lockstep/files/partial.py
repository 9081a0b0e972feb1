"""Hidden files and folders that are being written; a later run settles those of killed processes.

`.<name>.<8 hex digits>.<state>` lies beside the place `<name>`, and is locked by the process that
fills it. `settle` settles a left-over that nobody holds any more by its state:

| state | left-over | settled by |
|---|---|---|
| `partial` | a file or folder that was being filled | removing it |
| `whole` | a filled folder without its name | giving it the place, or a numbered one |
| `swap` | folders `new` and `old` of a place being replaced | putting `old` into an empty place |

On a file system without locks nothing is settled, and left-overs stay.
"""

import errno
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from lockstep.errors import InputError

try:
    import fcntl
except ModuleNotFoundError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["NewFolder", "new_folder", "partial_file", "settle", "swapped_folder"]

LEFT_OVER = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{8}\.(?P<state>partial|whole|swap)", re.DOTALL)
TRIES = 10
"""How often a folder's lock, which is held for a moment only, is tried."""
PAUSE = 0.02
"""Seconds between two tries."""


@dataclass
class NewFolder:
    """`partial` is the folder to write to, and `final` the folder that it becomes in the end."""

    partial: Path
    final: Path


def settle(place: Path, names: Collection[str] = ()) -> None:
    """Settle what killed processes left of a place, and of places with other names beside it."""
    wanted = {place.name, *names}
    with suppress(OSError), _briefly_held(place.parent) as is_held:
        beside = sorted(place.parent.iterdir()) if is_held else []
        for path in beside:
            match = LEFT_OVER.fullmatch(path.name)
            if match and match["name"] in wanted:
                with suppress(OSError):
                    _settle_one(path, place.with_name(match["name"]), match["state"])


@contextmanager
def partial_file(place: Path) -> Iterator[tuple[Path, int]]:
    """A new file beside `place`, and its descriptor.

    Fill it, then rename or link it; its own name does not last.

    Raises:
        OSError: the file cannot be made.
    """
    path, descriptor = _make(place, "partial", is_folder=False)
    try:
        yield path, descriptor
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


@contextmanager
def new_folder(place: Path) -> Iterator[NewFolder]:
    """A folder to fill, which becomes `place` when the block ends well.

    If `place` exists, it becomes `place`-2, -3, ...

    Raises:
        OSError: the folder cannot be made.
        InputError: the folder cannot be renamed; says where everything lies.
    """
    path, descriptor = _make(place, "partial", is_folder=True)
    folder = NewFolder(path, place)
    whole = path.with_suffix(".whole")
    is_filled = False
    try:
        yield folder
        is_filled = True
        path.rename(whole)
    finally:
        try:
            if not is_filled:
                shutil.rmtree(path, ignore_errors=True)
            else:
                folder.final = _put_in_place(whole if whole.exists() else path, place)
        except OSError as error:
            left = whole if whole.exists() else path
            raise InputError(
                f"{place}: cannot be made: {error.strerror}; everything lies in {left}"
            ) from None
        finally:
            _close(descriptor)


@contextmanager
def swapped_folder(place: Path) -> Iterator[Path]:
    """A folder to fill, which replaces `place` when the block ends well.

    Otherwise everything is as it was.

    Raises:
        OSError: the folder cannot be made or renamed.
    """
    swap, descriptor = _make(place, "swap", is_folder=True)
    try:
        (swap / "new").mkdir()
        yield swap / "new"
        if os.path.lexists(place):
            place.rename(swap / "old")
        (swap / "new").rename(place)
    finally:
        try:
            _end_swap(swap, place)
        finally:
            _close(descriptor)


def _settle_one(path: Path, place: Path, state: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    try:
        if not _lock(descriptor):
            return  # its process is at work
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            path.unlink()
        elif state == "whole":
            _put_in_place(path, place)
        elif state == "swap":
            _end_swap(path, place)
        else:
            shutil.rmtree(path)
    finally:
        os.close(descriptor)


def _put_in_place(folder: Path, place: Path) -> Path:
    """Rename a folder to the first free name of `place`, `place`-2, ..., and return that."""
    for number in count(1):
        target = place if number == 1 else place.with_name(f"{place.name}-{number}")
        if os.path.lexists(target):
            continue
        try:
            folder.rename(target)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
            continue  # the name has appeared meanwhile
        return target
    raise AssertionError("the numbers do not end")


def _end_swap(swap: Path, place: Path) -> None:
    """Put `old` back into an empty place, and remove the rest."""
    old = swap / "old"
    if os.path.lexists(old) and not os.path.lexists(place):
        old.rename(place)
    shutil.rmtree(swap, ignore_errors=True)


def _make(place: Path, state: str, *, is_folder: bool) -> tuple[Path, int]:
    """A new file or folder and the descriptor that holds its lock."""
    path = place.with_name(f".{place.name}.{secrets.token_hex(4)}.{state}")
    with _briefly_held(place.parent):  # so that nobody settles it before it is locked
        if is_folder:
            path.mkdir()
            descriptor = os.open(path, os.O_RDONLY) if fcntl else -1
        else:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        _lock(descriptor)
    return path, descriptor


@contextmanager
def _briefly_held(folder: Path) -> Iterator[bool]:
    """Hold the lock of a folder, and say whether it was free."""
    if LEFT_OVER.fullmatch(folder.name):  # its process holds it, and settles nothing in it
        yield False
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY) if fcntl else -1
    except PermissionError:  # the folder may be written to all the same
        descriptor = -1
    try:
        yield descriptor >= 0 and _lock(descriptor, TRIES)
    finally:
        _close(descriptor)


def _lock(descriptor: int, tries: int = 1) -> bool:
    """Whether a lock could be taken."""
    for left in reversed(range(tries)):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(PAUSE if left else 0)
        except (OSError, AttributeError):  # the file system, or Windows, has no locks
            return False
        else:
            return True
    return False


def _close(descriptor: int) -> None:
    if descriptor >= 0:
        os.close(descriptor)
