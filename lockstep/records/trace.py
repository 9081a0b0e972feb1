"""The trace of a run: one file, safetensors under a JSON header, with a versioned schema.

The arrays of a trace follow, for T updates and E epochs. Floats are in the run's dtype.

| name | shape | what |
|---|---|---|
| `updates/lr` | (T,) | learning rate that the update used |
| `updates/loss` | (T,) | mean loss over the update's rows, before the update |
| `updates/grad_norm` | (T,) | 2-norm of the gradient over all parameters, before clipping |
| `updates/update_norm` | (T,) | 2-norm of the change of all parameters |
| `epochs/{train,held_out}_{loss,accuracy}` | (E,) | over all rows of that part, at epoch ends |
| `epochs/{train,held_out}_{r2,mae}` | (E,) | in place of accuracy where a number is predicted |
| `parameters/<u>/<name>` | as the parameter | after u updates, in the layout (in, out) |
| `average/<u>/<name>` | as the parameter | their moving average, debiased, where one is kept |
| `prediction/<layer>` | (units,) | one held-out sample through the trained model |
| `detail/<u>/batch/{x,y,mask<i>}` | (B, ...) | rows of update u that count, and dropout masks |
| `detail/<u>/forward/<layer>` | (B, units) | output of a layer in training |
| `detail/<u>/gradients/<name>` | as the parameter | of the mean loss, before clipping |
| `detail/<u>/clip/<name>` | as the parameter | the optimizer's gradient, where the recipe clips |
| `detail/<u>/moments/<slot>/<name>` | as the slot | the optimizer's slots after the update |
| `statistics/<family>/<name>` | (T, 3) | float64: mean, root mean square, largest absolute value |
| `sketches/<family>/<name>` | (T, 8) | float64: fixed random projections, of a loop of your own |
| `summaries/<u>/<name>` | (11,) | float64: statistics and sketches of a large loop's parameters |
| `hashes/<u>/<name>` | (32,) | uint8: SHA-256 of its values in float64 and C order |
| `bounds/<any of the above>` | (T,), (E,), (T, 1) or () | rounding, in an oracle's trace only |

`metric_names` lists the metrics, and `lockstep.oracle.rounding` derives the bounds. Updates are
counted from 0, and `parameters/0` is before training.

Detail is recorded of chosen updates, with the parameters before and after each. The batches
accumulated in an update follow one another along B. Statistics, where they are asked for, are of
forward, gradients, clip and moments at every update, and of the parameters and their average after
it. A loop of somebody's own, as `lockstep.Recorder` writes it, has names and layouts of its own,
and those of these arrays that it was given.

The trace of a run that resumed from a checkpoint begins there. Its series begin with the update
`first_update`, its statistics with the first update that it saw whole, and its metrics with the
epoch of `first_update`. Bounds are always those of the whole run.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, SupportsFloat

from numpy.typing import NDArray

from lockstep.data_prep import Parameters
from lockstep.files.outputs import tensor_kind
from lockstep.recipe import Recipe
from lockstep.records.contents import UPDATE_SERIES, check_loop, check_trace, metric_names
from lockstep.tensor_file import Arrays, Header, arrays_below, read_tensors, write_tensors

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
"""The metrics over the rows of a part that count.

"loss" is the mean loss. Of classes, "accuracy" is the share of right answers. Of a number, "r2" is
the share of the target's variance that is explained, and "mae" the mean absolute error in units of
the target's `target_scale`.
"""


def metrics_of(loss: SupportsFloat, sums: Mapping[str, SupportsFloat]) -> Metrics:
    """The metrics of a set of rows.

    Args:
        loss: the mean loss.
        sums: sums over the rows. Of classes: "right" answers and "rows". Of a number: "squares" of
            the errors, their "absolute" values, "variation", the squares of the targets' distances
            from their mean, and "rows".
    """
    totals = {name: float(value) for name, value in sums.items()}
    if "right" in totals:
        return {"loss": float(loss), "accuracy": totals["right"] / totals["rows"]}
    r2 = 1 - totals["squares"] / totals["variation"]
    return {"loss": float(loss), "r2": r2, "mae": totals["absolute"] / totals["rows"]}


@dataclass(frozen=True)
class Trace:
    """The record of one run.

    `header` holds `backend`, `recipe` (nested dict), `recipe_hash`, `data_hash`, `dtype`,
    `updates`, `updates_per_epoch`, `parameters_every`, and:

    - `first_update`: 0, unless the run resumed from a checkpoint;
    - `detail`: the updates recorded in detail;
    - `statistics`: the update that they begin with, or None where there are none;
    - `synchronised`: whether each update began from the oracle's state;
    - `layers`: the layers of the prediction, in order;
    - `target`: its name, and the mean and scale that standardised a number (0 and 1 for classes);
    - `environment`: versions, device, threads and matmul precision.
    """

    header: Header
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
        """The engine that trained, and why, where auto chose plain; "" for the oracle."""
        environment = self.header["environment"]
        engine: str = environment.get("engine", "")
        reason = environment.get("engine_reason")
        return f"{engine} ({reason})" if reason else engine

    def metric(self, name: str) -> NDArray[Any]:
        """One of `metric_names`, shape (E,)."""
        return self.arrays[f"epochs/{name}"]

    @property
    def recorded_updates(self) -> list[int]:
        """The numbers of updates after which the parameters were recorded, from 0, ascending."""
        names = arrays_below(self.arrays, "parameters/")
        return sorted({int(name.partition("/")[0]) for name in names})

    def parameters(self, update: int) -> Parameters:
        """The parameters after that many updates, by canonical name."""
        return arrays_below(self.arrays, f"parameters/{update}/")

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape of each parameter before training, whether it was stored or summarised."""
        shapes = arrays_below(self.header.get("shapes", {}), "parameters/")
        stored = {name: array.shape for name, array in self.parameters(0).items()}
        return {name: tuple(shape) for name, shape in shapes.items()} | stored

    @property
    def prediction(self) -> Parameters:
        """Layer -> its values for one held-out sample, from "input" to softmax or sigmoid."""
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
            InputError: the file is missing, truncated or of another schema version; or a field or
                an array is missing, wrong, or of another shape or dtype than the recipe's.
        """
        header, arrays = read_tensors(path, SCHEMA)
        if header.get("kind") == "loop":
            check_loop(str(path), header, arrays)
        else:
            check_trace(str(path), header, arrays)
            header = _completed(header, arrays)
        return Trace(header, arrays)

    @staticmethod
    def load_unchecked(path: Path) -> "Trace":
        """Read a trace that a worker has just written: a fault in it is judged, and not refused.

        Raises:
            InputError: the file is missing, truncated, or of another schema version.
        """
        return Trace(*read_tensors(path, SCHEMA))


def _completed(header: Header, arrays: Arrays) -> Header:
    """The header with the fields that the first golden files do not have."""
    names = arrays_below(arrays, "parameters/")
    recorded = {name.partition("/")[0] for name in names}
    has_every_update = len(recorded) == header["updates"] + 1
    return {
        "parameters_every": 1 if has_every_update else 0,
        "detail": [],
        "statistics": None,
        "synchronised": False,
    } | header
