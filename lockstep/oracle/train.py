"""Train a recipe in float64 and record it, with bounds on what rounding may do to a run of the
recipe's dtype.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from lockstep.data_prep import Parameters, PreparedData
from lockstep.oracle.arithmetic import Array, Exact
from lockstep.oracle.average import averaged
from lockstep.oracle.checkpoint import export_state, import_state
from lockstep.oracle.loss import Targets, link
from lockstep.oracle.network import forward
from lockstep.oracle.rounding import rounding_bounds
from lockstep.oracle.trajectory import (
    State,
    UpdateRecord,
    canonical,
    evaluate,
    initial_state,
    rows_of,
    start,
    trajectory,
)
from lockstep.recipe import Recipe
from lockstep.records.checkpoint import Checkpoint, make_checkpoint
from lockstep.records.run_recorder import RunRecorder, Watch
from lockstep.records.trace import UPDATE_SERIES, Metrics, Trace

__all__ = ["states", "train"]


def states(recipe: Recipe, data: PreparedData) -> Iterator[Checkpoint]:
    """The state before every update, one after another as they are asked for."""
    rounded = rows_of(recipe, data)
    begin = initial_state(recipe, start(rounded))
    yield make_checkpoint(recipe, data, 0, "oracle", export_state(begin))
    with np.errstate(all="ignore"):
        for state, record in trajectory(recipe, rounded, Exact(), begin):
            if record is not None:
                arrays = export_state(state)
                yield make_checkpoint(recipe, data, state.batches, "oracle", arrays)


class _View(NamedTuple):
    """A `View` of the oracle's run. `record` is of the update that the last batch completed, None
    where it completed none.
    """

    recipe: Recipe
    data: PreparedData
    state: State
    record: UpdateRecord | None

    def parameters(self) -> Parameters:
        return canonical(self.state.parameters | self.state.statistics)

    def average(self, updates: int) -> Parameters:
        return canonical(averaged(self.recipe.average, self.state.average, updates, Exact()))

    def arrays(self) -> Parameters:
        return export_state(self.state)

    def detail(self) -> Mapping[str, Sequence[Any]]:
        return self.record.detail if self.record is not None else {}

    def metrics(self) -> tuple[Metrics, Metrics]:
        train = self._metrics(self.data.train_x_ND, self.data.train_y_N)
        return train, self._metrics(self.data.held_out_x_ND, self.data.held_out_y_N)

    def _metrics(self, x_ND: Array, y_N: Targets) -> Metrics:
        metrics, _ = evaluate(
            self.state.parameters, self.state.statistics, x_ND, y_N, self.recipe, Exact()
        )
        return {name: float(value) for name, value in metrics.items()}

    def prediction(self) -> Parameters:
        exact = Exact()
        passed = forward(
            self.recipe.model,
            self.state.parameters,
            self.data.held_out_x_ND[:1],
            exact,
            statistics=self.state.statistics,
        )
        outputs = dict(passed.outputs)
        *_, outputs_BK = outputs.values()
        name, predicted_BK = link(self.recipe.loss, outputs_BK, exact)
        if name:
            outputs[name] = predicted_BK
        return {layer: values[0] for layer, values in outputs.items()}


def train(
    recipe: Recipe,
    data: PreparedData,
    *,
    device: str = "cpu",
    watch: Watch = Watch(),
    bounds: bool = True,
) -> Trace:
    """Train on the recipe's data, rounded to its dtype, in float64 arithmetic.

    Args:
        recipe: what to train.
        data: from `lockstep.data_prep.prepare`.
        device: there is no choice: NumPy computes on the CPU.
        watch: what to record, and where the run begins. States to synchronise with are the oracle's
            own, so that they change the bounds alone: these are then of one update.
        bounds: derive the rounding bounds as well, at about 10 times the work.

    Returns:
        A trace in float64.

    Raises:
        InputError: a checkpoint of another recipe or of other data, or more to record than its
            budget.
    """
    recorder = RunRecorder(recipe, data, watch, backend="oracle", environment={"device": "cpu"})
    rounded = rows_of(recipe, data)
    state = initial_state(recipe, start(rounded))
    if watch.resume is not None:
        state = import_state(state, watch.resume)
    view = _View(recipe, rounded, state, None)
    recorder.begin(view)
    with np.errstate(all="ignore"):  # a training that blows up is recorded as it is
        batches = trajectory(recipe, rounded, Exact(), state, recorder.watched)
        for segment in recorder.segments():
            scalars: dict[str, list[Any]] = {name: [] for name in UPDATE_SERIES}
            for _ in range(segment.start, segment.stop):
                state, record = next(batches)
                for name, values in scalars.items():
                    values.append(getattr(record, name) if record is not None else 0.0)
            view = _View(recipe, rounded, state, record)
            recorder.record(scalars, view)
        trace = recorder.finish(view)
    if bounds:
        derived, horizon = rounding_bounds(
            recipe,
            rounded,
            set(trace.recorded_updates),
            trace.header["detail"],
            statistics=watch.statistics,
            synchronised=watch.synchronise is not None,
        )
        trace.arrays.update({f"bounds/{name}": array for name, array in derived.items()})
        trace.header["horizon"] = horizon._asdict() if horizon else None
    return trace
