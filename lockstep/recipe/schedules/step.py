"""Steps down by one factor.

Source: torch 2.13, `StepLR`.
"""

from typing import Literal

from pydantic.dataclasses import dataclass

from lockstep.recipe.schedules.base import (
    DecayStart,
    Delay,
    Every,
    Factor,
    Schedule,
    ScheduleSpec,
    WarmupOf,
    decay_start_of,
)
from lockstep.recipe.schedules.exponential import exponential_decay
from lockstep.recipe.schedules.shapes import Float64
from lockstep.recipe.values import CONFIG

__all__ = ["Step"]


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Step(Schedule):
    """The rate falls in equal steps, by a factor in every so many units."""

    name: Literal["step"] = "step"
    warmup_of: WarmupOf = "peak"
    decay_start: DecayStart = "W"
    factor: Factor = 0.1
    every: Every = 3
    delay: Delay | None = None

    spec = ScheduleSpec(
        title="falls in equal steps",
        counts=True,
        needs={"schedule.every": 30},
        others={"factor": 0.5, "every": 17},
    )

    def share(self, t: Float64, W: int, T: int) -> Float64:
        """factor^floor((t - W - delay) / every)."""
        start = decay_start_of(self, W) + (self.delay or 0)
        return exponential_decay(t, start, self.factor, self.every, staircase=True)
