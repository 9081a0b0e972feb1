"""What happens to the gradients between the loss and the optimizer."""

import jax
import jax.numpy as jnp
import optax
from jax import Array

from lockstep.recipe import Gradient

__all__ = ["clip", "norm"]


def clip(gradient: Gradient, gradients: optax.Updates) -> optax.Updates:
    """The gradients, a tree, clipped: all together by their norm, or each element."""
    if gradient.clip == "norm" and gradient.clip_eps == 0.0:
        clipper = optax.clip_by_global_norm(gradient.clip_at)
        gradients, _ = clipper.update(gradients, optax.EmptyState())
    elif gradient.clip == "norm":
        # the same by hand with another eps
        factor = jnp.minimum(gradient.clip_at / (norm(gradients) + gradient.clip_eps), 1.0)
        gradients = jax.tree.map(lambda tensor: tensor * factor, gradients)
    elif gradient.clip == "value":
        gradients, _ = optax.clip(gradient.clip_at).update(gradients, optax.EmptyState())
    return gradients


def norm(tensors: optax.Updates) -> Array:
    """2-norm over all tensors."""
    return jnp.sqrt(sum(jnp.sum(jnp.square(tensor)) for tensor in jax.tree.leaves(tensors)))
