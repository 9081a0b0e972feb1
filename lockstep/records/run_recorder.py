"""The one seam between a training loop and the record of its run.

A loop asks the recorder for segments, trains each, and hands over its scalars with a view of the
state. The recorder asks the view for what is due, and for nothing else.
"""

import platform
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lockstep.data_prep import Parameters, PreparedData
from lockstep.errors import InputError
from lockstep.recipe import Recipe
from lockstep.records.checkpoint import Checkpoint, Checkpoints, make_checkpoint, position
from lockstep.records.contents import PARTS, UPDATE_SERIES, metric_names, recorded_updates
from lockstep.records.tensor_statistics import STATISTICS, WATCHED, statistics_of
from lockstep.records.trace import Metrics, Progress, Trace
from lockstep.tensor_file import Header
from lockstep.version import __version__

__all__ = ["BUDGET_MIB", "RunRecorder", "Segment", "View", "Watch"]

BUDGET_MIB = 1024
"""Memory for detail and statistics unless a run sets it, in MiB."""


@dataclass(frozen=True)
class Watch:
    """What to record of a run, and where the run begins.

    Attributes:
        parameters_every: the updates between two records of the parameters, beside those at epoch
            ends; 0: epoch ends alone.
        detail: the updates, counted from 0, to record in detail, from rows to moments.
        statistics: whether to record mean, root mean square and largest absolute value of each
            tensor at every update; they take 24 bytes a tensor and update.
        budget_mib: memory for the detail of all updates and the statistics, in MiB (2^20 bytes).
        checkpoints: how often to write a checkpoint, and where to; None: never.
        resume: the checkpoint to resume from, whichever backend wrote it; None: the start.
        synchronise: the states from which the updates begin, as `lockstep.oracle.train.states`
            gives them; None: each update begins where the last one ended.
        progress: called with the updates done and in all, after each segment.
    """

    parameters_every: int = 0
    detail: Collection[int] = ()
    statistics: bool = False
    budget_mib: float = BUDGET_MIB
    checkpoints: Checkpoints | None = None
    resume: Checkpoint | None = None
    synchronise: Iterator[Checkpoint] | None = None
    progress: Progress | None = None


class Segment(NamedTuple):
    """Batches of one epoch, from `start` to `stop` (exclusive), with nothing to record between.

    All are counted from 0. `is_detailed` says whether the recorder will ask for their detail. The
    segment begins from the state `given`; where that is None, from the last state.
    """

    epoch: int
    start: int
    stop: int
    is_detailed: bool = False
    given: Checkpoint | None = None


class View(Protocol):
    """The state of a run after a segment. Each method computes what it returns, so the recorder
    calls few of them.
    """

    def parameters(self) -> Parameters:
        """The parameters and running statistics, in canonical names and layout."""
        ...

    def average(self, updates: int) -> Parameters:
        """The average of the parameters after that many updates, debiased; empty without one."""
        ...

    def arrays(self) -> Parameters:
        """Every array of the state, named as in a checkpoint."""
        ...

    def detail(self) -> Mapping[str, Sequence[ArrayLike]]:
        """Name -> a sequence with one array for each batch of a detailed segment.

        The names are "batch/x", "forward/linear1", "gradients/linear1.weight",
        "clip/linear1.weight", ... An array of rows may have more rows than those that count. The
        gradients of the last batch alone are read, in which all batches are accumulated.
        """
        ...

    def metrics(self) -> tuple[Metrics, Metrics]:
        """The metrics over the training rows, and over those held out."""
        ...

    def prediction(self) -> Parameters:
        """Layer -> its values for one held-out sample, from "input" to softmax or sigmoid."""
        ...


