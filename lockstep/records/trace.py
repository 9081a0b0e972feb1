"""What a run recorded: one file, safetensors under a JSON header, with a versioned schema.

Arrays of a trace (T updates, E epochs; a float in the run's dtype):

| name | shape | what |
|---|---|---|
| `updates/lr` | (T,) | learning rate that the update used |
| `updates/loss` | (T,) | mean loss over the rows of the batch, or of the batches accumulated,
before the update |
| `updates/grad_norm` | (T,) | 2-norm of the gradient over all parameters, before clipping |
| `updates/update_norm` | (T,) | 2-norm of the change of all parameters |
| `epochs/{train,held_out}_{loss,accuracy}` | (E,) | over all rows of that part, at the end of the
epoch |
| `epochs/{train,held_out}_{r2,mae}` | (E,) | in place of accuracy where a number is predicted; see
`metric_names` |
| `parameters/<u>/<name>` | as the parameter | after u updates, weights laid out (in, out); 0 is
before training |
| `average/<u>/<name>` | as the parameter | their moving average, as it is read (debiased), where
the recipe keeps one | | `prediction/<layer>` | (units,) | one held-out sample through the trained
model |
| `detail/<u>/batch/{x,y,mask<i>}` | (B, ...) | rows of update u (from 0) that count, and dropout
masks |
| `detail/<u>/forward/<layer>` | (B, units) | output of a layer in training |
| `detail/<u>/gradients/<name>` | as the parameter | of the mean loss, before clipping |
| `detail/<u>/clip/<name>` | as the parameter | what the optimizer is given, where the recipe clips
|
| `detail/<u>/moments/<slot>/<name>` | as the slot | what the optimizer remembers after the update |
| `statistics/<family>/<name>` | (T, 3) | float64: mean, root mean square and largest absolute value
at every update |
| `bounds/<any of the above>` | (T,), (E,), (T, 1) or () | oracle only: rounding, see
`lockstep.oracle.rounding` |

Detail is recorded of chosen updates, with the parameters before and after each; the batches
accumulated in one follow one another along B. Statistics, where they are asked for, are of what
detail names (forward, gradients, clip and moments), and of the parameters and their average after
the update. A loop of somebody's own, as `lockstep.Recorder` writes it, has its own names and
layouts, and of these arrays those that it was given.

The trace of a run that went on from a checkpoint begins there: its series hold the updates from
`first_update` on, its statistics those from the first that it saw whole, its metrics the epochs
from the one that this update is in; bounds are always those of the whole run.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from lockstep.data_prep import Parameters
from lockstep.files.outputs import tensor_kind
from lockstep.recipe import Recipe
from lockstep.records.contents import UPDATE_SERIES, check_loop, check_trace, metric_names
from lockstep.tensor_file import arrays_below, read_tensors, write_tensors

__all__ = [
    "UPDATE_SERIES",
    "Metrics",
    "Progress",
    "Trace",
    "metric_names",
    "metrics_of",
]

SCHEMA = "lockstep.trace/1"
TRACE = tensor_kind("lockstep.trace")

Progress = Callable[[int, int], None]
"""Called with updates done and updates in all."""

Metrics = Mapping[str, float]
"""Over the rows of a part that count: "loss", the mean loss; then "accuracy", the share of right
answers, or, of a number, "r2", the share of the target's variance that is explained, and "mae", the
mean absolute error in units of
the target's `target_scale`."""


def metrics_of(loss: Any, sums: Mapping[str, Any]) -> Metrics:
    """The metrics from the mean loss and the sums over a set of rows: "right" and "rows"; or, of a
    number,
    "squares" of the errors, their "absolute" values, "variation", the squares of the targets'
    distance from their
    mean, and "rows"."""
    found = {name: float(value) for name, value in sums.items()}
    if "right" in found:
        return {"loss": float(loss), "accuracy": found["right"] / found["rows"]}
    r2 = 1 - found["squares"] / found["variation"]
    return {"loss": float(loss), "r2": r2, "mae": found["absolute"] / found["rows"]}


