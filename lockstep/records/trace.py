"""What a run recorded: one file, safetensors under a JSON header, with a versioned schema.

Arrays of a trace (T updates, E epochs; a float in the run's dtype):

| name | shape | what |
|---|---|---|
| `updates/lr` | (T,) | learning rate that the update used |
| `updates/loss` | (T,) | mean loss over the rows of the batch, or of the batches accumulated, before the update |
| `updates/grad_norm` | (T,) | 2-norm of the gradient over all parameters, before clipping |
| `updates/update_norm` | (T,) | 2-norm of the change of all parameters |
| `epochs/{train,held_out}_{loss,accuracy}` | (E,) | over all rows of that part, at the end of the epoch |
| `epochs/{train,held_out}_{r2,mae}` | (E,) | in place of accuracy where a number is predicted; see `metric_names` |
| `parameters/<u>/<name>` | as the parameter | after u updates, weights laid out (in, out); 0 is before training |
| `average/<u>/<name>` | as the parameter | their moving average, as it is read (debiased), where the recipe keeps one |
| `prediction/<layer>` | (units,) | one held-out sample through the trained model |
| `detail/<u>/batch/{x,y,mask<i>}` | (B, ...) | rows of update u (from 0) that count, and dropout masks |
| `detail/<u>/forward/<layer>` | (B, units) | output of a layer in training |
| `detail/<u>/gradients/<name>` | as the parameter | of the mean loss, before clipping |
| `detail/<u>/clip/<name>` | as the parameter | what the optimizer is given, where the recipe clips |
| `detail/<u>/moments/<slot>/<name>` | as the slot | what the optimizer remembers after the update |
| `statistics/<family>/<name>` | (T, 3) | float64: mean, root mean square and largest absolute value at every update |
| `bounds/<any of the above>` | (T,), (E,), (T, 1) or () | oracle only: rounding, see `lockstep.oracle.rounding` |

Detail is recorded of chosen updates, with the parameters before and after each; the batches accumulated in one follow
one another along B. Statistics, where they are asked for, are of what detail names (forward, gradients, clip and
moments), and of the parameters and their average after the update. A loop of somebody's own, as `lockstep.Recorder`
writes it, has its own names and layouts, and of these arrays those that it was given.

The trace of a run that went on from a checkpoint begins there: its series hold the updates from `first_update` on, its
statistics those from the first that it saw whole, its metrics the epochs from the one that this update is in; bounds
are always those of the whole run.
"""

import platform
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lockstep.data_prep import Parameters, PreparedData
from lockstep.errors import InputError
from lockstep.files.outputs import tensor_kind
from lockstep.recipe import Recipe
from lockstep.records.checkpoint import Checkpoint, Checkpoints, make_checkpoint, position
from lockstep.records.contents import PARTS, UPDATE_SERIES, check_loop, check_trace, metric_names, recorded_updates
from lockstep.records.tensor_statistics import STATISTICS, WATCHED, statistics_of
from lockstep.tensor_file import read_tensors, write_tensors
from lockstep.version import __version__

__all__ = [
    "UPDATE_SERIES",
    "Metrics",
    "Progress",
    "RunRecorder",
    "Segment",
    "Trace",
    "metric_names",
    "metrics_of",
]

SCHEMA = "lockstep.trace/1"
TRACE = tensor_kind("lockstep.trace")
BUDGET_MIB = 1024

Progress = Callable[[int, int], None]
"""Called with updates done and updates in all."""

Metrics = Mapping[str, float]
"""Over the rows of a part that count: "loss", the mean loss; then "accuracy", the share of right answers, or, of a
number, "r2", the share of the target's variance that is explained, and "mae", the mean absolute error in units of
the target's `target_scale`."""


def metrics_of(loss: Any, sums: Mapping[str, Any]) -> Metrics:
    """The metrics from the mean loss and the sums over a set of rows: "right" and "rows"; or, of a number,
    "squares" of the errors, their "absolute" values, "variation", the squares of the targets' distance from their
    mean, and "rows"."""
    found = {name: float(value) for name, value in sums.items()}
    if "right" in found:
        return {"loss": float(loss), "accuracy": found["right"] / found["rows"]}
    r2 = 1 - found["squares"] / found["variation"]
    return {"loss": float(loss), "r2": r2, "mae": found["absolute"] / found["rows"]}


