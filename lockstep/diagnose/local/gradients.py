"""How the gradients of two loops in a low precision hang together: by a factor, or by those of the
update before.

In bfloat16 no element shows a relation exactly. The norms of all do, since roundings add to both
sides alike.
"""

from collections.abc import Iterator

import numpy as np

from lockstep.diagnose.local.difference import LocalDifference
from lockstep.diagnose.local.measurement import Measurement
from lockstep.diagnose.units import FLOAT32, coarsest_dtype, unit_of_dtype
from lockstep.numbers import number
from lockstep.oracle.arithmetic import Array
from lockstep.records.trace import Trace
from lockstep.tensor_file import arrays_below

__all__ = ["other_gradients"]

LEAST = 0.1
"""The smallest deviation of a factor from 1 that is named: noise on one side alone makes less."""
NEAR = 0.03
"""How near a factor must be to a whole number, or to one over it, relative."""
LEFT = 0.25
"""The share of the norm that a relation may leave: the noise of bfloat16 leaves less."""
PAGES = ("accumulation-sum-or-mean", "forgotten-zero-grad")


def other_gradients(a: Trace, b: Trace, update: int) -> Iterator[LocalDifference]:
    """What relation of all gradients of an update explains why they differ.

    Args:
        a: a loop's trace.
        b: another's, in the names and layouts of `a`.
        update: counted from 0; one that both recorded.
    """
    if max(unit_of_dtype(coarsest_dtype(trace)) for trace in (a, b)) <= FLOAT32:
        return
    mine, other, names = _flat(a, b, update)
    if mine is None or other is None or not mine.any():
        return
    norm_a, norm_b = (float(np.linalg.norm(vector)) for vector in (mine, other))
    if not (np.isfinite([norm_a, norm_b]).all() and norm_b):
        return
    times = norm_b / norm_a
    whole = max(round(times), 1) if times > 1 else 1 / max(round(1 / times), 1)
    left = np.linalg.norm(other - times * mine) / norm_b
    values = (
        Measurement("gradients", "grad_norm", update, "norm of the gradient", norm_a, 0.0),
        Measurement("gradients", "grad_norm", update, "norm of the gradient", norm_b, 0.0),
    )
    if abs(times - 1) > LEAST and left < LEFT and abs(times - whole) < NEAR * whole:
        mine_name, other_name = ("b", "a") if whole > 1 else ("a", "b")
        count = number(max(whole, 1 / whole))
        text = (
            f"{mine_name}'s gradients are {count} times {other_name}'s, as where {count} "
            "micro-batches or processes are summed, not averaged"
        )
        yield LocalDifference(*values, "gradients-scaled", text, PAGES[0])
        return
    for side, first, second, trace in (("b", other, mine, b), ("a", mine, other, a)):
        before, _, _ = _flat(trace, trace, update - 1, names)
        if before is None or not np.linalg.norm(before) > LEAST * np.linalg.norm(first):
            continue
        gap = np.linalg.norm(first - second)
        if np.linalg.norm(first - second - before) < LEFT * gap:
            others = "a" if side == "b" else "b"
            text = (
                f"{side}'s gradient is {others}'s plus its own of the update before: {side} does "
                "not zero it and accumulates"
            )
            yield LocalDifference(*values, "gradients-stale", text, PAGES[1])
            return


def _flat(
    a: Trace, b: Trace, update: int, names: list[str] | None = None
) -> tuple[Array | None, Array | None, list[str]]:
    """All gradients of both sides in one vector each, and their names."""
    of_a = arrays_below(a.arrays, f"detail/{update}/gradients/")
    of_b = arrays_below(b.arrays, f"detail/{update}/gradients/")
    common = names or [name for name in of_a if name in of_b]
    if not common or any(name not in of_a or name not in of_b for name in common):
        return None, None, []
    vectors = [
        np.concatenate([arrays[name].astype(np.float64).ravel() for name in common])
        for arrays in (of_a, of_b)
    ]
    return vectors[0], vectors[1], common
