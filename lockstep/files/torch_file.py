"""Check a .pt file by its opcodes and its table of contents, before any object of it is made."""

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
"""What the pickle of dense tensors and plain values names, beside `torch.FloatStorage` and its
like.
"""
OPERATIONS = ("EXT1", "EXT2", "EXT4", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX")
"""Opcodes that make an object of any class; PyTorch writes none of them for a tensor."""
OLD_PICKLES = 5
"""Pickles that a file of before PyTorch 1.6 begins with: magic number, version, system, content and
storages.
"""


def refuse_unsafe(path: Path, largest: int) -> None:
    """Raise InputError if a .pt file is damaged, would expand to more than `largest` bytes, or
    holds anything but dense tensors and plain values."""
    with parsing(path, "not a readable .pt file"):
        is_archive = zipfile.is_zipfile(path)
        pickles = (
            [_pickle_of_archive(path, largest)] if is_archive else list(_old_pickles(path, largest))
        )
        others = sorted(
            {name for content in pickles for name in _globals(content) if not _is_safe(name)}
        )
    if others:
        raise InputError(
            f"{path}: holds objects other than dense tensors and plain values "
            f"({', '.join(others[:3])}): refused, and "
            "none was made; save the state_dicts alone"
        )


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
    """The functions and classes that a pickle names, as module.name, and its opcodes that make
    objects in other ways."""
    texts: list[str] = []
    memo: dict[int, str] = {}
    for opcode, value, _ in pickletools.genops(content):
        name = opcode.name
        if name == "GLOBAL":
            yield str(value).replace(" ", ".")
        elif name == "STACK_GLOBAL":
            yield ".".join(texts[-2:])
        elif name in OPERATIONS:
            yield name
        elif isinstance(value, str):
            texts.append(value)
        elif name == "MEMOIZE":
            memo[len(memo)] = texts[-1] if texts else ""
        elif name.endswith("PUT"):
            memo[int(value or 0)] = texts[-1] if texts else ""
        elif name.endswith("GET") and int(value or 0) in memo:
            texts.append(memo[int(value or 0)])


def _is_safe(name: str) -> bool:
    module, _, kind = name.rpartition(".")
    return name in SAFE or (module in ("torch", "torch.cuda") and kind.endswith("Storage"))
