"""What trains a recipe in this process: a twin by its name, or the oracle."""

from collections.abc import Callable, Collection
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

from lockstep.backends import TRAINERS, TWINS
from lockstep.errors import InputError

if TYPE_CHECKING:  # a worker loads these while its framework loads
    from lockstep.data_prep import PreparedData
    from lockstep.recipe import Recipe
    from lockstep.records.trace import Trace

__all__ = ["load_trainer", "train", "twin"]


def train(
    recipe: "Recipe",
    data: "PreparedData | None" = None,
    *,
    backend: str,
    engine: str = "auto",
    device: str = "cpu",
    parameters_every: int = 0,
    detail: Collection[int] = (),
) -> "Trace":
    """Train a recipe in this process and record the run.

    Args:
        recipe: what to train, from `load_recipe` or `Recipe()`.
        data: from `prepare(recipe)`; None: prepared here. Runs that are to be compared may share
            it.
        backend: "torch", "jax", or "oracle" for the float64 reference, which records the bounds on
            rounding too.
        engine: "plain" is the framework as people write it, "fast" the same mathematics by hand,
            "auto" fast where it can.
        device: "cpu", "gpu" or "auto".
        parameters_every: record the parameters after every so many updates; 0: at epoch ends only.
        detail: the updates, counted from 0, to record from rows to moments; `diagnose` explains
            more with them.

    Returns:
        The trace: `series("loss")` has a value an update, `metric("held_out_loss")` one an epoch,
        and `parameters(n)` the arrays after n updates by canonical name, weights laid out (in,
        out), in the recipe's dtype.

    Raises:
        InputError: no such backend, engine or device, a framework that is not installed, or data
            that cannot be trained on.
    """
    from lockstep.data_prep import prepare
    from lockstep.records.run_recorder import Watch

    if backend not in TRAINERS:
        raise InputError(f"backend {backend!r}: there are {', '.join(TRAINERS)}")
    if engine not in ("auto", "plain", "fast"):
        raise InputError(f"engine {engine!r}: there are auto, plain and fast")
    trainer = load_trainer(backend, engine)
    prepared = prepare(recipe) if data is None else data
    watch = Watch(parameters_every=parameters_every, detail=detail)
    return trainer(recipe, prepared, device=device, watch=watch)


def load_trainer(backend: str, engine: str) -> "Callable[..., Trace]":
    """The `train` of torch, jax or oracle, with an engine.

    Raises:
        InputError: its framework is not installed, or no such engine.
    """
    if backend != "oracle":
        package = TWINS[backend]
        twin(backend, f"{package}.io.device")
        by_engine = twin(backend, "lockstep.run.engine").train
        return partial(by_engine, package=package, engine=engine)
    train_oracle: Callable[..., Trace] = twin(backend, "lockstep.oracle.train").train
    if engine == "fast":
        raise InputError("--engine fast: the oracle has the plain one only")
    return train_oracle


def twin(backend: str, module: str) -> Any:
    """A module of a twin.

    Raises:
        InputError: its framework is not installed.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise InputError(
            f"--backend {backend}: the package {error.name} is not installed: pip install "
            f"'lockstep[{backend}]'"
        ) from None
