"""What two schedules' climbs to the peak differ in."""

from collections.abc import Iterator

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
from lockstep.numbers import number
from lockstep.schedules.identify.profile import Climb
from lockstep.schedules.identify.stretch import Stretch

__all__ = ["climb_clauses"]

RAMP = "linearlr-total-iters"
NO_WARMUP = "warmup-of-zero-updates"


def climb_clauses(sides: Sides) -> Iterator[Clause]:
    """What the climbs differ in."""
    mine, other = sides.b.climb, sides.a.climb
    if mine is None and other is None:
        return
    if mine is None or other is None:
        yield _only_one_climbs(sides)
        return
    if mine.end is None or other.end is None or mine.kind != other.kind:
        if not _follow_one_law(mine, other):
            yield NOT_SAID
        return
    yield from _both_climb(sides, mine, other)


def _both_climb(sides: Sides, mine: Climb, other: Climb) -> Iterator[Clause]:
    b = sides.mine.who
    # a climb to a peak of c times the other's begins at c times its rate
    share = sides.b.peak / sides.a.peak if sides.a.peak else 1.0
    is_first_same = are_same(mine.first, other.first * share, sides.b.peak)
    if is_first_same or are_same(mine.first, other.first, sides.a.peak):
        first = ""
    else:
        first = beside(mine.first, other.first)
    ramp_b, ramp_a = _ramp(mine), _ramp(other)
    if ramp_b is not None and ramp_a is not None:
        if ramp_b[0] != ramp_a[0]:
            text = f"{b} climbs as {_formula(*ramp_b)} where {sides.other.who} climbs as "
            text += _formula(*ramp_a) + (f": {first} at update 0" if first else "")
            yield Clause("lr-ramp", text, RAMP)
        elif ramp_b[1] != ramp_a[1]:
            text = f"{b}'s warmup takes {ramp_b[1]} updates for {ramp_a[1]}"
            yield Clause("lr-warmup", text)
        return
    if mine.end != other.end:
        ends = f"{update_text(mine.end)} for {update_text(other.end)}"
        yield Clause("lr-warmup", f"{b} reaches its peak at update {ends}")
    if first:
        yield Clause("lr-warmup-start", f"{b}'s warmup begins at {first}")


def _follow_one_law(mine: Climb, other: Climb) -> bool:
    if mine.law is None or other.law is None or mine.kind != other.kind:
        return False
    pairs = zip(mine.law.numbers, other.law.numbers, strict=True)
    return all(are_same(value, its, 1e-9) for value, its in pairs)


def _ramp(climb: Climb) -> tuple[int, int] | None:
    """What is added to t in a straight climb from 0, and what that is divided by; None for another
    one.
    """
    if climb.law is None or climb.zero is None or climb.end is None:
        return None
    if climb.zero not in (0, -1) or climb.end != round(climb.end):
        return None
    return -int(climb.zero), int(climb.end - climb.zero)


def _formula(added: int, length: int) -> str:
    return f"(t + {added}) / {length}" if added else f"t / {length}"


def _only_one_climbs(sides: Sides) -> Clause:
    if sides.b.climb is None:
        climb, without, profile = sides.a.climb, sides.mine, sides.b
        climber = sides.other
    else:
        climb, without, profile = sides.b.climb, sides.other, sides.a
        climber = sides.mine
    if climb is None or climb.end is None or not profile.stretches:
        return NOT_SAID
    first = profile.stretches[0]
    if first.start not in (0, None):
        return NOT_SAID
    text = f"{without.who} has no warmup: {_beginning(first)}"
    values = sides.at(0).removesuffix(" at update 0")
    if values and without is sides.mine:
        text += f" ({values})"
    length = climb.end - min(climb.zero or 0, 0)
    text += f", where {climber.who} climbs over {update_text(length)} updates first"
    if first.goes_on and first.end is not None:
        since = update_text(first.end)
        text += f"; {without.who} goes on after its end, climbing back from update {since} on"
    return Clause("lr-warmup", text, CLIMBS_BACK if first.goes_on else NO_WARMUP)


def _beginning(first: Stretch) -> str:
    if first.kind == "constant":
        return f"its rate is {number(first.top)} from update 0 on"
    noun = name_of(first).split(" ", 1)[1]
    length = f" of length {update_text(first.end)}" if first.is_sure and first.end else ""
    return f"its {noun}{length} begins at update 0"
