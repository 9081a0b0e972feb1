"""A file of named arrays under a JSON header, as safetensors.

It is written whole or not at all, and checked when it is read.
"""

import hashlib
import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, save

from lockstep.errors import InputError
from lockstep.files.input_file import input_size, kind_of_content, parsing, read_input
from lockstep.files.outputs import tensor_kind, write_file

__all__ = ["Arrays", "Header", "arrays_below", "hash_arrays", "read_tensors", "write_tensors"]

Arrays = Mapping[str, NDArray[Any]]
"""Name -> array."""
Header = dict[str, Any]
"""A JSON object."""

HEADER = 100_000_000
"""Bytes of the longest header that safetensors reads."""
ADVICE = "; record a training loop of your own with lockstep.Recorder (docs/own_loop.md)"


def arrays_below(arrays: Arrays, prefix: str) -> dict[str, NDArray[Any]]:
    """The arrays whose names begin with `prefix`, in their order, named by what follows it."""
    return {
        name.removeprefix(prefix): array
        for name, array in arrays.items()
        if name.startswith(prefix)
    }


def hash_arrays(arrays: Mapping[str, NDArray[Any] | Callable[[], NDArray[Any]]]) -> str:
    """SHA-256 (hex) over names, dtypes, shapes and bytes of arrays.

    Args:
        arrays: name -> an array, or a function that makes it when its turn comes. Their order does
            not count.
    """
    digest = hashlib.sha256()
    for name in sorted(arrays):
        source = arrays[name]
        array = source() if callable(source) else source
        array = np.asarray(array, order="C")  # ascontiguousarray makes () into (1,)
        digest.update(f"{name} {array.dtype.str} {array.shape};".encode())
        digest.update(array.data)
    return digest.hexdigest()


def write_tensors(path: Path, schema: str, header: Mapping[str, Any], arrays: Arrays) -> None:
    """Write arrays of any shape under a JSON header; the same content is the same bytes.

    Args:
        path: the file.
        schema: its kind and the version of its schema: "lockstep.trace/1".
        header: a JSON object.
        arrays: name -> array.

    Raises:
        InputError: the file cannot be written, or would replace one that is not of this kind.
    """
    text = json.dumps(header, sort_keys=True)
    metadata = {"schema": schema, "header": text, "seal": _seal(text, arrays)}
    contiguous = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    content = save(contiguous, metadata)
    kind, _, _ = schema.rpartition("/")
    write_file(path, _in_order(content), tensor_kind(kind))


def _seal(header: str, arrays: Arrays) -> str:
    return hashlib.sha256((header + hash_arrays(arrays)).encode()).hexdigest()


def _in_order(content: bytes) -> bytes:
    """A safetensors file with a sorted header; the library writes the metadata in any order."""
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    text = text.ljust(-(-len(text) // 8) * 8)  # the arrays stay aligned
    return struct.pack("<Q", len(text)) + text + content[8 + length :]


def read_tensors(path: Path, schema: str) -> tuple[Header, dict[str, NDArray[Any]]]:
    """Read the header and the arrays, sorted by name, of a file by `write_tensors`.

    Args:
        path: the file.
        schema: the kind and the version of the schema that it must have: "lockstep.trace/1".

    Raises:
        InputError: the file is missing, truncated, tampered with, of another kind, or of another
            schema version.
    """
    kind, _, version = schema.rpartition("/")
    _refuse_other_content(path, kind)
    content = read_input(path)
    with parsing(path, f"not a readable {kind} file, perhaps truncated"):
        arrays = dict(sorted(load(content).items()))  # the library's order varies
        (length,) = struct.unpack("<Q", content[:8])
        metadata = json.loads(content[8 : 8 + length]).get("__metadata__", {})
    file_kind, _, file_version = str(metadata.get("schema")).rpartition("/")
    if file_kind != kind:
        raise InputError(f"{path}: not a {kind} file")
    if file_version != version:
        raise InputError(
            f"{path}: {kind} schema {file_version}; this lockstep reads schema {version}"
        )
    text = metadata.get("header", "")
    if not text or metadata.get("seal") != _seal(text, arrays):
        raise InputError(
            f"{path}: the content does not match its seal: damaged, or changed by hand"
        )
    with parsing(path, f"not a readable {kind} file"):
        header = json.loads(text)
    if not isinstance(header, dict):
        raise InputError(f"{path}: not a readable {kind} file: its header is no object")
    return header, arrays


def _refuse_other_content(path: Path, kind: str) -> None:
    """Raise InputError where the first bytes are no header that fits into the file."""
    size = input_size(path)
    with parsing(path, "cannot be read"), path.open("rb") as file:
        head = file.read(8)
    content = kind_of_content(path, head)
    if content:
        advice = ADVICE if kind == "lockstep.trace" else ""
        raise InputError(f"{path}: not a {kind} file, but {content}{advice}")
    length = int.from_bytes(head, "little")
    if len(head) < 8 or not 2 <= length <= min(size - 8, HEADER):
        raise InputError(
            f"{path}: not a readable {kind} file, perhaps truncated: no header of names, shapes "
            "and dtypes"
        )
