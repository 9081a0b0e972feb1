"""The explanations of other learning rates: by what the loops declare, by a relation of the two
series, and by the schedules that both are read to be.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from lockstep.diagnose.between.explanation import Explanation
from lockstep.diagnose.between.pair import LoopPair
from lockstep.diagnose.between.rates.declared import (
    Declaration,
    declaration_of,
    differing_knobs,
)
from lockstep.diagnose.between.rates.differences import difference
from lockstep.diagnose.between.rates.relations import partial_relations, relations
from lockstep.diagnose.between.rates.series import RateSeries, rates_of
from lockstep.diagnose.between.rates.series_pair import Relation
from lockstep.diagnose.between.rates.words import CLIMBS_BACK

__all__ = ["explain_rates"]


class _Blamed(NamedTuple):
    """A cause, and who is off: "a", "b" or ""."""

    relation: Relation
    side: str


def explain_rates(pair: LoopPair) -> Iterator[Explanation]:
    """The cause of the rates that differ, of all parameter groups with one or of one alone."""
    names = [name for name in pair.differing("lr") if _is_rate(pair, name)]
    if not names or not pair.first.tensor.startswith("lr"):
        return
    noun = f"{pair.mine.name}'s learning rate"
    recorded = pair.mine.tensors("lr", pair.update)
    if names == list(recorded):
        causes = {name: _cause(pair, name, noun) for name in names}
        first = causes[names[0]]
        if first is not None and all(_is_same(cause, first) for cause in causes.values()):
            yield _explanation(first, causes)
            return
    for name in sorted(names, key=lambda name: name != pair.first.tensor):
        cause = _cause(pair, name, f"{noun} of group {name}" if len(recorded) > 1 else noun)
        if cause is not None:
            text = cause.relation.text
            if name not in text and len(recorded) > 1:
                text = f"of group {name}: {text}"
            relation = cause.relation._replace(text=text)
            yield _explanation(_Blamed(relation, cause.side), {name: cause}, is_part=True)


def _explanation(
    cause: _Blamed, causes: Mapping[str, _Blamed | None], *, is_part: bool = False
) -> Explanation:
    relation = cause.relation
    predicted = {name: one.relation.rates_T for name, one in causes.items() if one is not None}
    idea = "one schedule, changed"
    return Explanation(
        relation.key, relation.text, predicted, idea, relation.page, cause.side, is_part=is_part
    )


def _is_rate(pair: LoopPair, name: str) -> bool:
    return rates_of(pair.mine, name) is not None and rates_of(pair.other, name) is not None


def _is_same(cause: _Blamed | None, other: _Blamed) -> bool:
    return (
        cause is not None
        and cause.side == other.side
        and cause.relation.text == other.relation.text
    )


def _cause(pair: LoopPair, name: str, noun: str) -> _Blamed | None:
    mine = rates_of(pair.mine, name)
    other = rates_of(pair.other, name)
    if mine is None or other is None or len(mine.rates_T) != len(other.rates_T):
        return None
    epoch = int(pair.mine.trace.header.get("updates_per_epoch") or 0)
    if name == "lr":
        declared_b, declared_a = declaration_of(pair.mine, mine), declaration_of(pair.other, other)
        if _departs(declared_b, declared_a):
            assert declared_b is not None
            return _from_its_own(pair, mine, other, declared_b, noun, epoch)
        if _departs(declared_a, declared_b):
            return None
        if declared_a is not None and declared_b is not None and pair.mine.name == "b":
            between = _declared_otherwise(mine, other, declared_a, declared_b)
            if between is not None:
                return between
    return _undeclared(pair, mine, other, noun, epoch)


def _undeclared(
    pair: LoopPair, mine: RateSeries, other: RateSeries, noun: str, epoch: int
) -> _Blamed | None:
    """What the rates are of the other's: a relation in either direction, before the difference of
    the schedules and what says less. What holds in both directions is said of b.
    """
    is_b = pair.mine.name == "b"
    others_noun = f"{pair.other.name}'s learning rate"
    b, a = (mine, other) if is_b else (other, mine)
    nouns = (noun, others_noun) if is_b else (others_noun, noun)
    of_b = next(relations(b, a, nouns[0], epoch), None)
    of_a = None if of_b is not None else next(relations(a, b, nouns[1], epoch), None)
    if of_b is None and of_a is None:
        by_schedule = difference(b, a)
        if by_schedule is not None:
            side = {"mine": "b", "other": "a", "": ""}[by_schedule.climbs_back]
            return _Blamed(by_schedule.relation, side) if is_b else None
        of_b = next(partial_relations(b, a, nouns[0]), None)
        of_a = None if of_b is not None else next(partial_relations(a, b, nouns[1]), None)
    relation = of_b if is_b else of_a
    return None if relation is None else _Blamed(relation, "")


def _departs(mine: Declaration | None, other: Declaration | None) -> bool:
    """Whether a side surely departs from its declared schedule.

    A length that is not declared is the run's, which is the recording's where that was not cut
    short; the other side shows that it was not, where it declares the same and follows it.
    """
    if mine is None or mine.is_followed:
        return False
    if mine.is_whole:
        return True
    return other is not None and other.is_followed and mine.schedule == other.schedule


def _from_its_own(
    pair: LoopPair,
    mine: RateSeries,
    other: RateSeries,
    declared: Declaration,
    noun: str,
    epoch: int,
) -> _Blamed | None:
    """What a side's rates are of those that it declares."""
    side = pair.mine.name
    for relation in relations(mine, declared.series, noun, epoch):
        text = relation.text
        if relation.key == "lr-stride" and "as fast" in text:
            times = int(text.partition(" times as fast")[0].rpartition(" ")[2])
            length = declared.length / times
            text += f"; its length is {length:g} for {declared.length}"
        return _Blamed(relation._replace(text=text), side)
    by_schedule = difference(mine, declared.series)
    if by_schedule is not None:
        return _Blamed(by_schedule.relation, side)
    others = relations(mine, other, noun, epoch)
    for relation in (*partial_relations(mine, declared.series, noun), *others):
        return _Blamed(relation, side)
    return None


def _declared_otherwise(
    mine: RateSeries, other: RateSeries, declared_a: Declaration, declared_b: Declaration
) -> _Blamed | None:
    """That both follow what they declare, and declare other schedules."""
    parts = differing_knobs(declared_a, declared_b)
    if not (declared_a.is_followed and declared_b.is_followed) or not parts:
        return None
    text = "the declared schedules differ: " + ", ".join(parts)
    by_schedule = difference(mine, other)
    side, page = "", ""
    if by_schedule is not None and by_schedule.climbs_back:
        side = {"mine": "b", "other": "a"}[by_schedule.climbs_back]
        declared = declared_b if side == "b" else declared_a
        text += (
            f"; {side}'s length is {declared.length} and it goes on after its end, climbing back"
        )
        page = CLIMBS_BACK
    relation = Relation("other-schedule", text, page, declared_b.series.rates_T)
    return _Blamed(relation, side)
