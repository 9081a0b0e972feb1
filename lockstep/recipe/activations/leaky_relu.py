"""LeakyReLU(0.01)."""

from lockstep.recipe.activations.base import ActivationSpec

__all__ = ["SPEC"]

SPEC = ActivationSpec(title="LeakyReLU(0.01)", formula="z above 0, and 0.01 z below")
