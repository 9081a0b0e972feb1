"""The network of the fast engine: a batch's loss and gradients, in as few operations as the
framework allows.
"""

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

ACTIVATIONS = dict(PLAIN)

WIDE = 384
"""Hidden units from which XLA's products on a CPU are faster on activations (B, units) than on
(units, B).
"""


FEW = 4
"""Outputs of a layer up to which the gradient by its inputs is a sum of outer products: of W1, with
2, an update then takes 0.96 of the time, and 0.94 where many members are trained at once."""


class Network:
    """The recipe's model on activations (units, B) where its layers are narrow, and (B, units)
    where one is `WIDE`.

    Measured on a CPU as plain's time over this engine's: with 50 units (units, B) is the faster by
    1.1 to 2, with 64 to 320 both take as long, with 512 (B, units) is the faster by 1.2 (128 rows)
    to 1.35 (32 rows): there XLA spends more on products whose kernel is transposed. Parameters are
    a tree of layer -> kind -> array with Flax's names, kernels (in, out); while a segment is
    trained, those of a layer are one "matrix" (out, in + 1) where the optimizer treats each number
    alike: half the operations of an update.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.model, self.loss, self.dtype = recipe.model, recipe.loss, recipe.dtype
        self.last = f"linear{len(recipe.model.hidden) + 1}"
        self.by_rows = max(recipe.model.hidden, default=0) >= WIDE
        self.compute = recipe.dtype if recipe.training.compute == "same" else jnp.bfloat16
        optimizer = recipe.optimizer
        is_alike = (
            not optimizer.spec.by_tensor
            and optimizer.decay_on != "weights"
            and not optimizer.multipliers
        )
        self.joins = (
            is_alike
            and recipe.model.bias
            and not self.by_rows
            and recipe.training.compute == "same"
        )

    def named(self, tree: Tree) -> Parameters:
        """Canonical name -> its part of a tree of parameters, weights (in, out), in NumPy."""
        return {
            f"{layer}.{'weight' if kind in ('kernel', 'scale') else kind}": np.asarray(array)
            for layer, kinds in tree.items()
            for kind, array in kinds.items()
        }

    def gradients(
        self, parameters: Tree, statistics: Tree, batch: Any
    ) -> tuple[jax.Array, Tree, Tree]:
        """Mean loss of a batch as `fast` prepares it, its gradient by the parameters, and the
        running statistics after it."""

        def loss_of(parameters: Tree) -> tuple[jax.Array, Tree]:
            outputs, after = _pass(self, parameters, statistics, batch.x, batch.masks, batch.used)
            *_, logits = outputs.values()
            if isinstance(self.loss, CrossEntropy):
                return _cross_entropy(batch.y_B, logits.T if self.by_rows else logits), after
            return mean_loss(self.loss, _turned(self, logits), batch.y_B, batch.used), after

        (loss, after), gradients = jax.value_and_grad(loss_of, has_aux=True)(parameters)
        return loss, gradients, after

    def outputs(self, parameters: Tree, statistics: Tree, x_ND: jax.Array) -> dict[str, jax.Array]:
        """Layer -> its output (N, units) in evaluation, from "input" to the logits, in order."""
        found, _ = _pass(self, parameters, statistics, _turned(self, x_ND), (), None)
        return {name: _turned(self, values) for name, values in found.items()}


def _cross_entropy(targets_KB: jax.Array, logits_KB: jax.Array) -> jax.Array:
    """The mean cross entropy of a batch as `fast` prepares it. A class that is not to be counts for
    nothing, also where its logit is -inf; where no row counts the mean is 0 / 0, and its gradient
    0."""
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
    """Layer -> its output in the network's layout, and the running statistics after it; in
    evaluation there is no count of rows."""
    model, after = network.model, statistics
    units, rows = (1, 0) if network.by_rows else (0, 1)
    h, found = x, {"input": x}
    for i in range(1, len(model.hidden) + 1):
        h = found[f"linear{i}"] = _linear(network, parameters[f"linear{i}"], h)
        if model.norm != "none":
            z = h.astype(network.dtype)
            if model.norm == "layer":
                mean, variance = z.mean(axis=units, keepdims=True), z.var(axis=units, keepdims=True)
            elif count is None:
                mean, variance = (
                    _along(network, statistics[f"norm{i}"][kind]) for kind in ("mean", "var")
                )
            else:
                counts = jnp.expand_dims(jnp.arange(z.shape[rows]) < count, units)
                mean, variance = (
                    of(axis=rows, keepdims=True, where=counts) for of in (z.mean, z.var)
                )
                after = after | {
                    f"norm{i}": _moved(model, after[f"norm{i}"], mean, variance, count)
                }
            normal = (z - mean) * jax.lax.rsqrt(variance + model.norm_eps)
            scale, bias = (
                _along(network, parameters[f"norm{i}"][kind]) for kind in ("scale", "bias")
            )
            h = found[f"norm{i}"] = (normal * scale + bias).astype(network.compute)
        h = found[f"{model.activation}{i}"] = ACTIVATIONS[model.activation](h)
        if len(masks):
            h = found[f"dropout{i}"] = jnp.where(masks[i - 1], h * (1 / (1 - model.dropout)), 0.0)
    last = network.last
    return found | {last: _linear(network, parameters[last], h).astype(network.dtype)}, after


def _linear(network: Network, layer: dict[str, jax.Array], h: jax.Array) -> jax.Array:
    if "matrix" in layer:
        matrix = layer["matrix"]
        # the rows already have theirs
        h = h if len(h) == matrix.shape[1] else _with_ones(h)
        return _to_few(matrix, h) if len(matrix) <= FEW else matrix @ h
    kernel, h = layer["kernel"].astype(network.compute), h.astype(network.compute)
    # (B, in), (in, out) -> (B, out); or (in, out), (in, B) -> (out, B)
    z = h @ kernel if network.by_rows else kernel.T @ h
    return z + _along(network, layer["bias"].astype(network.compute)) if "bias" in layer else z


@jax.custom_vjp
def _to_few(matrix: jax.Array, h: jax.Array) -> jax.Array:
    """matrix @ h, whose gradient by h is a sum of few outer products: with what follows it is one
    operation.
    """
    return matrix @ h


def _to_few_forward(
    matrix: jax.Array, h: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return matrix @ h, (matrix, h)


def _to_few_backward(
    kept: tuple[jax.Array, jax.Array], slope: jax.Array
) -> tuple[jax.Array, jax.Array]:
    matrix, h = kept
    by_h: Any = sum(row[:, None] * of_row for row, of_row in zip(matrix, slope))
    return slope @ h.T, by_h


_to_few.defvjp(_to_few_forward, _to_few_backward)


def _with_ones(x_DB: jax.Array) -> jax.Array:
    return jnp.concatenate([x_DB, jnp.ones_like(x_DB[:1])])


def _turned(network: Network, array: jax.Array) -> jax.Array:
    """From (B, units) to the network's layout, or back."""
    return array if network.by_rows else array.T


def _along(network: Network, vector: jax.Array) -> jax.Array:
    """(units,), to stand beside every row's units."""
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
    seen = {"mean": mean.ravel(), "var": variance.ravel()}
    return {
        kind: (1 - model.norm_momentum) * before[kind] + model.norm_momentum * seen[kind]
        for kind in before
    }
