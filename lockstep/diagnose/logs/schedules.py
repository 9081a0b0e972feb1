"""The schedules that two logs' rates are of, where both hold every rate from the start on."""

import numpy as np

from lockstep.diagnose.between.rates.differences import difference
from lockstep.diagnose.between.rates.series import RateSeries
from lockstep.diagnose.logs.align import Numbers, SeriesPair
from lockstep.diagnose.logs.relations import Relation
from lockstep.logs.column_names import RATE

__all__ = ["schedules_of"]

FEWEST = 8
"""Steps that a schedule is read off."""
MOST = 20_000
"""Steps of the longest schedule that is read off."""


def schedules_of(pair: SeriesPair) -> Relation | None:
    """What tells the schedule of b from that of a, in words; None where the logs do not show both.

    Both must keep all digits of the rate of every step, and begin with step 0 or 1.
    """
    if pair.name != RATE or not FEWEST <= pair.steps <= MOST or not pair.is_judged_N.all():
        return None
    first = int(pair.a.steps_N[0])
    is_whole = first in (0, 1) and bool((np.diff(pair.a.steps_N) == 1).all())
    if not is_whole or {pair.a.digits.kind, pair.b.digits.kind} != {"full"}:
        return None
    if not pair.a.values_N.any() or not pair.b.values_N.any():  # a rate of 0 is no schedule
        return None
    apart = difference(_series("b", pair.b), _series("a", pair.a))
    if apart is None:
        return None
    count = f" (update 0 is step {first})" if first else ""
    return Relation("schedule", f"{apart.relation.text}{count}")


def _series(side: str, rates: Numbers) -> RateSeries:
    """The rates with the unit that they show: that of float32 if all are float32 numbers."""
    values_T = rates.values_N
    is_single = bool((values_T.astype(np.float32) == values_T).all())
    kind = np.float32 if is_single else np.float64
    return RateSeries(f"{side}'s", side, side, values_T, 0.5 * float(np.finfo(kind).eps))
