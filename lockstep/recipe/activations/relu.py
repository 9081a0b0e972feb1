"""ReLU."""

from lockstep.recipe.activations.base import ActivationSpec

__all__ = ["SPEC"]

SPEC = ActivationSpec(title="ReLU", formula="max(z, 0)")
