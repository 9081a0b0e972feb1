"""Temporary environments: chosen versions of the frameworks, with this lockstep's source."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
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

PINNED = {"jax": ("jax", "jaxlib")}  # released together
WORKER = (
    "click",
    "numpy",
    "pydantic",
    "safetensors",
    "scipy",
    "tomlkit",
)  # what `lockstep worker` imports
ROOMS = ("lockstep", *TWINS.values())
HERE = Path(__file__).resolve().parents[3]  # they lie side by side, installed or not
BEGUN, READY = "begun", "ready"  # files in an environment


@dataclass(frozen=True)
class Combination:
    """Packages of one backend, each with a version."""

    versions: tuple[tuple[str, str], ...]

    @property
    def backend(self) -> str:
        """The backend of these packages: torch or jax."""
        return next(
            backend for backend, packages in PACKAGES.items() if self.versions[0][0] in packages
        )

    @property
    def label(self) -> str:
        """The name for people: "jax 0.10.2, flax 0.12.8, optax 0.2.8"."""
        return ", ".join(f"{package} {number}" for package, number in self.versions)

    def with_version(self, package: str, number: str) -> "Combination":
        """The same with one package at another version."""
        return Combination(
            tuple((name, number if name == package else old) for name, old in self.versions)
        )


def combinations(wanted: Mapping[str, Sequence[str]], *, together: bool) -> list[Combination]:
    """Every combination of the wanted versions. A package without a wanted version has the one
    installed.

    Args:
        wanted: package -> its versions, without those that are not asked for.
        together: the first of each package with the first of the others, the second with the
        second, ...

    Raises:
        InputError: nothing wanted, a package that is not installed and not named, or lists that are
        not of one length.
    """
    found = []
    for backend in sorted(PACKAGES):
        packages = PACKAGES[backend]
        if not any(wanted.get(package) for package in packages):
            continue
        lists = [wanted.get(package) or [_installed(package)] for package in packages]
        if together:
            longest = max(map(len, lists))
            lists = [
                numbers * longest if len(numbers) == 1 else numbers for numbers in map(list, lists)
            ]
            for package, numbers in zip(packages, lists):
                if len(numbers) != longest:
                    raise InputError(
                        f"--{package}: {len(numbers)} versions, and {longest} of another "
                        "package (--zip)"
                    )
        choices = zip(*lists) if together else product(*lists)
        found += [Combination(tuple(zip(packages, numbers))) for numbers in choices]
    if not found:
        raise InputError(
            "name versions of "
            f"{', '.join(chain.from_iterable(PACKAGES[backend] for backend in sorted(PACKAGES)))}"
        )
    return list(dict.fromkeys(found))


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
    told = _pip("index", "versions", package)
    for line in told.splitlines():
        if line.startswith("Available versions:"):
            return line.partition(":")[2].replace(",", " ").split()[::-1]
    raise InputError(f"pip does not say which releases of {package} there are")


@contextmanager
def environment(combination: Combination, keep: Path | None) -> Iterator[Interpreter | None]:
    """An environment with these versions: built, unless it was kept; None, the present one, for its
    own PyTorch.

    Args:
        combination: what to install.
        keep: the folder in which environments stay; None: it is removed in the end.

    Raises:
        InputError: it cannot be built.
    """
    if (
        combination.backend == "torch"
        and find_spec("torch")
        and combination.versions == (("torch", version("torch")),)
    ):
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
    pins = [
        f"{name}=={number}"
        for package, number in combination.versions
        for name in PINNED.get(package, (package,))
    ]
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
        InputError: its first error.
    """
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=child_environment()
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
        raise InputError((errors or lines[-1:])[0])
    return done.stdout
