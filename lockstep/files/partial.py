"""What is being written: hidden files and folders, which a later run settles where their process
was killed.

`.<name>.<8 hex digits>.<state>` lies beside the place `<name>`, and is locked by the process that
fills it. How `settle` settles one that nobody holds any more:

| state | what it is | settled by |
|---|---|---|
| `partial` | a file or folder that is being filled | removing it |
| `whole` | a folder that is filled and has no name of its own yet | giving it the place, or a
numbered one |
| `swap` | the folders `new` and `old` of a place that is being replaced | putting `old` back into
an empty place |

Where a file system has no locks, nothing is settled: a left-over stays.
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
TRIES, PAUSE = 10, 0.02
"""How often a folder's lock is asked for, and the seconds in between; it is held for a moment
only.
"""


@dataclass
class NewFolder:
    """`partial` is the folder to write to; `final` is where all of it lies in the end."""

    partial: Path
    final: Path


def settle(place: Path, names: Collection[str] = ()) -> None:
    """Settle what killed processes left of this place, and of the places of these names beside
    it.
    """
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
    """A new file beside `place`, and its descriptor. Fill it, then rename or link it; its own name
    does not last.

    Raises:
        OSError: it cannot be made.
    """
    path, descriptor = _make(place, "partial", is_folder=False)
    try:
        yield path, descriptor
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


@contextmanager
def new_folder(place: Path) -> Iterator[NewFolder]:
    """A folder to fill. When the block ends well it becomes `place`, or `place`-2, -3, ... if that
    exists.

    Raises:
        OSError: it cannot be made.
        InputError: it cannot be renamed; says where everything lies.
    """
    path, descriptor = _make(place, "partial", is_folder=True)
    folder, whole = NewFolder(path, place), path.with_suffix(".whole")
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
            lying = whole if whole.exists() else path
            raise InputError(
                f"{place}: cannot be made: {error.strerror}; everything lies in {lying}"
            ) from None
        finally:
            _close(descriptor)


@contextmanager
def swapped_folder(place: Path) -> Iterator[Path]:
    """A folder to fill. It replaces `place` when the block ends well; otherwise all is as it was.

    Raises:
        OSError: it cannot be made or renamed.
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
    """Remove `old`, but only if the place is not empty."""
    old = swap / "old"
    if os.path.lexists(old) and not os.path.lexists(place):
        old.rename(place)
    shutil.rmtree(swap, ignore_errors=True)


def _make(place: Path, state: str, *, is_folder: bool) -> tuple[Path, int]:
    """A new file or folder and the descriptor that holds its lock."""
    path = place.with_name(f".{place.name}.{secrets.token_hex(4)}.{state}")
    with _briefly_held(place.parent):  # nobody settles it before it is locked
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
    if LEFT_OVER.fullmatch(
        folder.name
    ):  # its process holds it for as long as it fills it, and settles nothing in it
        yield False
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY) if fcntl else -1
    except PermissionError:  # it may be written to all the same
        descriptor = -1
    try:
        yield descriptor >= 0 and _lock(descriptor, TRIES)
    finally:
        _close(descriptor)


def _lock(descriptor: int, tries: int = 1) -> bool:
    for left in reversed(range(tries)):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(PAUSE if left else 0)
        except (OSError, AttributeError):  # no locks here
            return False
        else:
            return True
    return False


def _close(descriptor: int) -> None:
    if descriptor >= 0:
        os.close(descriptor)
