"""Runs the code of atlas pages, and measures how far two ports are from their reference.

As a script it runs each page in a process of its own, in any environment: it needs NumPy, and
nothing else of lockstep.
"""

import json
import os
import re
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

__all__ = ["SMALLEST", "CannotRunError", "Code", "distance", "run_code", "states", "write_figure"]

SMALLEST = 1e-12  # what is below is rounding of float64, and differs from machine to machine


class Code(NamedTuple):
    """Code, and the name that it assigns: `reference`, `naive` or `right`."""

    variable: str
    text: str


class CannotRunError(Exception):
    """Code that gives no value with what is installed; the reason in one line."""


@contextmanager
def settings_restored(*, strict: bool) -> Iterator[None]:
    """Code starts from the frameworks' defaults and leaves what was set before.

    Args:
        strict: a warning that something is going away is an error.
    """
    before = _settings()
    _set(False, None, before[2])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a trap that warns is one still
            if strict:
                warnings.simplefilter("error", DeprecationWarning)
                warnings.simplefilter("error", FutureWarning)
            yield
    finally:
        _set(*before)


def _settings() -> tuple[bool, Any, Any]:
    """Of what is imported: JAX's x64, PyTorch's default dtype and random state; else its default,
    or None.
    """
    jax, torch = sys.modules.get("jax"), sys.modules.get("torch")
    x64 = bool(jax.config.jax_enable_x64) if jax else False
    return (x64, torch.get_default_dtype(), torch.get_rng_state()) if torch else (x64, None, None)


def _set(x64: bool, dtype: Any, random_state: Any) -> None:
    jax, torch = sys.modules.get("jax"), sys.modules.get("torch")
    if jax:
        jax.config.update("jax_enable_x64", x64)
    if torch:
        torch.set_default_dtype(dtype or torch.float32)
        if random_state is not None:
            torch.set_rng_state(random_state)


def run_code(code: Code, *, strict: bool = False) -> np.ndarray | str:
    """What code assigns, in float64, any shape; for a naive port that raises an error,
    `raises NAME`.

    Args:
        code: of one section of a page.
        strict: a warning that something is going away is an error.

    Raises:
        CannotRunError: a package is not installed, or code other than a naive port's raises an
        error.
    """
    namespace: dict[str, Any] = {"__name__": "atlas"}
    try:
        with settings_restored(strict=strict):
            exec(compile(code.text, f"<{code.variable}>", "exec"), namespace)
            return _as_float64(namespace[code.variable])
    except Exception as error:
        if code.variable == "naive" and not isinstance(error, ImportError):
            return f"raises {type(error).__name__}"
        first = next(iter(str(error).splitlines()), "")
        raise CannotRunError(f"{type(error).__name__}: {first}") from error


def _as_float64(value: Any) -> np.ndarray:
    if hasattr(value, "detach"):
        value = value.detach().double().numpy()
    return np.asarray(value).astype(np.float64)


def distance(value: np.ndarray | str, reference: np.ndarray) -> float | str:
    """max |value - reference| / max |reference|, absolute where the reference is 0; or why there is
    none.
    """
    if isinstance(value, str):
        return value
    if value.shape != reference.shape:
        return f"shape {value.shape}, the reference has {reference.shape}"
    if not (np.isfinite(value) == np.isfinite(reference)).all():
        return "not finite"
    finite = np.isfinite(reference)
    largest = np.abs(reference[finite]).max()
    return float(np.abs(value[finite] - reference[finite]).max() / (largest or 1.0))


def states(figure: str, value: float | str) -> bool:
    """Whether a figure, as written on a page, says what was measured: to its two digits, or below
    its bound.
    """
    if isinstance(value, str) or value == 0:
        return figure == str(value) or (value == 0 and figure in ("0", f"below {SMALLEST:.0e}"))
    bound = re.fullmatch(r"below (1e-\d\d)", figure)
    if bound:
        largest = float(bound[1])
        return value < largest and (largest == SMALLEST or value > largest / 1000)
    # a figure on the edge between two must not hinge on the last bits
    return value >= SMALLEST and figure in {
        f"{value * edge:.1e}" for edge in (1 - 1e-4, 1, 1 + 1e-4)
    }


def write_figure(figure: str, value: float | str) -> str:
    """The figure to write for what was measured: the old one where it still holds."""
    if states(figure, value):
        return figure
    if isinstance(value, str):
        return value
    return f"below {SMALLEST:.0e}" if value < SMALLEST else f"{value:.1e}"


def main(folder: str, limit_s: str, *packages: str) -> None:
    """Run pages, as many at once as there are cores; print the number of each that is done.

    The packages are imported once, and every page runs in a fork of that process: none of them has
    begun a thread.

    Args:
        folder: `N` is written there: what page N of stdin, a JSON list of lists of [variable,
            text], gives; a page whose process dies leaves the number of the signal, or of the exit
            status, in `N.died`.
        limit_s: whole seconds that a page, or the imports, may take.
        packages: those that are not installed are left out.
    """
    pages = json.load(sys.stdin)
    signal.alarm(int(limit_s))  # its default is to end the process, whatever that does
    for package in packages:
        with suppress(Exception):
            import_module(package)
    signal.alarm(0)
    warnings.simplefilter("ignore")  # JAX warns at a fork
    running: dict[int, int] = {}
    for number, codes in enumerate(pages):
        if len(running) == os.cpu_count():
            _wait(running, folder)
        process = os.fork()
        if process == 0:
            signal.alarm(int(limit_s))
            _run_page(codes, Path(folder) / str(number))
        running[process] = number
    while running:
        _wait(running, folder)


def _run_page(codes: Sequence[tuple[str, str]], out: Path) -> None:
    """Write what each code gives, and end the process."""
    status = 1
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        outcomes = [_outcome(Code(*code)) for code in codes]
        out.write_text(json.dumps(outcomes))
        status = 0
    finally:
        os._exit(status)  # nothing of the parent's is to run at the end


def _outcome(code: Code) -> dict[str, Any]:
    try:
        value = run_code(code)
    except CannotRunError as error:
        return {"fault": str(error)}
    return {"value": value if isinstance(value, str) else value.tolist()}


def _wait(running: dict[int, int], folder: str) -> None:
    """Until one page is done."""
    process, status = os.wait()
    number = running.pop(process)
    if status:
        (Path(folder) / f"{number}.died").write_text(str(os.waitstatus_to_exitcode(status)))
    print(number, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
