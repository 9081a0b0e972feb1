"""One update of the fast engine: from a gradient to the next state."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from jax_impl.gradient import clip
from jax_impl.optimizer import make_optimizer
from jax_impl.schedule import make_schedule
from lockstep.recipe import Recipe

__all__ = ["make_step", "start_moments"]


def start_moments(recipe: Recipe, parameters: Any) -> Any:
    """What the optimizer remembers, before the first update."""
    schedules = {
        layer: make_schedule(jnp.zeros(1)) for layer in range(len(recipe.optimizer.multipliers) + 1)
    }
    return make_optimizer(recipe.optimizer, schedules, parameters)[1]


def make_step(recipe: Recipe) -> Any:
    """(state, loss, gradients) -> state, scalars of the update."""

    def step(state: Any, loss: jax.Array, gradients: Any) -> tuple[Any, dict[str, Any]]:
        schedules = {layer: make_schedule(table_T) for layer, table_T in state.tables.items()}
        transformation, _ = make_optimizer(recipe.optimizer, schedules, state.parameters)
        lr, grad_norm = schedules[0](state.updates), _norm(gradients)
        steps, optimizer = transformation.update(
            clip(recipe.gradient, gradients), state.optimizer, state.parameters
        )
        parameters = optax.apply_updates(state.parameters, steps)
        average = state.average
        if average is not None:
            average = optax.incremental_update(parameters, average, 1 - recipe.average.decay)
        changes = jax.tree.map(jnp.subtract, parameters, state.parameters)
        scalars = {"lr": lr, "loss": loss, "grad_norm": grad_norm, "update_norm": _norm(changes)}
        updates = state.updates + 1
        return state._replace(
            parameters=parameters, optimizer=optimizer, average=average, updates=updates
        ), scalars

    return step


def _norm(tensors: Any) -> jax.Array:
    """2-norm over all tensors; XLA's sum of squares takes one number after the other, its product
    many at once.
    """
    return jnp.sqrt(sum(jnp.vdot(tensor, tensor) for tensor in jax.tree.leaves(tensors)))
