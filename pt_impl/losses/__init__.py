"""The losses: one file for each, named as its spec."""

from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch

from lockstep.recipe import Loss

__all__ = ["LOSSES"]

LOSSES: dict[str, Callable[[Any, torch.Tensor, torch.Tensor], torch.Tensor]] = {
    name: import_module(f"{__name__}.{name}").mean_loss for name in Loss.variants
}
"""Loss -> (its knobs, outputs (B, K), targets (B,)) -> the mean over the rows that count."""
