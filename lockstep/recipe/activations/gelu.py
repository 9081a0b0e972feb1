"""GELU."""

from lockstep.recipe.activations.base import ActivationSpec

__all__ = ["SPEC"]

SPEC = ActivationSpec(
    title="GELU",
    formula="z Phi(z), Phi being the normal distribution function (Hendrycks & Gimpel, "
    "arXiv:1606.08415)",
)
