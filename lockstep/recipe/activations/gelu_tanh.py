"""GELU(tanh)."""

from lockstep.recipe.activations.base import ActivationSpec

__all__ = ["SPEC"]

SPEC = ActivationSpec(
    title="GELU(tanh)",
    formula="z (1 + tanh(sqrt(2/pi) (z + 0.044715 z^3))) / 2, the approximation of gelu",
)
