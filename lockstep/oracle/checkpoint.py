"""The state of an oracle's run, to and from a checkpoint's arrays."""

import numpy as np

from lockstep.data_prep import Parameters
from lockstep.oracle.arithmetic import Array
from lockstep.oracle.trajectory import State, canonical
from lockstep.records.checkpoint import Checkpoint, as_stored

__all__ = ["export_state", "import_state"]


def export_state(state: State) -> Parameters:
    """Every array of the state, named as in a checkpoint."""
    arrays: Parameters = {}
    accumulated = dict(state.accumulated)
    if "loss" in accumulated:
        arrays["accumulated/loss"] = accumulated.pop("loss")[0, 0]
    sections = {
        "parameters": state.parameters,
        "statistics": state.statistics,
        "average": state.average,
        "accumulated": accumulated,
    }
    for section, tensors in sections.items():
        for name, array in canonical(tensors).items():
            arrays[f"{section}/{name}"] = array
    return arrays | as_stored(state.moments, canonical(state.parameters))


def import_state(state: State, checkpoint: Checkpoint) -> State:
    """The initial state with the checkpoint's arrays in the place of its own."""
    moments: dict[str, dict[str, Array]] = {name: {} for name in state.moments}
    for path, array in checkpoint.below("optimizer").items():
        slot, _, name = path.partition("/")
        moments[name][slot] = _rows(array)
    return state._replace(
        parameters=_section(checkpoint, "parameters"),
        moments=moments,
        statistics=_section(checkpoint, "statistics"),
        average=_section(checkpoint, "average"),
        accumulated=_section(checkpoint, "accumulated"),
        batches=checkpoint.batches,
        updates=checkpoint.update,
    )


def _section(checkpoint: Checkpoint, name: str) -> dict[str, Array]:
    return {key: _rows(array) for key, array in checkpoint.below(name).items()}


def _rows(array: Array) -> Array:
    """The array in float64; a vector is a single row, a number (1, 1)."""
    return np.atleast_2d(array.astype(np.float64))
