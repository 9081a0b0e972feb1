"""Temporary environments: chosen versions of the frameworks, with this lockstep's source."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from itertools import chain, product
from pathlib import Path

from lockstep.backends import PACKAGES, TWINS
from lockstep.errors import InputError
from lockstep.processes import child_environment
from lockstep.run.workers import Interpreter

__all__ = ["Combination", "combinations", "environment", "releases"]

PINNED = {"jax": ("jax", "jaxlib")}
"""Package -> the packages that are released together with it, and itself."""
WORKER = ("click", "numpy", "pydantic", "safetensors", "scipy", "tomlkit")
"""The packages that `lockstep worker` imports."""
ROOMS = ("lockstep", *TWINS.values())
HERE = Path(__file__).resolve().parents[3]
"""The folder of `ROOMS`, which lie side by side in a clone and in an installation."""
BEGUN = "begun"
"""The file that marks an environment of ours."""
READY = "ready"
"""The file that marks an environment that is complete."""


@dataclass(frozen=True)
class Combination:
    """Packages of one backend, each with a version."""

    versions: tuple[tuple[str, str], ...]

    @property
    def backend(self) -> str:
        """The backend of these packages: torch or jax."""
        first_package, _ = self.versions[0]
        return next(backend for backend, packages in PACKAGES.items() if first_package in packages)

    @property
    def label(self) -> str:
        """The packages with their versions: "jax 0.10.2, flax 0.12.8, optax 0.2.8"."""
        return ", ".join(f"{package} {number}" for package, number in self.versions)

    def with_version(self, package: str, number: str) -> "Combination":
        """The same combination with one package at another version."""
        versions = dict(self.versions)
        if package in versions:
            versions[package] = number
        return Combination(tuple(versions.items()))


def combinations(wanted: Mapping[str, Sequence[str]], *, together: bool) -> list[Combination]:
    """Every combination of the wanted versions.

    A package without a wanted version has the version that is installed.

    Args:
        wanted: package -> its versions.
        together: whether the first version of each package goes with the first of the others, the
            second with the second, and so on.

    Raises:
        InputError: no version is wanted, a package is neither named nor installed, or the lists
            have different lengths.
    """
    chosen = []
    for backend in sorted(PACKAGES):
        packages = PACKAGES[backend]
        if not any(wanted.get(package) for package in packages):
            continue
        lists = {
            package: list(wanted.get(package) or [_installed(package)]) for package in packages
        }
        if together:
            choices: Iterable[tuple[str, ...]] = zip(*_of_one_length(lists))
        else:
            choices = product(*lists.values())
        chosen += [Combination(tuple(zip(packages, numbers))) for numbers in choices]
    if not chosen:
        known = chain.from_iterable(PACKAGES[backend] for backend in sorted(PACKAGES))
        raise InputError(f"name versions of {', '.join(known)}")
    return list(dict.fromkeys(chosen))


def _of_one_length(lists: Mapping[str, list[str]]) -> list[list[str]]:
    """The versions of each package, a single one repeated to the length of the others."""
    longest = max(map(len, lists.values()))
    repeated = []
    for package, numbers in lists.items():
        if len(numbers) not in (1, longest):
            raise InputError(
                f"--{package}: {len(numbers)} versions, and {longest} of another package (--zip)"
            )
        repeated.append(numbers if len(numbers) == longest else numbers * longest)
    return repeated


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        raise InputError(f"--{package}: is not installed here; name its version") from None


def releases(package: str) -> list[str]:
    """Every release of a package that the registry offers for this Python, the oldest first.

    Raises:
        InputError: pip cannot tell.
    """
    for line in _pip("index", "versions", package).splitlines():
        if line.startswith("Available versions:"):
            return line.partition(":")[2].replace(",", " ").split()[::-1]
    raise InputError(f"pip does not say which releases of {package} there are")


@contextmanager
def environment(combination: Combination, keep: Path | None) -> Iterator[Interpreter | None]:
    """An environment with these versions, built if `keep` does not have it.

    It is None, the present environment, for the PyTorch that is installed here.

    Args:
        combination: what to install.
        keep: the folder in which environments stay; None for one that is removed in the end.

    Raises:
        InputError: the environment cannot be built.
    """
    if combination.backend == "torch" and find_spec("torch"):
        installed = (("torch", version("torch")),)
        if combination.versions == installed:
            yield None
            return
    with tempfile.TemporaryDirectory() as scratch:
        folder = keep if keep is not None else Path(scratch)
        source = Path(scratch) / "source"
        source.mkdir()
        for room in ROOMS:
            (source / room).symlink_to(HERE / room)
        built = folder / "_".join(f"{package}-{number}" for package, number in combination.versions)
        python = built / "bin" / "python"
        if not (built / READY).exists():
            _build(combination, built, python)
        yield Interpreter(python, source)


def _build(combination: Combination, folder: Path, python: Path) -> None:
    pins: list[str] = []
    for package, number in combination.versions:
        pins += [f"{name}=={number}" for name in PINNED.get(package, (package,))]
    try:
        if os.path.lexists(folder):
            _remove_unfinished(folder)
        folder.mkdir()
        (folder / BEGUN).touch()
        command = [sys.executable, "-m", "venv", "--without-pip", str(folder)]
        subprocess.run(command, check=True, capture_output=True, env=child_environment())
        _pip("--python", str(python), "install", "--quiet", "--no-compile", *pins, *WORKER)
        (folder / READY).touch()
    except (OSError, subprocess.CalledProcessError) as error:
        raise InputError(f"{combination.label}: cannot be built: {error}") from None
    except InputError as error:
        if (folder / BEGUN).is_file():
            shutil.rmtree(folder, ignore_errors=True)
        raise InputError(f"{combination.label}: cannot be installed: {error}") from None


def _remove_unfinished(folder: Path) -> None:
    """Remove an environment whose building was interrupted.

    Raises:
        InputError: it is anything else.
    """
    if folder.is_symlink() or not (folder / BEGUN).is_file():
        raise InputError(
            f"{folder} exists already, is no environment begun by lockstep, and is kept"
        )
    shutil.rmtree(folder)


def _pip(*arguments: str) -> str:
    """Run pip, and return what it printed.

    Raises:
        InputError: pip failed; the message is its first error.
    """
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", *arguments]
    completed = subprocess.run(
        command, capture_output=True, text=True, check=False, env=child_environment()
    )
    if completed.returncode:
        lines = completed.stderr.strip().splitlines() or ["no message"]
        errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
        raise InputError(errors[0] if errors else lines[-1])
    return completed.stdout
