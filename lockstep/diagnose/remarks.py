"""What the bounds of two loops leave open, in words."""

from collections.abc import Iterator, Mapping

import numpy as np

from lockstep.diagnose.noise import LoopBounds
from lockstep.oracle.arithmetic import Array
from lockstep.records.trace import Trace

__all__ = ["remarks_on"]

WIDE = 0.01
"""A bound above this share of a value is said: a difference that people would see could hide."""
NAMED = 5  # tensors that are named; more are counted
SIDES = 2  # the bounds of two sides add
SERIES = {"loss": "loss", "grad_norm": "norm of the gradient", "update_norm": "norm of the update"}


def remarks_on(a: Trace, b: Trace, bounds: LoopBounds) -> list[str]:
    """Remarks to read beside a verdict that rests on these bounds.

    Args:
        a: a loop's trace.
        b: another's, in the names and layouts of `a`.
        bounds: on the rounding of either.
    """
    remarks = list(_widths(a, b, bounds))
    if bounds.set_aside:
        shares = []
        for tensor, (aside, size) in list(bounds.set_aside.items())[:NAMED]:
            shares.append(f"{tensor} ({'all' if aside == size else aside} of {size} elements)")
        more = len(bounds.set_aside) - NAMED
        listed = ", ".join(shares) + (f" and {more} more" if more > 0 else "")
        remarks.append(
            "set aside: steps whose sign rounding may turn, as their gradients lie within their "
            f"bound of 0: {listed}"
        )
    return remarks


def _widths(a: Trace, b: Trace, bounds: Mapping[str, Array]) -> Iterator[str]:
    """What could hide in each series whose bound is wide."""
    low = getattr(bounds, "low", "")
    because = f", as rounding to {low} may do as much" if low else ""
    for series, noun in SERIES.items():
        name = f"updates/{series}"
        if name not in bounds:
            continue
        size_T = np.minimum(np.abs(a.arrays[name]), np.abs(b.arrays[name])).astype(np.float64)
        width_T = SIDES * np.broadcast_to(bounds[name], size_T.shape)
        # a bound as wide as the value is a verdict of its own
        is_judged = np.isfinite(width_T) & (width_T < size_T)
        if not is_judged.any():
            continue
        share_T = width_T[is_judged] / size_T[is_judged]
        if share_T.max() <= WIDE:
            continue
        least, most = f"{share_T.min():.1%}", f"{share_T.max():.1%}"
        shares = least if least == most else f"{least} to {most}, by the update,"
        yield f"{noun}: a difference below {shares} cannot be seen{because}"
