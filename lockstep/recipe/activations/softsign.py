"""Softsign."""

from lockstep.recipe.activations.base import ActivationSpec

__all__ = ["SPEC"]

SPEC = ActivationSpec(title="Softsign", formula="z / (1 + |z|)")
