"""How far rounding can carry a run: bounds from an ensemble of perturbed trainings.

Each member repeats the float64 training with every operation off by one unit roundoff of the
recipe's dtype (stochastic arithmetic: Parker, Monte Carlo Arithmetic, 1997; Vignes, CADNA, 1993).
The distance of the widest member from the exact one, times `SAFETY`, bounds what a correct
implementation in that dtype may stray.

Bounds end where they say nothing: at the horizon. They are infinite from there on.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lockstep.data_prep import PreparedData
from lockstep.oracle.arithmetic import BFLOAT16, SAFETY, Array, Moments, Perturbed, unit_roundoff
from lockstep.oracle.average import averaged
from lockstep.oracle.network import Parameters
from lockstep.oracle.trajectory import (
    Detail,
    State,
    UpdateRecord,
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
"""Precision of products -> share of the way that the parameters have gone, and of the loss, that a
bound may reach. Beyond it the members no longer stray in proportion to rounding, and a right run
may leave them by more than `SAFETY` (docs/equality.md). One rounding of bfloat16 is 0.4 % itself:
its bounds begin at some per cent."""
AMPLIFIED = "rounding is amplified so far that right runs may part"
"""The reason of a horizon that is not the dtype's range."""
WORDS = {"loss": "the loss", "grad_norm": "the gradient's norm", "update_norm": "the update's norm"}


class Horizon(NamedTuple):
    """The first update, counted from 0, from which on rounding decides where a run is, and the
    reason, to be read after "from there on".
    """

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
        statistics: whether the statistics of every update are compared too.
        synchronised: whether every update begins from the exact state, stored in the dtype; the
            bounds are then of one update.

    Returns:
        Bounds, named as in a trace: `updates/loss`, `updates/grad_norm`, `updates/update_norm`
        (T,), `epochs/...` (E,), and `parameters/<u>/<name>`, `average/<u>/<name>` and
        `detail/<u>/...` (but its batch), all (), for the worst element of the tensor;
        `statistics/...` (T, 1), that of the tensor at every update. They are infinite from the
        horizon on: the first update at which the oracle or a member leaves the range that the dtype
        can compute in, or at which bounds are no longer small beside what they bound. The horizon
        is None where there is none.

    Neither mean nor root mean square nor largest value of a tensor can stray farther than its worst
    element. The members' own statistics would give tighter bounds, and wrong ones: members err at
    random, which averages out over a tensor. A float32 run need not, as where it loses a small
    weight decay in every element.
    """
    compute = BFLOAT16 if recipe.training.compute == "bfloat16" else None
    arithmetic = Perturbed(MEMBERS, unit_roundoff(recipe.dtype), seed, compute)
    members = {
        name: np.repeat(array[None], MEMBERS + 1, axis=0) for name, array in start(data).items()
    }
    watched = range(data.updates) if statistics else detail
    spreads = _Spreads(recipe, data, arithmetic, recorded, detail, statistics)
    with np.errstate(all="ignore"):  # a training that blows up has infinite bounds
        begin = initial_state(recipe, members)
        batches = trajectory(recipe, data, arithmetic, begin, watched)
        sent: State | None = None
        for _ in range(data.epochs * data.batches_per_epoch):
            state, record = batches.send(sent)
            sent = None
            if record is not None:
                if synchronised:
                    sent = _synchronised(state, arithmetic)
                spreads.add(state, record)
        return spreads.bounds()


class _Spreads:
    """How far the members stray from the exact run, collected update by update."""

    def __init__(
        self,
        recipe: Recipe,
        data: PreparedData,
        arithmetic: Perturbed,
        recorded: Collection[int],
        detail: Collection[int],
        statistics: bool,
    ) -> None:
        self.recipe = recipe
        self.data = data
        self.arithmetic = arithmetic
        self.recorded = recorded
        self.detail = detail
        self.has_statistics = statistics
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

    def add(self, state: State, record: UpdateRecord) -> None:
        """Add an update that is complete."""
        scalars = {
            "loss": record.loss,
            "grad_norm": record.grad_norm,
            "update_norm": record.update_norm,
        }
        for name, members in scalars.items():
            self.series[name].append(self._spread(members))
            self.sizes[name].append(float(np.abs(members.flat[0])))
        self._move_horizon(scalars, state)
        self._add_detail(state, record)
        self._add_parameters(state)
        if state.updates % self.data.updates_per_epoch == 0:
            self._add_metrics(state)

    def bounds(self) -> tuple[dict[str, NDArray[np.float64]], Horizon | None]:
        """As `rounding_bounds`."""
        end = self.horizon.update if self.horizon else self.data.updates
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
            # an epoch's metrics belong to its last update
            spread_E[end // self.data.updates_per_epoch :] = np.inf
            bounds[f"epochs/{name}"] = spread_E
        return bounds, self.horizon

    def _spread(self, members: Array) -> float:
        """SAFETY times the largest distance of any element of any member from member 0, or times
        the smallest normal number where that is larger: below it XLA keeps nothing of a number and
        PyTorch some of its bits. What is 0 in all members is 0.
        """
        widest = float(np.abs(members - members[:1]).max())
        if not np.isfinite(widest):
            return np.inf
        return SAFETY * max(widest, self.smallest if np.any(members) else 0.0)

    def _move_horizon(self, scalars: Mapping[str, Array], state: State) -> None:
        """Set the horizon at the first update at which rounding decides: runs that have parted do
        not come together.
        """
        if self.horizon is not None:
            return
        reason = self._leaves_range({**scalars, **state.parameters})
        if not reason and self._is_lost(state.parameters):
            reason = AMPLIFIED
        if reason:
            self.horizon = Horizon(state.updates - 1, reason)

    def _leaves_range(self, values: Mapping[str, Array]) -> str:
        """What leaves the dtype's range, in words; "" where nothing does."""
        for name, members in values.items():
            if not np.abs(members).max() <= self.largest:
                return f"{WORDS.get(name, name)} leaves {self.recipe.training.dtype}'s range"
        return ""

    def _is_lost(self, parameters: Parameters) -> bool:
        """Whether bounds are as wide as what they bound: the parameters' as the way that these have
        gone, and the loss's as the loss. One of the two alone may be, at a rate near 0 or a loss
        near 0.
        """
        squares = [
            np.square(members[0] - self.initial[name]).sum() for name, members in parameters.items()
        ]
        strays = [
            np.square(members - members[:1]).sum(axis=(1, 2)) for members in parameters.values()
        ]
        self.farthest = max(self.farthest, float(np.sqrt(sum(squares))))
        strayed = SAFETY * float(np.sqrt(sum(strays).max()))
        share = LOST[self.recipe.training.compute]
        is_loss_lost = self.series["loss"][-1] > share * self.sizes["loss"][-1]
        return strayed > share * self.farthest and is_loss_lost

    def _add_detail(self, state: State, record: UpdateRecord) -> None:
        update = record.update
        if not (self.has_statistics or update in self.detail):
            return
        arrays: Detail = dict(record.detail)
        for name, slots in state.moments.items():
            arrays |= {f"moments/{slot}/{name}": [members] for slot, members in slots.items()}
        for name, of_batches in arrays.items():
            if name.startswith("batch"):
                continue
            spread = max(self._spread(members) for members in of_batches)
            if update in self.detail:
                self.tensors[f"detail/{update}/{name}"] = update, spread
            if self.has_statistics:
                self.statistics[name][update] = spread

    def _add_parameters(self, state: State) -> None:
        updates = state.updates
        if not (self.has_statistics or updates in self.recorded):
            return
        average = averaged(self.recipe.average, state.average, updates, self.arithmetic)
        kinds = {"parameters": state.parameters | state.statistics, "average": average}
        for kind, tensors in kinds.items():
            for name, members in canonical(tensors).items():
                spread = self._spread(members)
                if updates in self.recorded:
                    self.tensors[f"{kind}/{updates}/{name}"] = updates - 1, spread
                if self.has_statistics:
                    self.statistics[f"{kind}/{name}"][updates - 1] = spread

    def _add_metrics(self, state: State) -> None:
        data = self.data
        parts = {
            "train": (data.train_x_ND, data.train_y_N),
            "held_out": (data.held_out_x_ND, data.held_out_y_N),
        }
        for part, (x_ND, y_N) in parts.items():
            values, margin_N = evaluate(
                state.parameters, state.statistics, x_ND, y_N, self.recipe, self.arithmetic
            )
            for name, members in values.items():
                if name == "accuracy" and margin_N is not None:
                    spread = _undecided(margin_N, self.smallest)
                else:
                    spread = self._spread(members)
                self.metrics[f"{part}_{name}"].append(spread)


