"""How far rounding can carry a run: bounds from an ensemble of perturbed trainings.

Each member repeats the float64 training with every operation off by one unit roundoff of the
recipe's dtype
(stochastic arithmetic: Parker, Monte Carlo Arithmetic, 1997; Vignes, CADNA, 1993). What the widest
member strays
from the exact one, times `SAFETY`, bounds what a correct implementation in that dtype may stray.

Bounds end where they say nothing: at the horizon. They are infinite from there on.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lockstep.data_prep import PreparedData
from lockstep.oracle.arithmetic import BFLOAT16, SAFETY, Array, Moments, Perturbed, unit_roundoff
from lockstep.oracle.average import averaged
from lockstep.oracle.network import Parameters
from lockstep.oracle.trajectory import (
    State,
    Step,
    canonical,
    evaluate,
    initial_state,
    start,
    trajectory,
)
from lockstep.recipe import Recipe
from lockstep.records.trace import metric_names

__all__ = ["AMPLIFIED", "Horizon", "rounding_bounds"]

MEMBERS = 8
NEIGHBOURS = 8  # updates on either side
LOST = {"same": 0.01, "bfloat16": 0.25}
"""Share of the way that the parameters have gone, and of the loss, that a bound may reach, by what
products are computed in. Beyond it the members no longer stray in proportion to rounding, and a
right run may leave them by more than `SAFETY` (docs/equality.md). One rounding of bfloat16 is 0.4 %
itself: its bounds begin at some per cent."""
AMPLIFIED = "rounding is amplified so far that right runs may part"
"""The reason of a horizon that is not the dtype's range."""
WORDS = {"loss": "the loss", "grad_norm": "the gradient's norm", "update_norm": "the update's norm"}


class Horizon(NamedTuple):
    """The first update, counted from 0, from which on rounding decides where a run is, and why, to
    be read after "from there on"."""

    update: int
    reason: str


def rounding_bounds(
    recipe: Recipe,
    data: PreparedData,
    recorded: set[int],
    detail: Collection[int] = (),
    seed: int = 0,
    statistics: bool = False,
    synchronised: bool = False,
) -> tuple[dict[str, NDArray[np.float64]], Horizon | None]:
    """Absolute bounds on |a correct run - oracle|, and where they end.

    Args:
        recipe: what is trained; its dtype sets the size of a rounding.
        data: float64, from `trajectory.rows_of`.
        recorded: after how many updates the parameters are compared.
        detail: the updates of which the detail is compared.
        seed: of the directions in which the members err.
        statistics: of every update the statistics are compared too.
        synchronised: every update begins from the exact state, stored in the dtype: the bounds are
        of one update.

    Returns:
        Bounds, named as in a trace: `updates/loss`, `updates/grad_norm`, `updates/update_norm`
        (T,), `epochs/...` (E,), and `parameters/<u>/<name>`, `average/<u>/<name>` and
        `detail/<u>/...` (but its batch), all (), for the worst element of the tensor;
        `statistics/...` (T, 1), that of the tensor at every update. They are infinite from the
        horizon on: the first update at which the oracle or a member leaves the range that the dtype
        can compute in, or at which bounds are no longer small beside what they bound. The horizon
        is None where there is none.

    Neither mean nor root mean square nor largest value of a tensor can stray farther than its worst
    element. How far the members' own stray bounds less: they err at random, which averages out over
    a tensor, and a float32 run need not, as where it loses a small weight decay in every element.
    """
    compute = BFLOAT16 if recipe.training.compute == "bfloat16" else None
    arithmetic = Perturbed(MEMBERS, unit_roundoff(recipe.dtype), seed, compute)
    members = {
        name: np.repeat(array[None], MEMBERS + 1, axis=0) for name, array in start(data).items()
    }
    watched = range(data.updates) if statistics else detail
    collected = _Spreads(recipe, data, arithmetic, recorded, detail, statistics)
    with np.errstate(all="ignore"):  # a training that blows up has infinite bounds
        steps, given = (
            trajectory(recipe, data, arithmetic, initial_state(recipe, members), watched),
            None,
        )
        for _ in range(data.epochs * data.batches_per_epoch):
            state, step = steps.send(given)
            given = _synchronised(state, arithmetic) if synchronised and step else None
            if step is not None:
                collected.take(state, step)
        return collected.bounds()


