"""The faults of `lockstep.studies.prove.faults`, planted in this twin's code by their keys."""

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pkgutil import resolve_name
from typing import Any
from unittest.mock import patch

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jax_impl.io.detail import make_detailed_segment
from jax_impl.model import FLAX_NAMES, MLP, export_parameters
from jax_impl.optimizers.from_rule import Groups, from_rule
from jax_impl.predict import Rows, _evaluate
from lockstep.recipe import Optimizer, Recipe
from lockstep.recipe.optimizers.adam import Adam
from lockstep.recipe.optimizers.sgd import Sgd

__all__ = ["PLANTS", "planted"]

Change = Callable[[Any], Any]
"""The original of a name -> its replacement."""

BATCH = 32


@contextmanager
def planted(key: str) -> Iterator[None]:
    """The twin with a fault in it until the block ends; without one if `PLANTS` lacks the key."""
    changes = PLANTS.get(key, {})
    with ExitStack() as stack:
        stack.enter_context(_compiled_fast())
        if changes:
            # compiled code does not see the changes
            _forget_compiled(changes)
            stack.callback(_forget_compiled, changes)
        for target, change in changes.items():
            stack.enter_context(
                patch(f"jax_impl.{target}", change(resolve_name(f"jax_impl.{target}")))
            )
        yield


@contextmanager
def _compiled_fast() -> Iterator[None]:
    """Compile less until the block ends.

    XLA does not optimise, the update with detail serves as the one without, and no sample goes
    through the trained model, for nothing judges it.
    """
    jax.config.update("jax_disable_most_optimizations", True)
    try:
        with (
            patch("jax_impl.train.make_segment", _without_detail),
            patch("jax_impl.io.view.trace_prediction", lambda *arguments: {}),
            patch(
                "jax_impl.io.detail.jax.jit",
                partial(jax.jit, compiler_options={"xla_cpu_use_fusion_emitters": False}),
            ),
        ):
            yield
    finally:
        jax.config.update("jax_disable_most_optimizations", False)


def _without_detail(recipe: Recipe) -> Any:
    """The segment with detail, without returning the detail."""
    segment = make_detailed_segment(recipe)
    return lambda state, batches: segment(state, batches)[:2]


def _forget_compiled(changes: Collection[str]) -> None:
    make_detailed_segment.cache_clear()
    if any(target.startswith(("model.", "norm.", "predict.", "io.view.")) for target in changes):
        _evaluate.clear_cache()  # type: ignore[attr-defined] # jax.jit is typed as any callable


def _transposed(original: Any) -> Any:
    return lambda layer, x_BD: x_BD @ layer.kernel[...].T + layer.bias[...]


def _biasless(original: Any) -> Any:
    return lambda layer, x_BD: original(layer, x_BD) - layer.bias[...]


def _nudged(original: Any) -> Any:
    """0 becomes 1e-20; no other number changes."""
    return lambda *arguments: original(*arguments) + 1e-20


def _relu_passing_at_0(z: jax.Array) -> jax.Array:
    """ReLU with the slope 1 at 0, by a comparison: the slope of `maximum` is a half there."""
    return jnp.where(z >= 0, z, jnp.zeros_like(z))


def _masked_by(change: Callable[[jax.Array], jax.Array]) -> Change:
    """The forward pass with other dropout masks than those recorded."""

    def changed(original: Any) -> Any:
        def outputs(self: Any, x_BD: Any, masks: Any = (), *rest: Any) -> Any:
            return original(self, x_BD, [change(mask) for mask in masks], *rest)

        return outputs

    return changed


@jax.custom_vjp
def _low_product(x_BD: jax.Array, weight: jax.Array) -> jax.Array:
    """x @ weight, (B, in) and (in, out), with factors in bfloat16, forward and backward."""
    return _low(x_BD) @ _low(weight)


def _low(tensor: jax.Array) -> jax.Array:
    return tensor.astype(jnp.bfloat16).astype(tensor.dtype)


_low_product.defvjp(
    lambda x_BD, weight: (_low_product(x_BD, weight), (_low(x_BD), _low(weight))),
    lambda factors, slope: (_low(slope) @ factors[1].T, factors[0].T @ _low(slope)),
)


