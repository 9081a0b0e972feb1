"""What is said of schedules that were read off their rates: clauses, names and numbers."""

from typing import NamedTuple

from lockstep.diagnose.between.rates.series import RateSeries, width_of
from lockstep.numbers import number, number_beside
from lockstep.schedules.identify.profile import Profile
from lockstep.schedules.identify.stretch import Stretch

__all__ = [
    "CLIMBS_BACK",
    "NOT_SAID",
    "Clause",
    "Sides",
    "are_same",
    "beside",
    "described",
    "name_of",
    "update_text",
]

CLIMBS_BACK = "cosine-climbs-back"
SAME = 1e-6
"""Relative difference below which two numbers that are read off rates are one."""
MOST_PARTS = 5
"""Pieces of a schedule that is described in full."""
FALLS = {
    "line": "a straight line",
    "cosine": "a cosine",
    "exponential": "an exponential",
    "constant": "a constant rate",
}
POWERS = {-0.5: "an inverse square root", -1.0: "the inverse of the time"}


class Clause(NamedTuple):
    """One thing that differs: the key of the cause, its words and its page."""

    key: str
    text: str
    page: str = ""


NOT_SAID = Clause("other-schedule", "")
"""That something differs for which there are no words."""


class Sides(NamedTuple):
    """Two series with the schedules read off them."""

    mine: RateSeries
    other: RateSeries
    b: Profile
    a: Profile

    def at(self, update: float) -> str:
        """Both sides' rates at an update: "0.97553 for 1 at update 100"; "" where they are equal
        or were not recorded.
        """
        place = int(update)
        if not 0 <= place < len(self.mine.rates_T):
            return ""
        mine, other = self.mine.rates_T[place], self.other.rates_T[place]
        if abs(mine - other) <= width_of(self.mine, self.other):
            return ""
        return f"{beside(mine, other)} at update {place}"


def are_same(mine: float, other: float, scale: float = 0.0) -> bool:
    """Whether two numbers are one, up to what reading them off leaves."""
    return abs(mine - other) <= SAME * max(abs(mine), abs(other), scale)


def beside(mine: float, other: float) -> str:
    """Two numbers in digits that tell them apart: "0.97553 for 1"."""
    return f"{_digits(mine, other)} for {_digits(other, mine)}"


def _digits(value: float, other: float) -> str:
    return number(value) if are_same(value, other) else number_beside(value, other, 5)


def update_text(value: float | None) -> str:
    """The number of an update, or of updates."""
    return "?" if value is None else number(value, 7)


def name_of(stretch: Stretch) -> str:
    """The words for a law: "a cosine"."""
    if stretch.kind != "power":
        return FALLS[stretch.kind]
    return POWERS.get(stretch.number) or f"a power of {number(stretch.number)}"


def described(profile: Profile) -> str:
    """A schedule in words; "" where some of it is not known."""
    parts = []
    climb = profile.climb
    if climb is not None:
        if climb.end is None:
            return ""
        top = number(profile.peak)
        parts.append(f"climbs from {number(climb.first)} to {top} at update {_at(climb.end)}")
    for stretch in profile.stretches:
        if not stretch.is_sure:
            return ""
        parts.append(_in_words(stretch))
    is_clear = len(set(parts)) == len(parts) <= MOST_PARTS
    return ", then ".join(parts) if is_clear else ""


def _at(update: float) -> str:
    return update_text(round(update, 2))


def _in_words(stretch: Stretch) -> str:
    if stretch.kind == "constant":
        return f"stays at {number(stretch.top)}"
    text = f"follows {name_of(stretch)} from {number(stretch.top)}"
    if stretch.start is not None:
        text += f" at update {_at(stretch.start)}"
    if stretch.end is not None:
        text += f" to {number(stretch.floor)} at update {_at(stretch.end)}"
    if stretch.kind == "exponential":
        text += f" by the factor {number(stretch.number, 6)} an update"
    return text + (", climbing back after it" if stretch.goes_on else "")
