"""A cache of drawn rows in the user's cache folder.

Without it, a short run would spend most of its time loading scikit-learn, for the same rows each
time.
"""

import hashlib
import json
import os
from contextlib import suppress
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from lockstep import data_prep
from lockstep.data_prep import PreparedData, Split, Table, load_table, prepare, split_table
from lockstep.errors import InputError
from lockstep.recipe import Recipe
from lockstep.tensor_file import read_tensors, write_tensors

__all__ = ["cache_folder", "prepare_cached"]

SCHEMA = "lockstep.rows/1"
ROOM = 2**23
"""The most bytes that the features of a cached table may take."""


def cache_folder(*parts: str) -> Path | None:
    """A folder below lockstep's in the user's cache, made if need be; None if it cannot be made."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        if not cache.is_absolute():  # not set, or relative, which the specification ignores
            cache = Path.home() / ".cache"
        if not cache.is_absolute():
            return None
        folder = cache.joinpath("lockstep", *parts)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except (OSError, RuntimeError):  # RuntimeError: there is no home
        return None
    return folder


def prepare_cached(recipe: Recipe) -> tuple[Table, PreparedData]:
    """The results of `load_table` and `prepare`, without scikit-learn for rows that are cached.

    Only rows that lockstep or scikit-learn makes are cached, not those of a user's file.

    Raises:
        InputError: as in `prepare`.
    """
    folder = None if recipe.data.source == "file" else cache_folder("rows")
    if folder is None:
        table = load_table(recipe)
        return table, prepare(recipe, table)
    path = folder / _key(recipe)
    cached = _read(path)
    if cached is not None:
        table, split = cached
        return table, prepare(recipe, table, split)
    table = load_table(recipe)
    data = prepare(recipe, table)
    if table.x_ND.nbytes <= ROOM:
        _write(path, table, split_table(recipe, table))
    return table, data


def _key(recipe: Recipe) -> str:
    """A hash of everything that decides the rows and their split.

    These are settings, versions of libraries, and the source code that draws the rows.
    """
    libraries = {package: version(package) for package in ("numpy", "scikit-learn")}
    settings = [asdict(recipe.data), recipe.loss.predicts_number, libraries]
    text = json.dumps(settings, sort_keys=True)
    modules = sorted(Path(data_prep.__file__).parent.glob("*.py"))
    source = b"".join(module.read_bytes() for module in modules)
    return hashlib.sha256(text.encode() + source).hexdigest()


def _read(path: Path) -> tuple[Table, Split] | None:
    try:
        header, arrays = read_tensors(path, SCHEMA)
    except InputError:
        return None  # missing or damaged
    table = Table(
        x_ND=arrays.pop("x_ND"),
        y_N=arrays.pop("y_N"),
        columns=tuple(header["columns"]),
        classes=tuple(header["classes"]),
        target=header["target"],
    )
    parts: dict[str, Any] = dict(arrays)
    return table, Split(first_row=header["first_row"], columns=table.columns, **parts)


def _write(path: Path, table: Table, split: Split) -> None:
    header = {
        "columns": table.columns,
        "classes": table.classes,
        "target": table.target,
        "first_row": split.first_row,
    }
    parts = {name: part for name, part in split._asdict().items() if isinstance(part, np.ndarray)}
    arrays = {"x_ND": table.x_ND, "y_N": table.y_N, **parts}
    with suppress(InputError, OSError):  # on a full disk nothing is cached, and nothing harmed
        path.unlink(missing_ok=True)  # a damaged file
        write_tensors(path, SCHEMA, header, arrays)