@dataclass(frozen=True)
class Trace:
    """The record of one run.

    `header` holds `backend`, `recipe` (nested dict), `recipe_hash`, `data_hash`, `dtype`,
    `updates`, `updates_per_epoch`, `first_update` (0, but for a run that went on from a
    checkpoint), `parameters_every`, `detail` (the updates recorded in detail), `statistics` (the
    update that they begin with; None: there are none), `synchronised` (each update began from the
    oracle's state), `layers` (of the prediction, in order), `target` (its name; mean and scale that
    standardised a number, 0 and 1 for classes), and `environment` (versions, device, threads,
    matmul precision).
    """

    header: dict[str, Any]
    arrays: dict[str, NDArray[Any]]

    @property
    def backend(self) -> str:
        """torch, jax or oracle."""
        return str(self.header["backend"])

    @property
    def recipe(self) -> Recipe:
        """The recipe that was trained."""
        return Recipe.from_dict(self.header["recipe"])

    @property
    def first_update(self) -> int:
        """The update that the series begin with, counted from 0."""
        return int(self.header.get("first_update", 0))

    def series(self, name: str) -> NDArray[Any]:
        """One of `UPDATE_SERIES`, shape (T,)."""
        return self.arrays[f"updates/{name}"]

    @property
    def engine(self) -> str:
        """The engine that trained, and where auto chose plain, why; "" for the oracle."""
        environment = self.header["environment"]
        reason = environment.get("engine_reason")
        return f"{environment.get('engine', '')}{f' ({reason})' if reason else ''}"

    def metric(self, name: str) -> NDArray[Any]:
        """One of `metric_names`, shape (E,)."""
        return self.arrays[f"epochs/{name}"]

    @property
    def recorded_updates(self) -> list[int]:
        """After how many updates the parameters were recorded, ascending; begins with 0."""
        return sorted(
            {int(name.split("/")[1]) for name in self.arrays if name.startswith("parameters/")}
        )

    def parameters(self, update: int) -> Parameters:
        """Canonical name -> array, after that many updates."""
        return arrays_below(self.arrays, f"parameters/{update}/")

    @property
    def prediction(self) -> Parameters:
        """Layer -> its values for one held-out sample, in order: from "input" to the last, then
        softmax or sigmoid.
        """
        outputs = arrays_below(self.arrays, "prediction/")
        return {name: outputs[name] for name in self.header["layers"]}

    def save(self, path: Path) -> None:
        """Write the trace; an old file of that name stays whole if that fails.

        Raises:
            InputError: the file cannot be written.
        """
        write_tensors(path, SCHEMA, self.header, self.arrays)

    @staticmethod
    def load(path: Path) -> "Trace":
        """Read a trace, and check that it holds what its recipe, or its loop's header, says.

        Raises:
            InputError: not there, truncated, of another schema version, or with fields or arrays
                that are missing, wrong, or of another shape or dtype than follows from the recipe;
                names them.
        """
        header, arrays = read_tensors(path, SCHEMA)
        if isinstance(header, dict) and header.get("kind") == "loop":
            check_loop(str(path), header, arrays)
        else:
            check_trace(str(path), header, arrays)
            header = _completed(header, arrays)
        return Trace(header, arrays)

    @staticmethod
    def load_unchecked(path: Path) -> "Trace":
        """Read a trace that a process of ours has just written: what is wrong in it is judged, and
        not refused.

        Raises:
            InputError: not there, truncated, or of another schema version.
        """
        return Trace(*read_tensors(path, SCHEMA))


def _completed(header: dict[str, Any], arrays: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    """With the fields that the first golden files do not have."""
    recorded = {name.split("/")[1] for name in arrays if name.startswith("parameters/")}
    every = int(len(recorded) == header["updates"] + 1)
    return {
        "parameters_every": every,
        "detail": [],
        "statistics": None,
        "synchronised": False,
    } | header
