"""The check of a .pt file by its opcodes and table of contents, before any object is made."""

import io
import pickletools
import zipfile
from collections.abc import Iterator
from pathlib import Path

from lockstep.errors import InputError
from lockstep.files.input_file import parsing, read_input
from lockstep.files.memory import in_bytes

__all__ = ["refuse_unsafe"]

SAFE = {
    "collections.OrderedDict",
    "torch.Size",
    "torch.device",
    "torch.storage.TypedStorage",
    "torch.storage.UntypedStorage",
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_tensor",
    "torch._utils._rebuild_tensor_v2",
}
"""Names in a pickle of dense tensors and plain values, beside `torch.FloatStorage` and its like."""
OPERATIONS = ("EXT1", "EXT2", "EXT4", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX")
"""Opcodes that make an object of any class; a tensor by PyTorch has none of them."""
OLD_PICKLES = 5
"""The pickles at the beginning of a file by PyTorch before 1.6: magic number, version, system,
content and storages."""


def refuse_unsafe(path: Path, largest: int) -> None:
    """Raise InputError unless a .pt file holds dense tensors and plain values alone.

    Args:
        path: the file.
        largest: bytes that it may expand to.

    Raises:
        InputError: the file is damaged, would expand to more, or holds other objects.
    """
    unsafe: set[str] = set()
    with parsing(path, "not a readable .pt file"):
        for content in _pickles(path, largest):
            unsafe |= {name for name in _globals(content) if not _is_safe(name)}
    if unsafe:
        names = ", ".join(sorted(unsafe)[:3])
        raise InputError(
            f"{path}: holds objects other than dense tensors and plain values ({names}): refused, "
            "and none was made; save the state_dicts alone"
        )


def _pickles(path: Path, largest: int) -> list[bytes]:
    if zipfile.is_zipfile(path):
        return [_pickle_of_archive(path, largest)]
    return list(_old_pickles(path, largest))


def _pickle_of_archive(path: Path, largest: int) -> bytes:
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        declared = sum(entry.file_size for entry in entries)
        if declared > largest:
            raise InputError(
                f"{path}: holds {in_bytes(declared)}, and this recipe's state at most "
                f"{in_bytes(largest)}"
            )
        names = [entry.filename for entry in entries if entry.filename.lower().endswith("data.pkl")]
        if len(names) != 1:
            raise ValueError("a zip archive that torch.save did not write")
        return archive.read(names[0])


def _old_pickles(path: Path, largest: int) -> Iterator[bytes]:
    content = read_input(path, largest)
    if not content.startswith(b"\x80"):
        raise ValueError("neither a zip archive nor a pickle")
    stream = io.BytesIO(content)
    for _ in range(OLD_PICKLES):
        begin = stream.tell()
        for _ in pickletools.genops(stream):
            pass
        yield content[begin : stream.tell()]


def _globals(content: bytes) -> Iterator[str]:
    """The functions and classes that a pickle names, as module.name, and its `OPERATIONS`."""
    texts: list[str] = []
    memo: dict[int, str] = {}
    for opcode, value, _ in pickletools.genops(content):
        name = opcode.name
        if name == "GLOBAL":
            yield str(value).replace(" ", ".")
            continue
        if name == "STACK_GLOBAL":
            yield ".".join(texts[-2:])
            continue
        if name in OPERATIONS:
            yield name
            continue
        _follow_texts(name, value, texts, memo)


def _follow_texts(name: str, value: object, texts: list[str], memo: dict[int, str]) -> None:
    """Add the text that an opcode puts on the stack to `texts`, or what it remembers to `memo`."""
    if isinstance(value, str):
        texts.append(value)
        return
    place = int(value) if isinstance(value, int) else 0
    if name == "MEMOIZE":
        memo[len(memo)] = texts[-1] if texts else ""
    elif name.endswith("PUT"):
        memo[place] = texts[-1] if texts else ""
    elif name.endswith("GET") and place in memo:
        texts.append(memo[place])


def _is_safe(name: str) -> bool:
    module, _, kind = name.rpartition(".")
    return name in SAFE or (module in ("torch", "torch.cuda") and kind.endswith("Storage"))
