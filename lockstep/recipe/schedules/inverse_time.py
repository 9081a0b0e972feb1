"""The inverse of the time since the start. Source: Keras 3, `InverseTimeDecay`."""

from typing import Literal

import numpy as np
from pydantic.dataclasses import dataclass

from lockstep.recipe.schedules.base import (
    DecayStart,
    Every,
    Schedule,
    ScheduleSpec,
    WarmupOf,
    decay_start_of,
)
from lockstep.recipe.schedules.shapes import Float64
from lockstep.recipe.values import CONFIG, Positive

__all__ = ["InverseTime"]


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class InverseTime(Schedule):
    """The rate falls with the inverse of the time."""

    name: Literal["inverse_time"] = "inverse_time"
    warmup_of: WarmupOf = "peak"
    decay_start: DecayStart = "W"
    decay_rate: Positive = 0.5
    """Growth of the peak's divisor, which is 1 at the start, in every `every` units."""
    every: Every = 1

    spec = ScheduleSpec(
        title="falls with the inverse of the time",
        counts=True,
        needs={"schedule.every": 30},
        others={"decay_rate": 2.0, "every": 17},
    )

    def share(self, t: Float64, W: int, T: int) -> Float64:
        """1 / (1 + decay_rate (t - W) / every)."""
        past = np.maximum(t - decay_start_of(self, W), 0)
        return self.every / (self.every + self.decay_rate * past)
