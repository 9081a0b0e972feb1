"""The one seam between a training loop and what is recorded of it.

A loop asks the recorder for segments, trains each, and hands over its scalars with a view of the
state; the recorder asks the view for what is due, and for nothing else.
"""

import platform
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from lockstep.data_prep import Parameters, PreparedData
from lockstep.errors import InputError
from lockstep.recipe import Recipe
from lockstep.records.checkpoint import Checkpoint, Checkpoints, make_checkpoint, position
from lockstep.records.contents import PARTS, UPDATE_SERIES, metric_names, recorded_updates
from lockstep.records.tensor_statistics import STATISTICS, WATCHED, statistics_of
from lockstep.records.trace import Metrics, Progress, Trace
from lockstep.version import __version__

__all__ = ["BUDGET_MIB", "RunRecorder", "Segment", "View", "Watch"]

BUDGET_MIB = 1024


@dataclass(frozen=True)
class Watch:
    """What to record of a run, what to tell of it, and where it begins.

    Attributes:
        parameters_every: record the parameters after every so many updates too; 0: at epoch ends
        only.
        detail: the updates, counted from 0, to record in detail, from rows to moments.
        statistics: record mean, root mean square and largest absolute value of each tensor at every
        update too. budget_mib: MiB of memory, of 2^20 bytes, that the detail of all updates and the
        statistics may take: the
            statistics take 24 bytes a tensor and update.
        checkpoints: how often to write one, and where to; None: never.
        resume: where the run goes on from, whichever backend wrote it; None: at the start.
        synchronise: states to begin every update from, as `lockstep.oracle.train.states` gives
        them; None: each
            update goes on from the last.
        progress: told how far the run is, after each segment.
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
    """Batches start to stop (exclusive) within one epoch, all counted from 0, with nothing to
    record between.

    `is_detailed` says whether the recorder will ask for their detail; the segment begins from the
    state in `given` where there is one, else from the last state.
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
        """The average of the parameters as it is read after that many updates; empty where none is
        kept.
        """
        ...

    def arrays(self) -> Parameters:
        """Every array of the state, named as in a checkpoint."""
        ...

    def detail(self) -> Mapping[str, Sequence[Any]]:
        """A sequence with an array for each batch of a detailed segment, by name.

        The names are "batch/x", "forward/linear1", "gradients/linear1.weight",
        "clip/linear1.weight", ... Rows after those that count may follow; of gradients only the
        last batch's, in which all are accumulated, is read.
        """
        ...

    def metrics(self) -> tuple[Metrics, Metrics]:
        """The metrics over the training rows, and over those held out."""
        ...

    def prediction(self) -> Parameters:
        """Layer -> its values for one held-out sample, from "input" to the last, then softmax or
        sigmoid.
        """
        ...


