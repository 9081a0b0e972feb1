"""Pairs of traces whose equality is known, which a comparison must judge right."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lockstep.data_prep import prepare
from lockstep.oracle.train import train as train_oracle
from lockstep.recipe import Recipe
from lockstep.records.run_recorder import Watch
from lockstep.records.trace import Trace
from lockstep.studies.prove.faults import BASE

__all__ = ["CASES", "Case", "Pair", "written"]

Edit = Callable[[Trace], Trace]


def _as_it_is(trace: Trace) -> Trace:
    return trace


@dataclass(frozen=True)
class Case:
    """A right run against itself, edited."""

    text: str
    edit: Edit = _as_it_is
    """What is done to the second side."""
    both: Edit = _as_it_is
    """What is done to both sides, before `edit`."""
    dtype: str = "float64"
    are_equal: bool = False
    rewritten: bool = False
    """Whether the second file was compared before it was edited."""
    cut: bool = False
    """Whether the second file lacks its end."""


@dataclass(frozen=True)
class Pair:
    """The two files of a case."""

    a: Path
    b: Path
    before: bytes
    """What the second file holds before the edit."""
    after: bytes
    """What the second file holds after the edit."""


def written(case: Case, folder: Path) -> Pair:
    """The files of a case, in a new folder."""
    folder.mkdir()
    right = case.both(_right_run(case.dtype))
    arrays = {
        name: _stored(name, array, case.dtype)
        for name, array in right.arrays.items()
        if not name.startswith("bounds/")
    }
    header = right.header | {"backend": "torch", "dtype": case.dtype}
    a = folder / "a.trace"
    b = folder / "b.trace"
    replace(right, header=header, arrays=arrays).save(a)
    case.edit(right).save(b)
    after = b.read_bytes()
    right.save(b)
    return Pair(a, b, b.read_bytes(), after[:-1] if case.cut else after)


def _stored(name: str, array: NDArray[Any], dtype: str) -> NDArray[Any]:
    """The array as a twin's trace has it: metrics stay float64, and labels whole numbers."""
    is_float = array.dtype.kind == "f" and not name.startswith("epochs/")
    return array.astype(dtype) if is_float else array


@cache
def _right_run(dtype: str) -> Trace:
    """The oracle's run of 6 updates of one layer, with one update in detail; in float32 with
    bounds.
    """
    small = {
        "model.hidden": (),
        "training.epochs": 2,
        "training.dtype": dtype,
        "average.decay": 0.9,
    }
    recipe = Recipe().with_values(BASE | small)
    watch = Watch(detail=(3,))
    return train_oracle(recipe, prepare(recipe), watch=watch, bounds=dtype == "float32")


def _array(name: str, change: Callable[[NDArray[Any]], NDArray[Any]]) -> Edit:
    def edit(trace: Trace) -> Trace:
        changed = change(trace.arrays[name].copy())
        return replace(trace, arrays=trace.arrays | {name: changed})

    return edit


def _element(
    name: str, change: Callable[[Any], Any], place: int | tuple[int, int] = (0, 0)
) -> Edit:
    def change_element(array: NDArray[Any]) -> NDArray[Any]:
        array[place] = change(array[place])
        return array

    return _array(name, change_element)


def _more(by: float) -> Callable[[Any], Any]:
    return lambda value: value + by


def _next(value: Any) -> Any:
    return np.nextafter(value, np.inf)


def _put(value: float) -> Callable[[Any], Any]:
    return lambda _: value


def _opposite(array: NDArray[Any]) -> NDArray[Any]:
    array[0, 0] += 1e-3
    array[1, 1] -= 1e-3
    return array


def _swapped(array: NDArray[Any]) -> NDArray[Any]:
    array[[0, 1]] = array[[1, 0]]
    return array


def _beyond_bound(trace: Trace) -> Trace:
    return _element(WEIGHT, _more(3 * float(trace.arrays[f"bounds/{WEIGHT}"])))(trace)


def _renamed(trace: Trace) -> Trace:
    return replace(trace, arrays={f"other/{name}": array for name, array in trace.arrays.items()})


WEIGHT = "parameters/4/linear1.weight"
NAN = _element(WEIGHT, _put(np.nan))

CASES = (
    Case("the same run, in float64", are_equal=True),
    Case("the same run, rounded to float32", dtype="float32", are_equal=True),
    Case("the same NaN on both sides", both=NAN, are_equal=True),
    Case("an element above by 1e-9", _element(WEIGHT, _more(1e-9))),
    Case("an element below by 1e-9", _element(WEIGHT, _more(-1e-9))),
    Case(
        "an element of a tensor of size 1e-10 by a thousandth",
        _element(WEIGHT, lambda value: value * 1.001),
        both=_array(WEIGHT, lambda array: array * 1e-10),
    ),
    Case("an element beyond its float32 bound", _beyond_bound, dtype="float32"),
    Case("two elements by opposite amounts", _array(WEIGHT, _opposite)),
    Case("two rows swapped", _array(WEIGHT, _swapped)),
    Case("all signs turned", _array(WEIGHT, np.negative)),
    Case("NaN for a number", NAN),
    Case("infinity for a number", _element(WEIGHT, _put(np.inf))),
    Case(
        "another element beside a NaN that is the same",
        _element(WEIGHT, _more(1e-3), (1, 1)),
        both=NAN,
    ),
    Case("an initial parameter by one bit", _element("parameters/0/linear1.weight", _next)),
    Case("a learning rate by one bit", _element("updates/lr", _next, 2)),
    Case("the loss of the first update", _element("updates/loss", _more(1e-9), 0)),
    Case("the loss of the last update", _element("updates/loss", _more(1e-9), -1)),
    Case(
        "a parameter after the first epoch alone",
        _element("parameters/3/linear1.weight", _more(1e-9)),
    ),
    Case(
        "a parameter after the last update alone",
        _element("parameters/6/linear1.weight", _more(1e-9)),
    ),
    Case("the moving average alone", _element("average/4/linear1.weight", _more(1e-9))),
    Case("a metric alone", _element("epochs/held_out_loss", _more(1e-9), 0)),
    Case("a gradient alone", _element("detail/3/gradients/linear1.weight", _more(1e-9))),
    Case("a row of a batch alone", _element("detail/3/batch/x", _more(1e-9))),
    Case("one update fewer", _array("updates/loss", lambda array: array[:-1])),
    Case("a tensor of another shape", _array(WEIGHT, lambda array: array[:, :1])),
    Case("no name in common", _renamed),
    Case("other data", lambda trace: replace(trace, header=trace.header | {"data_hash": "0" * 64})),
    Case(
        "a file that changed since it was last compared",
        _element(WEIGHT, _more(1e-3)),
        rewritten=True,
    ),
    Case("a file without its end", cut=True),
)
"""The cases, all of which a right comparison judges right."""
