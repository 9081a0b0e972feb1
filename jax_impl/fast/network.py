"""The network of the fast engine: a batch's loss and gradients in few operations of XLA."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_impl.activations import ACTIVATIONS as PLAIN
from jax_impl.loss import mean_loss
from lockstep.data_prep import Parameters
from lockstep.recipe import CrossEntropy, Model, Recipe

__all__ = ["ACTIVATIONS", "Network"]

Tree = dict[str, dict[str, jax.Array]]
"""Layer -> kind -> array, with Flax's names."""

ACTIVATIONS = dict(PLAIN)

WIDE = 384
"""Hidden units from which on XLA's products on a CPU are faster on activations (B, units)."""

FEW = 4
"""Outputs of a layer up to which the gradient by its inputs is a sum of outer products. W1, with 2
outputs, then takes 0.96 of the time for an update, and 0.94 with many members."""


class Network:
    """The recipe's model on activations (units, B), or on (B, units) if a layer is `WIDE`.

    On a CPU, (units, B) is 1.1 to 2 times as fast with 50 units; with 64 to 320 units both take as
    long; with 512 units (B, units) is 1.2 (128 rows) to 1.35 (32 rows) times as fast, for XLA
    spends more on products of a transposed kernel.

    Kernels are (in, out). If the optimizer treats every number alike, a segment has the kernel and
    bias of a layer as one "matrix" (out, in + 1), which halves the operations of an update.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.model = recipe.model
        self.loss = recipe.loss
        self.dtype = recipe.dtype
        self.last = f"linear{len(recipe.model.hidden) + 1}"
        self.by_rows = max(recipe.model.hidden, default=0) >= WIDE
        self.compute = recipe.dtype if recipe.training.compute == "same" else jnp.bfloat16
        optimizer = recipe.optimizer
        by_element = not optimizer.spec.by_tensor and not optimizer.multipliers
        is_alike = by_element and optimizer.decay_on != "weights"
        is_plain = recipe.model.bias and recipe.training.compute == "same"
        self.joins = is_alike and is_plain and not self.by_rows

    def named(self, tree: Tree) -> Parameters:
        """Canonical name -> its part of a tree of parameters, weights (in, out), in NumPy."""
        arrays = {}
        for layer, kinds in tree.items():
            for kind, array in kinds.items():
                canonical = "weight" if kind in ("kernel", "scale") else kind
                arrays[f"{layer}.{canonical}"] = np.asarray(array)
        return arrays

    def gradients(
        self, parameters: Tree, statistics: Tree, batch: Any
    ) -> tuple[jax.Array, Tree, Tree]:
        """The mean loss of a prepared batch, its gradient by the parameters, and the statistics.

        The batch is prepared as `train._prepared` does; the running statistics are those after it.
        """

        def loss_of(parameters: Tree) -> tuple[jax.Array, Tree]:
            outputs, after = _pass(self, parameters, statistics, batch.x, batch.masks, batch.used)
            *_, logits = outputs.values()
            if isinstance(self.loss, CrossEntropy):
                logits_KB = logits.T if self.by_rows else logits
                return _cross_entropy(batch.y_B, logits_KB), after
            return mean_loss(self.loss, _turned(self, logits), batch.y_B, batch.used), after

        (loss, after), gradients = jax.value_and_grad(loss_of, has_aux=True)(parameters)
        return loss, gradients, after

    def outputs(self, parameters: Tree, statistics: Tree, x_ND: jax.Array) -> dict[str, jax.Array]:
        """Layer -> its output (N, units) in evaluation, from "input" to the logits, in order."""
        outputs, _ = _pass(self, parameters, statistics, _turned(self, x_ND), (), None)
        return {name: _turned(self, values) for name, values in outputs.items()}


def _cross_entropy(targets_KB: jax.Array, logits_KB: jax.Array) -> jax.Array:
    """The mean cross entropy of a prepared batch.

    A class of target 0 counts nothing, even if its logit is -inf. If no row counts, the mean is
    0 / 0 and its gradient 0.
    """
    nothing = jnp.isnan(targets_KB[0, 0])
    targets_KB = jnp.where(nothing, 0.0, targets_KB)
    loss_KB = jnp.where(targets_KB != 0, targets_KB * jax.nn.log_softmax(logits_KB, axis=0), 0.0)
    return jnp.where(nothing, jnp.nan, 0.0) - jnp.sum(loss_KB)


def _pass(
    network: Network,
    parameters: Tree,
    statistics: Tree,
    x: jax.Array,
    masks: Sequence[jax.Array],
    count: jax.Array | None,
) -> tuple[dict[str, jax.Array], Tree]:
    """Layer -> its output in the network's layout, and the running statistics after it.

    In evaluation there is no count of rows.
    """
    model = network.model
    after = dict(statistics)
    h = x
    outputs = {"input": x}
    for i in range(1, len(model.hidden) + 1):
        h = outputs[f"linear{i}"] = _linear(network, parameters[f"linear{i}"], h)
        if model.norm != "none":
            norm = f"norm{i}"
            z = h.astype(network.dtype)
            mean, variance = _moments(network, z, statistics.get(norm), count)
            if model.norm == "batch" and count is not None:
                after[norm] = _moved(model, statistics[norm], mean, variance, count)
            normal = (z - mean) * jax.lax.rsqrt(variance + model.norm_eps)
            scale = _along(network, parameters[norm]["scale"])
            bias = _along(network, parameters[norm]["bias"])
            h = outputs[norm] = (normal * scale + bias).astype(network.compute)
        h = outputs[f"{model.activation}{i}"] = ACTIVATIONS[model.activation](h)
        if len(masks):
            scaled = h * (1 / (1 - model.dropout))
            h = outputs[f"dropout{i}"] = jnp.where(masks[i - 1], scaled, 0.0)
    last = network.last
    outputs[last] = _linear(network, parameters[last], h).astype(network.dtype)
    return outputs, after


def _moments(
    network: Network, z: jax.Array, running: dict[str, jax.Array] | None, count: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    """Mean and variance to normalise z with: each row's, the running ones, or the batch's."""
    units, rows = (1, 0) if network.by_rows else (0, 1)
    if running is None:
        return z.mean(axis=units, keepdims=True), z.var(axis=units, keepdims=True)
    if count is None:
        return _along(network, running["mean"]), _along(network, running["var"])
    counts = jnp.expand_dims(jnp.arange(z.shape[rows]) < count, units)
    mean = z.mean(axis=rows, keepdims=True, where=counts)
    return mean, z.var(axis=rows, keepdims=True, where=counts)


def _linear(network: Network, layer: dict[str, jax.Array], h: jax.Array) -> jax.Array:
    if "matrix" in layer:
        matrix = layer["matrix"]
        # the features have their row of ones already
        h = h if len(h) == matrix.shape[1] else _with_ones(h)
        return _to_few(matrix, h) if len(matrix) <= FEW else matrix @ h
    kernel = layer["kernel"].astype(network.compute)
    h = h.astype(network.compute)
    # (B, in), (in, out) -> (B, out); or (in, out), (in, B) -> (out, B)
    z = h @ kernel if network.by_rows else kernel.T @ h
    return z + _along(network, layer["bias"].astype(network.compute)) if "bias" in layer else z


@jax.custom_vjp
def _to_few(matrix: jax.Array, h: jax.Array) -> jax.Array:
    """matrix @ h, whose gradient by h is a sum of few outer products, which XLA fuses."""
    return matrix @ h


def _to_few_forward(
    matrix: jax.Array, h: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return matrix @ h, (matrix, h)


def _to_few_backward(
    factors: tuple[jax.Array, jax.Array], slope: jax.Array
) -> tuple[jax.Array, jax.Array]:
    matrix, h = factors
    by_h: Any = sum(row[:, None] * of_row for row, of_row in zip(matrix, slope))
    return slope @ h.T, by_h


_to_few.defvjp(_to_few_forward, _to_few_backward)


def _with_ones(x_DB: jax.Array) -> jax.Array:
    return jnp.concatenate([x_DB, jnp.ones_like(x_DB[:1])])


def _turned(network: Network, array: jax.Array) -> jax.Array:
    """From (B, units) to the network's layout, or back."""
    return array if network.by_rows else array.T


def _along(network: Network, vector: jax.Array) -> jax.Array:
    """A vector (units,) broadcast along the rows of the network's layout."""
    return jnp.expand_dims(vector, 0 if network.by_rows else 1)


def _moved(
    model: Model,
    before: dict[str, jax.Array],
    mean: jax.Array,
    variance: jax.Array,
    count: jax.Array,
) -> dict[str, jax.Array]:
    """The running statistics, moved towards those of a batch."""
    if model.norm_variance == "unbiased":
        rows = count.astype(variance.dtype)
        variance = variance * (rows / (rows - 1))
    of_batch = {"mean": mean.ravel(), "var": variance.ravel()}
    after = {}
    for kind, running in before.items():
        after[kind] = (1 - model.norm_momentum) * running + model.norm_momentum * of_batch[kind]
    return after
