"""The assertion, for a test, that two training loops do the same thing."""

import tempfile
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack, suppress
from itertools import count
from pathlib import Path

from lockstep.diagnose.diagnosis import Diagnosis, Unequal, diagnose, unequal_settings
from lockstep.diagnose.loops import align, sides_of
from lockstep.diagnose.names import NameMap, load_names, save_names
from lockstep.diagnose.noise import loop_bounds
from lockstep.diagnose.propose import propose
from lockstep.diagnose.verdict import describe_difference, describe_limit
from lockstep.errors import InputError, ParityError
from lockstep.own_loops.recorder import Recorder
from lockstep.records.trace import Trace
from lockstep.report.junit import difference_properties, operation_properties

__all__ = ["Loop", "assert_parity"]

Loop = Callable[[Recorder], object]
"""A training that records itself with a recorder; its result is ignored."""

SIDES = ("torch", "jax")
NAMED = 5
"""Names in a message."""


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
        torch_loop: a function that takes a `lockstep.Recorder`, trains, and records the training.
        jax_loop: the other loop, likewise.
        names: a name map, as `lockstep names` writes it; None: where the loops name or lay out
            their parameters differently, a map is drawn from the initial values.
        updates: the updates, counted from 0, whose tensors are recorded; None: all. Losses and
            rates are recorded at all updates.
        perturbed: how often, twice at least, to run each loop again from a start moved by one unit
            in the last place, to measure how far rounding carries it; 0: bounds on rounding come
            from shapes and sizes alone.
        folder: where the traces are kept; None: nowhere.

    Returns:
        The diagnosis of two loops that do the same thing: identical, or rounding.

    Raises:
        ParityError: the loops part, or were set differently: the message says where first, and why.
            Or not every update can be judged, as where both give NaN. Or the loops cannot be
            compared: they recorded nothing in common or different numbers of updates, or the name
            map does not fit.
    """
    __tracebackhide__ = True
    every = 1 if updates is None else 0
    window = () if updates is None else updates
    with ExitStack() as stack:
        place = folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lockstep-")))

        def run(side: str, loop: Loop, seed: int | None = None) -> Recorder:
            path = place / (f"{side}.trace" if seed is None else f"{side}-perturbed-{seed}.trace")
            recorder = Recorder(path, backend=side, perturb=seed, every=every, window=window)
            loop(recorder)
            return recorder

        loops = tuple(zip(SIDES, (torch_loop, jax_loop)))
        recorders = [run(side, loop) for side, loop in loops]
        again = [run(side, loop, seed) for seed in range(perturbed) for side, loop in loops]
        try:
            diagnosis, settings, name_map = _compare(recorders, again, names)
        except InputError as error:
            raise ParityError(
                f"torch and jax cannot be compared: {error}", {"verdict": "none"}
            ) from None
    if diagnosis.first is not None or diagnosis.comparison.limit is not None or settings:
        closer = "" if folder is None else _command(folder, name_map, names)
        message = _story(diagnosis, settings) + closer
        raise ParityError(message, _properties(diagnosis, settings))
    return diagnosis


def _compare(
    recorders: Sequence[Recorder], again: Sequence[Recorder], names: str | Path | None
) -> tuple[Diagnosis, Sequence[Unequal], NameMap]:
    """The diagnosis of the loops, the settings that differ, and the name map between them."""
    first, second = (recorder.finish() for recorder in recorders)
    noise = [recorder.finish() for recorder in again]
    name_map = _drawn_map(first, second) if names is None else load_names(Path(names))
    a, b = align(first, second, name_map)
    bounds = loop_bounds(a, b, sides_of(noise, first, second, name_map))
    diagnosis = diagnose(a, b, bounds=bounds)
    return diagnosis, unequal_settings(_settings_alone(a), _settings_alone(b)), name_map


def _settings_alone(trace: Trace) -> Trace:
    """A trace without its environment.

    Two loops of one process have the same, but for what the second loop switched on.
    """
    return Trace({"settings": trace.header["settings"]}, {})


def _drawn_map(a: Trace, b: Trace) -> NameMap:
    """The name map that the initial values give.

    It is empty where a loop has no parameters, or where names and shapes agree already.
    """
    shapes_a = {name: array.shape for name, array in a.parameters(0).items()}
    shapes_b = {name: array.shape for name, array in b.parameters(0).items()}
    if not shapes_a or not shapes_b or shapes_a == shapes_b:
        return NameMap()
    proposal = propose(a, b)
    alone = sorted(proposal.names.only_a | proposal.names.only_b)
    if alone:  # a test must not pass without them
        raise InputError(f"parameters that one loop alone has: {', '.join(alone[:NAMED])}")
    return proposal.names


def _command(folder: Path, name_map: NameMap, names: str | Path | None) -> str:
    """A last line with the command that shows more of the traces in the folder.

    `name_map` is the map that was read from `names`; where that is None, it was drawn.
    """
    line = f"\n  look closer: lockstep diagnose {folder / 'torch.trace'} {folder / 'jax.trace'}"
    if name_map == NameMap():
        return line
    file = _save_drawn(folder, name_map) if names is None else names
    return f"{line} --names {file}"


def _save_drawn(folder: Path, name_map: NameMap) -> Path:
    """Write a name map as names.toml, or as names-2.toml, ... where that holds another."""
    for number in count(1):
        path = folder / ("names.toml" if number == 1 else f"names-{number}.toml")
        with suppress(InputError):  # it exists, and is kept
            save_names(path, name_map)
            return path
        with suppress(InputError):
            if load_names(path) == name_map:
                return path
    raise AssertionError("the numbers do not end")


def _story(diagnosis: Diagnosis, settings: Sequence[Unequal]) -> str:
    """The diagnosis in a few lines; the first says what matters."""
    lines = [
        f"set differently: {name} is {_setting(a)} in torch and {_setting(b)} in jax"
        for name, a, b in settings
    ]
    first = diagnosis.first
    limit = diagnosis.comparison.limit
    if first is not None:
        lines.append(f"torch and jax part {describe_difference(first)}")
        lines.append(f"  a, torch: {first.a!r}")
        lines.append(f"  b, jax:   {first.b!r}")
        lines.append(f"  {first.share:.0%} of {first.tensor} is beyond the bound")
    elif limit is not None:
        lines.append(f"torch and jax: inconclusive, {describe_limit(limit)}")
    if diagnosis.operation is not None:
        lines.append(f"  first operation: {diagnosis.operation.text}")
    for cause in (diagnosis.cause, *diagnosis.further):
        if cause is not None:
            page = f" (lockstep atlas {cause.page})" if cause.page else ""
            lines.append(f"  cause: {cause.text}{page}")
    return "\n".join(lines)


def _setting(value: object) -> str:
    return "not set" if value is None else repr(value)


def _properties(diagnosis: Diagnosis, settings: Sequence[Unequal]) -> dict[str, str]:
    """The diagnosis for machines."""
    limit = diagnosis.comparison.limit
    cause = diagnosis.cause
    properties: dict[str, str] = {"verdict": diagnosis.verdict}
    properties |= {f"settings.{name}": f"{a!r}, {b!r}" for name, a, b in settings}
    if limit is not None:
        properties["judged updates"] = str(max(limit.update, 0))
    if diagnosis.first is not None:
        properties |= difference_properties(diagnosis.first)
    if diagnosis.operation is not None:
        properties |= operation_properties(diagnosis.operation)
    if cause is not None:
        properties |= {"cause": cause.key, "cause.text": cause.text}
    return properties