class RunRecorder:
    """Collects a run, in the same way for every backend.

    A loop calls `begin`, then `record` after each of `segments`, then `finish`.

    Args:
        recipe: what is trained.
        data: what it is trained on.
        watch: what to record.
        backend: torch, jax or oracle.
        environment: versions, device, threads and matmul precision.

    Raises:
        InputError: a checkpoint of another recipe or of other data.
    """

    def __init__(
        self,
        recipe: Recipe,
        data: PreparedData,
        watch: Watch,
        *,
        backend: str,
        environment: Header,
    ) -> None:
        first = 0
        first_whole = 0
        batches = 0
        if watch.resume is not None:
            watch.resume.refuse_other_run(recipe, data)
            first = watch.resume.update
            first_whole = first + 1 if watch.resume.accumulated else first
            batches = watch.resume.batches
        self.header: Header = {
            "backend": backend,
            "recipe": recipe.as_dict(),
            "recipe_hash": recipe.hash,
            "data_hash": data.hash,
            "dtype": "float64" if backend == "oracle" else recipe.training.dtype,
            "updates": data.updates,
            "updates_per_epoch": data.updates_per_epoch,
            "first_update": first,
            "parameters_every": watch.parameters_every,
            "detail": [],
            "statistics": first_whole if watch.statistics else None,
            "synchronised": watch.synchronise is not None,
            "target": {"name": data.target, "mean": data.target_mean, "scale": data.target_scale},
            "environment": {
                "lockstep": __version__,
                "python": platform.python_version(),
                "numpy": np.__version__,
                **environment,
            },
        }
        self._recipe = recipe
        self._data = data
        self._watch = watch
        self._backend = backend
        self._detail = frozenset(update for update in watch.detail if update >= first_whole)
        self.watched: Collection[int] = self._detail
        """The updates whose detail the recorder asks for, be it only for their statistics."""
        if watch.statistics:
            self.watched = range(first_whole, data.updates)
        self._due = recorded_updates(
            first, data.updates, data.updates_per_epoch, watch.parameters_every, self._detail
        )
        self._updates: dict[str, list[NDArray[Any]]] = {name: [] for name in UPDATE_SERIES}
        self._epochs: dict[str, list[float]] = {name: [] for name in metric_names(recipe.loss)}
        self._arrays: dict[str, NDArray[Any]] = {}
        self._is_detailed = False
        self._rows: dict[str, list[ArrayLike]] = {}
        self._counts: list[int] = []
        self._is_within_budget = False
        self._done: int = first
        self._batches = batches

    def begin(self, view: View) -> None:
        """Record the state that the run begins from."""
        self._record_parameters(view)

    def segments(self) -> Iterator[Segment]:
        """The rest of the run, cut where something is recorded.

        The cuts are at each epoch's end, every `parameters_every` updates and at each checkpoint;
        around each update in detail; and before each update where updates are synchronised.
        """
        data = self._data
        first_epoch, first_batch = divmod(self._batches, data.batches_per_epoch)
        for epoch in range(first_epoch, data.epochs):
            cuts = self._cuts(epoch)
            if epoch == first_epoch:
                cuts = {first_batch} | {cut for cut in cuts if cut > first_batch}
            batches = data.batches(epoch)
            for start, stop in pairwise(sorted(cuts)):
                update, accumulated = divmod(start, data.accumulate)
                if not accumulated:
                    self._counts = []
                self._counts.extend(batches.count_T[start:stop])
                self._last_T = batches.last_T[start:stop]
                self._batches = epoch * data.batches_per_epoch + stop
                self._is_detailed = epoch * data.updates_per_epoch + update in self.watched
                given = None
                if self._watch.synchronise is not None and not accumulated:
                    given = next(self._watch.synchronise, None)
                yield Segment(epoch, start, stop, self._is_detailed, given)

    def _cuts(self, epoch: int) -> set[int]:
        """The batches of an epoch at which a segment may begin or end."""
        length = self._data.updates_per_epoch
        batches = self._data.batches_per_epoch
        many = self._data.accumulate
        checkpoints = self._watch.checkpoints
        cut_updates = {*_multiples(self._watch.parameters_every, epoch, length)}
        cut_batches = {0, batches}
        if checkpoints and checkpoints.unit == "batch":
            cut_batches.update(_multiples(checkpoints.every, epoch, batches))
        elif checkpoints:
            cut_updates.update(_multiples(checkpoints.every, epoch, length))
        for update in range(length):
            if epoch * length + update in self.watched:
                cut_updates |= {update, update + 1}
        if self._watch.synchronise is not None:
            cut_updates.update(range(length))
        return cut_batches | {min(update * many, batches) for update in cut_updates}

    def record(self, scalars: Mapping[str, ArrayLike], view: View) -> None:
        """Record the segment that the loop has just trained.

        Args:
            scalars: each of `UPDATE_SERIES`, with a number for each batch of the segment; the
                recorder keeps the numbers of batches that complete an update.
            view: the state after the segment.

        Raises:
            InputError: detail or statistics do not fit into the budget.
        """
        for name in UPDATE_SERIES:
            self._updates[name].append(np.asarray(scalars[name])[self._last_T])
        self._done += int(self._last_T.sum())
        if self._watch.progress:
            self._watch.progress(self._done, self.header["updates"])
        if self._is_detailed:
            self._record_detail(view)
        self._record_parameters(view)
        self._save_checkpoint(view)
        if self._batches % self._data.batches_per_epoch == 0:
            for part, metrics in zip(PARTS, view.metrics()):
                for name, value in metrics.items():
                    self._epochs[f"{part}_{name}"].append(value)

    def _record_detail(self, view: View) -> None:
        """Record an update, or the part of it that the segment has, in detail or as statistics."""
        detail = view.detail()
        for name, values in detail.items():
            if name.startswith(("batch/", "forward/")):
                self._rows.setdefault(name, []).extend(values)
        if not self._last_T[-1]:  # a checkpoint cuts the update in two
            return
        arrays: Parameters = {}
        for name, values in self._rows.items():
            batches = zip(values, self._counts)
            array = np.concatenate([np.asarray(batch)[:count] for batch, count in batches])
            # a trace cannot hold bfloat16; each of its values is one of float32
            arrays[name] = array.astype(np.float32) if array.dtype.name == "bfloat16" else array
        for name, values in detail.items():
            if name.startswith(("gradients/", "clip/")):
                arrays[name] = np.asarray(values[len(values) - 1]).copy()
        state = view.arrays()
        for name, array in state.items():
            kind, _, rest = name.partition("/")
            if kind == "optimizer":
                arrays[f"moments/{rest}"] = np.array(array)
        self._rows = {}
        if not self._is_within_budget:
            self._refuse_beyond_budget(arrays, state)
            self._is_within_budget = True
        update = self._done - 1
        if update in self._detail:
            self.header["detail"].append(update)
            self._arrays |= {f"detail/{update}/{name}": array for name, array in arrays.items()}
        for name, array in arrays.items():
            self._add_statistics(name, array)

    def _refuse_beyond_budget(self, arrays: Parameters, state: Parameters) -> None:
        """Raise InputError where statistics and detail take more than the budget.

        Args:
            arrays: the arrays of one update in detail.
            state: every array of the state.
        """
        budget_mib = self._watch.budget_mib
        statistics_mib = 0.0
        if self.header["statistics"] is not None:
            families = (*WATCHED, "statistics/")
            tensors = [name for name in (*arrays, *state) if name.startswith(families)]
            numbers = len(self.watched) * len(tensors) * len(STATISTICS)
            statistics_mib = numbers * np.dtype(np.float64).itemsize / 2**20
            if statistics_mib > budget_mib:
                raise InputError(
                    f"the statistics of {len(tensors)} tensors at {len(self.watched)} updates take "
                    f"{statistics_mib:.3g} MiB, more than the budget of {budget_mib:g} MiB"
                )
        update_mib = sum(array.nbytes for array in arrays.values()) / 2**20
        fitting = int((budget_mib - statistics_mib) // update_mib)
        if len(self._detail) > fitting:
            beside = f", beside {statistics_mib:.3g} MiB of statistics" if statistics_mib else ""
            raise InputError(
                f"the detail of one update takes {update_mib:.3g} MiB: of the "
                f"{len(self._detail)} wanted {fitting} fit into the budget of "
                f"{budget_mib:g} MiB{beside}"
            )

    def _add_statistics(self, name: str, tensor: NDArray[Any]) -> None:
        """Record the statistics of a tensor at the present update, where they are asked for."""
        begin = self.header["statistics"]
        if begin is None or not name.startswith(WATCHED):
            return
        key = f"statistics/{name}"
        if key not in self._arrays:
            self._arrays[key] = np.full((len(self.watched), len(STATISTICS)), np.nan)
        self._arrays[key][self._done - 1 - begin] = statistics_of(tensor)

    def _record_parameters(self, view: View) -> None:
        """Record the parameters and their average, or their statistics, where they are due.

        They are never due in the midst of an accumulation: running statistics have moved on then.
        """
        is_due = self._done in self._due
        if position(self._data, self._batches)["accumulated"] or not (is_due or self._is_detailed):
            return
        families = {"parameters": view.parameters(), "average": view.average(self._done)}
        for kind, tensors in families.items():
            for name, array in tensors.items():
                if self._is_detailed:
                    self._add_statistics(f"{kind}/{name}", array)
                if is_due:
                    self._arrays[f"{kind}/{self._done}/{name}"] = np.array(array)

    def _save_checkpoint(self, view: View) -> None:
        """Write a checkpoint where one is due."""
        checkpoints = self._watch.checkpoints
        if checkpoints is None:
            return
        if checkpoints.unit == "batch":
            is_due = self._batches % checkpoints.every == 0
        else:
            is_due = self._last_T[-1] and self._done % checkpoints.every == 0
        if is_due:
            checkpoint = make_checkpoint(
                self._recipe, self._data, self._batches, self._backend, view.arrays()
            )
            checkpoints.save(checkpoint)

    def finish(self, view: View) -> Trace:
        """The trace of the whole run."""
        prediction = view.prediction()
        for name in UPDATE_SERIES:
            self._arrays[f"updates/{name}"] = np.concatenate(self._updates[name])
        for name in self._epochs:
            self._arrays[f"epochs/{name}"] = np.array(self._epochs[name], dtype=np.float64)
        for name, array in prediction.items():
            self._arrays[f"prediction/{name}"] = np.array(array)
        return Trace(self.header | {"layers": list(prediction)}, self._arrays)


def _multiples(every: int, epoch: int, length: int) -> range:
    """The places within an epoch at multiples of `every`, which are counted through the run."""
    return range(-(epoch * length) % every, length, every) if every else range(0)
