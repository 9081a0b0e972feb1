"""ELU."""

from lockstep.recipe.activations.base import ActivationSpec

__all__ = ["SPEC"]

SPEC = ActivationSpec(title="ELU", formula="z above 0, and exp(z) - 1 below: alpha is 1")
