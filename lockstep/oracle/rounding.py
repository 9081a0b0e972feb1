"""How far rounding can carry a run: bounds from an ensemble of perturbed trainings.

Each member repeats the float64 training with every operation off by one unit roundoff of the recipe's dtype
(stochastic arithmetic: Parker, Monte Carlo Arithmetic, 1997; Vignes, CADNA, 1993). What the widest member strays
from the exact one, times `SAFETY`, bounds what a correct implementation in that dtype may stray.
"""

from collections import defaultdict
from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from lockstep.data_prep import PreparedData
from lockstep.oracle.arithmetic import BFLOAT16, SAFETY, Array, Moments, Perturbed, unit_roundoff
from lockstep.oracle.average import averaged
from lockstep.oracle.trajectory import State, canonical, evaluate, initial_state, start, trajectory
from lockstep.recipe import Recipe
from lockstep.trace import metric_names

__all__ = ["rounding_bounds"]

MEMBERS = 8
NEIGHBOURS = 8  # updates on either side


def rounding_bounds(
    recipe: Recipe,
    data: PreparedData,
    recorded: set[int],
    detail: Collection[int] = (),
    seed: int = 0,
    statistics: bool = False,
    synchronised: bool = False,
) -> dict[str, NDArray[np.float64]]:
    """Absolute bounds on |a correct run - oracle|.

    Args:
        recipe: what is trained; its dtype sets the size of a rounding.
        data: float64, from `trajectory.rows_of`.
        recorded: after how many updates the parameters are compared.
        detail: the updates of which the detail is compared.
        seed: of the directions in which the members err.
        statistics: of every update the statistics are compared too.
        synchronised: every update begins from the exact state, stored in the dtype: the bounds are of one update.

    Returns:
        named as in a trace: `updates/loss`, `updates/grad_norm`, `updates/update_norm` (T,), `epochs/...` (E,), and
        `parameters/<u>/<name>`, `average/<u>/<name>` and `detail/<u>/...` (but its batch), all (), for the worst
        element of the tensor; `statistics/...` (T, 1), that of the tensor at every update. Bounds are infinite from
        the update on at which the oracle or a member leaves the range that the dtype can compute in.

    Neither mean nor root mean square nor largest value of a tensor can stray farther than its worst element. How far
    the members' own stray bounds less: they err at random, which averages out over a tensor, and a float32 run need
    not, as where it loses a small weight decay in every element.
    """
    compute = BFLOAT16 if recipe.training.compute == "bfloat16" else None
    arithmetic = Perturbed(MEMBERS, unit_roundoff(recipe.dtype), seed, compute)
    members = {name: np.repeat(array[None], MEMBERS + 1, axis=0) for name, array in start(data).items()}
    series: dict[str, list[float]] = {"loss": [], "grad_norm": [], "update_norm": []}
    metrics: dict[str, list[float]] = {name: [] for name in metric_names(recipe.loss)}
    bounds: dict[str, NDArray[np.float64]] = {}
    of_statistics: dict[str, NDArray[np.float64]] = defaultdict(lambda: np.zeros(data.updates))
    # beyond this a square, as in a norm, leaves the range of the dtype
    largest, overflowed = float(np.sqrt(np.finfo(recipe.dtype).max)), False
    with np.errstate(all="ignore"):  # a training that blows up has infinite bounds
        watched = range(data.updates) if statistics else detail
        steps, given = trajectory(recipe, data, arithmetic, initial_state(recipe, members), watched), None
        for _ in range(data.epochs * data.batches_per_epoch):
            state, step = steps.send(given)
            given = _synchronised(state, arithmetic) if synchronised and step else None
            if step is None:
                continue
            scalars = [getattr(step, name) for name in series]
            seen = max(np.abs(array).max() for array in (*scalars, *state.parameters.values()))
            overflowed = overflowed or not seen <= largest
            for values, scalar in zip(series.values(), scalars):
                values.append(np.inf if overflowed else _spread(scalar))
            done = state.updates
            if done - 1 in watched:
                remembered = {f"moments/{s}/{n}": [m] for n, slots in state.moments.items() for s, m in slots.items()}
                for name, arrays in (step.detail | remembered).items():
                    if name.startswith("batch"):
                        continue
                    spread = np.inf if overflowed else max(_spread(array) for array in arrays)
                    if done - 1 in detail:
                        bounds[f"detail/{done - 1}/{name}"] = np.array(spread)
                    if statistics:
                        of_statistics[name][done - 1] = spread
            if statistics or done in recorded:
                average = averaged(recipe.average, state.average, done, arithmetic)
                for kind, tensors in (("parameters", state.parameters | state.statistics), ("average", average)):
                    for name, array in canonical(tensors).items():
                        spread = np.inf if overflowed else _spread(array)
                        if done in recorded:
                            bounds[f"{kind}/{done}/{name}"] = np.array(spread)
                        if statistics:
                            of_statistics[f"{kind}/{name}"][done - 1] = spread
            if done % data.updates_per_epoch == 0:
                for part, x_ND, y_N in (
                    ("train", data.train_x_ND, data.train_y_N),
                    ("held_out", data.held_out_x_ND, data.held_out_y_N),
                ):
                    found, margin_N = evaluate(state.parameters, state.statistics, x_ND, y_N, recipe, arithmetic)
                    for name, value in found.items():
                        spread = _spread(value) if name != "accuracy" or margin_N is None else _undecided(margin_N)
                        metrics[f"{part}_{name}"].append(np.inf if overflowed else spread)
    bounds |= {f"updates/{name}": _widen(np.array(values)) for name, values in series.items()}
    bounds |= {f"statistics/{name}": _widen(spread_T)[:, None] for name, spread_T in of_statistics.items()}
    return bounds | {f"epochs/{name}": np.array(values) for name, values in metrics.items()}


def _synchronised(state: State, arithmetic: Perturbed) -> State:
    """The exact member's state, as each member stores it."""

    def stored(tensors: Moments) -> Moments:
        return {
            name: arithmetic.round(np.broadcast_to(array[:1], array.shape)) if array.ndim > 2 else array
            for name, array in tensors.items()
        }

    return state._replace(
        parameters=stored(state.parameters),
        moments={name: stored(slots) for name, slots in state.moments.items()},
        average=stored(state.average),
        statistics=stored(state.statistics),
    )


def _spread(members: Array) -> float:
    """SAFETY times the largest distance of any element of any member from member 0."""
    widest = float(np.abs(members - members[:1]).max())
    return SAFETY * widest if np.isfinite(widest) else np.inf


def _widen(spread_T: NDArray[np.float64]) -> NDArray[np.float64]:
    """The largest of each update's and its neighbours': a few members may agree by chance at one update."""
    padded = np.pad(spread_T, NEIGHBOURS, mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * NEIGHBOURS + 1)
    return np.asarray(windows.max(axis=-1))


def _undecided(margin_MN: Array) -> float:
    """Share of rows whose answer rounding may turn."""
    spread_N = np.abs(margin_MN - margin_MN[:1]).max(axis=0)
    decided_N = np.abs(margin_MN[0]) > SAFETY * spread_N
    return float(1 - decided_N.mean())
