"""How the two sides' tensors are related, where there is no recipe to recompute them by."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import permutations

import numpy as np

from lockstep.diagnose.causes.digits import low_precision
from lockstep.diagnose.causes.judge import Alternative, Cause, Tensors, choose, fitted, residual
from lockstep.diagnose.causes.precision import FORMATS, rounded_to
from lockstep.diagnose.causes.side import Side
from lockstep.diagnose.compare import Difference
from lockstep.oracle.arithmetic import Array
from lockstep.records.trace import Trace

__all__ = ["relation"]

FAMILIES = {
    "batch": "batch",
    "forward": "forward",
    "gradients": "gradients",
    "clip": "clip",
    "moments": "moments",
}
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
"""Stage and relation -> key of the cause; of the others it is the relation."""

PAGES = {
    "transposed": "kernel-layout",
    "stale": "forgotten-zero-grad",
    "decayed": "l2-is-not-decoupled-decay",
    "zero": "parameters-without-gradient",
    "scaled": "optax-losses-do-not-reduce",
}
NOUNS = {
    "update": "step of",
    "parameters": "step of",
    "gradients": "gradient of",
    "init": "initial",
}
MANY = 2048  # rows that are matched with one another


def relation(first: Difference, a: Side, b: Side, oracle: Trace | None) -> Cause | None:
    """What b's tensor is of a's; or a's of b's, where the oracle says that a is off."""
    stage, tensor = first.stage, first.tensor
    truth = _family(Side("", oracle, b.update), stage) if oracle is not None else {}
    (mine, its), (off, right) = (_family(side, stage) for side in (b, a)), (b, a)
    known = bool(truth)
    if known and residual(its, truth) > residual(mine, truth):
        (mine, its), (off, right) = (its, mine), (a, b)
    differing = [
        k for k in its if k in mine and its[k].shape == mine[k].shape and (its[k] != mine[k]).any()
    ]
    if not differing:
        return None
    name = next((name for name in differing if name.endswith(tensor)), differing[0])
    tolerance = max(a.tolerance, b.tolerance)
    # all that differ first: one tensor alone may be explained by more than one relation
    for names in (differing, [name]):
        recorded = {k: mine[k] for k in names}
        cause = choose(
            recorded,
            {k: its[k] for k in names},
            _alternatives(stage, recorded, {k: its[k] for k in names}, off, right),
            tolerance,
            off.name,
        )
        if cause is not None and cause.null_residual > tolerance:
            return cause if known else replace(cause, side="")
    for one, values, other, others in ((off, mine, right, its), (right, its, off, mine)):
        cause = low_precision(first, one, values, others, f"{other.name}'s")
        if cause is not None and not (known and one is right):
            return cause if known else replace(cause, side="")
    return None


def _family(side: Side, stage: str, update: int | None = None) -> Tensors:
    """The tensors of a stage; of "update" and "parameters" the change of every parameter."""
    update = side.update if update is None else update
    if stage == "init":
        return {f"init/{name}": array for name, array in side.below("parameters/0/").items()}
    if stage in ("update", "parameters"):
        before, after = side.parameters(update), side.parameters(update + 1)
        return {f"update/{name}": after[name] - before[name] for name in after if name in before}
    return {f"{stage}/{k}": v for k, v in side.detail(FAMILIES.get(stage, stage), update).items()}


def _alternatives(
    stage: str, mine: Tensors, its: Tensors, off: Side, right: Side
) -> Iterator[Alternative]:
    """Simplest first. `mine` is what is off, `its` the other side's."""
    names = [name.partition("/")[2] for name in mine]
    what = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    noun = NOUNS.get(stage, stage)
    head, other = f"{{side}}'s {noun} {what}", right.name

    def told(kind: str, text: str, tensors: Tensors) -> Alternative:
        key = KEYS.get(("update" if stage == "parameters" else stage, kind), kind)
        return Alternative(key, f"{head} {text}", PAGES.get(kind, ""), tensors)

    yield told("zero", f"is 0; {other}'s is not", {k: np.zeros_like(v) for k, v in its.items()})
    yield told("sign", f"is {other}'s with the other sign", {k: -v for k, v in its.items()})
    yield from (
        told(kind, text.format(other=other), found) for kind, text, found in _layouts(mine, its)
    )
    for name in FORMATS if off.precision == "float64" else list(FORMATS)[1:]:
        low = {k: rounded_to(name, v) for k, v in its.items()}
        yield told("rounded", f"is {other}'s rounded to {name}", low)
    for update, word in ((off.update - 1, "before"), (off.update + 1, "after")):
        near = _family(right, stage, update) if update >= 0 else {}
        if _fits(near, mine):
            yield told("stale", f"is {other}'s of the update {word}", {k: near[k] for k in mine})
    before = _family(off, stage, off.update - 1) if off.update else {}
    if _fits(before, mine):
        summed = {k: its[k] + before[k] for k in mine}
        yield told("stale", f"is {other}'s plus its own of the update before", summed)
    yield from _recognised(its, told, other, off)
    kind = KEYS.get(("update" if stage == "parameters" else stage, "scaled"), "scaled")
    yield from fitted(
        kind, f"{head} is {{value}} times {other}'s", PAGES["scaled"],
        lambda c: {k: c * v for k, v in its.items()}, mine, 1.0, (-1e12, 1e12),
    )  # fmt: skip
    yield from _decayed(stage, mine, its, head, other, off)