def _in_bfloat16(original: Any) -> Any:
    return lambda layer, x_BD: _low_product(x_BD, layer.kernel[...]) + layer.bias[...]


_first: dict[str, Any] = {}
"""The parameters that the last model was built with."""


def _noted(original: Any) -> Any:
    def build_model(*arguments: Any) -> Any:
        model = original(*arguments)
        _first.clear()
        _first.update(export_parameters(model))
        return model

    return build_model


def _traced(original: Any) -> Any:
    """Layers that compute with their first parameters; gradients pass as with the present ones."""

    def outputs(self: Any, *arguments: Any) -> Any:
        for name, first in _first.items():
            layer, _, kind = name.partition(".")
            variable = getattr(getattr(self, layer), FLAX_NAMES["linear"][kind])
            variable.set_value(variable[...] + jax.lax.stop_gradient(first - variable[...]))
        return original(self, *arguments)

    return outputs


def _unbiased(original: Any) -> Any:
    def forward(self: Any, z_BH: jax.Array) -> jax.Array:
        centred_BH = z_BH - z_BH.mean(-1, keepdims=True)
        variance_B1 = z_BH.var(-1, ddof=1, keepdims=True)
        normalised_BH = centred_BH / jnp.sqrt(variance_B1 + self.epsilon)
        outputs_BH: jax.Array = normalised_BH * self.scale + self.bias
        return outputs_BH

    return forward


def _evaluating(original: Any) -> Any:
    def make(*arguments: Any) -> Any:
        norm = original(*arguments)
        norm.use_running_average = True
        return norm

    return make


def _loss_times(factor: Callable[[Any], Any]) -> Change:
    """The mean loss times factor(rows that count)."""
    return lambda original: (
        lambda loss, outputs_BK, y_B, count: original(loss, outputs_BK, y_B, count) * factor(count)
    )


def _gradient_times(factor: float) -> Change:
    """The mean loss unchanged, and its gradient times a factor."""

    def change(original: Any) -> Any:
        def mean_loss(*arguments: Any) -> jax.Array:
            loss: jax.Array = original(*arguments)
            return jax.lax.stop_gradient(loss) + factor * (loss - jax.lax.stop_gradient(loss))

        return mean_loss

    return change


def _by_rows(original: Any) -> Any:
    """The weighted loss averaged over rows, and not over weights."""

    def mean_loss(loss: Any, outputs_BK: jax.Array, y_B: jax.Array, count: Any) -> Any:
        weight_B = jnp.asarray(loss.class_weights)[y_B] * (jnp.arange(len(y_B)) < count)
        return original(loss, outputs_BK, y_B, count) * weight_B.sum() / count

    return mean_loss


def _last_class(original: Any) -> Any:
    return lambda loss, outputs_BK, y_B, count: original(
        loss, outputs_BK, y_B % outputs_BK.shape[-1], count
    )


def _cut_off(activations: Any) -> Any:
    return activations | {"relu": lambda z: jax.lax.stop_gradient(jax.nn.relu(z)) + 0 * z}


def _clipped_as(**other: Any) -> Change:
    return lambda original: (
        lambda gradient, parameters: original(replace(gradient, **other), parameters)
    )


def _each_clipped(original: Any) -> Any:
    return lambda gradient, parameters: jax.tree.map(
        lambda parameter: original(gradient, parameter), parameters
    )


def _shifted(shift: Callable[[Any], Any]) -> Change:
    """The schedule at another update."""

    def change(original: Any) -> Any:
        def make_schedule(table_T: Any) -> Any:
            schedule = original(table_T)
            return lambda update: schedule(shift(update))

        return make_schedule

    return change


def _rounded(original: Any) -> Any:
    return lambda *arguments: {
        layer: table_T.astype(np.float32).astype(table_T.dtype)
        for layer, table_T in original(*arguments).items()
    }


def _half_applied(original: Any) -> Any:
    def make_optimizer(optimizer: Optimizer, schedules: Any, parameters: Any) -> Any:
        whole, _ = original(optimizer, schedules, parameters)
        halved = optax.chain(whole, optax.scale(0.5))
        return halved, halved.init(parameters)

    return make_optimizer


