"""The state of a run, to and from a checkpoint's arrays."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_impl.model import FLAX_NAMES
from lockstep.checkpoint import Checkpoint
from lockstep.data_prep import Parameters
from lockstep.recipe import Recipe

__all__ = ["SLOTS", "export_state", "import_state"]

SLOTS = {
    "trace": "momentum",
    "mu": "first",
    "nu": "second",
    "nu_max": "largest_second",
    "sum_of_squares": "second",
    "e_g": "second",
    "e_x": "update_second",
}
"""What Optax's optimizers call what they remember; those by hand have the canonical names."""
COUNTERS = {"count", "updates"}


def export_state(recipe: Recipe, state: Any) -> Parameters:
    """Every array of the state, named as in a checkpoint."""
    found = {}
    for section, tree in _sections(state).items():
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
            name = _name(recipe, section, path)
            if name is not None:
                found[name] = np.asarray(leaf)
    return found


def import_state(recipe: Recipe, state: Any, checkpoint: Checkpoint) -> Any:
    """The initial state with what the checkpoint has in its place."""

    def place(section: str, tree: Any) -> Any:
        def own(path: Any, leaf: jax.Array) -> jax.Array:
            name = _name(recipe, section, path)
            if name is None:
                return jnp.full_like(leaf, checkpoint.update)
            # both [in, out]
            return jnp.asarray(checkpoint.arrays[name], leaf.dtype) if name in checkpoint.arrays else leaf

        return jax.tree_util.tree_map_with_path(own, tree)

    return state._replace(**{section: place(section, tree) for section, tree in _sections(state).items()})


def _sections(state: Any) -> dict[str, Any]:
    return {name: getattr(state, name) for name in ("parameters", "statistics", "optimizer", "average", "accumulated")}


def _name(recipe: Recipe, section: str, path: tuple[Any, ...]) -> str | None:
    """The name of a leaf as in a checkpoint; None for a counter of updates."""
    keys = jax.tree_util.keystr(path, simple=True, separator="/").split("/")
    layer = next((i for i, key in enumerate(keys) if re.fullmatch(r"(linear|norm)\d+", key)), None)
    if layer is None and section == "accumulated":
        return "accumulated/loss"
    if layer is None:
        assert keys[-1] in COUNTERS, keys
        return None
    kinds = FLAX_NAMES[keys[layer].rstrip("0123456789")]
    parameter = f"{keys[layer]}.{next(kind for kind, name in kinds.items() if name == keys[layer + 1])}"
    if section != "optimizer":
        return f"{section}/{parameter}"
    # a field of Optax's state before the parameter, or a slot by hand after it
    slot = keys[layer - 1] if keys[-1] == "value" else keys[-1]
    return f"optimizer/{SLOTS.get(slot, slot)}/{parameter}"
