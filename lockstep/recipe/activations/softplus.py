"""Softplus."""

from lockstep.recipe.activations.base import ActivationSpec

__all__ = ["SPEC"]

SPEC = ActivationSpec(title="Softplus", formula="log(1 + exp(z))")
