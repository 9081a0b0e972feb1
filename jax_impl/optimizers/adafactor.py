"""Adafactor: the library's where it has the knobs and its precision, else by its rule."""

import jax
import jax.numpy as jnp
import optax

from jax_impl.optimizers.from_rule import Groups, Moments, from_rule
from jax_impl.optimizers.parts import root_mean_square, start_moments
from lockstep.recipe.optimizers.adafactor import Adafactor

__all__ = ["make"]


def make(optimizer: Adafactor, groups: Groups) -> optax.GradientTransformation:
    """The optimizer for these groups of parameters."""
    return from_rule(optimizer, groups, start_moments, _rule)


def _rule(
    optimizer: Adafactor,
    lr: jax.Array,
    update: jax.Array,
    parameter: jax.Array,
    gradient: jax.Array,
    moments: Moments,
) -> tuple[jax.Array, Moments]:
    """Adafactor by hand: `optax.scale_by_factored_rms` (0.2.8) has its decay rate in float32."""
    share = (update + 1) ** -optimizer.decay_power
    added = optimizer.eps if optimizer.eps_in_root else 0.0
    least = 0.0 if optimizer.eps_in_root else optimizer.eps
    square = gradient**2 + added
    if "row" in moments:
        row = (1 - share) * moments["row"] + share * square.mean(1, keepdims=True)
        column = (1 - share) * moments["column"] + share * square.mean(0, keepdims=True)
        second = row / jnp.maximum(row.mean(), least) * column
        after = {"row": row, "column": column}
    else:
        second = (1 - share) * moments["second"] + share * square
        after = {"second": second}
    direction = gradient / jnp.sqrt(jnp.maximum(second, least**2))
    direction = direction / jnp.maximum(root_mean_square(direction) / optimizer.clip_threshold, 1.0)
    rate = jnp.minimum(lr, (update + 1) ** -0.5) if optimizer.rate_cap else lr
    step = rate * jnp.maximum(root_mean_square(parameter), optimizer.eps_scale) * direction
    return step + lr * optimizer.weight_decay * parameter, after
