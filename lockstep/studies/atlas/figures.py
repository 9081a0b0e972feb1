"""Runs the code of atlas pages, and measures how far two ports are from their reference.

As a script it runs each page in a process of its own, in any environment that has NumPy. It needs
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

SMALLEST = 1e-12
"""What is below is rounding of float64, and differs from machine to machine."""


class Code(NamedTuple):
    """Code of a page."""

    variable: str
    """The name that it assigns: `reference`, `naive` or `right`."""
    text: str


class CannotRunError(Exception):
    """Code gives no value with what is installed; the message is one line."""


@contextmanager
def settings_restored(*, strict: bool) -> Iterator[None]:
    """Run the block with the frameworks' defaults, and restore their settings after it.

    Args:
        strict: whether a deprecation warning is an error.
    """
    before = _settings()
    _set(False, None, before[2])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a trap that warns is still a trap
            if strict:
                warnings.simplefilter("error", DeprecationWarning)
                warnings.simplefilter("error", FutureWarning)
            yield
    finally:
        _set(*before)


def _settings() -> tuple[bool, Any, Any]:
    """JAX's x64, and PyTorch's default dtype and random state.

    They are False, None and None for a framework that is not imported.
    """
    jax = sys.modules.get("jax")
    torch = sys.modules.get("torch")
    x64 = bool(jax.config.jax_enable_x64) if jax else False
    if torch is None:
        return x64, None, None
    return x64, torch.get_default_dtype(), torch.get_rng_state()


def _set(x64: bool, dtype: Any, random_state: Any) -> None:
    jax = sys.modules.get("jax")
    torch = sys.modules.get("torch")
    if jax:
        jax.config.update("jax_enable_x64", x64)
    if torch:
        torch.set_default_dtype(dtype or torch.float32)
        if random_state is not None:
            torch.set_rng_state(random_state)


def run_code(code: Code, *, strict: bool = False) -> np.ndarray | str:
    """What code assigns, in float64 and of any shape; `raises NAME` for a naive port that raises.

    Args:
        code: the code of one section of a page.
        strict: whether a deprecation warning is an error.

    Raises:
        CannotRunError: a package is not installed, or code that is no naive port raises an error.
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
    """max |value - reference| / max |reference|, or the reason why there is no distance.

    The distance is absolute where the reference is 0.
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
    """Whether a figure on a page states a value: to two digits, or as a bound above it."""
    if isinstance(value, str) or value == 0:
        return figure == str(value) or (value == 0 and figure in ("0", f"below {SMALLEST:.0e}"))
    bound = re.fullmatch(r"below (1e-\d\d)", figure)
    if bound:
        largest = float(bound[1])
        return value < largest and (largest == SMALLEST or value > largest / 1000)
    # the last bits of a value on the edge between two figures must not decide
    return value >= SMALLEST and figure in {
        f"{value * edge:.1e}" for edge in (1 - 1e-4, 1, 1 + 1e-4)
    }


def write_figure(figure: str, value: float | str) -> str:
    """The figure for a value: the old one where it still holds."""
    if states(figure, value):
        return figure
    if isinstance(value, str):
        return value
    return f"below {SMALLEST:.0e}" if value < SMALLEST else f"{value:.1e}"


def main(folder: str, limit_s: str, *packages: str) -> None:
    """Run pages, as many at once as there are cores, and print the number of each when it ends.

    Standard input has the pages, a JSON list of lists of [variable, text]. The packages are
    imported once, and every page runs in a fork of this process. That is safe, as none of the
    packages has begun a thread.

    Args:
        folder: file `N` gets what page N gives. Where the page's process dies, `N.died` gets its
            exit status, or the number of the signal, negative.
        limit_s: whole seconds that a page, or the imports, may take.
        packages: what to import; one that is not installed is left out.
    """
    pages = json.load(sys.stdin)
    signal.alarm(int(limit_s))  # ends the process, whatever it does
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
    """Write what each piece of code gives, and end the process."""
    status = 1
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        outcomes = [_outcome(Code(*code)) for code in codes]
        out.write_text(json.dumps(outcomes))
        status = 0
    finally:
        os._exit(status)  # without the exit handlers of the parent


def _outcome(code: Code) -> dict[str, Any]:
    try:
        value = run_code(code)
    except CannotRunError as error:
        return {"fault": str(error)}
    return {"value": value if isinstance(value, str) else value.tolist()}


def _wait(running: dict[int, int], folder: str) -> None:
    """Wait until one page has ended."""
    process, status = os.wait()
    number = running.pop(process)
    if status:
        (Path(folder) / f"{number}.died").write_text(str(os.waitstatus_to_exitcode(status)))
    print(number, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
