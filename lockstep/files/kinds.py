"""The kind of a file by its first bytes, in words for whoever gave the wrong one.

Nothing is unpickled, decompressed or run. Of a zip archive the list of names is read.
"""

import re
import zipfile
from pathlib import Path

__all__ = ["BEGINNING", "foreign_kind"]

BEGINNING = 2**16
"""First bytes that `foreign_kind` looks at."""

UNPACK = "; unpack it first"
MAGIC = (
    (b"\x1f\x8b", f"a gzip file{UNPACK}"),
    (b"BZh", f"a bzip2 file{UNPACK}"),
    (b"\xfd7zXZ\0", f"an xz file{UNPACK}"),
    (b"\x28\xb5\x2f\xfd", f"a Zstandard file{UNPACK}"),
    (b"7z\xbc\xaf\x27\x1c", f"a 7z archive{UNPACK}"),
    (b"\x89PNG", "a PNG picture; give the numbers that were drawn"),
    (b"\xff\xd8\xff", "a JPEG picture; give the numbers that were drawn"),
    (b"GIF8", "a GIF picture; give the numbers that were drawn"),
    (b"%PDF", "a PDF document"),
    (b"PAR1", "a Parquet table; write it as CSV, with polars.read_parquet(file).write_csv(other)"),
    (b"ARROW1", "an Arrow table; write it as CSV"),
    (b"\x93NUMPY", "a NumPy array (.npy), which has no column names; write it as CSV"),
    (b"\x89HDF", "an HDF5 file"),
    (b"SQLite format 3", "an SQLite database; export its table of metrics as CSV"),
    (b"\xd0\xcf\x11\xe0", "an old Excel file; save the sheet as CSV"),
    (b"\x7fELF", "a program"),
)
"""First bytes -> the kind in words, and what to do."""
OLD_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
NEVER = "which is never loaded here, since loading one runs code"
PICKLE = re.compile(rb"\x80[\x00-\x05][^\0-\x08]")
MARKUP = re.compile(rb"\s*<(!doctype|html|\?xml|svg|head|body)", re.IGNORECASE)
SECTION = re.compile(r"^\s*\[([\w.-]+)\]\s*(?:#.*)?$", re.MULTILINE)
SECTIONS = {"data", "model", "optimizer", "schedule", "training", "gradient", "loss", "average"}
"""Sections of a recipe."""


def foreign_kind(path: Path, head: bytes) -> str:
    """The kind of a file that is certainly no table and no JSON, in words; "" for any other.

    Args:
        path: the file; the list of names of a zip archive is read from it.
        head: its first bytes, `BEGINNING` of them.
    """
    if head.startswith(b"PK\x03\x04"):
        return _kind_of_zip(path)
    for beginning, kind in MAGIC:
        if head.startswith(beginning):
            return kind
    if head.startswith(OLD_TORCH):
        return f"a checkpoint of PyTorch, a pickle, {NEVER}"
    if PICKLE.match(head):
        return f"a pickle, {NEVER}"
    if MARKUP.match(head.removeprefix(b"\xef\xbb\xbf")):
        return "a page of HTML or XML; download the data itself"
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**40:
        return _kind_of_tensors(head)
    return _kind_of_text(head)


def _kind_of_zip(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return "a zip archive, which is damaged"
    if any(name.rpartition("/")[2] == "data.pkl" for name in names):
        return f"a checkpoint of PyTorch (zip), which holds a pickle, {NEVER}"
    if names and all(name.endswith(".npy") for name in names):
        return "a NumPy archive (.npz); write its arrays as columns of a CSV"
    if any(name.startswith("xl/") for name in names):
        return "an Excel workbook; save the sheet as CSV"
    if any(name.endswith(".keras") or name == "config.json" for name in names):
        return "a saved model (zip)"
    return f"a zip archive{UNPACK}"


def _kind_of_tensors(head: bytes) -> str:
    match = re.search(rb'"schema":\s*"(lockstep\.\w+)/', head)
    if match is None:
        return "a safetensors file, which holds tensors and no log"
    return f"a {match[1].decode()} file"


def _kind_of_text(head: bytes) -> str:
    text = head.decode("utf-8", "replace")
    if "\0" in text and not head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "binary data of no kind that is known here"
    sections = {name.partition(".")[0] for name in SECTION.findall(text)}
    if len(sections & SECTIONS) >= 2 and "=" in text:
        return "a lockstep recipe"
    if sections and re.search(r"^\s*[\w.\"-]+\s*=", text, re.MULTILINE):
        return "a TOML or INI file"
    return ""
