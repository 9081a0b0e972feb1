"""Golden traces: small trainings that are recorded once and compared with later versions.

A golden folder has a `manifest.json` and, for each recipe, `<recipe>.data` (its prepared data) and
`<recipe>.<dtype>.<backend>.trace`. The manifest holds each recipe as TOML with its hash and that of
its data, the SHA-256 of every file, and the versions, device and settings of the trainings. It is
sealed, as the files are.
"""

import hashlib
import json
import os
import platform
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lockstep.data_prep import PreparedData
from lockstep.errors import InputError
from lockstep.files import headers
from lockstep.files.headers import check_header
from lockstep.files.input_file import TEXT, parse_toml, read_input
from lockstep.files.outputs import NEW, check_folder, is_of_kind, tensor_kind, write_file
from lockstep.files.partial import settle, swapped_folder
from lockstep.recipe import Recipe
from lockstep.records.contents import check_data
from lockstep.records.trace import Trace
from lockstep.version import __version__

__all__ = ["Golden", "Key", "choose", "refuse_other_folder", "write_golden"]

SCHEMA = "lockstep.golden/1"
MANIFEST = "manifest.json"
_NAME = re.compile(r"[^/\\\x00]*[^/\\\x00.][^/\\\x00]*")
"""The names that a file can have, but for those of dots alone."""
ORDER = ("oracle", "torch", "jax")
"""Backends in the order in which they are shown."""
KINDS = {".trace": tensor_kind("lockstep.trace"), ".data": tensor_kind("lockstep.data")}


class Key(NamedTuple):
    """The recipe of a golden trace, its dtype, and its backend (torch, jax or oracle)."""

    recipe: str
    dtype: str
    backend: str

    @property
    def file(self) -> str:
        """The trace's name in a golden folder."""
        return f"{self.recipe}.{self.dtype}.{self.backend}.trace"


class Golden(NamedTuple):
    """The content of a golden folder; `host` has python, platform and processor of the machine."""

    recipes: dict[str, Recipe]
    data: dict[str, PreparedData]
    traces: dict[Key, Trace]
    host: dict[str, str]

    @property
    def backends(self) -> list[str]:
        """The backends that have traces, the oracle first."""
        return sorted({key.backend for key in self.traces}, key=ORDER.index)

    def environment(self, backend: str) -> dict[str, Any]:
        """The versions, device and settings that a backend was blessed with."""
        traces = (trace for key, trace in self.traces.items() if key.backend == backend)
        environment: dict[str, Any] = next(traces).header["environment"]
        return environment

    def only(self, names: Collection[str]) -> "Golden":
        """The same with these recipes alone; with all, where none is named.

        Raises:
            InputError: no such recipe.
        """
        chosen = choose(self.recipes, names)
        data = {name: self.data[name] for name in chosen}
        traces = {key: trace for key, trace in self.traces.items() if key.recipe in chosen}
        return self._replace(recipes=chosen, data=data, traces=traces)

    @staticmethod
    def load(folder: Path) -> "Golden":
        """Read a golden folder, and check all of it.

        Raises:
            InputError: a file is missing, truncated or not the one that was blessed; or this
                lockstep reads a recipe otherwise.
        """
        if not os.path.lexists(folder):
            settle(folder)
        manifest = _read_manifest(folder)
        golden = Golden({}, {}, {}, manifest["host"])
        for name, entry in manifest["recipes"].items():
            recipe = golden.recipes[name] = _read_recipe(folder, name, entry)
            keys = {key.file: key for key in _keys(name, recipe, manifest["backends"])}
            _refuse_other_names(folder, name, entry["files"], {f"{name}.data", *keys})
            for file, expected in entry["files"].items():
                _refuse_other_file(folder / file, expected)
            for file, key in keys.items():
                golden.traces[key] = _read_trace(folder / file, key, recipe, entry["data_hash"])
            golden.data[name] = _read_data(folder / f"{name}.data", recipe, entry["data_hash"])
            updates = golden.traces[Key(name, "float32", "oracle")].header["updates"]
            if updates != golden.data[name].updates:
                raise InputError(
                    f"{folder / name}.data: makes {golden.data[name].updates} updates, and the "
                    f"traces have {updates}"
                )
        return golden


