"""The losses and their slopes by the model's outputs, by hand: one file for each.

`row_losses` of a file is (loss, outputs (..., B, K), targets (B,), arithmetic) -> `RowLosses`.
"""

from importlib import import_module

from lockstep.recipe import Loss

__all__ = ["MODULES"]

MODULES = {name: import_module(f"{__name__}.{name}") for name in Loss.variants}
"""Loss -> its file."""
