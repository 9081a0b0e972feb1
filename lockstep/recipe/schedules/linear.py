"""A line from the peak to the floor."""

from typing import Literal

from pydantic.dataclasses import dataclass

from lockstep.recipe.schedules.base import (
    AfterEnd,
    DecayEnd,
    DecayStart,
    Floor,
    Length,
    Schedule,
    ScheduleSpec,
    WarmupOf,
    decay,
    decay_end_of,
    decay_start_of,
)
from lockstep.recipe.schedules.shapes import Float64, between, linear_fall
from lockstep.recipe.values import CONFIG

__all__ = ["Linear"]


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Linear(Schedule):
    """The rate falls in a straight line to the floor."""

    name: Literal["linear"] = "linear"
    warmup_of: WarmupOf = "peak"
    length: Length = 0
    decay_start: DecayStart = "W"
    decay_end: DecayEnd = "T"
    floor: Floor = 0.0
    after_end: AfterEnd = "hold"

    spec = ScheduleSpec(title="falls in a straight line")

    def share(self, t: Float64, W: int, T: int) -> Float64:
        """floor + (1 - floor) (1 - done/length) of the phase from W to T."""
        start = decay_start_of(self, W)
        end = decay_end_of(self.decay_end, T)
        p = decay(self, t, start, end, hold=self.after_end == "hold")
        return between(self.floor, 1.0, linear_fall(p))
