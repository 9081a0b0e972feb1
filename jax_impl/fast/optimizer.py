"""One update of the fast engine: from a gradient to the next state."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jax_impl.gradient import clip
from jax_impl.optimizer import make_optimizer
from jax_impl.schedule import make_schedule
from lockstep.recipe import Recipe

__all__ = ["make_step", "start_moments"]


def start_moments(recipe: Recipe, parameters: optax.Params) -> optax.OptState:
    """The optimizer's state before the first update."""
    layers = range(len(recipe.optimizer.multipliers) + 1)
    schedules = {layer: make_schedule(jnp.zeros(1)) for layer in layers}
    _, state = make_optimizer(recipe.optimizer, schedules, parameters)
    return state


def make_step(recipe: Recipe) -> Callable[..., tuple[Any, dict[str, jax.Array]]]:
    """(state, loss, gradients) -> state, scalars of the update."""

    def step(
        state: Any, loss: jax.Array, gradients: optax.Updates
    ) -> tuple[Any, dict[str, jax.Array]]:
        schedules = {layer: make_schedule(table_T) for layer, table_T in state.tables.items()}
        optimizer, _ = make_optimizer(recipe.optimizer, schedules, state.parameters)
        lr = schedules[0](state.updates)
        grad_norm = _norm(gradients)
        gradients = clip(recipe.gradient, gradients)
        steps, moments = optimizer.update(gradients, state.optimizer, state.parameters)
        parameters = optax.apply_updates(state.parameters, steps)
        average = state.average
        if average is not None:
            average = optax.incremental_update(parameters, average, 1 - recipe.average.decay)
        changes = jax.tree.map(jnp.subtract, parameters, state.parameters)
        scalars = {"lr": lr, "loss": loss, "grad_norm": grad_norm, "update_norm": _norm(changes)}
        state = state._replace(parameters=parameters, optimizer=moments, average=average)
        return state._replace(updates=state.updates + 1), scalars

    return step


def _norm(tensors: optax.Updates) -> jax.Array:
    """2-norm over all tensors, by products: XLA's sum of squares takes one number at a time."""
    return jnp.sqrt(sum(jnp.vdot(tensor, tensor) for tensor in jax.tree.leaves(tensors)))
