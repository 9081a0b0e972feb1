"""The training loop in JAX and Optax, recorded."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jax_impl.proof.own_loops.models import MODELS, tree_of
from lockstep import Recorder, Trace
from lockstep.studies.prove.own_loops.feeds import batches
from lockstep.studies.prove.own_loops.rates import rates_of
from lockstep.studies.prove.own_loops.ways import Loop

__all__ = ["train"]


def transformation_of(loop: Loop) -> optax.GradientTransformation:
    """Optax's transformation, whose learning rate the loop sets before each update."""
    if loop.optimizer == "sgd":
        return optax.inject_hyperparams(optax.sgd)(
            loop.lr, momentum=loop.momentum, nesterov=loop.is_nesterov
        )
    knobs = {"b1": loop.beta1, "b2": loop.beta2, "eps": loop.adam_eps}
    if loop.optimizer == "adam":
        return optax.inject_hyperparams(optax.adam)(loop.lr, **knobs)
    return optax.inject_hyperparams(optax.adamw)(loop.lr, weight_decay=loop.weight_decay, **knobs)


def clip(gradients: Any, largest: float) -> Any:
    """Clip as `clip_grad_norm_` does, which adds 1e-6 to the norm."""
    factor = jnp.minimum(largest / (optax.tree.norm(gradients) + 1e-6), 1)
    return jax.tree.map(lambda gradient: gradient * factor, gradients)


def train(loop: Loop, path: Path, perturb: int | None = None) -> Trace:
    """Train, and write the trace to `path`; float64 where the loop is in it."""
    before = jax.config.read("jax_enable_x64")
    jax.config.update("jax_enable_x64", loop.dtype == "float64")
    try:
        return _train(loop, path, perturb)
    finally:
        jax.config.update("jax_enable_x64", before)


def _train(loop: Loop, path: Path, perturb: int | None) -> Trace:
    recorder = Recorder(path, backend="jax", every=int(loop.is_detailed), perturb=perturb)

    def loss_of(parameters: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        logits = MODELS[loop.model](parameters, x, loop)
        logits = logits if logits.dtype == jnp.float64 else logits.astype(jnp.float32)
        losses: jax.Array = optax.softmax_cross_entropy_with_integer_labels(logits, y)
        return losses.mean()

    value_and_grad = recorder.value_and_grad(jax.jit(loss_of))
    transformation = transformation_of(loop)
    parameters = recorder.watch(tree_of(loop), transformation)
    state: Any = transformation.init(parameters)
    for (x, y), rate in zip(batches(loop), rates_of(loop)):
        _, gradients = value_and_grad(parameters, jnp.asarray(x), jnp.asarray(y))
        clipped = clip(gradients, loop.clip) if loop.clip else gradients
        state.hyperparams["learning_rate"] = float(rate)
        changes, state = transformation.update(clipped, state, parameters)
        parameters = optax.apply_updates(parameters, changes)
        recorder.update(clipped=clipped, moments=state, parameters=parameters)
    return recorder.finish()