def _applied_late(original: Any) -> Any:
    def make_optimizer(optimizer: Optimizer, schedules: Any, parameters: Any) -> Any:
        late = {layer: _late(schedule) for layer, schedule in schedules.items()}
        return original(optimizer, late, parameters)

    return make_optimizer


def _late(schedule: Any) -> Any:
    return lambda update: schedule(update - (update > 0))


def _sgd(rule: Callable[..., Any]) -> Change:
    """SGD by a rule: (optimizer, lr, update, parameter, gradient, momentum) -> step, momentum."""

    def start(optimizer: Sgd, parameter: jax.Array) -> dict[str, jax.Array]:
        return {"momentum": jnp.zeros_like(parameter)}

    def step(
        optimizer: Sgd, lr: Any, update: Any, parameter: Any, gradient: Any, moments: Any
    ) -> Any:
        change, momentum = rule(optimizer, lr, update, parameter, gradient, moments["momentum"])
        return change, {"momentum": momentum}

    def make(optimizer: Sgd, groups: Groups) -> Any:
        return from_rule(optimizer, groups, start, step)

    return lambda makers: makers | {"sgd": make}


def _ascending(
    optimizer: Sgd, lr: Any, update: Any, parameter: Any, gradient: Any, before: Any
) -> Any:
    momentum = optimizer.momentum * before + gradient
    return -lr * momentum, momentum


def _forgetting(
    optimizer: Sgd, lr: Any, update: Any, parameter: Any, gradient: Any, before: Any
) -> Any:
    momentum = optimizer.momentum * before * (update % 3 != 0) + gradient
    return lr * momentum, momentum


def _skipping(
    optimizer: Sgd, lr: Any, update: Any, parameter: Any, gradient: Any, before: Any
) -> Any:
    momentum = optimizer.momentum * before + gradient
    return lr * momentum * (update != 5), momentum


def _not_a_number(
    optimizer: Sgd, lr: Any, update: Any, parameter: Any, gradient: Any, before: Any
) -> Any:
    momentum = optimizer.momentum * before + gradient
    return lr * momentum + jnp.where(update == 5, jnp.nan, 0.0), momentum


def _decaying_late(
    optimizer: Sgd, lr: Any, update: Any, parameter: Any, gradient: Any, before: Any
) -> Any:
    # the gradient has the decay in it already
    decay = optimizer.weight_decay * parameter
    momentum = optimizer.momentum * before + (gradient - decay)
    return lr * (momentum + decay), momentum


def _uncorrected(makers: Any) -> Any:
    """Adam without bias correction."""

    def start(optimizer: Adam, parameter: jax.Array) -> dict[str, jax.Array]:
        return {"first": jnp.zeros_like(parameter), "second": jnp.zeros_like(parameter)}

    def step(
        optimizer: Adam, lr: Any, update: Any, parameter: Any, gradient: Any, moments: Any
    ) -> Any:
        first = optimizer.beta1 * moments["first"] + (1 - optimizer.beta1) * gradient
        second = optimizer.beta2 * moments["second"] + (1 - optimizer.beta2) * gradient**2
        return lr * first / (jnp.sqrt(second) + optimizer.eps), {"first": first, "second": second}

    def make(optimizer: Adam, groups: Groups) -> Any:
        return from_rule(optimizer, groups, start, step)

    return makers | {"adam": make}


def _in_training_mode(original: Any) -> Any:
    def evaluate(*arguments: Any) -> Any:
        with patch.object(MLP, "eval", lambda self: self):
            return original(*arguments)

    return evaluate


def _mean_of_means(original: Any) -> Any:
    def evaluate(loss: Any, model: MLP, rows: Rows) -> Any:
        parts = []
        for i in range(0, len(rows.y_N), BATCH):
            batch = Rows(rows.x_ND[i : i + BATCH], rows.y_N[i : i + BATCH])
            parts.append(original(loss, model, batch))
        means = {}
        for name in parts[0]:
            means[name] = sum(part[name] for part in parts) / len(parts)
        return means

    return evaluate