class RunRecorder:
    """Collects a run, in the same way for every backend.

    A loop calls `begin`, then `record` after each of `segments`, then `finish`.

    Args:
        recipe: what is trained.
        data: what it is trained on.
        watch: what to record.
        backend: torch, jax or oracle.
        environment: versions, device, threads, matmul precision.

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
        environment: Mapping[str, Any],
    ) -> None:
        resume = watch.resume
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
        self.watched: Collection[int]
        """Updates of which detail is asked for, be it only for their statistics."""
        self._recipe, self._data, self._watch, self._backend = recipe, data, watch, backend
        self._detail = frozenset(update for update in watch.detail if update >= first_whole)
        self.watched = range(first_whole, data.updates) if watch.statistics else self._detail
        every, length = watch.parameters_every, data.updates_per_epoch
        self._due = recorded_updates(first, data.updates, length, every, self._detail)
        self._updates: dict[str, list[Any]] = {name: [] for name in UPDATE_SERIES}
        self._epochs: dict[str, list[Any]] = {name: [] for name in metric_names(recipe.loss)}
        self._arrays: dict[str, NDArray[Any]] = {}
        self._is_detailed = False
        self._rows: dict[str, list[Any]] = {}
        self._counts: list[int] = []
        self._has_fitted = False
        self._done: int = first
        self._batches = resume.batches if resume else 0

    def begin(self, view: View) -> None:
        """Record the state that the run begins from."""
        self._record_parameters(view)

    def segments(self) -> Iterator[Segment]:
        """The rest of the run, cut where something is recorded.

        The cuts are at each epoch's end, every `parameters_every` updates and at each checkpoint;
        around each update in detail; and before each update where updates are synchronised.
        """
        data, many = self._data, self._data.accumulate
        length, batches = data.updates_per_epoch, data.batches_per_epoch
        first_epoch, first_batch = divmod(self._batches, batches)
        for epoch in range(first_epoch, data.epochs):
            cuts = self._cuts(epoch)
            if epoch == first_epoch:
                cuts = {first_batch} | {cut for cut in cuts if cut > first_batch}
            drawn = data.batches(epoch)
            for start, stop in pairwise(sorted(cuts)):
                self._last_T, count_T = drawn.last_T[start:stop], drawn.count_T[start:stop]
                self._batches = epoch * batches + stop
                self._is_detailed = epoch * length + start // many in self.watched
                self._counts = [*(self._counts if start % many else ()), *count_T]
                given = None
                if self._watch.synchronise is not None and start % many == 0:
                    given = next(self._watch.synchronise, None)
                yield Segment(epoch, start, stop, self._is_detailed, given)

    def _cuts(self, epoch: int) -> set[int]:
        """The batches of an epoch before which a segment may begin, and their number."""
        length, batches, many = (
            self._data.updates_per_epoch,
            self._data.batches_per_epoch,
            self._data.accumulate,
        )
        checkpoints = self._watch.checkpoints
        cuts = {0, batches} | {
            update * many for update in _multiples(self._watch.parameters_every, epoch, length)
        }
        if checkpoints and checkpoints.unit == "batch":
            cuts |= set(_multiples(checkpoints.every, epoch, batches))
        elif checkpoints:
            cuts |= {update * many for update in _multiples(checkpoints.every, epoch, length)}
        for update in range(length):
            if epoch * length + update in self.watched:
                cuts |= {update * many, min(update * many + many, batches)}
        if self._watch.synchronise is not None:
            cuts |= set(range(0, batches, many))
        return cuts

    def record(self, scalars: Mapping[str, Any], view: View) -> None:
        """Record the segment that the loop has just trained.

        Args:
            scalars: each of `UPDATE_SERIES`, with a number for each batch of the segment; those of
                batches that complete an update are kept.
            view: the state after the segment.

        Raises:
            InputError: what is to be recorded of each update does not fit into the budget.
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
        """Record the whole of an update or a part of it: all of it for `detail`, else its
        statistics.
        """
        detail = view.detail()
        for name, values in detail.items():
            if name.startswith(("batch/", "forward/")):
                self._rows.setdefault(name, []).extend(values)
        if not self._last_T[-1]:  # a checkpoint cuts the update in two
            return
        arrays: Parameters = {}
        for name, values in self._rows.items():
            array = np.concatenate(
                [np.asarray(rows)[:count] for rows, count in zip(values, self._counts)]
            )
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
        self._rows, update = {}, self._done - 1
        if not self._has_fitted:
            self._refuse_beyond_budget(arrays, state)
        if update in self._detail:
            self.header["detail"].append(update)
            self._arrays |= {f"detail/{update}/{name}": array for name, array in arrays.items()}
        for name, array in arrays.items():
            self._add_statistics(name, array)

    def _refuse_beyond_budget(self, arrays: Parameters, state: Parameters) -> None:
        self._has_fitted, budget, taken = True, self._watch.budget_mib * 2**20, 0
        if self.header["statistics"] is not None:
            tensors = [
                name for name in (*arrays, *state) if name.startswith((*WATCHED, "statistics/"))
            ]
            taken = (
                len(self.watched) * len(tensors) * np.dtype(np.float64).itemsize * len(STATISTICS)
            )
            if taken > budget:
                raise InputError(
                    f"the statistics of {len(tensors)} tensors at {len(self.watched)} updates take "
                    f"{taken / 2**20:.3g} MiB, more than the budget of "
                    f"{self._watch.budget_mib:g} MiB"
                )
        size = sum(array.nbytes for array in arrays.values())
        fitting = int((budget - taken) // size)
        if len(self._detail) > fitting:
            beside = f", beside {taken / 2**20:.3g} MiB of statistics" if taken else ""
            raise InputError(
                f"the detail of one update takes {size / 2**20:.3g} MiB: of the "
                f"{len(self._detail)} wanted {fitting} "
                f"fit into the budget of {self._watch.budget_mib:g} MiB{beside}"
            )

    def _add_statistics(self, name: str, tensor: NDArray[Any]) -> None:
        begin = self.header["statistics"]
        if begin is None or not name.startswith(WATCHED):
            return
        rows_TS = self._arrays.get(f"statistics/{name}")
        if rows_TS is None:
            rows_TS = self._arrays[f"statistics/{name}"] = np.full(
                (len(self.watched), len(STATISTICS)), np.nan
            )
        rows_TS[self._done - 1 - begin] = statistics_of(tensor)

    def _record_parameters(self, view: View) -> None:
        """Record the parameters and their average, where they or their statistics belong into the
        trace.

        They never do in the midst of an accumulation, when running statistics have moved on
        already.
        """
        is_due = self._done in self._due
        if position(self._data, self._batches)["accumulated"] or not (is_due or self._is_detailed):
            return
        for kind, tensors in (
            ("parameters", view.parameters()),
            ("average", view.average(self._done)),
        ):
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
        done, is_whole = (
            (self._batches, True) if checkpoints.unit == "batch" else (self._done, self._last_T[-1])
        )
        if is_whole and done % checkpoints.every == 0:
            state = make_checkpoint(
                self._recipe, self._data, self._batches, self._backend, view.arrays()
            )
            checkpoints.save(state)

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
    """Those within an epoch of this length of the multiples of `every`, counted through the whole
    run.
    """
    return range(-(epoch * length) % every, length, every) if every else range(0)
