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

__all__ = ["export_state", "import_state", "keys_of", "name_of", "sections_of"]

COUNTERS = {"count", "updates"}


def export_state(recipe: Recipe, state: Any) -> Parameters:
    """Every array of the state, of either engine, named as in a checkpoint."""
    arrays = {}
    for section, tree in sections_of(state).items():
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
            name = name_of(recipe, section, keys_of(path))
            if name is not None:
                arrays[name] = np.asarray(leaf)
    return arrays


def import_state(recipe: Recipe, state: Any, checkpoint: Checkpoint) -> Any:
    """The initial state, of either engine, with the checkpoint's arrays in place of its own."""

    def imported(section: str, tree: Any) -> Any:
        def value(path: tuple[Any, ...], leaf: jax.Array) -> jax.Array:
            name = name_of(recipe, section, keys_of(path))
            if name is None:
                return jnp.full_like(leaf, checkpoint.update)
            if name not in checkpoint.arrays:
                return leaf
            # both [in, out]
            return jnp.asarray(checkpoint.arrays[name], leaf.dtype)

        return jax.tree_util.tree_map_with_path(value, tree)

    sections = {section: imported(section, tree) for section, tree in sections_of(state).items()}
    return state._replace(**sections, updates=jnp.full_like(state.updates, checkpoint.update))


def sections_of(state: Any) -> dict[str, Any]:
    """Section of a checkpoint -> its tree of arrays."""
    names = ("parameters", "statistics", "optimizer", "average", "accumulated")
    return {name: getattr(state, name) for name in names}


def keys_of(path: tuple[Any, ...]) -> tuple[str, ...]:
    """The names on the way to a leaf, without the "value" that a variable of NNX adds."""
    keys = jax.tree_util.keystr(path, simple=True, separator="/").split("/")
    return tuple(key for key in keys if key != "value")


def name_of(recipe: Recipe, section: str, keys: tuple[str, ...]) -> str | None:
    """A leaf's name in a checkpoint: None for a counter of updates, else its own if none fits."""
    slots = recipe.optimizer.spec.optax_slots
    layer = next((i for i, key in enumerate(keys) if re.fullmatch(r"(linear|norm)\d+", key)), None)
    if layer is None:
        if section == "accumulated":
            return "accumulated/loss"
        is_counter = section == "optimizer" and slots.get(keys[-1], keys[-1]) in COUNTERS
        return None if is_counter else "/".join((section, *keys))
    flax_names = FLAX_NAMES[keys[layer].rstrip("0123456789")]
    kinds = {flax_name: kind for kind, flax_name in flax_names.items()}
    if len(keys) == layer + 1 or keys[layer + 1] not in kinds:
        return "/".join((section, *keys))
    parameter = f"{keys[layer]}.{kinds[keys[layer + 1]]}"
    above = keys[:layer]
    below = keys[layer + 2 :]
    if section != "optimizer":
        return "/".join((section, parameter, *below))
    # a rule's slot follows the parameter; a field of Optax's state precedes it
    slot = below[0] if below else above[-1]
    return f"optimizer/{slots.get(slot, slot)}/{parameter}"
