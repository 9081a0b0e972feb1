"""The history in an offline run of Weights & Biases: run-<id>.wandb.

The file is a log of LevelDB: blocks of 32 KiB with frames, of which one or several are a record. A
record is a message of protobuf; those with field 2 hold history: names, and values as JSON.
"""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lockstep.errors import InputError
from lockstep.files.input_file import read_input
from lockstep.logs.json_table import Columns
from lockstep.logs.log import Table

__all__ = ["OFFLINE", "read_offline_run"]

OFFLINE = b":W&B"
"""First bytes of such a file."""
START = 7
"""Bytes before the first frame."""
BLOCK = 2**15
FRAME = struct.Struct("<IHB")
"""Checksum, length and part of a frame."""
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4
HISTORY, ITEM, KEY, NESTED, VALUE = 2, 1, 1, 2, 16
"""Numbers of the fields of record, history and item."""
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
"""How protobuf encodes a field."""


def read_offline_run(path: Path) -> Table:
    """The history of an offline run.

    Raises:
        InputError: the file cannot be read, or holds no history.
    """
    content = read_input(path)
    columns = Columns()
    notes: tuple[str, ...] = ()
    count = 0
    try:
        for record in _records(content):
            for number, history in _fields(record):
                if number == HISTORY and isinstance(history, bytes):
                    count += 1
                    columns.add(count, _entry(history))
    except (ValueError, IndexError, struct.error):  # of a run that was killed as it wrote
        notes = (f"the file is cut off or damaged after entry {count}",)
    if not count:
        raise InputError(
            f"{path}: holds no history that can be read; export it: "
            "wandb.Api().run(path).history().to_csv(file)"
        )
    return columns.table("offline run of Weights & Biases", "entry", notes)


def _records(content: bytes) -> Iterator[bytes]:
    """The records of the log.

    Raises:
        ValueError: a frame that is no part of a record, or goes beyond the file.
    """
    place, parts = START, b""
    while place + FRAME.size <= len(content):
        room = BLOCK - place % BLOCK
        if room < FRAME.size:  # the rest of a block is filled up
            place += room
            continue
        _, length, part = FRAME.unpack_from(content, place)
        place += FRAME.size
        if not FULL <= part <= LAST or place + length > len(content):
            raise ValueError("no frame")
        frame = content[place : place + length]
        place += length
        parts = frame if part in (FULL, FIRST) else parts + frame
        if part in (FULL, LAST):
            yield parts


def _entry(history: bytes) -> dict[str, Any]:
    """The names and values of an entry of the history."""
    entry: dict[str, Any] = {}
    for number, item in _fields(history):
        if number != ITEM or not isinstance(item, bytes):
            continue
        keys: list[str] = []
        value: Any = None
        for field, content in _fields(item):
            if not isinstance(content, bytes):
                continue
            if field in (KEY, NESTED):
                keys.append(content.decode())
            elif field == VALUE:
                value = json.loads(content)
        entry["/".join(keys)] = value
    return entry


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The number and the content of each field of a message.

    Raises:
        ValueError: the bytes are no message.
        IndexError: the message is cut off.
    """
    place = 0
    while place < len(message):
        key, place = _varint(message, place)
        number, kind = key >> 3, key & 7
        if kind == VARINT:
            value, place = _varint(message, place)
            yield number, value
            continue
        if kind == BYTES:
            length, place = _varint(message, place)
        elif kind in (FIXED64, FIXED32):
            length = 8 if kind == FIXED64 else 4
        else:
            raise ValueError("no field")
        if place + length > len(message):
            raise ValueError("cut off")
        yield number, message[place : place + length]
        place += length


def _varint(message: bytes, place: int) -> tuple[int, int]:
    """A number of 7 bits a byte, the least first, and the place after it."""
    value = shift = 0
    while True:
        byte = message[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
        shift += 7
        if shift > 63:
            raise ValueError("no number")
