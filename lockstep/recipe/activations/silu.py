"""SiLU."""

from lockstep.recipe.activations.base import ActivationSpec

__all__ = ["SPEC"]

SPEC = ActivationSpec(title="SiLU", formula="z sigmoid(z)")
