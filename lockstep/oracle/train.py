"""Train a recipe in float64 and record it, with bounds on what rounding may do to a run of the recipe's dtype."""

from collections.abc import Collection, Iterator
from typing import Any

import numpy as np

from lockstep.data_prep import PreparedData
from lockstep.oracle.arithmetic import Exact
from lockstep.oracle.average import averaged
from lockstep.oracle.checkpoint import export_state, import_state
from lockstep.oracle.loss import link
from lockstep.oracle.network import forward
from lockstep.oracle.rounding import rounding_bounds
from lockstep.oracle.trajectory import canonical, evaluate, initial_state, rows_of, start, trajectory
from lockstep.recipe import Recipe
from lockstep.records.checkpoint import Checkpoint, Checkpoints, make_checkpoint
from lockstep.records.trace import BUDGET_MIB, UPDATE_SERIES, Progress, RunRecorder, Trace

__all__ = ["states", "train"]


def states(recipe: Recipe, data: PreparedData) -> Iterator[Checkpoint]:
    """The state before every update, one after another as they are asked for."""
    seen = rows_of(recipe, data)
    begin = initial_state(recipe, start(seen))
    yield make_checkpoint(recipe, data, 0, "oracle", export_state(begin))
    with np.errstate(all="ignore"):
        for state, step in trajectory(recipe, seen, Exact(), begin):
            if step:
                yield make_checkpoint(recipe, data, state.batches, "oracle", export_state(state))


def train(
    recipe: Recipe,
    data: PreparedData,
    *,
    device: str = "cpu",
    parameters_every: int = 0,
    detail: Collection[int] = (),
    statistics: bool = False,
    progress: Progress | None = None,
    resume: Checkpoint | None = None,
    checkpoints: Checkpoints | None = None,
    synchronise: Iterator[Checkpoint] | None = None,
    budget_mib: float = BUDGET_MIB,
    bounds: bool = True,
) -> Trace:
    """Train on the recipe's data, rounded to its dtype, in float64 arithmetic.

    Args:
        recipe: what to train.
        data: from `lockstep.data_prep.prepare`.
        device: there is no choice: NumPy computes on the CPU.
        parameters_every: record the parameters after every so many updates too; 0: at epoch ends only.
        detail: the updates, counted from 0, to record in detail, from rows to moments.
        statistics: record mean, root mean square and largest absolute value of every tensor at every update too.
        progress: told how far the run is.
        resume: where to go on from, whichever backend wrote it; None: at the start.
        checkpoints: how often to write one, and where to; None: never.
        synchronise: these states are the oracle's own, so that only the bounds are others: of one update.
        budget_mib: MiB of memory that the detail of all updates and the statistics may take.
        bounds: derive the rounding bounds as well, at about 10 times the work.

    Returns:
        A trace in float64.
    """
    environment = {"device": "cpu"}
    recorder = RunRecorder(
        recipe,
        data,
        backend="oracle",
        environment=environment,
        parameters_every=parameters_every,
        detail=detail,
        statistics=statistics,
        progress=progress,
        resume=resume,
        checkpoints=checkpoints,
        synchronise=synchronise,
        budget_mib=budget_mib,
    )
    exact, seen = Exact(), rows_of(recipe, data)
    state = initial_state(recipe, start(seen))
    if resume is not None:
        state = import_state(state, resume)
    average = averaged(recipe.average, state.average, state.updates, exact)
    recorder.record_parameters(canonical(state.parameters | state.statistics), canonical(average))
    with np.errstate(all="ignore"):  # a training that blows up is recorded as it is
        steps = trajectory(recipe, seen, exact, state, recorder.watched)
        for segment in recorder.segments():
            scalars: dict[str, list[Any]] = {name: [] for name in UPDATE_SERIES}
            for _ in range(segment.start, segment.stop):
                state, step = next(steps)
                for name, values in scalars.items():
                    values.append(getattr(step, name) if step else 0.0)
            parameters, running = state.parameters, state.statistics
            average = averaged(recipe.average, state.average, state.updates, exact)
            recorder.record_segment(scalars)
            if recorder.is_detailed and step:
                recorder.record_detail(step.detail, export_state(state))
            recorder.record_parameters(canonical(parameters | running), canonical(average))
            if recorder.checkpoint_is_due:
                recorder.save_checkpoint(export_state(state))
            if segment.stop == data.batches_per_epoch:
                parts = ((seen.train_x_ND, seen.train_y_N), (seen.held_out_x_ND, seen.held_out_y_N))
                found = (evaluate(parameters, running, *part, recipe, exact)[0] for part in parts)
                recorder.record_epoch(*({name: float(value) for name, value in metrics.items()} for metrics in found))
        outputs = forward(recipe.model, parameters, seen.held_out_x_ND[:1], exact, statistics=running).outputs
        *_, outputs_BK = outputs.values()
        name, predicted_BK = link(recipe.loss, outputs_BK, exact)
        outputs |= {name: predicted_BK} if name else {}
    prediction = {name: values[0] for name, values in outputs.items()}
    trace = recorder.finish(prediction)
    if bounds:
        derived, horizon = rounding_bounds(
            recipe,
            seen,
            set(trace.recorded_updates),
            trace.header["detail"],
            statistics=statistics,
            synchronised=synchronise is not None,
        )
        trace.arrays.update({f"bounds/{name}": array for name, array in derived.items()})
        trace.header["horizon"] = horizon._asdict() if horizon else None
    return trace
