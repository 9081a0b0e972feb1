"""The losses: one file for each, named as its spec."""

from collections.abc import Callable
from importlib import import_module
from typing import Any

import jax

from lockstep.recipe import Loss

__all__ = ["LOSSES"]

LOSSES: dict[str, Callable[[Any, jax.Array, jax.Array, jax.Array | int], jax.Array]] = {
    name: import_module(f"{__name__}.{name}").mean_loss for name in Loss.variants
}
"""Loss -> (its knobs, outputs (B, K), targets (B,), count) -> the mean over the first `count` rows;
a mask and not a slice, as every batch of a scan has one shape."""
