"""What two schedules differ in after their climbs: decays, plateaus and steps."""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from lockstep.diagnose.between.rates.words import (
    CLIMBS_BACK,
    NOT_SAID,
    Clause,
    Sides,
    are_same,
    beside,
    name_of,
    update_text,
)
from lockstep.numbers import factor, number
from lockstep.schedules.identify.profile import Profile
from lockstep.schedules.identify.stretch import Stretch

__all__ = ["fall_clauses"]

INCLUDES = "decay-steps-include-the-warmup"
LAST = "one-cycle-phase-ends"
RESTARTS = "warm-restarts-after-the-last"
MILESTONES = "multistep-boundaries"


def fall_clauses(sides: Sides) -> Iterator[Clause]:
    """What follows the climbs, and differs."""
    of_b, of_a = sides.b.stretches, sides.a.stretches
    if not of_a or not of_b:
        return
    if _are_steps(of_a) and _are_steps(of_b):
        yield from _steps(sides)
        return
    if not are_same(sides.b.peak, sides.a.peak):
        yield _peak(sides, sides.b.peak, sides.a.peak)
    cycles = _cycle(of_b), _cycle(of_a)
    if cycles[0] and cycles[1] and cycles[0] != cycles[1]:
        text = f"{sides.mine.who}'s cycles take {cycles[0]} updates for {cycles[1]}"
        yield Clause("lr-cycles", text, RESTARTS)
        return
    for place, (mine, other) in enumerate(zip(of_b, of_a, strict=False)):
        clauses = list(_fall(sides, mine, other))
        yield from clauses
        if clauses:
            if not _is_entailed(of_b[place:]) or not _is_entailed(of_a[place:]):
                yield NOT_SAID
            return
    if len(of_b) != len(of_a):
        yield NOT_SAID


def _is_entailed(stretches: tuple[Stretch, ...]) -> bool:
    """Whether what follows the first stretch is its floor, or what a plateau leaves."""
    first, rest = stretches[0], stretches[1:]
    if first.kind == "constant":
        return len(rest) <= 2
    return not rest


def _cycle(stretches: tuple[Stretch, ...]) -> str:
    """The lengths of the cycles of a cosine that begins again, the first two; "" of another one."""
    lengths = []
    for stretch in stretches:
        is_cycle = stretch.kind == "cosine" and stretch.start == stretch.begin
        if not is_cycle or stretch.end is None or not stretch.is_sure:
            return ""
        lengths.append(stretch.end - stretch.begin)
    if len(lengths) < 2:
        return ""
    first, second = update_text(lengths[0]), update_text(lengths[1])
    return first if first == second else f"{first}, {second}, ..."


def _peak(sides: Sides, mine: float, other: float) -> Clause:
    times = factor(mine / other) if other else "?"
    text = f"{sides.mine.who}'s peak is {times} times {sides.other.its}: {beside(mine, other)}"
    return Clause("lr-peak", text)


def _fall(sides: Sides, mine: Stretch, other: Stretch) -> Iterator[Clause]:
    if not (mine.is_sure and other.is_sure):
        if not _are_alike(mine, other):
            yield NOT_SAID
    elif name_of(mine) != name_of(other) and not _are_powers(mine, other):
        yield _other_law(sides, mine, other)
    elif mine.kind == "constant":
        if mine.stop != other.stop or not are_same(mine.top, other.top):
            yield NOT_SAID
    else:
        yield from _one_law(sides, mine, other)


def _are_powers(mine: Stretch, other: Stretch) -> bool:
    return mine.kind == other.kind == "power" and mine.number > 0 and other.number > 0


def _are_alike(mine: Stretch, other: Stretch) -> bool:
    t = np.arange(min(mine.begin, other.begin), max(mine.stop, other.stop), dtype=np.float64)
    if mine.kind != other.kind:
        return False
    return bool(np.allclose(mine.law.at(t), other.law.at(t), rtol=1e-6))


def _other_law(sides: Sides, mine: Stretch, other: Stretch) -> Clause:
    if "constant" in (mine.kind, other.kind):
        return NOT_SAID
    text = (
        f"{sides.mine.who} falls along {name_of(mine)} where {sides.other.who} falls along "
        f"{name_of(other)}"
    )
    if mine.start == other.start and mine.end == other.end and mine.end is not None:
        span = f"{update_text(mine.start)} to {update_text(mine.end)}"
        text += f", both from update {span}"
    elif mine.end is not None and other.end is not None and mine.end != other.end:
        text += f", to update {update_text(mine.end)} for {update_text(other.end)}"
    return Clause("other-schedule", text)


