"""Train one recipe in PyTorch and in JAX and say whether the two do the same thing.

This package is the framework-free core: NumPy and small libraries. It imports neither torch nor
jax.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lockstep.version import __version__

if TYPE_CHECKING:
    from lockstep.data_prep import prepare
    from lockstep.diagnose.pairs import compare, diagnose
    from lockstep.own_loops.arrays import perturbed
    from lockstep.own_loops.recorder import Recorder
    from lockstep.parity import assert_parity
    from lockstep.recipe import Recipe, load_recipe
    from lockstep.records.trace import Trace
    from lockstep.run.trainers import train

__all__ = [
    "Recipe",
    "Recorder",
    "Trace",
    "__version__",
    "assert_parity",
    "compare",
    "diagnose",
    "load_recipe",
    "perturbed",
    "prepare",
    "train",
]

HOMES = {
    "Recipe": "lockstep.recipe",
    "Recorder": "lockstep.own_loops.recorder",
    "Trace": "lockstep.records.trace",
    "assert_parity": "lockstep.parity",
    "compare": "lockstep.diagnose.pairs",
    "load_recipe": "lockstep.recipe",
    "perturbed": "lockstep.own_loops.arrays",
    "prepare": "lockstep.data_prep",
    "train": "lockstep.run.trainers",
}
"""Public name -> the module that it comes from, which is loaded when the name is asked for."""


def __getattr__(name: str) -> Any:
    if name == "diagnose":  # a package too, which may be called
        return import_module("lockstep.diagnose")
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
