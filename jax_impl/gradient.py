"""What happens to the gradients between the loss and the optimizer."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from lockstep.recipe import Gradient

__all__ = ["clip", "norm"]


def clip(gradient: Gradient, parameters: Any) -> Any:
    """The gradients, a tree as the parameters, clipped: all together by their norm, or each
    element.
    """
    if gradient.clip == "norm" and gradient.clip_eps == 0.0:
        parameters, _ = optax.clip_by_global_norm(gradient.clip_at).update(
            parameters, optax.EmptyState()
        )
    elif gradient.clip == "norm":
        # the same by hand with another eps
        factor = jnp.minimum(gradient.clip_at / (norm(parameters) + gradient.clip_eps), 1.0)
        parameters = jax.tree.map(lambda tensor: tensor * factor, parameters)
    elif gradient.clip == "value":
        parameters, _ = optax.clip(gradient.clip_at).update(parameters, optax.EmptyState())
    return parameters


def norm(tensors: Any) -> jax.Array:
    """2-norm over all tensors."""
    return jnp.sqrt(sum(jnp.sum(jnp.square(tensor)) for tensor in jax.tree.leaves(tensors)))
