"""Normalisation between a hidden linear layer and its activation."""

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike

from lockstep.recipe import Model

__all__ = ["BatchNorm", "make_norm"]


class BatchNorm(nnx.BatchNorm):
    """`nnx.BatchNorm`, which is biased, with the running variance biased or unbiased."""

    def __init__(self, units: int, model: Model, dtype: DTypeLike) -> None:
        super().__init__(
            units,
            epsilon=model.norm_eps,
            momentum=1 - model.norm_momentum,  # Flax's is the weight of the old value
            use_bias=True,
            use_scale=True,
            use_running_average=False,
            use_fast_variance=False,
            dtype=dtype,
            param_dtype=dtype,
            rngs=nnx.Rngs(0),
        )
        self.norm_momentum = model.norm_momentum
        self.norm_variance = model.norm_variance

    def __call__(self, z_BH: Array, count: Array | None = None) -> Array:  # type: ignore[override] # takes the count of rows too
        """Rows (B, H) normalised by their own statistics in training, else by the running ones.

        The rows after the first `count` are padding and have no part in the statistics.
        """
        counts_B1 = None if count is None else jnp.arange(len(z_BH))[:, None] < count
        if self.use_running_average or self.norm_variance == "biased":
            rows_BH: Array = super().__call__(z_BH, mask=counts_B1)
            return rows_BH
        before_H = self.var[...]
        normalised_BH: Array = super().__call__(z_BH, mask=counts_B1)
        variance_H = jnp.var(z_BH, axis=0, where=counts_B1, ddof=1)
        self.var[...] = (1 - self.norm_momentum) * before_H + self.norm_momentum * variance_H
        return normalised_BH


def make_norm(model: Model, units: int, dtype: DTypeLike) -> nnx.Module:
    """The model's normalisation of (B, units)."""
    if model.norm == "batch":
        return BatchNorm(units, model, dtype)
    return nnx.LayerNorm(
        units,
        epsilon=model.norm_eps,
        use_bias=True,
        use_scale=True,
        use_fast_variance=False,
        dtype=dtype,
        param_dtype=dtype,
        rngs=nnx.Rngs(0),
    )
