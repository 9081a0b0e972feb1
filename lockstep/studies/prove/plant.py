"""A worker's side of the proof: train a twin with a fault in it, or in its library."""

import multiprocessing
import os
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import replace
from importlib import import_module
from typing import Any

from lockstep.data_prep import PreparedData
from lockstep.errors import InputError
from lockstep.recipe import Recipe
from lockstep.records.run_recorder import Watch
from lockstep.records.trace import Trace
from lockstep.studies.prove.faults import FAULTS

__all__ = ["planting", "planting_in_library"]


def planting(
    train: Callable[..., Trace], planted: Callable[[str], AbstractContextManager[None]]
) -> Callable[..., Trace]:
    """A twin's `train` that takes the key of a fault too, "" for none.

    The trace says that it is of the right recipe and data, as that of a program with a fault does.

    Args:
        train: of the twin.
        planted: of the twin's `faults`.
    """

    def train_planted(recipe: Recipe, data: PreparedData, *, fault: str, **options: Any) -> Trace:
        chosen = FAULTS.get(fault)
        taken = recipe.with_values(chosen.wrong) if chosen else recipe
        fed = chosen.feed(recipe, data) if chosen and chosen.feed else data
        with planted(fault):
            trace = train(taken, fed, **options)
        said = {"recipe": recipe.as_dict(), "recipe_hash": recipe.hash, "data_hash": data.hash}
        return replace(trace, header=trace.header | said)

    return train_planted


def planting_in_library(package: str, engine: str) -> Callable[..., Trace]:
    """A twin's `train` that takes the key of a library's fault too, "" for none.

    Every fault has a process of its own, which plants it before it imports the twin. Where the
    system can, it is forked from one that has loaded the library and no more.

    Args:
        package: of the twin.
        engine: where a training does not say.
    """
    forks = "forkserver" in multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if forks else "spawn")
    if forks:
        multiprocessing.set_forkserver_preload([f"{package}.proof.library_faults"])
    pools: dict[str, ProcessPoolExecutor] = {}

    def train_planted(
        recipe: Recipe, data: PreparedData, *, fault: str, watch: Watch = Watch(), **options: Any
    ) -> Trace:
        if fault not in pools:
            while pools:
                pools.popitem()[1].shutdown()
            pools[fault] = ProcessPoolExecutor(
                1, context, initializer=_plant, initargs=(package, fault)
            )
        training = pools[fault].submit(
            _train,
            package,
            recipe,
            data,
            {"engine": engine, "watch": replace(watch, progress=None)} | options,
        )
        try:
            trace = training.result()
        except Exception as error:
            raise InputError(f"{fault or 'no fault'}: {type(error).__name__}: {error}") from error
        if watch.progress:
            watch.progress(data.updates, data.updates)
        return trace

    return train_planted


def _plant(package: str, fault: str) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    library_faults = import_module(f"{package}.proof.library_faults")
    library_faults.hasten()
    if fault:
        library_faults.plant(fault)


def _end_with_parent() -> None:
    """A pool's process would wait for work for ever where the one that started it was killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _train(package: str, recipe: Recipe, data: PreparedData, options: dict[str, Any]) -> Trace:
    # loaded after the fault is planted, with the twin
    trace: Trace = import_module("lockstep.run.engine").train(
        recipe, data, package=package, **options
    )
    return trace