def _one_law(sides: Sides, mine: Stretch, other: Stretch) -> Iterator[Clause]:
    b = sides.mine.who
    if mine.kind == "line" and not _are_ends_known(mine, other):
        yield from _slopes(sides, mine, other)
        return
    if mine.kind != "line" and not are_same(mine.number, other.number):
        what = "factor an update" if mine.kind == "exponential" else "exponent"
        text = f"the {what} of {b}'s decay is {beside(mine.number, other.number)}"
        yield Clause("lr-decay", text)
        if mine.kind == "exponential":
            return
    yield from _places(sides, mine, other)
    if not are_same(mine.floor, other.floor, sides.a.peak):
        yield Clause("lr-floor", f"{b}'s decay ends at {beside(mine.floor, other.floor)}")
    if mine.goes_on != other.goes_on and mine.end == other.end:
        who, holds = sides.mine.who, sides.other.who
        if other.goes_on:
            who, holds = holds, who
        text = (
            f"{who} goes on after its end, climbing back from update {update_text(mine.end)} on, "
            f"where {holds} stays at its floor"
        )
        yield Clause("lr-after-end", text, CLIMBS_BACK)


def _are_ends_known(mine: Stretch, other: Stretch) -> bool:
    """Whether lines end within their recordings, at one update, or one update apart. Of others a
    slower fall and a higher floor are one.
    """
    if mine.end is None or other.end is None:
        return False
    are_recorded = mine.end < mine.stop and other.end < other.stop
    is_whole = mine.start != other.start or mine.end == other.end
    return are_recorded or is_whole or abs(mine.end - other.end) == 1


def _slopes(sides: Sides, mine: Stretch, other: Stretch) -> Iterator[Clause]:
    """That lines fall by other amounts, where the recording does not hold both ends."""
    if are_same(mine.number, other.number):
        is_shifted = mine.start is not None and other.start is not None
        if is_shifted and are_same(mine.top, other.top):
            is_entailed = _is_after_climb(sides, mine, other)
            if mine.start != other.start and not is_entailed:
                yield _other_start(sides, mine, other)
        elif not are_same(mine.law.numbers[0], other.law.numbers[0]):
            yield NOT_SAID
        return
    meeting = _meeting(mine, other)
    if mine.start != other.start and meeting is not None:
        if not _is_after_climb(sides, mine, other):
            yield _other_start(sides, mine, other)
        return
    text = f"{sides.mine.who}'s rate falls by {beside(-mine.number, -other.number)} an update"
    ends = [stretch.end for stretch in (mine, other) if stretch.end is not None]
    if ends and mine.start == other.start:
        t = np.array([min(ends)])
        rates = float(mine.law.at(t)[0]), float(other.law.at(t)[0])
        low = 1e-5 * sides.a.peak
        if min(rates) < -low:
            yield Clause("lr-decay", text)
            return
        of_b, of_a = (0.0 if abs(rate) <= low else rate for rate in rates)
        text += f": it comes to {beside(of_b, of_a)} at update {update_text(min(ends))}"
        if mine.end is not None and mine.end != min(ends):
            is_sum = bool(mine.start) and _length(mine) == other.end
            text += f", and would to 0 at update {'T + W = ' if is_sum else ''}"
            text += update_text(mine.end)
        elif other.end is not None and other.end != min(ends):
            text += f", where {sides.other.its} would to 0 at update {update_text(other.end)}"
    yield Clause("lr-decay", text, INCLUDES if mine.start else "")


def _meeting(mine: Stretch, other: Stretch) -> float | None:
    """The whole update at the end of the recordings or after it at which two lines meet."""
    (at_0, slope), (others_at_0, others_slope) = mine.law.numbers, other.law.numbers
    update = (others_at_0 - at_0) / (slope - others_slope)
    is_end = update >= mine.stop - 1 and abs(update - round(update)) < 1e-3
    return float(round(update)) if is_end and None not in (mine.start, other.start) else None


def _places(sides: Sides, mine: Stretch, other: Stretch) -> Iterator[Clause]:
    """Where a decay begins and ends."""
    if mine.start == other.start and mine.end == other.end:
        return
    if mine.start is None or other.start is None:
        yield NOT_SAID
        return
    places = [mine.start, other.start, mine.end or 0.0, other.end or 0.0]
    if _is_after_climb(sides, mine, other):
        are_as_long = None not in (mine.end, other.end) and _length(mine) == _length(other)
        if mine.end == other.end or are_as_long:
            return
    is_whole = all(place == round(place) for place in places)
    if not is_whole or (mine.end is None) != (other.end is None):
        yield NOT_SAID
    elif mine.end == other.end:
        yield _other_start(sides, mine, other)
    elif mine.start == other.start:
        yield _other_end(sides, mine, other)
    else:
        yield _other_span(sides, mine, other)


def _is_after_climb(sides: Sides, mine: Stretch, other: Stretch) -> bool:
    """Whether both decays begin where their climbs end, of which one may be none, so that other
    starts are no more than other climbs.
    """
    ends = [_climb_end(sides.b), _climb_end(sides.a)]
    if ends[0] == ends[1] or mine.start is None or other.start is None or None in ends:
        return False
    apart = (mine.start - (ends[0] or 0.0), other.start - (ends[1] or 0.0))
    return apart[0] == apart[1] or (0.0 in ends and max(apart) <= 1 and min(apart) >= 0)


def _length(stretch: Stretch) -> float:
    return (stretch.end or 0.0) - (stretch.start or 0.0)