def _above_half(original: Any) -> Any:
    return lambda loss, outputs_NK, y_N: original(loss, outputs_NK - 0.5, y_N)


def _of_loss(change: Change) -> dict[str, Change]:
    """A change of the mean loss, in training and in evaluation."""
    return {"update.mean_loss": change, "predict.mean_loss": change}


def _of_clip(change: Change) -> dict[str, Change]:
    """A change of the clipping, in the update's detail too."""
    return {"update.clip": change, "io.detail.clip": change}


def _of_optimizer(change: Change) -> dict[str, Change]:
    """A change of the optimizer, in its state before the first update too."""
    return {"train.make_optimizer": change, "update.make_optimizer": change}


PLANTS: dict[str, dict[str, Change]] = {
    "kernel-transposed": {"model.nnx.Linear.__call__": _transposed},
    "bias-missing": {"model.nnx.Linear.__call__": _biasless},
    "activation-leaky": {"model.ACTIVATIONS": lambda every: every | {"relu": every["leaky_relu"]}},
    "activation-gelu-tanh": {
        "model.ACTIVATIONS": lambda every: every | {"gelu": every["gelu_tanh"]}
    },
    "activation-silu": {"model.ACTIVATIONS": lambda every: every | {"gelu": every["silu"]}},
    "norm-unbiased": {"norm.nnx.LayerNorm.__call__": _unbiased},
    "norm-evaluating": {"model.make_norm": _evaluating},
    "dropout-missing": {"model.MLP.outputs": _masked_by(jnp.ones_like)},
    "dropout-inverted": {"model.MLP.outputs": _masked_by(jnp.logical_not)},
    "products-in-bfloat16": {"model.nnx.Linear.__call__": _in_bfloat16},
    "parameters-stale": {"train.build_model": _noted, "model.MLP.outputs": _traced},
    "loss-sum": _of_loss(_loss_times(lambda count: count)),
    "loss-full-size": _of_loss(_loss_times(lambda count: count / BATCH)),
    "loss-half": _of_loss(_loss_times(lambda count: 0.5)),
    "loss-weighted-by-rows": _of_loss(_by_rows),
    "loss-ignored-counts": _of_loss(_last_class),
    "gradients-doubled": _of_loss(_gradient_times(2.0)),
    "gradients-negated": _of_loss(_gradient_times(-1.0)),
    "gradients-missing": {"model.ACTIVATIONS": _cut_off},
    "gradients-summed": _of_loss(_gradient_times(2.0)),
    "gradients-at-the-kink": {
        "model.ACTIVATIONS": lambda every: every | {"relu": _relu_passing_at_0}
    },
    "gradients-relu-flipped": {"model.nnx.Linear.__call__": _nudged},
    "clip-missing": _of_clip(_clipped_as(clip="none")),
    "clip-by-value": _of_clip(_clipped_as(clip="value")),
    "clip-per-tensor": _of_clip(_each_clipped),
    "lr-late": {"update.make_schedule": _shifted(lambda update: update - (update > 0))},
    "lr-early": {"update.make_schedule": _shifted(lambda update: update + 1)},
    "lr-rounded": {"train.rate_tables": _rounded},
    "lr-half-applied": _of_optimizer(_half_applied),
    "lr-applied-late": _of_optimizer(_applied_late),
    "momentum-forgotten": {"optimizer.MAKERS": _sgd(_forgetting)},
    "update-ascends": {"optimizer.MAKERS": _sgd(_ascending)},
    "update-skipped": {"optimizer.MAKERS": _sgd(_skipping)},
    "update-not-a-number": {"optimizer.MAKERS": _sgd(_not_a_number)},
    "decay-after-momentum": {"optimizer.MAKERS": _sgd(_decaying_late)},
    "adam-no-bias-correction": {"optimizer.MAKERS": _uncorrected},
    "metrics-in-training-mode": {"io.view.evaluate": _in_training_mode},
    "metrics-mean-of-means": {"io.view.evaluate": _mean_of_means},
    "metrics-threshold": {"predict.sums": _above_half},
}
"""Key -> name in the twin -> its change."""
