"""Assert in a test that two training loops do the same thing."""

import tempfile
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack, suppress
from itertools import count
from pathlib import Path
from typing import Any

from lockstep.diagnose.diagnosis import Diagnosis, Unequal, diagnose, unequal_settings
from lockstep.diagnose.loops import align, sides_of
from lockstep.diagnose.names import NameMap, load_names, save_names
from lockstep.diagnose.noise import loop_bounds
from lockstep.diagnose.propose import propose
from lockstep.diagnose.verdict import describe_difference, describe_limit
from lockstep.errors import InputError, ParityError
from lockstep.own_loops.recorder import Recorder
from lockstep.records.trace import Trace
from lockstep.report.junit import difference_properties

__all__ = ["Loop", "assert_parity"]

Loop = Callable[[Recorder], object]
"""A training that records itself; what it returns is not looked at."""

SIDES = ("torch", "jax")


def assert_parity(
    torch_loop: Loop,
    jax_loop: Loop,
    *,
    names: str | Path | None = None,
    updates: Collection[int] | None = None,
    perturbed: int = 0,
    folder: Path | None = None,
) -> Diagnosis:
    """Run both loops, each with a recorder of its own, and compare everything that both recorded.

    Args:
        torch_loop: is given a `lockstep.Recorder`; trains, and records what it does.
        jax_loop: the other, likewise.
        names: a name map, as `lockstep names` writes it; None: where the loops name or lay out
            their parameters differently, one is drawn from the initial values.
        updates: those to record tensors of, counted from 0; None: all. Losses and rates are
        recorded of all.
        perturbed: how often, twice at least, to run each loop again from a start moved by one unit
            in the last place, to measure how far rounding carries it; 0: bounds on rounding come
            from shapes and sizes alone.
        folder: where the traces are kept; None: nowhere.

    Returns:
        The diagnosis of two loops that do the same thing: identical, or rounding.

    Raises:
        ParityError: the loops part, or were set differently; says where first, and why. Or not all
            of them can be judged, as where both give NaN. Or they cannot be compared: nothing that
            both recorded, different numbers
            of updates, a name map that does not fit.
    """
    __tracebackhide__ = True
    level: dict[str, Any] = {"every": 1} if updates is None else {"every": 0, "window": updates}
    with ExitStack() as stack:
        place = folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lockstep-")))

        def run(side: str, loop: Loop, seed: int | None = None) -> Recorder:
            path = place / (f"{side}.trace" if seed is None else f"{side}-perturbed-{seed}.trace")
            recorder = Recorder(path, backend=side, perturb=seed, **level)
            loop(recorder)
            return recorder

        loops = tuple(zip(SIDES, (torch_loop, jax_loop)))
        recorders = [run(side, loop) for side, loop in loops]
        again = [run(side, loop, seed) for seed in range(perturbed) for side, loop in loops]
        try:
            found, settings, known = _compare(recorders, again, names)
        except InputError as error:
            raise ParityError(
                f"torch and jax cannot be compared: {error}", {"verdict": "none"}
            ) from None
    if found.first is not None or found.comparison.limit is not None or settings:
        closer = "" if folder is None else _command(folder, known, names)
        raise ParityError(_tell(found, settings) + closer, _properties(found, settings))
    return found


def _compare(
    recorders: Sequence[Recorder], again: Sequence[Recorder], names: str | Path | None
) -> tuple[Diagnosis, Sequence[Unequal], NameMap]:
    first, second = (recorder.finish() for recorder in recorders)
    noise = [recorder.finish() for recorder in again]
    known = _drawn(first, second) if names is None else load_names(Path(names))
    a, b = align(first, second, known)
    found = diagnose(a, b, bounds=loop_bounds(a, b, sides_of(noise, first, second, known)))
    # of one process both environments are the same, but for what the second loop switched on
    settings = unequal_settings(
        *(Trace({"settings": trace.header["settings"]}, {}) for trace in (a, b))
    )
    return found, settings, known


def _drawn(a: Trace, b: Trace) -> NameMap:
    """What the initial values say, where both have parameters but not of the same names and shapes;
    else no map.
    """
    shapes = [
        {name: array.shape for name, array in trace.parameters(0).items()} for trace in (a, b)
    ]
    return propose(a, b)[0] if all(shapes) and shapes[0] != shapes[1] else NameMap()


def _command(folder: Path, known: NameMap, names: str | Path | None) -> str:
    """A last line: how to see more of the traces in the folder; `known` is drawn, or read from
    `names`.
    """
    line = f"\n  look closer: lockstep diagnose {folder / 'torch.trace'} {folder / 'jax.trace'}"
    if known == NameMap():
        return line
    return f"{line} --names {_save_drawn(folder, known) if names is None else names}"


def _save_drawn(folder: Path, known: NameMap) -> Path:
    """Write a name map as names.toml, or names-2.toml, ... where that is another one."""
    for number in count(1):
        path = folder / ("names.toml" if number == 1 else f"names-{number}.toml")
        with suppress(InputError):  # it exists, and is kept
            save_names(path, known)
            return path
        with suppress(InputError):
            if load_names(path) == known:
                return path
    raise AssertionError("the numbers do not end")


def _tell(found: Diagnosis, settings: Sequence[Unequal]) -> str:
    """The story in a few lines, of which the first says what matters."""
    lines = [
        f"set differently: {name} is {_said(a)} in torch and {_said(b)} in jax"
        for name, a, b in settings
    ]
    first = found.first
    if first is not None:
        lines.append(f"torch and jax part {describe_difference(first)}")
        values = zip("ab", SIDES, (first.a, first.b))
        lines += [f"  {letter}, {f'{side}:':6} {value!r}" for letter, side, value in values]
        lines.append(f"  {first.share:.0%} of {first.tensor} is beyond the bound")
    elif found.comparison.limit is not None:
        lines.append(f"torch and jax: inconclusive, {describe_limit(found.comparison.limit)}")
    if found.cause is not None:
        page = f" (lockstep atlas {found.cause.page})" if found.cause.page else ""
        lines.append(f"  cause: {found.cause.text}{page}")
    return "\n".join(lines)


def _said(setting: Any) -> str:
    return "not set" if setting is None else repr(setting)


def _properties(found: Diagnosis, settings: Sequence[Unequal]) -> dict[str, str]:
    """The same for machines."""
    properties = {"verdict": found.verdict} | {
        f"settings.{name}": f"{a!r}, {b!r}" for name, a, b in settings
    }
    if found.comparison.limit is not None:
        properties["judged updates"] = str(max(found.comparison.limit.update, 0))
    if found.first is not None:
        properties |= difference_properties(found.first)
    if found.cause is not None:
        properties |= {"cause": found.cause.key, "cause.text": found.cause.text}
    return properties
