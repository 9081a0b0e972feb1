"""How the two sides' tensors are related, where there is no recipe to recompute them by."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import permutations

import numpy as np

from lockstep.diagnose.causes.alternatives import Alternative, Cause, choose, fitted
from lockstep.diagnose.causes.digits import low_precision
from lockstep.diagnose.causes.precision import FORMATS, rounded_to
from lockstep.diagnose.causes.side import Side
from lockstep.diagnose.causes.tensors import Tensors, each, family, residual, times
from lockstep.diagnose.compare import Difference
from lockstep.oracle.arithmetic import Array
from lockstep.records.trace import Trace

__all__ = ["relation"]

KEYS = {
    ("gradients", "scaled"): "gradient-scaled",
    ("gradients", "sign"): "gradient-sign",
    ("gradients", "zero"): "gradient-missing",
    ("gradients", "stale"): "gradient-stale",
    ("gradients", "transposed"): "kernel-transposed",
    ("forward", "rounded"): "low-precision-matmul",
    ("init", "transposed"): "init-transposed",
    ("init", "scaled"): "init-scaled",
    ("init", "rounded"): "init-rounded",
    ("batch", "permuted"): "other-order",
    ("batch", "scaled"): "features-scaled",
    ("update", "sign"): "ascent",
    ("update", "zero"): "update-skipped",
    ("update", "decayed"): "other-decay",
    ("update", "scaled"): "lr-scaled",
    ("gradients", "decayed"): "l2-in-gradient",
    ("moments", "zero"): "state-forgotten",
}
"""Stage and relation -> key of the cause; the key of all others is the relation."""

PAGES = {
    "transposed": "kernel-layout",
    "stale": "forgotten-zero-grad",
    "decayed": "l2-is-not-decoupled-decay",
    "zero": "parameters-without-gradient",
}
NOUNS = {
    "update": "step of",
    "parameters": "step of",
    "gradients": "gradient of",
    "init": "initial",
}
DECAYING = ("update", "parameters", "gradients", "clip")
MANY = 2048  # rows that are matched with one another
MOST_AXES = 5
FACTORS = (-1e12, 1e12)


def relation(first: Difference, a: Side, b: Side, oracle: Trace | None) -> Cause | None:
    """What b's tensor is of a's; or a's of b's, where the oracle says that a is off."""
    truth = _family(Side("", oracle, b.update), first.stage) if oracle is not None else {}
    off, right = b, a
    off_tensors = _family(b, first.stage)
    right_tensors = _family(a, first.stage)
    if truth and residual(right_tensors, truth) > residual(off_tensors, truth):
        off, right = a, b
        off_tensors, right_tensors = right_tensors, off_tensors
    differing = _differing(off_tensors, right_tensors)
    if not differing:
        return None
    cause = _related(first, off, right, off_tensors, right_tensors, differing)
    if cause is None:
        cause = _rounded(first, off, right, off_tensors, right_tensors)
        if cause is None and not truth:
            cause = _rounded(first, right, off, right_tensors, off_tensors)
    # without an oracle only the relation of the two is known, not who is off
    return cause if cause is None or truth else replace(cause, side="")


def _related(
    first: Difference,
    off: Side,
    right: Side,
    off_tensors: Tensors,
    right_tensors: Tensors,
    differing: list[str],
) -> Cause | None:
    """A relation that holds for all tensors that differ, or else for the first one alone."""
    one = next((name for name in differing if name.endswith(first.tensor)), differing[0])
    tolerance = max(off.tolerance, right.tolerance)
    # all that differ first: one tensor alone may be explained by more than one relation, and a
    # number that is fitted to it alone says nothing
    for names in (differing, [one]):
        mine = {name: off_tensors[name] for name in names}
        its = {name: right_tensors[name] for name in names}
        candidates = _Relations(first.stage, mine, its, off, right).alternatives()
        if names != differing:
            candidates = (entry for entry in candidates if not entry.rank)
        cause = choose(mine, its, candidates, tolerance, off.name)
        if cause is not None and cause.null_residual > tolerance:
            return cause
    return None


def _rounded(
    first: Difference, off: Side, right: Side, off_tensors: Tensors, right_tensors: Tensors
) -> Cause | None:
    """That one side's tensors have fewer digits than the other's."""
    return low_precision(first, off, off_tensors, right_tensors, f"{right.name}'s")


def _differing(mine: Tensors, its: Tensors) -> list[str]:
    """The tensors of one shape that differ."""
    return [
        name
        for name, array in its.items()
        if name in mine and array.shape == mine[name].shape and (array != mine[name]).any()
    ]


def _family(side: Side, stage: str, update: int | None = None) -> Tensors:
    """The tensors of a stage; for "update" and "parameters" the change of every parameter."""
    update = side.update if update is None else update
    if stage == "init":
        return family("init", side.below("parameters/0/"))
    if stage in ("update", "parameters"):
        before = side.parameters(update)
        after = side.parameters(update + 1)
        changes = {name: after[name] - before[name] for name in after if name in before}
        return family("update", changes)
    return family(stage, side.detail(stage, update))


@dataclass(frozen=True)
class _Relations:
    """What one side's tensors, `mine`, may be of the other's, `its`. The first side is off."""

    stage: str
    mine: Tensors
    its: Tensors
    off: Side
    right: Side

    def alternatives(self) -> Iterator[Alternative]:
        """The known relations, the simplest first."""
        other = self.right.name
        zeros = each(np.zeros_like, self.its)
        yield self._alternative("zero", f"is 0; {other}'s is not", zeros)
        negated = each(np.negative, self.its)
        yield self._alternative("sign", f"is {other}'s with the other sign", negated)
        for kind, text, tensors in _layouts(self.mine, self.its):
            yield self._alternative(kind, text.format(other=other), tensors)
        for name in FORMATS if self.off.precision == "float64" else list(FORMATS)[1:]:
            low = each(partial(rounded_to, name), self.its)
            yield self._alternative("rounded", f"is {other}'s rounded to {name}", low)
        yield from self._stale()
        yield from self._named_factors()
        yield from fitted(
            self._key("scaled"),
            f"{self.head} is {{value}} times {other}'s",
            "",
            lambda factor: times(factor, self.its),
            self.mine,
            1.0,
            FACTORS,
        )
        yield from self._decayed()

    @property
    def head(self) -> str:
        """The subject of a text: "{side}'s gradient of linear1.weight"."""
        names = [name.partition("/")[2] for name in self.mine]
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        return f"{{side}}'s {NOUNS.get(self.stage, self.stage)} {', '.join(names[:3])}{more}"

    def _key(self, kind: str) -> str:
        stage = "update" if self.stage == "parameters" else self.stage
        return KEYS.get((stage, kind), kind)

    def _alternative(self, kind: str, text: str, tensors: Tensors, page: str = "") -> Alternative:
        page = page or PAGES.get(kind, "")
        return Alternative(self._key(kind), f"{self.head} {text}", page, tensors)

    def _stale(self) -> Iterator[Alternative]:
        """The tensors of a neighbouring update, or added to those of the update before."""
        other = self.right.name
        for update, word in ((self.off.update - 1, "before"), (self.off.update + 1, "after")):
            near = _family(self.right, self.stage, update) if update >= 0 else {}
            if _fits(near, self.mine):
                tensors = {name: near[name] for name in self.mine}
                yield self._alternative("stale", f"is {other}'s of the update {word}", tensors)
        before = _family(self.off, self.stage, self.off.update - 1) if self.off.update else {}
        if _fits(before, self.mine):
            summed = {name: self.its[name] + before[name] for name in self.mine}
            text = f"is {other}'s plus its own of the update before"
            yield self._alternative("stale", text, summed)

    def _named_factors(self) -> Iterator[Alternative]:
        """A factor that has a name: the rows of the batch, or a whole number in the settings."""
        counts: dict[str, int] = {}
        batch = self.off.batch()
        if batch is not None:
            counts["the rows of the batch"] = len(batch.y)
        settings = self.off.trace.header.get("settings", {})
        counts |= {
            name: value for name, value in settings.items() if type(value) is int and value > 1
        }
        other = self.right.name
        is_of_loss = self.stage in ("loss", "gradients")
        for name, count in counts.items():
            is_of_rows = name == "the rows of the batch"
            page = "optax-losses-do-not-reduce" if is_of_rows else "accumulation-sum-or-mean"
            page = page if is_of_loss else ""
            text = f"is {count} times {other}'s: {name}"
            yield self._alternative("scaled", text, times(count, self.its), page)
            text = f"is {other}'s divided by {count}: {name}"
            divided = {key: array / count for key, array in self.its.items()}
            yield self._alternative("scaled", text, divided, page)

    def _decayed(self) -> Iterator[Alternative]:
        """The other side's plus a multiple of the parameters."""
        parameters = self.off.parameters(self.off.update)
        names = {name: name.partition("/")[2] for name in self.its}
        if self.stage not in DECAYING or not parameters.keys() >= set(names.values()):
            return

        def plus_decay(decay: float) -> Tensors:
            return {
                name: array + decay * parameters[names[name]] for name, array in self.its.items()
            }

        text = (
            f"{self.head} is {self.right.name}'s plus {{value}} times the parameter: another "
            "weight decay"
        )
        yield from fitted(
            self._key("decayed"), text, PAGES["decayed"], plus_decay, self.mine, 0.0, (-1e6, 1e6)
        )