class _Spreads:
    """How far the members stray from the exact run, update by update."""

    def __init__(
        self,
        recipe: Recipe,
        data: PreparedData,
        arithmetic: Perturbed,
        recorded: Collection[int],
        detail: Collection[int],
        statistics: bool,
    ) -> None:
        self.recipe, self.data, self.arithmetic = recipe, data, arithmetic
        self.recorded, self.detail, self.has_statistics = recorded, detail, statistics
        self.initial = start(data)
        # beyond this a square, as in a norm, leaves the range of the dtype
        self.largest = float(np.sqrt(np.finfo(recipe.dtype).max))
        self.smallest = float(np.finfo(recipe.dtype).tiny)
        self.series: dict[str, list[float]] = {"loss": [], "grad_norm": [], "update_norm": []}
        self.sizes: dict[str, list[float]] = {name: [] for name in self.series}
        self.metrics: dict[str, list[float]] = {name: [] for name in metric_names(recipe.loss)}
        self.tensors: dict[str, tuple[int, float]] = {}
        self.statistics: dict[str, NDArray[np.float64]] = defaultdict(
            lambda: np.zeros(data.updates)
        )
        self.farthest = 0.0
        self.horizon: Horizon | None = None

    def take(self, state: State, step: Step) -> None:
        """The spreads of an update that is complete."""
        scalars = {"loss": step.loss, "grad_norm": step.grad_norm, "update_norm": step.update_norm}
        for name, members in scalars.items():
            self.series[name].append(self._spread(members))
            self.sizes[name].append(float(np.abs(members.flat[0])))
        self._move_horizon(scalars, state)
        self._take_detail(state, step)
        self._take_parameters(state)
        if state.updates % self.data.updates_per_epoch == 0:
            self._take_metrics(state)

    def bounds(self) -> tuple[dict[str, NDArray[np.float64]], Horizon | None]:
        """As `rounding_bounds`."""
        end = self.horizon.update if self.horizon else self.data.updates
        length = self.data.updates_per_epoch
        bounds = {
            name: np.array(spread if update < end else np.inf)
            for name, (update, spread) in self.tensors.items()
        }
        for name, spreads in self.series.items():
            bounds[f"updates/{name}"] = _widen(np.array(spreads), np.array(self.sizes[name]), end)
        for name, spread_T in self.statistics.items():
            bounds[f"statistics/{name}"] = _widen(spread_T, np.ones_like(spread_T), end)[:, None]
        for name, spreads in self.metrics.items():
            spread_E = np.array(spreads)
            spread_E[end // length :] = np.inf  # an epoch's metrics belong to its last update
            bounds[f"epochs/{name}"] = spread_E
        return bounds, self.horizon

    def _spread(self, members: Array) -> float:
        """SAFETY times the largest distance of any element of any member from member 0, or the
        smallest normal number, below which XLA keeps nothing of a number and PyTorch some of its
        bits; what is 0 in all members is 0."""
        widest = float(np.abs(members - members[:1]).max())
        if not np.isfinite(widest):
            return np.inf
        return SAFETY * max(widest, self.smallest if np.any(members) else 0.0)

    def _move_horizon(self, scalars: Mapping[str, Array], state: State) -> None:
        """The horizon is the first update at which rounding decides: runs that have parted do not
        come together.
        """
        if self.horizon is not None:
            return
        reason = self._leaves_range({**scalars, **state.parameters})
        if not reason and self._is_lost(state.parameters):
            reason = AMPLIFIED
        if reason:
            self.horizon = Horizon(state.updates - 1, reason)

    def _leaves_range(self, values: Mapping[str, Array]) -> str:
        for name, members in values.items():
            if not np.abs(members).max() <= self.largest:
                return f"{WORDS.get(name, name)} leaves {self.recipe.training.dtype}'s range"
        return ""

    def _is_lost(self, parameters: Parameters) -> bool:
        """Whether bounds are as wide as what they bound: those of the parameters as the way that
        these have gone, that of the loss as the loss. Either alone may be, of a rate near 0 and of
        a loss near 0."""
        way = np.sqrt(
            sum(np.square(members[0] - self.initial[n]).sum() for n, members in parameters.items())
        )
        strays = [
            np.square(members - members[:1]).sum(axis=(1, 2)) for members in parameters.values()
        ]
        self.farthest = max(self.farthest, float(way))
        strayed = SAFETY * float(np.sqrt(sum(strays).max()))
        share = LOST[self.recipe.training.compute]
        return (
            strayed > share * self.farthest
            and self.series["loss"][-1] > share * self.sizes["loss"][-1]
        )

    def _take_detail(self, state: State, step: Step) -> None:
        update = state.updates - 1
        if not (self.has_statistics or update in self.detail):
            return
        arrays = dict(step.detail)
        for name, slots in state.moments.items():
            arrays |= {f"moments/{slot}/{name}": [members] for slot, members in slots.items()}
        for name, members in arrays.items():
            if not name.startswith("batch"):
                spread = max(self._spread(array) for array in members)
                if update in self.detail:
                    self.tensors[f"detail/{update}/{name}"] = update, spread
                if self.has_statistics:
                    self.statistics[name][update] = spread

    def _take_parameters(self, state: State) -> None:
        done = state.updates
        if not (self.has_statistics or done in self.recorded):
            return
        average = averaged(self.recipe.average, state.average, done, self.arithmetic)
        for kind, tensors in (
            ("parameters", state.parameters | state.statistics),
            ("average", average),
        ):
            for name, members in canonical(tensors).items():
                spread = self._spread(members)
                if done in self.recorded:
                    self.tensors[f"{kind}/{done}/{name}"] = done - 1, spread
                if self.has_statistics:
                    self.statistics[f"{kind}/{name}"][done - 1] = spread

    def _take_metrics(self, state: State) -> None:
        for part, x_ND, y_N in (
            ("train", self.data.train_x_ND, self.data.train_y_N),
            ("held_out", self.data.held_out_x_ND, self.data.held_out_y_N),
        ):
            values, margin_N = evaluate(
                state.parameters, state.statistics, x_ND, y_N, self.recipe, self.arithmetic
            )
            for name, members in values.items():
                is_counted = name == "accuracy" and margin_N is not None
                self.metrics[f"{part}_{name}"].append(
                    _undecided(margin_N, self.smallest) if is_counted else self._spread(members)
                )


def _synchronised(state: State, arithmetic: Perturbed) -> State:
    """The exact member's state, as each member stores it."""

    def stored(tensors: Moments) -> Moments:
        return {
            name: arithmetic.round(np.broadcast_to(array[:1], array.shape))
            if array.ndim > 2
            else array
            for name, array in tensors.items()
        }

    return state._replace(
        parameters=stored(state.parameters),
        moments={name: stored(slots) for name, slots in state.moments.items()},
        average=stored(state.average),
        statistics=stored(state.statistics),
    )


def _widen(
    spread_T: NDArray[np.float64], size_T: NDArray[np.float64], end: int
) -> NDArray[np.float64]:
    """The largest of each update's and its neighbours', infinite from `end` on: a few members may
    agree by chance at one update. What is wider because its values are larger counts in proportion,
    or an explosion would hide its beginning."""
    if not end:
        return np.full(len(spread_T), np.inf)
    windows = np.lib.stride_tricks.sliding_window_view
    padded, sizes = (
        np.pad(values_T[:end], NEIGHBOURS, mode="edge") for values_T in (spread_T, size_T)
    )
    width = 2 * NEIGHBOURS + 1
    grown = windows(sizes, width) / size_T[:end, None]
    widest = (windows(padded, width) / np.fmax(grown, 1.0)).max(axis=-1)
    return np.concatenate([widest, np.full(len(spread_T) - end, np.inf)])


def _undecided(margin_MN: Any, smallest: float) -> float:
    """Share of rows whose answer rounding may turn; a margin below the smallest normal number may
    be lost.
    """
    spread_N = np.maximum(np.abs(margin_MN - margin_MN[:1]).max(axis=0), smallest)
    decided_N = np.abs(margin_MN[0]) > SAFETY * spread_N
    return float(1 - decided_N.mean())
