"""The losses of the fast engine: one file for each, named as its spec.

A file has `targets` (loss, outputs, y_TB, weight_TB), the scale (T, B) and shift (T, K, B) of the
slope before it is divided, and the divisors (T,) of the mean; `slope` (loss, outputs_KB, batch,
scratch, out), the gradient of the batch's share of the loss by the outputs, see `Batch`; and
`mean_losses` (loss, outputs_TKB, batch, together), the losses (T,) of consecutive batches, which
are the places `together` of all that were loaded with the batch.
"""

from importlib import import_module

from lockstep.recipe import Loss

__all__ = ["MODULES"]

MODULES = {name: import_module(f"{__name__}.{name}") for name in Loss.variants}
"""Loss -> its file."""