def _fits(tensors: Tensors, mine: Tensors) -> bool:
    """Whether all of mine are there, of their shapes."""
    return all(
        name in tensors and tensors[name].shape == array.shape for name, array in mine.items()
    )


def _layouts(mine: Tensors, its: Tensors) -> Iterator[tuple[str, str, Tensors]]:
    """The same numbers in other places: the relation, its text and the tensors."""
    yield from _other_axes(its)
    for axis, word in ((-1, "last axis"), (0, "first axis")):
        flipped = {name: np.flip(array, axis) for name, array in its.items()}
        yield "flipped", f"is {{other}}'s with its {word} reversed", flipped
        matched = {name: _matched(mine[name], array, axis) for name, array in its.items()}
        yield "permuted", f"is {{other}}'s in another order along its {word}", matched
    if any(array.ndim > 2 for array in its.values()):
        for axes in ((-2, -1), (0, 1)):
            flipped = {
                name: np.flip(array, axes) if array.ndim > 2 else array
                for name, array in its.items()
            }
            yield "flipped", f"is {{other}}'s with both axes {axes} reversed", flipped


def _other_axes(its: Tensors) -> Iterator[tuple[str, str, Tensors]]:
    """Every other order of the axes, where all tensors have as many; vectors stay."""
    ranks = {array.ndim for array in its.values()}
    if len(ranks) != 1:
        return
    (rank,) = ranks
    if rank > MOST_AXES:
        return
    for axes in list(permutations(range(rank)))[1:]:
        moved = {
            name: array.transpose(axes) if min(array.shape) > 1 else array
            for name, array in its.items()
        }
        if rank == 2:
            yield "transposed", "is {other}'s transposed", moved
        else:
            yield "axes", f"is {{other}}'s with its axes in the order {axes}", moved


def _matched(mine: Array, its: Array, axis: int) -> Array:
    """The other side's slices along an axis, each the nearest to mine, where that is one to one."""
    if mine.shape != its.shape or not 1 < its.shape[axis] <= MANY:
        return its
    slices_mine = np.moveaxis(mine, axis, 0).reshape(its.shape[axis], -1)
    slices_its = np.moveaxis(its, axis, 0).reshape(its.shape[axis], -1)
    sizes = np.square(slices_mine).sum(1)[:, None] + np.square(slices_its).sum(1)[None]
    order = (sizes - 2 * slices_mine @ slices_its.T).argmin(axis=1)
    if len(set(order.tolist())) < len(order):
        return its
    return np.asarray(np.take(its, order, axis=axis))
