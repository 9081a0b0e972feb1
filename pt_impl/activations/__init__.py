"""The activations: one file for each, named as its spec."""

from collections.abc import Callable
from importlib import import_module

import torch

from lockstep.recipe.activations import ACTIVATIONS as SPECS

__all__ = ["ACTIVATIONS"]

ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    name: import_module(f"{__name__}.{name}").activate for name in SPECS
}