class Segment(NamedTuple):
    """Batches start to stop (exclusive) within one epoch, all counted from 0, with nothing to record between."""

    epoch: int
    start: int
    stop: int


@dataclass(frozen=True)
class Trace:
    """The record of one run.

    `header` holds `backend`, `recipe` (nested dict), `recipe_hash`, `data_hash`, `dtype`, `updates`,
    `updates_per_epoch`, `first_update` (0, but for a run that went on from a checkpoint), `parameters_every`, `detail`
    (the updates recorded in detail), `statistics` (the update that they begin with; None: there are none),
    `synchronised` (each update began from the oracle's state), `layers` (of the prediction, in order), `target` (its
    name; mean and scale that standardised a number, 0 and 1 for classes), and `environment` (versions, device, threads,
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
        return sorted({int(name.split("/")[1]) for name in self.arrays if name.startswith("parameters/")})

    def parameters(self, update: int) -> Parameters:
        """Canonical name -> array, after that many updates."""
        return self._below(f"parameters/{update}/")

    @property
    def prediction(self) -> Parameters:
        """Layer -> its values for one held-out sample, in order: from "input" to the last, then softmax or sigmoid."""
        found = self._below("prediction/")
        return {name: found[name] for name in self.header["layers"]}

    def _below(self, prefix: str) -> Parameters:
        return {name.removeprefix(prefix): self.arrays[name] for name in self.arrays if name.startswith(prefix)}

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
            InputError: not there, truncated, of another schema version, or with fields or arrays that are missing,
                wrong, or of another shape or dtype than follows from the recipe; names them.
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
        """Read a trace that a process of ours has just written: what is wrong in it is judged, and not refused.

        Raises:
            InputError: not there, truncated, or of another schema version.
        """
        return Trace(*read_tensors(path, SCHEMA))


def _completed(header: dict[str, Any], arrays: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    """With the fields that the first golden files do not have."""
    recorded = {name.split("/")[1] for name in arrays if name.startswith("parameters/")}
    every = int(len(recorded) == header["updates"] + 1)
    return {"parameters_every": every, "detail": [], "statistics": None, "synchronised": False} | header


def _multiples(every: int, epoch: int, length: int) -> range:
    """Those within an epoch of this length of the multiples of `every`, counted through the whole run."""
    return range(-(epoch * length) % every, length, every) if every else range(0)


class RunRecorder:
    """Collects a run, in the same way for every backend.

    Args:
        recipe: what is trained.
        data: what it is trained on.
        backend: torch, jax or oracle.
        environment: versions, device, threads, matmul precision.
        parameters_every: record the parameters after every so many updates too; 0: at epoch ends only.
        detail: the updates, counted from 0, to record in detail.
        statistics: whether to record mean, root mean square and largest absolute value of each tensor at every update.
        progress: told how far the run is, after each segment.
        resume: where the run goes on from; None: at the start.
        checkpoints: how often to write one, and where to; None: never.
        synchronise: states to begin every update from; None: each goes on from the last.
        budget_mib: MiB of memory, of 2^20 bytes, that the detail of all updates and the statistics may take: these
            24 bytes a tensor and update.

    Raises:
        InputError: a checkpoint of another recipe or of other data.
    """

    def __init__(
        self,
        recipe: Recipe,
        data: PreparedData,
        *,
        backend: str,
        environment: Mapping[str, Any],
        parameters_every: int = 0,
        detail: Collection[int] = (),
        statistics: bool = False,
        progress: Progress | None = None,
        resume: Checkpoint | None = None,
        checkpoints: Checkpoints | None = None,
        synchronise: Iterator[Checkpoint] | None = None,
        budget_mib: float = BUDGET_MIB,
    ) -> None:
        if resume is not None:
            resume.refuse_other_run(recipe, data)
        first = resume.update if resume else 0
        first_whole = first + bool(resume and resume.accumulated)
        self.header: dict[str, Any] = {
            "backend": backend,
            "recipe": recipe.as_dict(),
            "recipe_hash": recipe.hash,
            "data_hash": data.hash,
            "dtype": "float64" if backend == "oracle" else recipe.training.dtype,
            "updates": data.updates,
            "updates_per_epoch": data.updates_per_epoch,
            "first_update": first,
            "parameters_every": parameters_every,
            "detail": [],
            "statistics": first_whole if statistics else None,
            "synchronised": synchronise is not None,
            "target": {"name": data.target, "mean": data.target_mean, "scale": data.target_scale},
            "environment": {
                "lockstep": __version__,
                "python": platform.python_version(),
                "numpy": np.__version__,
                **environment,
            },
        }
        self.recipe, self.data, self.backend = recipe, data, backend
        self.parameters_every = parameters_every
        self.detail, self.budget_mib = frozenset(update for update in detail if update >= first_whole), budget_mib
        length = data.updates_per_epoch
        self.due = recorded_updates(first, data.updates, length, parameters_every, self.detail)
        self.watched: Collection[int] = range(first_whole, data.updates) if statistics else self.detail
        self.progress = progress
        self.checkpoints = checkpoints
        self.synchronise = synchronise
        self.given: Checkpoint | None = None
        self.updates: dict[str, list[Any]] = {name: [] for name in UPDATE_SERIES}
        self.epochs: dict[str, list[Any]] = {name: [] for name in metric_names(recipe.loss)}
        self.arrays: dict[str, NDArray[Any]] = {}
        self.is_detailed = False
        self.rows: dict[str, list[Any]] = {}
        self.counts: list[int] = []
        self.has_fitted = False
        self.done: int = first
        self.begun = self.batches = resume.batches if resume else 0

    def segments(self) -> Iterator[Segment]:
        """The rest of the run cut where something is recorded: at each epoch's end, every `parameters_every` updates
        and at each checkpoint; where updates are synchronised at each, with the state to begin it from in `given`."""
        length, batches, many = self.data.updates_per_epoch, self.data.batches_per_epoch, self.data.accumulate
        first_epoch, first_batch = divmod(self.batches, batches)
        for epoch in range(first_epoch, self.data.epochs):
            cuts = {0, batches} | {update * many for update in _multiples(self.parameters_every, epoch, length)}
            if self.checkpoints and self.checkpoints.unit == "batch":
                cuts |= set(_multiples(self.checkpoints.every, epoch, batches))
            elif self.checkpoints:
                cuts |= {update * many for update in _multiples(self.checkpoints.every, epoch, length)}
            for update in range(length):
                if epoch * length + update in self.watched:
                    cuts |= {update * many, min(update * many + many, batches)}
            if self.synchronise is not None:
                cuts |= set(range(0, batches, many))
            if epoch == first_epoch:
                cuts = {first_batch} | {cut for cut in cuts if cut > first_batch}
            drawn = self.data.batches(epoch)
            for start, stop in pairwise(sorted(cuts)):
                self.last_T, self.count_T = drawn.last_T[start:stop], drawn.count_T[start:stop]
                self.batches = epoch * batches + stop
                if self.synchronise is not None:
                    self.given = next(self.synchronise, None) if start % many == 0 else None
                self.is_detailed = epoch * length + start // many in self.watched
                self.counts = [*(self.counts if start % many else ()), *self.count_T]
                yield Segment(epoch, start, stop)

    def record_segment(self, scalars: Mapping[str, Any]) -> None:
        """The scalars of a segment's batches, each a sequence; those of batches that complete an update are kept."""
        for name in UPDATE_SERIES:
            self.updates[name].append(np.asarray(scalars[name])[self.last_T])
        self.done += int(self.last_T.sum())
        if self.progress:
            self.progress(self.done, self.header["updates"])

    def record_detail(self, found: Mapping[str, Any], state: Parameters) -> None:
        """What the segment just recorded, the whole of an update or a part of it, saw and made: of an update in
        `detail` all of it is kept, of every update its statistics.

        Args:
            found: a sequence with an array for each of its batches, named "batch/x", "forward/linear1",
                "gradients/linear1.weight", ... Rows after those that count are left out; of gradients only the last
                batch's, in which all are accumulated, is kept.
            state: every array of the state after it, named as in a checkpoint.

        Raises:
            InputError: at this size of an update, what is to be recorded does not fit into the budget.
        """
        for name, values in found.items():
            if name.startswith(("batch/", "forward/")):
                self.rows.setdefault(name, []).extend(values)
        if not self.last_T[-1]:  # a checkpoint cuts the update in two
            return
        arrays: Parameters = {}
        for name, values in self.rows.items():
            array = np.concatenate([np.asarray(array)[:count] for array, count in zip(values, self.counts)])
            # a trace cannot hold bfloat16; each of its values is one of float32
            arrays[name] = array.astype(np.float32) if array.dtype.name == "bfloat16" else array
        for name, values in found.items():
            if name.startswith(("gradients/", "clip/")):
                arrays[name] = np.asarray(values[len(values) - 1]).copy()
        for name, array in state.items():
            kind, _, rest = name.partition("/")
            if kind == "optimizer":
                arrays[f"moments/{rest}"] = np.array(array)
        self.rows, update = {}, self.done - 1
        if not self.has_fitted:
            self._refuse_beyond_budget(arrays, state)
        if update in self.detail:
            self.header["detail"].append(update)
            self.arrays |= {f"detail/{update}/{name}": array for name, array in arrays.items()}
        for name, array in arrays.items():
            self._add_statistics(name, array)

    def _refuse_beyond_budget(self, arrays: Parameters, state: Parameters) -> None:
        self.has_fitted, budget, taken = True, self.budget_mib * 2**20, 0
        if self.header["statistics"] is not None:
            tensors = [name for name in (*arrays, *state) if name.startswith((*WATCHED, "statistics/"))]
            taken = len(self.watched) * len(tensors) * np.dtype(np.float64).itemsize * len(STATISTICS)
            if taken > budget:
                raise InputError(
                    f"the statistics of {len(tensors)} tensors at {len(self.watched)} updates take "
                    f"{taken / 2**20:.3g} MiB, more than the budget of {self.budget_mib:g} MiB"
                )
        size = sum(array.nbytes for array in arrays.values())
        fitting = int((budget - taken) // size)
        if len(self.detail) > fitting:
            beside = f", beside {taken / 2**20:.3g} MiB of statistics" if taken else ""
            raise InputError(
                f"the detail of one update takes {size / 2**20:.3g} MiB: of the {len(self.detail)} wanted {fitting} "
                f"fit into the budget of {self.budget_mib:g} MiB{beside}"
            )

    def _add_statistics(self, name: str, tensor: NDArray[Any]) -> None:
        begin = self.header["statistics"]
        if begin is None or not name.startswith(WATCHED):
            return
        rows_TS = self.arrays.get(f"statistics/{name}")
        if rows_TS is None:
            rows_TS = self.arrays[f"statistics/{name}"] = np.full((len(self.watched), len(STATISTICS)), np.nan)
        rows_TS[self.done - 1 - begin] = statistics_of(tensor)

    @property
    def checkpoint_is_due(self) -> bool:
        """Whether a checkpoint belongs after the segment just recorded."""
        if self.checkpoints is None:
            return False
        if self.checkpoints.unit == "batch":
            return self.batches % self.checkpoints.every == 0
        return bool(self.last_T[-1]) and self.done % self.checkpoints.every == 0

    def save_checkpoint(self, arrays: Parameters) -> None:
        """Write a checkpoint; of `arrays`, named as in one, those are kept that belong into it."""
        assert self.checkpoints is not None
        self.checkpoints.save(make_checkpoint(self.recipe, self.data, self.batches, self.backend, arrays))

    def record_parameters(self, parameters: Parameters, average: Parameters | None = None) -> None:
        """The parameters and their average as they are now, where they or their statistics belong into the trace: never
        in the midst of an accumulation, when running statistics have moved on already."""
        if position(self.data, self.batches)["accumulated"]:
            return
        is_due = self.done in self.due
        for kind, tensors in (("parameters", parameters), ("average", average or {})):
            for name, array in tensors.items():
                if self.is_detailed:
                    self._add_statistics(f"{kind}/{name}", array)
                if is_due:
                    self.arrays[f"{kind}/{self.done}/{name}"] = np.array(array)

    def record_epoch(self, train: Metrics, held_out: Metrics) -> None:
        """The metrics at the end of an epoch."""
        for part, metrics in zip(PARTS, (train, held_out)):
            for name, value in metrics.items():
                self.epochs[f"{part}_{name}"].append(value)

    def finish(self, prediction: Parameters, bounds: Mapping[str, NDArray[Any]] | None = None) -> Trace:
        """The trace of the whole run."""
        for name in UPDATE_SERIES:
            self.arrays[f"updates/{name}"] = np.concatenate(self.updates[name])
        for name in self.epochs:
            self.arrays[f"epochs/{name}"] = np.array(self.epochs[name], dtype=np.float64)
        for name, array in prediction.items():
            self.arrays[f"prediction/{name}"] = np.array(array)
        for name, array in (bounds or {}).items():
            self.arrays[f"bounds/{name}"] = np.asarray(array)
        return Trace(self.header | {"layers": list(prediction)}, self.arrays)
