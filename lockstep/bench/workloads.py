"""The workloads: recipes that are trained against the clock."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from lockstep.data_prep import PreparedData
from lockstep.recipe import Recipe, load_recipe

__all__ = ["WORKLOADS", "Workload", "find_workload", "first_updates", "threads_for"]


@dataclass(frozen=True)
class Workload:
    """A recipe, and how many seeds of it are trained at once."""

    name: str
    recipe: Recipe
    seeds: int = 1
    proof_updates: int = 0
    """How many of the first updates are compared with the oracle in float64; 0: all."""


@dataclass(frozen=True)
class _Known:
    recipe: str
    overrides: tuple[str, ...] = ()
    seeds: int = 1
    proof_updates: int = 0


ADAMW = ("optimizer.name=adamw", "optimizer.weight_decay=0.01")
WORKLOADS = {
    "W1": _Known("seed"),
    "W1-adamw": _Known("seed", ADAMW),
    "W2": _Known(str(Path(__file__).parent / "wide.toml"), proof_updates=12),
    "W3": _Known("seed", seeds=256),
}


def find_workload(name: str, overrides: Sequence[str] = ()) -> Workload:
    """The workload W1 to W3, or one of any recipe, with fields overridden.

    Raises:
        InputError: there is no such recipe or field.
    """
    known = WORKLOADS.get(name, _Known(name))
    recipe = load_recipe(known.recipe, known.overrides).with_overrides(overrides)
    return Workload(name, recipe, known.seeds, known.proof_updates)


def threads_for(data: PreparedData) -> int:
    """How many threads share an operation: all cores where it is large, else one."""
    return 1 if data.is_small else os.cpu_count() or 1


def first_updates(data: PreparedData, updates: int) -> PreparedData:
    """The data of a run's first updates alone: the same batches in the same order.

    The schedule must count updates and not depend on the length of the run, and the recipe must
    have neither dropout nor accumulation.
    """
    used_N = data.batches(0).rows_TB[:updates].ravel()
    short = replace(
        data, train_x_ND=data.train_x_ND[used_N], train_y_N=data.train_y_N[used_N], epochs=1
    )
    # fewer rows are drawn in another order, so each row is put where that order looks for it
    place_N = np.argsort(short.batches(0).rows_TB.ravel())
    return replace(short, train_x_ND=short.train_x_ND[place_N], train_y_N=short.train_y_N[place_N])
