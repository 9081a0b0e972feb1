"""The state of an oracle's run, to and from a checkpoint's arrays."""

import numpy as np

from lockstep.data_prep import Parameters
from lockstep.oracle.arithmetic import Array
from lockstep.oracle.trajectory import State, canonical
from lockstep.records.checkpoint import Checkpoint, as_stored

__all__ = ["export_state", "import_state"]


def export_state(state: State) -> Parameters:
    """Every array of the state, named as in a checkpoint."""
    parameters = canonical(state.parameters)
    accumulated = dict(state.accumulated)
    found = {
        f"accumulated/{name}": array[0, 0] for name, array in accumulated.items() if name == "loss"
    }
    accumulated.pop("loss", None)
    for section, tensors in (
        ("parameters", state.parameters),
        ("statistics", state.statistics),
        ("average", state.average),
        ("accumulated", accumulated),
    ):
        found |= {f"{section}/{name}": array for name, array in canonical(tensors).items()}
    return found | as_stored(state.moments, parameters)


def import_state(state: State, checkpoint: Checkpoint) -> State:
    """The initial state with what the checkpoint has in its place."""
    moments: dict[str, dict[str, Array]] = {name: {} for name in state.moments}
    for path, array in checkpoint.below("optimizer").items():
        slot, _, name = path.partition("/")
        moments[name][slot] = _rows(array)
    accumulated = {name: _rows(array) for name, array in checkpoint.below("accumulated").items()}
    return state._replace(
        parameters={name: _rows(array) for name, array in checkpoint.below("parameters").items()},
        moments=moments,
        statistics={name: _rows(array) for name, array in checkpoint.below("statistics").items()},
        average={name: _rows(array) for name, array in checkpoint.below("average").items()},
        accumulated=accumulated,
        batches=checkpoint.batches,
        updates=checkpoint.update,
    )


def _rows(array: Array) -> Array:
    """In float64, a vector as a single row, a number as (1, 1)."""
    return np.atleast_2d(array.astype(np.float64))