def _climb_end(profile: Profile) -> float | None:
    """The update at which the peak is reached: 0 without a climb, None where that is not known."""
    return 0.0 if profile.climb is None else profile.climb.end


def _other_start(sides: Sides, mine: Stretch, other: Stretch) -> Clause:
    from_b = update_text(mine.start) + (" (t / T)" if mine.start == 0 else "")
    from_a = f"update {update_text(other.start)}" + (" (t / T)" if other.start == 0 else "")
    if _is_at_climb_end(sides.b, mine):
        from_b += ", the warmup's end,"
    if _is_at_climb_end(sides.a, other):
        from_a = f"the warmup's end ({from_a})"
    text = (
        f"{sides.mine.who}'s decay counts from update {from_b} where {sides.other.its} counts from "
        f"{from_a}"
    )
    later = max(mine.start or 0.0, other.start or 0.0)
    values = sides.at(later) or sides.at(later + 1)
    return Clause("lr-decay-start", text + (f": {values}" if values else ""), INCLUDES)


def _is_at_climb_end(profile: Profile, stretch: Stretch) -> bool:
    climb = profile.climb
    if climb is None or climb.end is None or stretch.start is None:
        return False
    return 0 <= stretch.start - climb.end <= 1


def _other_end(sides: Sides, mine: Stretch, other: Stretch) -> Clause:
    start, end_b, end_a = mine.start or 0.0, mine.end or 0.0, other.end or 0.0
    b = sides.mine.who
    length_b, length_a = end_b - start, end_a - start
    ends = f"{update_text(end_b)} for {update_text(end_a)}"
    declared = "" if sides.other.its.endswith("'s") else "the declared "
    if abs(length_b - length_a) == 1:
        names = ("T", "T - 1") if length_b > length_a else ("T - 1", "T")
        if start:
            names = ("T - W", "T - 1 - W") if length_b > length_a else ("T - 1 - W", "T - W")
        text = (
            f"{b} divides by {names[0]} = {update_text(length_b)} where {sides.other.who} divides "
            f"by {names[1]} = {update_text(length_a)}: its decay ends at update {ends}"
        )
        return Clause("lr-decay-end", text, LAST)
    text = (
        f"{b}'s decay takes {update_text(length_b)} updates for {declared}{update_text(length_a)}: "
        "it ends at update "
    )
    if start and length_b == end_a:
        text += f"T + W = {update_text(end_b)} for {declared}T = {update_text(end_a)}"
    elif start and length_a == end_b:
        text += f"T = {update_text(end_b)} for {declared}T + W = {update_text(end_a)}"
    else:
        text += ends
    return Clause("lr-decay-end", text, INCLUDES if start else "")


def _other_span(sides: Sides, mine: Stretch, other: Stretch) -> Clause:
    b, its = sides.mine.who, sides.other.its
    if mine.end is None or other.end is None:
        starts = f"{update_text(mine.start)} for {update_text(other.start)}"
        return Clause("lr-decay-start", f"{b}'s decay begins at update {starts}", INCLUDES)
    spans = [
        f"from update {update_text(stretch.start)} to {update_text(stretch.end)}"
        for stretch in (mine, other)
    ]
    text = f"{b}'s decay goes {spans[0]}, {its} {spans[1]}"
    if mine.start is not None and other.start is not None:
        length = mine.end - mine.start
        if length == other.end - other.start:
            text += f": {update_text(length)} updates on both sides"
    return Clause("lr-decay-start", text, INCLUDES)


# ---- steps


def _are_steps(stretches: tuple[Stretch, ...]) -> bool:
    return all(stretch.kind == "constant" for stretch in stretches)


def _steps(sides: Sides) -> Iterator[Clause]:
    b, a = sides.mine.who, sides.other.who
    of_b, of_a = sides.b.stretches, sides.a.stretches
    if not are_same(of_b[0].top, of_a[0].top):
        yield _peak(sides, of_b[0].top, of_a[0].top)
    updates_b = [stretch.begin for stretch in of_b[1:]]
    updates_a = [stretch.begin for stretch in of_a[1:]]
    if updates_b != updates_a:
        text = f"{b} steps at {_listed(updates_b)}, {a} at {_listed(updates_a)}"
        yield Clause("lr-steps", text, MILESTONES)
    factors_b, factors_a = _factors(of_b), _factors(of_a)
    pairs = zip(factors_b, factors_a, strict=False)
    if not all(are_same(mine, other) for mine, other in pairs):
        text = f"{b} steps by the factor {_said(factors_b)}, {a} by {_said(factors_a)}"
        yield Clause("lr-steps", text)


def _factors(stretches: tuple[Stretch, ...]) -> list[float]:
    return [after.top / before.top for before, after in pairwise(stretches) if before.top]


def _said(factors: list[float]) -> str:
    if all(are_same(value, factors[0]) for value in factors):
        return number(factors[0])
    return ", ".join(number(value) for value in factors)


def _listed(updates: list[int]) -> str:
    if not updates:
        return "no update"
    shown = ", ".join(map(str, updates[:6])) + (", ..." if len(updates) > 6 else "")
    return f"update{'' if len(updates) == 1 else 's'} {shown}"
