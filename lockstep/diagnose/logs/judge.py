"""Two logs judged: each quantity equal, within rounding, parted or undecided, and what follows."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lockstep.diagnose.logs.align import SeriesPair, moved, offsets_of, pairs_of
from lockstep.diagnose.logs.averages import average_of
from lockstep.diagnose.logs.hints import hints_of
from lockstep.diagnose.logs.relations import Relation, relation_of
from lockstep.diagnose.logs.remarks import remarks_on
from lockstep.diagnose.logs.schedules import schedules_of
from lockstep.errors import InputError
from lockstep.logs.column_names import LOSS, NORM, RATE
from lockstep.logs.log import Log

__all__ = ["EXIT_STATUS", "LogComparison", "Quantity", "compare_logs"]

EXIT_STATUS = {"equal": 0, "rounding": 0, "parted": 1, "inconclusive": 3}
"""Verdict -> the exit status of the command."""

ORDER = (RATE, NORM, LOSS)
"""The quantities that an update determines first."""
COARSE = 0.02
"""Relative width of a log's digits from which on agreement says nothing."""
SOFT = 10.0
"""How far beyond what is allowed a difference may be that comes of rounding that grew."""
SOFT_STEPS = 5
"""Common steps over which rounding takes to grow beyond `VISIBLE`."""
VISIBLE = 1e-2
"""Relative difference that is no rounding, if it comes within `SOFT_STEPS` steps."""
JUMP = 30.0
"""How many times a difference by rounding may grow from one logged step to the next."""
HALF = 2.0**-8
"""The unit of bfloat16: two right trainings in it may be apart by so much at every step."""
LEAN = 3.0
"""Standard errors from which on differences lean to one side."""
ENOUGH = 8
"""Steps that a statement on the whole of a series takes."""


@dataclass(frozen=True)
class Quantity:
    """One quantity of both logs, judged."""

    pair: SeriesPair
    verdict: str
    """equal (the same numbers), rounding, parted, or undecided."""
    reason: str = ""
    """Why it is undecided, in words."""
    relation: Relation | None = None

    @property
    def name(self) -> str:
        """The shared name."""
        return self.pair.name

    @property
    def first_step(self) -> int | None:
        """The first step, in a's numbering, at which the two part; None where they do not."""
        return None if self.pair.first is None else int(self.pair.a.steps_N[self.pair.first])


@dataclass(frozen=True)
class LogComparison:
    """What two logs say of each other."""

    a: Log
    b: Log
    verdict: str
    """equal, rounding, parted or inconclusive."""
    quantities: Sequence[Quantity]
    """In the order in which an update determines them."""
    offset: int
    """What was added to b's steps to make them a's."""
    remarks: Sequence[str]
    hints: Sequence[str]
    """What the order of the first differences hints at."""


def compare_logs(a: Log, b: Log) -> LogComparison:
    """Judge two logs.

    Raises:
        InputError: they have no quantity in common.
    """
    if not set(a.series) & set(b.series):
        raise InputError(
            f"{a.path} and {b.path}: have no quantity in common ({_listed(a)}; {_listed(b)}); name "
            "columns that are one with --column loss=COLUMN"
        )
    pairs, offset, quantities = _aligned(sorted(pairs_of(a, b), key=_place))
    verdict = _verdict([quantity.verdict for quantity in quantities])
    hints = hints_of({q.name: q.relation for q in quantities if q.verdict == "parted"}, pairs)
    return LogComparison(a, b, verdict, quantities, offset, remarks_on(a, b, pairs, offset), hints)


def _aligned(whole: Sequence[SeriesPair]) -> tuple[list[SeriesPair], int, list[Quantity]]:
    """The pairs with their steps aligned, what that added to b's steps, and their judgements.

    Of several ways to align them that one counts which leaves the fewest quantities unexplained.
    """
    best: tuple[list[SeriesPair], int, list[Quantity]] = ([], 0, [])
    fewest = len(whole) + 1
    for offset in offsets_of(whole):
        pairs = [pair for pair in moved(whole, offset) if pair.steps]
        quantities = [_judge(pair) for pair in pairs]
        unexplained = len(whole) - len(pairs)
        for quantity in quantities:
            is_parted = quantity.verdict == "parted" and quantity.name != RATE
            unexplained += is_parted and quantity.relation is None
        if unexplained < fewest:
            best = pairs, offset, quantities
            fewest = unexplained
        if not fewest:
            break
    return best


