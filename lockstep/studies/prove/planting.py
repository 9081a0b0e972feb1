"""Trainers for a worker of the proof: they plant a fault in a twin, or in its library."""

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
    """A twin's `train` that also takes the key of a fault, "" for none.

    The trace claims the right recipe and data, as the trace of a faulty program does.

    Args:
        train: the twin's own `train`.
        planted: the twin's `proof.faults.planted`, which plants a fault in its code.
    """

    def train_planted(recipe: Recipe, data: PreparedData, *, fault: str, **options: Any) -> Trace:
        trained_recipe = recipe
        trained_data = data
        if fault in FAULTS:
            trained_recipe = recipe.with_values(FAULTS[fault].wrong)
            feed = FAULTS[fault].feed
            trained_data = feed(recipe, data) if feed else data
        with planted(fault):
            trace = train(trained_recipe, trained_data, **options)
        claims = {"recipe": recipe.as_dict(), "recipe_hash": recipe.hash, "data_hash": data.hash}
        return replace(trace, header=trace.header | claims)

    return train_planted


def planting_in_library(package: str, engine: str) -> Callable[..., Trace]:
    """A twin's `train` that also takes the key of a library's fault, "" for none.

    Every fault has a process of its own, which plants it before it imports the twin. Where the
    system can, the process is forked from one that has loaded the library alone.

    Args:
        package: the twin's package.
        engine: the engine of a training that does not name one.
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
        options = {"engine": engine, "watch": replace(watch, progress=None)} | options
        training = pools[fault].submit(_train, package, recipe, data, options)
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
    """End this process when the one that started it is killed; else it waits for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _train(package: str, recipe: Recipe, data: PreparedData, options: dict[str, Any]) -> Trace:
    # the engine imports the twin, which must follow the planting
    engine = import_module("lockstep.run.engine")
    trace: Trace = engine.train(recipe, data, package=package, **options)
    return trace
