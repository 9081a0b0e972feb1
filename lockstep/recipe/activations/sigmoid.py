"""Sigmoid."""

from lockstep.recipe.activations.base import ActivationSpec

__all__ = ["SPEC"]

SPEC = ActivationSpec(title="Sigmoid", formula="1 / (1 + exp(-z))")
