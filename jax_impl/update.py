"""One update: what a batch makes of the state."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import Array

from lockstep.recipe import Recipe

from .average import update_average
from .gradient import clip, norm
from .loss import mean_loss
from .optimizer import make_optimizer
from .schedule import make_schedule

__all__ = ["Batch", "Scalars", "State", "loss_and_gradients", "make_update"]


class State(NamedTuple):
    """What an update changes, here returned anew; `graph` and `tables` are constants.

    `accumulated` sums loss and gradients over the update's batches so far; None if it has one.
    """

    graph: nnx.GraphDef[Any]
    tables: dict[int, Array]
    parameters: nnx.State[Any, Any]
    statistics: nnx.State[Any, Any]
    optimizer: optax.OptState
    accumulated: tuple[Array, optax.Updates] | None
    average: optax.Params | None
    updates: Array


class Batch(NamedTuple):
    """The rows of a batch, of which the first `used` count, and a dropout mask a hidden layer.

    `share` is the weight of its loss in the update, and `last` says that it completes the update.
    """

    x_BD: Array
    y_B: Array
    used: Array
    share: Array
    last: Array
    masks: list[Array]


class Scalars(NamedTuple):
    """Numbers of an update, or vectors of them by batch; 0 where a batch completes no update."""

    lr: Array | float
    loss: Array
    grad_norm: Array
    update_norm: Array


def loss_and_gradients(
    recipe: Recipe, state: State, batch: Batch
) -> tuple[Array, optax.Updates, nnx.State[Any, Any]]:
    """Loss and gradients of the update's batches so far; running statistics after this one."""

    def loss_of(parameters: nnx.State[Any, Any]) -> tuple[Array, nnx.State[Any, Any]]:
        # a copy: batch normalisation writes its running statistics into the model
        model = nnx.merge(state.graph, parameters, state.statistics, copy=True)
        outputs_BK = model(batch.x_BD, batch.masks, batch.used)
        loss = mean_loss(recipe.loss, outputs_BK, batch.y_B, batch.used)
        return loss, nnx.state(model, nnx.BatchStat)

    (loss, statistics), gradients = jax.value_and_grad(loss_of, has_aux=True)(state.parameters)
    if state.accumulated is not None:
        terms = state.accumulated, (loss, gradients)
        loss, gradients = jax.tree.map(lambda total, term: total + batch.share * term, *terms)
    return loss, gradients, statistics


def make_update(recipe: Recipe) -> Callable[[State, Batch], tuple[State, Scalars]]:
    """A batch of the recipe and, with the last batch of an update, the update."""

    def update(state: State, batch: Batch) -> tuple[State, Scalars]:
        loss, gradients, statistics = loss_and_gradients(recipe, state, batch)
        state = state._replace(statistics=statistics)
        if state.accumulated is None:
            return step(state, loss, gradients)
        updated: tuple[State, Scalars] = jax.lax.cond(
            batch.last, step, wait, state, loss, gradients
        )
        return updated

    def wait(state: State, loss: Array, gradients: optax.Updates) -> tuple[State, Scalars]:
        return state._replace(accumulated=(loss, gradients)), Scalars(*[jnp.zeros_like(loss)] * 4)

    def step(state: State, loss: Array, gradients: optax.Updates) -> tuple[State, Scalars]:
        schedules = {layer: make_schedule(table_T) for layer, table_T in state.tables.items()}
        optimizer, _ = make_optimizer(recipe.optimizer, schedules, state.parameters)
        lr = make_schedule(state.tables[0])(state.updates)
        grad_norm = norm(gradients)
        gradients = clip(recipe.gradient, gradients)
        steps, moments = optimizer.update(gradients, state.optimizer, state.parameters)
        parameters = optax.apply_updates(state.parameters, steps)
        average = update_average(recipe.average, state.average, parameters)
        changes = jax.tree.map(jnp.subtract, parameters, state.parameters)
        scalars = Scalars(lr, loss, grad_norm, norm(changes))
        accumulated = jax.tree.map(jnp.zeros_like, state.accumulated)
        state = state._replace(parameters=parameters, optimizer=moments, average=average)
        return state._replace(accumulated=accumulated, updates=state.updates + 1), scalars

    return update
