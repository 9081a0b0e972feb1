"""The difference of two schedules that were read off their rates, in words."""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from lockstep.diagnose.between.rates.climbs import climb_clauses
from lockstep.diagnose.between.rates.falls import fall_clauses
from lockstep.diagnose.between.rates.series import RateSeries
from lockstep.diagnose.between.rates.series_pair import Relation
from lockstep.diagnose.between.rates.words import CLIMBS_BACK, Sides, are_same, described
from lockstep.schedules.identify.profile import Profile, profile_of

__all__ = ["Difference", "difference"]

MOST_CLAUSES = 3
"""Things that differ, at most, for them to be listed and not both schedules to be described."""


class Difference(NamedTuple):
    """What differs, and which of the two goes on after its end: "mine", "other" or ""."""

    relation: Relation
    climbs_back: str


def difference(mine: RateSeries, other: RateSeries) -> Difference | None:
    """What tells the schedule of `mine` from that of `other`; None where either is not known, or
    where their recordings do not tell them apart.
    """
    if mine.first or other.first:
        return None
    profile_b, profile_a = _profile(mine), _profile(other)
    if profile_a is None or profile_b is None:
        return None
    if _climb_alike(profile_b, profile_a) and not are_same(profile_b.peak, profile_a.peak):
        profile_b, profile_a = _of_one_peak(mine, other) or (profile_b, profile_a)
    sides = Sides(mine, other, profile_b, profile_a)
    relation = _in_clauses(sides) or _in_full(sides)
    if relation is None:
        return None
    goes_on = [_goes_on(profile) for profile in (profile_b, profile_a)]
    climbs_back = "" if goes_on[0] == goes_on[1] else "mine" if goes_on[0] else "other"
    return Difference(relation, climbs_back)


def _climb_alike(mine: Profile, other: Profile) -> bool:
    """Whether both climb by one line."""
    laws = [None if profile.climb is None else profile.climb.law for profile in (mine, other)]
    if laws[0] is None or laws[1] is None or {law.kind for law in laws if law} != {"line"}:
        return False
    return are_same(laws[0].numbers[1], laws[1].numbers[1])


def _of_one_peak(mine: RateSeries, other: RateSeries) -> tuple[Profile, Profile] | None:
    """Both schedules with the decay of either, or of both, counted from 0, where that gives them
    one peak.
    """
    for of_b, of_a in ((True, False), (False, True), (True, True)):
        profile_b = _profile(mine, counts_from_0=of_b)
        profile_a = _profile(other, counts_from_0=of_a)
        if profile_b and profile_a and are_same(profile_b.peak, profile_a.peak):
            return profile_b, profile_a
    return None


def _profile(series: RateSeries, *, counts_from_0: bool = False) -> Profile | None:
    return _profile_of(series.rates_T.tobytes(), series.is_float32, counts_from_0)


@lru_cache(maxsize=8)
def _profile_of(content: bytes, is_float32: bool, counts_from_0: bool) -> Profile | None:
    rates_T = np.frombuffer(content)
    return profile_of(rates_T, is_float32=is_float32, counts_from_0=counts_from_0)


def _in_clauses(sides: Sides) -> Relation | None:
    """The things that differ; None where they are many, or one has no words."""
    clauses = [*climb_clauses(sides), *fall_clauses(sides)]
    if not clauses or len(clauses) > MOST_CLAUSES or not all(clause.text for clause in clauses):
        return None
    pages = [clause.page for clause in clauses if clause.page]
    page = CLIMBS_BACK if CLIMBS_BACK in pages else next(iter(pages), "")
    text = "; ".join(clause.text for clause in clauses)
    return Relation(clauses[0].key, text, page, sides.b.rates_T)


def _in_full(sides: Sides) -> Relation | None:
    """Both schedules in words; None where one has none, or they are the same."""
    mine, other = described(sides.b), described(sides.a)
    if not mine or not other or mine == other:
        return None
    text = f"the schedules differ: {sides.mine.who} {mine}; {sides.other.who} {other}"
    page = CLIMBS_BACK if _goes_on(sides.b) != _goes_on(sides.a) else ""
    return Relation("other-schedule", text, page, sides.b.rates_T)


def _goes_on(profile: Profile) -> bool:
    return any(stretch.goes_on for stretch in profile.stretches)
