"""The activations of the hidden layers: one file for each."""

import pkgutil
from importlib import import_module

from lockstep.recipe.activations.base import ActivationSpec

__all__ = ["ACTIVATIONS", "ActivationSpec"]

FIRST = (
    "relu",
    "leaky_relu",
    "tanh",
    "sigmoid",
    "silu",
    "gelu",
    "gelu_tanh",
    "elu",
    "softplus",
    "mish",
)
"""The activations that are listed first, in this order; others follow by name."""


def _specs() -> dict[str, ActivationSpec]:
    modules = {module.name for module in pkgutil.iter_modules(__path__)} - {"base"}
    names = [*FIRST, *sorted(modules - set(FIRST))]
    return {name: import_module(f"{__name__}.{name}").SPEC for name in names}


ACTIVATIONS: dict[str, ActivationSpec] = _specs()
"""Name -> spec."""