def _synchronised(state: State, arithmetic: Perturbed) -> State:
    """The exact member's state, as each member stores it."""

    def stored(tensors: Moments) -> Moments:
        rounded = dict(tensors)
        for name, array in tensors.items():
            if array.ndim > 2:
                rounded[name] = arithmetic.round(np.broadcast_to(array[:1], array.shape))
        return rounded

    return state._replace(
        parameters=stored(state.parameters),
        moments={name: stored(slots) for name, slots in state.moments.items()},
        average=stored(state.average),
        statistics=stored(state.statistics),
    )


def _widen(
    spread_T: NDArray[np.float64], size_T: NDArray[np.float64], end: int
) -> NDArray[np.float64]:
    """The largest of each update's spread and its neighbours', infinite from `end` on: a few
    members may agree by chance at one update. A spread that is wider because its values are larger
    counts in proportion, or an explosion would hide its beginning.
    """
    if not end:
        return np.full(len(spread_T), np.inf)
    width = 2 * NEIGHBOURS + 1
    windows = np.lib.stride_tricks.sliding_window_view
    spreads = windows(np.pad(spread_T[:end], NEIGHBOURS, mode="edge"), width)
    sizes = windows(np.pad(size_T[:end], NEIGHBOURS, mode="edge"), width)
    growth = sizes / size_T[:end, None]
    widest = (spreads / np.fmax(growth, 1.0)).max(axis=-1)
    return np.concatenate([widest, np.full(len(spread_T) - end, np.inf)])


def _undecided(margin_MN: Array, smallest: float) -> float:
    """Share of rows whose answer rounding may turn. A margin below the smallest normal number may
    be lost.
    """
    spread_N = np.maximum(np.abs(margin_MN - margin_MN[:1]).max(axis=0), smallest)
    decided_N = np.abs(margin_MN[0]) > SAFETY * spread_N
    return float(1 - decided_N.mean())
