"""Train one recipe in PyTorch and in JAX and say whether the two do the same thing.

This package is the framework-free core: NumPy and small libraries. It imports neither torch nor jax.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lockstep.version import __version__

if TYPE_CHECKING:
    from lockstep.own_loops.arrays import perturbed
    from lockstep.own_loops.recorder import Recorder

__all__ = ["Recorder", "__version__", "perturbed"]


def __getattr__(name: str) -> Any:
    """`lockstep.Recorder` and `lockstep.perturbed`, loaded when they are asked for: the command line starts light."""
    rooms = {"Recorder": "lockstep.own_loops.recorder", "perturbed": "lockstep.own_loops.arrays"}
    if name not in rooms:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(rooms[name]), name)
