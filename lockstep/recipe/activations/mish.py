"""Mish."""

from lockstep.recipe.activations.base import ActivationSpec

__all__ = ["SPEC"]

SPEC = ActivationSpec(title="Mish", formula="z tanh(softplus(z)) (Misra, arXiv:1908.08681)")