def _fits(tensors: Tensors, mine: Tensors) -> bool:
    """Whether all of mine are there, of their shapes."""
    return all(
        name in tensors and tensors[name].shape == array.shape for name, array in mine.items()
    )


def _layouts(mine: Tensors, its: Tensors) -> Iterator[tuple[str, str, Tensors]]:
    """The same numbers in other places."""
    ranks = {array.ndim for array in its.values()}
    if len(ranks) == 1 and (rank := ranks.pop()) <= 5:
        for axes in list(permutations(range(rank)))[1:]:
            moved = {k: v.transpose(axes) if min(v.shape) > 1 else v for k, v in its.items()}
            text = (
                "is {other}'s transposed"
                if rank == 2
                else f"is {{other}}'s with its axes in the order {axes}"
            )
            yield ("transposed" if rank == 2 else "axes"), text, moved
    for axis, word in ((-1, "last axis"), (0, "first axis")):
        flipped = {k: np.flip(v, axis) for k, v in its.items()}
        yield "flipped", f"is {{other}}'s with its {word} reversed", flipped
        matched = {k: _matched(mine[k], v, axis) for k, v in its.items()}
        yield "permuted", f"is {{other}}'s in another order along its {word}", matched
    if any(v.ndim > 2 for v in its.values()):
        for axes in ((-2, -1), (0, 1)):
            flipped = {k: np.flip(v, axes) if v.ndim > 2 else v for k, v in its.items()}
            yield "flipped", f"is {{other}}'s with both axes {axes} reversed", flipped


def _matched(mine: Array, its: Array, axis: int) -> Array:
    """The other side's slices along an axis, each the nearest to mine, where that is one to one."""
    if mine.shape != its.shape or not 1 < its.shape[axis] <= MANY:
        return its
    left, right = (
        np.moveaxis(array, axis, 0).reshape(its.shape[axis], -1) for array in (mine, its)
    )
    squares = np.square(left).sum(1)[:, None] + np.square(right).sum(1)[None] - 2 * left @ right.T
    order = squares.argmin(axis=1)
    if len(set(order.tolist())) < len(order):
        return its
    return np.asarray(np.take(its, order, axis=axis))


def _recognised(
    its: Tensors, told: Callable[..., Alternative], other: str, off: Side
) -> Iterator[Alternative]:
    """A factor that has a name."""
    batch, settings = off.batch(), off.trace.header.get("settings", {})
    named = {"the rows of the batch": len(batch[1])} if batch is not None else {}
    named |= {key: value for key, value in settings.items() if type(value) is int and value > 1}
    for word, count in named.items():
        yield told(
            "scaled", f"is {count} times {other}'s: {word}", {k: count * v for k, v in its.items()}
        )
        yield told(
            "scaled",
            f"is {other}'s divided by {count}: {word}",
            {k: v / count for k, v in its.items()},
        )


def _decayed(
    stage: str, mine: Tensors, its: Tensors, head: str, other: str, off: Side
) -> Iterator[Alternative]:
    """The other side's plus a multiple of the parameters."""
    parameters = off.parameters(off.update)
    names = {k: k.partition("/")[2] for k in its}
    if stage not in ("update", "parameters", "gradients", "clip") or not parameters.keys() >= set(
        names.values()
    ):
        return
    key = KEYS.get(("update" if stage == "parameters" else stage, "decayed"), "decayed")
    yield from fitted(
        key,
        f"{head} is {other}'s plus {{value}} times the parameter: another weight decay",
        PAGES["decayed"],
        lambda c: {k: v + c * parameters[names[k]] for k, v in its.items()},
        mine,
        0.0,
        (-1e6, 1e6),
    )
