"""One file of named arrays under a JSON header: safetensors, written whole or not at all, checked
when read.
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

__all__ = ["arrays_below", "hash_arrays", "read_tensors", "write_tensors"]

HEADER = 100_000_000
"""Bytes of the longest header that safetensors reads."""
RECORD = "; record a training loop of your own with lockstep.Recorder (docs/own_loop.md)"


def arrays_below(arrays: Mapping[str, NDArray[Any]], prefix: str) -> dict[str, NDArray[Any]]:
    """The arrays whose names begin with `prefix`, in their order, named by what follows it."""
    return {
        name.removeprefix(prefix): array
        for name, array in arrays.items()
        if name.startswith(prefix)
    }


def hash_arrays(arrays: Mapping[str, NDArray[Any] | Callable[[], NDArray[Any]]]) -> str:
    """SHA-256 (hex) over names, dtypes, shapes and bytes of arrays, or of what makes one when its
    turn comes, by name; the order in which they are given does not count."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        given = arrays[name]
        array = np.asarray(
            given() if callable(given) else given, order="C"
        )  # ascontiguousarray makes () into (1,)
        digest.update(f"{name} {array.dtype.str} {array.shape};".encode())
        digest.update(array.data)
    return digest.hexdigest()


def write_tensors(
    path: Path, schema: str, header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
) -> None:
    """Write arrays of any shape under a JSON header; the same content is the same bytes.

    Raises:
        InputError: the file cannot be written, or would replace one that is not of this kind.
    """
    text = json.dumps(header, sort_keys=True)
    seal = hashlib.sha256((text + hash_arrays(arrays)).encode()).hexdigest()
    metadata = {"schema": schema, "header": text, "seal": seal}
    content = save({name: np.asarray(array, order="C") for name, array in arrays.items()}, metadata)
    write_file(path, _in_order(content), tensor_kind(schema.rpartition("/")[0]))


def _in_order(content: bytes) -> bytes:
    """A safetensors file with the names of its header sorted; the library writes the metadata in
    any order.
    """
    (length,) = struct.unpack("<Q", content[:8])
    header = json.dumps(
        json.loads(content[8 : 8 + length]), sort_keys=True, separators=(",", ":")
    ).encode()
    header = header.ljust(-(-len(header) // 8) * 8)  # the arrays stay aligned
    return struct.pack("<Q", len(header)) + header + content[8 + length :]


def read_tensors(path: Path, schema: str) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Read what `write_tensors` wrote: header and arrays, by name.

    Raises:
        InputError: not there, truncated, tampered with, not of this kind, or of another schema
        version.
    """
    kind, _, version = schema.rpartition("/")
    _refuse_other_content(path, kind)
    content = read_input(path)
    with parsing(path, f"not a readable {kind} file, perhaps truncated"):
        arrays = dict(sorted(load(content).items()))  # it gives them in another order each time
        (length,) = struct.unpack("<Q", content[:8])
        metadata = json.loads(content[8 : 8 + length]).get("__metadata__", {})
    found = str(metadata.get("schema"))
    if found.rpartition("/")[0] != kind:
        raise InputError(f"{path}: not a {kind} file")
    if found != schema:
        raise InputError(
            f"{path}: {kind} schema {found.rpartition('/')[2]}; this lockstep reads schema "
            f"{version}"
        )
    text = metadata.get("header", "")
    if (
        not text
        or metadata.get("seal") != hashlib.sha256((text + hash_arrays(arrays)).encode()).hexdigest()
    ):
        raise InputError(
            f"{path}: the content does not match its seal: damaged, or changed by hand"
        )
    with parsing(path, f"not a readable {kind} file"):
        header = json.loads(text)
    if not isinstance(header, dict):
        raise InputError(f"{path}: not a readable {kind} file: its header is no object")
    return header, arrays


def _refuse_other_content(path: Path, kind: str) -> None:
    """Raise InputError where the first bytes are another kind of file's, or a header that the file
    has no room for.
    """
    size = input_size(path)
    with parsing(path, "cannot be read"), path.open("rb") as file:
        head = file.read(8)
    content = kind_of_content(path, head)
    if content:
        advice = RECORD if kind == "lockstep.trace" else ""
        raise InputError(f"{path}: not a {kind} file, but {content}{advice}")
    length = int.from_bytes(head, "little")
    if len(head) < 8 or not 2 <= length <= min(size - 8, HEADER):
        raise InputError(
            f"{path}: not a readable {kind} file, perhaps truncated: no header of names, "
            "shapes and dtypes"
        )