def _listed(log: Log) -> str:
    names = list(log.series)
    more = ", ..." if len(names) > 6 else ""
    return f"{log.path}: {', '.join(names[:6]) or 'none'}{more}"


def _place(pair: SeriesPair) -> tuple[int, str]:
    return (ORDER.index(pair.name) if pair.name in ORDER else len(ORDER)), pair.name


def _verdict(verdicts: Sequence[str]) -> str:
    if "parted" in verdicts:
        return "parted"
    if not verdicts or "undecided" in verdicts:
        return "inconclusive"
    return "rounding" if "rounding" in verdicts else "equal"


def _judge(pair: SeriesPair) -> Quantity:
    if pair.first is None:
        if not pair.is_judged_N.all():
            step = pair.a.steps_N[int(np.argmin(pair.is_judged_N))]
            reason = f"from step {step} on neither has a number: both overflowed, or are NaN"
            return Quantity(pair, "undecided", reason)
        if not pair.gaps_N.any():
            return Quantity(pair, "equal")
        coarse = _too_coarse(pair)
        return Quantity(pair, "undecided" if coarse else "rounding", coarse)
    average = average_of(pair)
    if average is not None:
        return Quantity(pair, "rounding", relation=average)
    relation = relation_of(pair) or schedules_of(pair)
    if relation is None and pair.name != RATE:
        reason = _grown_rounding(pair) or _low_precision(pair)
        if reason:
            return Quantity(pair, "undecided", reason)
    return Quantity(pair, "parted", relation=relation)


def _too_coarse(pair: SeriesPair) -> str:
    """Why digits are too few to judge by; "" if they are enough."""
    sizes_N = np.maximum(np.abs(pair.a.values_N), np.abs(pair.b.values_N))
    widths_N = pair.allowed_N[sizes_N > 0] / sizes_N[sizes_N > 0]
    differ_N = pair.gaps_N[sizes_N > 0] > 0
    width = float(np.median(widths_N[differ_N])) if differ_N.any() else 0.0
    if width <= COARSE:
        return ""
    digits = min(pair.a.digits, pair.b.digits, key=lambda digits: digits.count or 99)
    return f"{digits.text} are too few: a difference of {width:.0%} cannot be seen"


def _grown_rounding(pair: SeriesPair) -> str:
    """Why a difference may be rounding that the training amplified; "" if it cannot be."""
    first = pair.first
    if not first:  # parted from the start, or not at all
        return ""
    gaps_N, allowed_N = pair.gaps_N, pair.allowed_N
    sizes_N = np.maximum(np.abs(pair.a.values_N), np.abs(pair.b.values_N))
    soon = slice(first, first + SOFT_STEPS)
    with np.errstate(invalid="ignore"):
        is_visible = bool((gaps_N[soon] > VISIBLE * sizes_N[soon] + SOFT * allowed_N[soon]).any())
    if gaps_N[first] > SOFT * allowed_N[first] or is_visible:
        return ""
    is_full = {pair.a.digits.kind, pair.b.digits.kind} == {"full"}
    if is_full and gaps_N[first] > JUMP * gaps_N[first - 1]:
        return ""
    return (
        "the difference grows little by little out of what digits and rounding allow: rounding "
        "that a training amplifies does so, and a small error does too"
    )


def _low_precision(pair: SeriesPair) -> str:
    """Why a difference may be rounding in bfloat16; "" if it cannot be."""
    if pair.steps < ENOUGH or not pair.is_judged_N.all():
        return ""
    differences_N = pair.b.values_N - pair.a.values_N
    sizes_N = np.maximum(np.abs(pair.a.values_N), np.abs(pair.b.values_N))
    if (pair.gaps_N > HALF * sizes_N + pair.allowed_N).any():
        return ""
    error = float(differences_N.std()) / np.sqrt(len(differences_N))
    if abs(float(differences_N.mean())) > LEAN * error:
        return ""
    return (
        f"the two stay within {HALF:.1%} of one another and lean to neither side: rounding in "
        "bfloat16 does so, and a small error may too"
    )
