"""Cache of drawn rows in the user's cache folder.

A short run would otherwise spend most of its time loading scikit-learn, for rows that are the same
each time.
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

__all__ = ["cache_folder", "prepare_kept"]

SCHEMA = "lockstep.rows/1"
ROOM = 2**23
"""Bytes that the features of a table may have to be kept."""


def cache_folder(*parts: str) -> Path | None:
    """A folder below lockstep's in the user's cache, made if need be; None if it cannot be made."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        if (
            not cache.is_absolute()
        ):  # not set, or to be ignored, as the specification of these variables says
            cache = Path.home() / ".cache"
        if not cache.is_absolute():
            return None
        folder = cache.joinpath("lockstep", *parts)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except (OSError, RuntimeError):  # the latter: no home
        return None
    return folder


def prepare_kept(recipe: Recipe) -> tuple[Table, PreparedData]:
    """Do what `load_table` and `prepare` do, but without scikit-learn if the same rows were drawn
    and split before.

    Only rows that lockstep or scikit-learn makes are cached, not those of a user's file.

    Raises:
        InputError: as `prepare`.
    """
    folder = None if recipe.data.source == "file" else cache_folder("rows")
    if folder is None:
        table = load_table(recipe)
        return table, prepare(recipe, table)
    path = folder / _key(recipe)
    kept = _find(path)
    if kept:
        return kept[0], prepare(recipe, *kept)
    table = load_table(recipe)
    data = prepare(recipe, table)
    if table.x_ND.nbytes <= ROOM:
        _keep(path, table, split_table(recipe, table))
    return table, data


def _key(recipe: Recipe) -> str:
    """A hash of all on which the rows and their split depend: settings, libraries, and the source
    that draws them."""
    libraries = {package: version(package) for package in ("numpy", "scikit-learn")}
    settings = json.dumps(
        [asdict(recipe.data), recipe.loss.predicts_number, libraries], sort_keys=True
    )
    sources = sorted(Path(data_prep.__file__).parent.glob("*.py"))
    content = b"".join(source.read_bytes() for source in sources)
    return hashlib.sha256(settings.encode() + content).hexdigest()


def _find(path: Path) -> tuple[Table, Split] | None:
    try:
        header, arrays = read_tensors(path, SCHEMA)
    except InputError:
        return None  # not there, or damaged
    x_ND, y_N = arrays.pop("x_ND"), arrays.pop("y_N")
    table = Table(x_ND, y_N, tuple(header["columns"]), tuple(header["classes"]), header["target"])
    parts: dict[str, Any] = arrays | {"first_row": header["first_row"], "columns": table.columns}
    return table, Split(**parts)


def _keep(path: Path, table: Table, split: Split) -> None:
    header = {name: getattr(table, name) for name in ("columns", "classes", "target")}
    header["first_row"] = split.first_row
    parts = {name: part for name, part in split._asdict().items() if isinstance(part, np.ndarray)}
    arrays = {"x_ND": table.x_ND, "y_N": table.y_N, **parts}
    with suppress(InputError, OSError):  # a full disk keeps nothing and harms nothing
        path.unlink(missing_ok=True)  # a damaged one
        write_tensors(path, SCHEMA, header, arrays)
