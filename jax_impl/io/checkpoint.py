"""The state of a run, to and from a checkpoint's arrays."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_impl.model import FLAX_NAMES
from lockstep.data_prep import Parameters
from lockstep.recipe import Recipe
from lockstep.records.checkpoint import Checkpoint

__all__ = ["export_state", "import_state"]

COUNTERS = {"count", "updates"}


def export_state(recipe: Recipe, state: Any) -> Parameters:
    """Every array of the state, named as in a checkpoint."""
    found = {}
    for section, tree in _sections(state).items():
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
            name = _name(recipe, section, _keys(path))
            if name is not None:
                found[name] = np.asarray(leaf)
    return found


def import_state(recipe: Recipe, state: Any, checkpoint: Checkpoint) -> Any:
    """The initial state with what the checkpoint has in its place."""

    def place(section: str, tree: Any) -> Any:
        def own(path: Any, leaf: jax.Array) -> jax.Array:
            name = _name(recipe, section, _keys(path))
            if name is None:
                return jnp.full_like(leaf, checkpoint.update)
            # both [in, out]
            return (
                jnp.asarray(checkpoint.arrays[name], leaf.dtype)
                if name in checkpoint.arrays
                else leaf
            )

        return jax.tree_util.tree_map_with_path(own, tree)

    sections = {section: place(section, tree) for section, tree in _sections(state).items()}
    return state._replace(**sections, updates=jnp.full_like(state.updates, checkpoint.update))


def _sections(state: Any) -> dict[str, Any]:
    return {
        name: getattr(state, name)
        for name in ("parameters", "statistics", "optimizer", "average", "accumulated")
    }


def _keys(path: tuple[Any, ...]) -> tuple[str, ...]:
    """The names on the way to a leaf; "value" is that of the variables of NNX."""
    return tuple(
        key
        for key in jax.tree_util.keystr(path, simple=True, separator="/").split("/")
        if key != "value"
    )


def _name(recipe: Recipe, section: str, keys: tuple[str, ...]) -> str | None:
    """The name of a leaf as in a checkpoint; None for a counter of updates; its own where it is
    none of ours.
    """
    layer = next((i for i, key in enumerate(keys) if re.fullmatch(r"(linear|norm)\d+", key)), None)
    if layer is None:
        if section == "accumulated":
            return "accumulated/loss"
        is_counter = (
            section == "optimizer"
            and recipe.optimizer.spec.optax_slots.get(keys[-1], keys[-1]) in COUNTERS
        )
        return None if is_counter else "/".join((section, *keys))
    kinds = {
        flax_name: kind for kind, flax_name in FLAX_NAMES[keys[layer].rstrip("0123456789")].items()
    }
    if len(keys) == layer + 1 or keys[layer + 1] not in kinds:
        return "/".join((section, *keys))
    parameter = f"{keys[layer]}.{kinds[keys[layer + 1]]}"
    above, below = keys[:layer], keys[layer + 2 :]
    if section != "optimizer":
        return "/".join((section, parameter, *below))
    # a slot by hand after the parameter, or a field of Optax's state before it
    slot = below[0] if below else above[-1]
    return f"optimizer/{recipe.optimizer.spec.optax_slots.get(slot, slot)}/{parameter}"
