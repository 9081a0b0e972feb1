"""What the pieces of a learning-rate series come to: a climb, and the stretches that follow it."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lockstep.schedules.identify.laws import SURE, Law
from lockstep.schedules.identify.pieces import Piece, cut, tolerance_of
from lockstep.schedules.identify.stretch import Stretch, stretch_of, whole

__all__ = ["Climb", "Profile", "profile_of"]

Array = NDArray[np.float64]

MOST_LOOSE = 3
"""Updates that may follow no law, at either end of a series: a warmup that short shows none."""
NO_PLATEAU = 2
"""Updates at the peak that a climb and a decay share."""


@dataclass(frozen=True)
class Climb:
    """The way up at the start.

    Attributes:
        kind: of its law; "line" of so few updates that they show none.
        first: the rate at update 0.
        last: the last update of it.
        end: the update at which the peak is reached; None where that is not known.
        zero: the update at which a straight climb would be at 0; None for another one.
        law: None of so few updates that they show none.
    """

    kind: str
    first: float
    last: int
    end: float | None
    zero: float | None
    law: Law | None


@dataclass(frozen=True)
class Profile:
    """A schedule as it is read off its rates.

    Attributes:
        climb: None where it does not rise at first.
        stretches: what follows, without a plateau at the top that is no longer than two updates,
            and without the floor that a decay stays at.
        peak: the rate from which the first stretch starts.
        rates_T: what the laws give, and the recorded rates where no law is known.
    """

    climb: Climb | None
    stretches: tuple[Stretch, ...]
    peak: float
    rates_T: Array


def profile_of(rates_T: Array, *, is_float32: bool, counts_from_0: bool = False) -> Profile | None:
    """The schedule that rates are of; None where their pieces come to none.

    Args:
        rates_T: finite rates of consecutive updates, the first of which is update 0.
        is_float32: whether they were computed in no more than float32.
        counts_from_0: whether a decay that may begin at the climb's end or at 0 is read to begin
            at 0. A climb of W updates to the peak and one of W + 1 to a higher one that is never
            reached may give the same rates.
    """
    tolerance = tolerance_of(rates_T, is_float32=is_float32)
    pieces = _steps(_joined(cut(rates_T, tolerance), rates_T, tolerance), rates_T)
    if not _are_known(pieces, len(rates_T)):
        return None
    predicted = rates_T.copy()
    for piece in pieces:
        if piece.law is not None:
            predicted[piece.begin : piece.end] = piece.law.at(_times(piece))
    climbing = pieces[0] if _rises(pieces[0], rates_T) else None
    stretches = []
    for place, piece in enumerate(pieces):
        if piece.law is not None and piece is not climbing:
            before = pieces[place - 1] if place else None
            after = pieces[place + 1] if place + 1 < len(pieces) else None
            stretch = stretch_of(
                piece, before, after, rates_T, tolerance, counts_from_0=counts_from_0
            )
            stretches.append(stretch)
    core = _core(stretches, climbing is not None, tolerance)
    climb = None if climbing is None else _climb(climbing, core, rates_T, tolerance)
    peak = core[0].top if core else float(rates_T.max())
    return Profile(climb, tuple(core), peak, predicted)


def _are_known(pieces: list[Piece], updates: int) -> bool:
    """Whether every piece follows one law alone, but for a few updates at either end."""
    for piece in pieces:
        is_inner = piece.begin > 0 and piece.end < updates
        if piece.law is None and (is_inner or piece.end - piece.begin > MOST_LOOSE):
            return False
        is_bent = piece.law is not None and piece.law.kind not in ("constant", "line")
        if is_bent and piece.others:
            return False
    return any(piece.law is not None for piece in pieces)


def _joined(pieces: list[Piece], rates_T: Array, tolerance: float) -> list[Piece]:
    """The pieces, with those that go on by the law of the one before them taken into it."""
    joined: list[Piece] = []
    for piece in pieces:
        before = joined[-1] if joined else None
        if before is not None and before.law is not None:
            gap = np.abs(before.law.at(_times(piece)) - rates_T[piece.begin : piece.end])
            if gap.max() <= 4 * tolerance:
                joined[-1] = replace(before, end=piece.end)
                continue
        joined.append(piece)
    return joined


def _steps(pieces: list[Piece], rates_T: Array) -> list[Piece]:
    """The pieces, with single updates between steps as steps of their own."""
    kinds = [None if piece.law is None else piece.law.kind for piece in pieces]
    if not all(kind in (None, "constant") for kind in kinds) or kinds.count("constant") < 2:
        return pieces
    steps: list[Piece] = []
    for piece in pieces:
        if piece.law is None and piece.begin > 0 and piece.end - piece.begin <= MOST_LOOSE:
            for update in range(piece.begin, piece.end):
                law = Law("constant", (float(rates_T[update]),))
                steps.append(Piece(update, update + 1, law))
        else:
            steps.append(piece)
    return steps


def _times(piece: Piece) -> Array:
    return np.arange(piece.begin, piece.end, dtype=np.float64)


def _rises(piece: Piece, rates_T: Array) -> bool:
    """Whether the rates of a first piece only rise, or begin below those after it."""
    rates = rates_T[piece.begin : piece.end]
    if piece.law is not None and piece.law.kind == "constant":
        return False
    if len(rates) == 1:
        rates = rates_T[piece.begin : piece.end + 1]
    return bool(len(rates) > 1 and (np.diff(rates) > 0).all())


def _core(stretches: list[Stretch], is_after_climb: bool, tolerance: float) -> list[Stretch]:
    """The stretches without what the others entail."""
    core = list(stretches)
    if len(core) > 1 and is_after_climb and core[0].kind == "constant":
        first, second = core[:2]
        is_short = first.stop - first.begin <= NO_PLATEAU
        if is_short and abs(first.top - second.top) <= 4 * tolerance:
            core.pop(0)
    if len(core) > 1 and core[-1].kind == "constant":
        last = core[-2]
        if last.end is not None and abs(last.floor - core[-1].top) <= 8 * tolerance:
            core.pop()
    return core


def _climb(piece: Piece, core: list[Stretch], rates_T: Array, tolerance: float) -> Climb:
    """The climb of a first piece that rises to the top of what follows it."""
    first = float(rates_T[0])
    law = piece.law
    zero = end = None
    if law is None:
        return _short_climb(piece, core, rates_T, tolerance)
    if law.kind == "line":
        at_0, slope = law.numbers
        slack = 4 * tolerance / abs(slope)
        zero = whole(-at_0 / slope, slack)
        is_known = bool(core) and core[0].is_sure
        end = whole((core[0].top - at_0) / slope, slack) if is_known else None
    elif law.kind == "cosine":
        _, _, top_at, length = law.numbers
        periods = np.ceil((piece.end - 1.5 - top_at) / (2 * length))
        slack = sum(law.spread[2:])
        top = top_at + 2 * length * float(periods)
        end = whole(top, slack) if slack < SURE else None
    return Climb(law.kind, first, piece.end - 1, end, zero, law)


def _short_climb(piece: Piece, core: list[Stretch], rates_T: Array, tolerance: float) -> Climb:
    """The climb of a few updates, straight where it is as one of the ramps has it."""
    first = float(rates_T[0])
    last = piece.end - 1
    if not core:
        return Climb("line", first, last, None, None, None)
    peak = core[0].top
    is_top = np.abs(rates_T[: piece.end + 1] - peak) <= 4 * tolerance
    if not is_top.any():
        return Climb("line", first, last, None, None, None)
    end = int(is_top.argmax())
    t = np.arange(end, dtype=np.float64)
    for added in (0, 1):
        law = Law("line", (peak * added / (end + added), peak / (end + added)))
        if (np.abs(law.at(t) - rates_T[:end]) <= 4 * tolerance).all():
            return Climb("line", first, last, float(end), -float(added), law)
    return Climb("line", first, last, float(end), None, None)
