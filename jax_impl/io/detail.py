"""The detail of an update: everything from its rows to its gradients, named as in a trace."""

from collections.abc import Callable
from functools import cache

import jax
import optax
from flax import nnx

from jax_impl.gradient import clip
from jax_impl.model import FLAX_NAMES
from jax_impl.update import Batch, Scalars, State, loss_and_gradients, make_update
from lockstep.recipe import Recipe

__all__ = ["Detail", "make_detailed_segment"]

Detail = dict[str, jax.Array]
"""Name in a trace -> one array for each batch."""


@cache
def make_detailed_segment(
    recipe: Recipe,
) -> Callable[[State, Batch], tuple[State, Scalars, Detail]]:
    """`train.make_segment` with the detail of each batch; as another program it may round apart."""
    update = make_update(recipe)

    @jax.jit
    def segment(state: State, batches: Batch) -> tuple[State, Scalars, Detail]:
        def watched(state: State, batch: Batch) -> tuple[State, tuple[Scalars, Detail]]:
            detail = _detail_of(recipe, state, batch)
            state, scalars = update(state, batch)
            return state, (scalars, detail)

        state, (scalars, detail) = jax.lax.scan(watched, state, batches)
        return state, scalars, detail

    return segment


def _detail_of(recipe: Recipe, state: State, batch: Batch) -> Detail:
    """A batch's rows, its dropout masks, the output of every layer, and the gradients so far."""
    model = nnx.merge(state.graph, state.parameters, state.statistics, copy=True)
    outputs = model.outputs(batch.x_BD, batch.masks, batch.used)
    _, *layers = outputs
    dtype = outputs[layers[-1]].dtype
    detail = {"batch/x": batch.x_BD, "batch/y": batch.y_B}
    detail |= {f"batch/mask{i}": mask_BH for i, mask_BH in enumerate(batch.masks, start=1)}
    detail |= {f"forward/{name}": outputs[name].astype(dtype) for name in layers}
    _, gradients, _ = loss_and_gradients(recipe, state, batch)
    detail |= _named("gradients", gradients)
    if recipe.gradient.clip != "none":
        detail |= _named("clip", clip(recipe.gradient, gradients))
    return detail


def _named(kind: str, gradients: optax.Updates) -> Detail:
    """The gradients as "gradients/linear1.weight", ..., laid out (in, out)."""
    # both [in, out]
    named = {}
    for layer, tensors in nnx.to_pure_dict(gradients).items():
        for name, flax_name in FLAX_NAMES[layer.rstrip("0123456789")].items():
            if flax_name in tensors:
                named[f"{kind}/{layer}.{name}"] = tensors[flax_name]
    return named