def choose(recipes: Mapping[str, Recipe], names: Collection[str]) -> dict[str, Recipe]:
    """The recipes of these names; all of them, where none is named.

    Raises:
        InputError: no such recipe.
    """
    for name in names:
        if name not in recipes:
            raise InputError(
                f"{name}: no golden recipe of that name (there are: {', '.join(recipes)})"
            )
    return {name: recipe for name, recipe in recipes.items() if name in names or not names}


def write_golden(
    folder: Path,
    recipes: Mapping[str, Recipe],
    data: Mapping[str, PreparedData],
    traces: Mapping[Key, Trace],
) -> None:
    """Write a golden folder, whole or not at all, in the place of an older one.

    Args:
        folder: the folder.
        recipes: name -> recipe.
        data: name of a recipe -> its prepared data.
        traces: the traces of every recipe, precision and backend.

    Raises:
        InputError: the folder cannot be written, is no golden one, or holds files of somebody else.
    """
    refuse_other_folder(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with swapped_folder(folder) as new:
            _fill(new, recipes, data, traces)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made: {error.strerror}") from None


def _fill(
    folder: Path,
    recipes: Mapping[str, Recipe],
    data: Mapping[str, PreparedData],
    traces: Mapping[Key, Trace],
) -> None:
    entries = {}
    for name, recipe in recipes.items():
        files = {f"{name}.data": data[name].save}
        files |= {key.file: trace.save for key, trace in traces.items() if key.recipe == name}
        for file, save in files.items():
            save(folder / file)
        entries[name] = {
            "recipe": recipe.to_toml(),
            "recipe_hash": recipe.hash,
            "data_hash": data[name].hash,
            "files": {file: _sha256(folder / file) for file in files},
        }
    blessed = {key.backend: trace.header["environment"] for key, trace in traces.items()}
    content = {
        "schema": SCHEMA,
        "lockstep": __version__,
        "host": _host(),
        "backends": blessed,
        "recipes": entries,
    }
    manifest = json.dumps(content | {"seal": _seal(content)}, indent=1, sort_keys=True) + "\n"
    write_file(folder / MANIFEST, manifest.encode(), NEW)


def refuse_other_folder(folder: Path) -> None:
    """Raise InputError unless a golden folder may be written here.

    The folder must be missing, empty, or of golden files alone. Whatever a killed process left of
    it is settled first.

    Raises:
        InputError: no name for a folder, a link, or a file that is not ours.
    """
    check_folder(folder)
    if folder.is_symlink():
        raise InputError(
            f"{folder}: is a link, which is neither replaced nor written through; name another "
            "folder"
        )
    try:
        present = {path.name for path in folder.iterdir()}
    except FileNotFoundError:
        return
    except NotADirectoryError:
        raise InputError(f"{folder}: is no folder") from None
    except OSError as error:
        raise InputError(f"{folder}: cannot be read: {error.strerror}") from None
    ours = set()
    if MANIFEST in present:
        entries = _read_manifest(folder)["recipes"].values()
        ours = {MANIFEST, *(file for entry in entries for file in entry["files"])}
    for name in sorted(present):
        if name not in ours or not is_of_kind(folder / name, KINDS.get(Path(name).suffix)):
            raise InputError(
                f"{folder / name}: is none of the golden files, and is kept; name another folder"
            )


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        content = json.loads(read_input(path, TEXT))
        schema = str(content["schema"])
        seal = content.pop("seal")
    except InputError as error:
        raise InputError(f"{error}; lockstep bless writes it") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise InputError(
            f"{path}: not a readable manifest of golden traces, perhaps truncated"
        ) from None
    if schema != SCHEMA:
        raise InputError(f"{path}: schema {schema}; this lockstep reads {SCHEMA}")
    if seal != _seal(content):
        raise InputError(
            f"{path}: the content does not match its seal: damaged, or changed by hand"
        )
    if not content.get("recipes"):
        raise InputError(f"{path}: names no recipe: there is nothing to compare")
    check_header(str(path), headers.Manifest, content)
    if "oracle" not in content["backends"]:
        raise InputError(
            f"{path}: header: backends: lacks the oracle, by which the others are judged; bless "
            "again"
        )
    manifest: dict[str, Any] = content
    return manifest


def _refuse_other_file(path: Path, blessed: str) -> None:
    present = _sha256(path)
    if present != blessed:
        raise InputError(
            f"{path}: is not the file that was blessed (sha256 {present[:12]}, blessed "
            f"{blessed[:12]}): damaged, or replaced"
        )


def _keys(name: str, recipe: Recipe, backends: Collection[str]) -> list[Key]:
    return [Key(name, dtype, backend) for dtype in recipe.forms for backend in backends]


def _refuse_other_names(
    folder: Path, name: str, files: Collection[str], expected: Collection[str]
) -> None:
    """Raise InputError unless a golden recipe's files in the manifest are those expected."""
    missing = set(expected) - set(files)
    extra = set(files) - set(expected)
    for word, names in (("lacks", missing), ("has also", extra)):
        if names:
            raise InputError(
                f"{folder / MANIFEST}: recipe {name!r}: {word} {min(names)!r}; bless again"
            )


def _read_trace(path: Path, key: Key, recipe: Recipe, data_hash: str) -> Trace:
    """A golden trace.

    Raises:
        InputError: the trace is of another recipe, precision, backend or data, not of a whole run,
            or an oracle's without bounds.
    """
    trace = Trace.load(path)
    expected = {
        "recipe_hash": recipe.forms[key.dtype].hash,
        "backend": key.backend,
        "first_update": 0,
        "synchronised": False,
    }
    for field, value in expected.items():
        if trace.header.get(field) != value:
            raise InputError(
                f"{path}: {field}: {trace.header.get(field)}, and the manifest has {value}; bless "
                "again"
            )
    if trace.header["data_hash"] != data_hash:
        raise InputError(f"{path}: is of other data than were blessed")
    is_bound = key.backend == "oracle" and key.dtype == "float32"
    if is_bound and not any(name.startswith("bounds/") for name in trace.arrays):
        raise InputError(
            f"{path}: has no rounding bounds, by which the others are judged; bless again"
        )
    return trace


def _read_data(path: Path, recipe: Recipe, data_hash: str) -> PreparedData:
    """The data of the golden traces.

    Raises:
        InputError: the data were prepared for another recipe, or are not those that were blessed.
    """
    data = PreparedData.load(path)
    check_data(str(path), recipe, data)
    if data.hash != data_hash:
        raise InputError(f"{path}: is of other data than were blessed")
    return data


def _read_recipe(folder: Path, name: str, entry: Mapping[str, Any]) -> Recipe:
    if not _NAME.fullmatch(name):
        raise InputError(f"{folder / MANIFEST}: recipe {name!r}: no name of a file")
    try:
        recipe = Recipe.from_dict(parse_toml(entry["recipe"]))
    except (InputError, TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{folder / MANIFEST}: recipe {name}: {error}; bless again") from None
    if recipe.hash != entry["recipe_hash"]:
        raise InputError(
            f"{folder / MANIFEST}: recipe {name}: hash {recipe.hash[:12]}, blessed as "
            f"{entry['recipe_hash'][:12]}: this lockstep reads it as another recipe; bless again"
        )
    return recipe


def _sha256(path: Path) -> str:
    return hashlib.sha256(read_input(path)).hexdigest()


def _seal(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _host() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
    }


def _processor() -> str:
    """The processor's name; `platform.processor` is empty on most Linux systems."""
    try:
        match = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        match = None
    return match[1].strip() if match else platform.processor()
