"""A factor in every so many units of time."""

from typing import Literal

import numpy as np
from pydantic.dataclasses import dataclass

from lockstep.recipe.preset import Preset
from lockstep.recipe.schedules.base import (
    DecayStart,
    Delay,
    Every,
    Factor,
    Floor,
    Schedule,
    ScheduleSpec,
    WarmupOf,
    decay_start_of,
)
from lockstep.recipe.schedules.library_knobs import (
    AFTER,
    FROM,
    OPTAX,
    OPTAX_NOTE,
    RAMP_A,
    RAMP_B_FROM,
    WARMUP,
    ZERO,
)
from lockstep.recipe.schedules.shapes import Float64
from lockstep.recipe.values import CONFIG

__all__ = ["Exponential", "exponential_decay"]


def exponential_decay(
    t: Float64, start: int, factor: float, every: int, *, staircase: bool = False
) -> Float64:
    """1 until `start`, then factor^((t - start) / every).

    `staircase` rounds the quotient down.

    Sources: torch 2.13 `ExponentialLR`, `StepLR`; optax 0.2.8 `exponential_decay`.

    Example: `exponential_decay(np.array([4.0, 6]), 2, 0.5, 2)` is 0.5, 0.25.
    """
    whole, rest = np.divmod(np.maximum(t - start, 0), every)
    stairs = np.power(factor, whole)
    return stairs if staircase else stairs * np.power(factor, rest / every)


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Exponential(Schedule):
    """The rate falls by a factor in every so many units."""

    name: Literal["exponential"] = "exponential"
    warmup_of: WarmupOf = "peak"
    decay_start: DecayStart = "W"
    floor: Floor = 0.0
    factor: Factor = 0.9
    every: Every = 1
    delay: Delay | None = None

    def share(self, t: Float64, W: int, T: int) -> Float64:
        """factor^((t - W - delay) / every), and no less than the floor."""
        start = decay_start_of(self, W) + (self.delay or 0)
        share = exponential_decay(t, start, self.factor, self.every)
        if self.edges == "optax" and self.factor >= 1:
            return np.minimum(share, self.floor) if self.floor else share
        return np.maximum(share, self.floor)

    def edges_change_rates(self, warmup: int) -> bool:
        """Optax takes the floor for a ceiling where the factor is 1 or more."""
        return self.factor >= 1 if self.edges == "optax" else super().edges_change_rates(warmup)


Exponential.spec = ScheduleSpec(
    title="falls exponentially",
    counts=True,
    needs={"schedule.factor": 0.99},
    others={"factor": 0.5, "every": 17},
    presets={
        "torch.exponential": Preset(
            "torch 2.13 ExponentialLR(factor)",
            {"name": "exponential", "every": 1} | RAMP_A | AFTER | ZERO,
            WARMUP | {"factor": None},
        ),
        "optax.exponential": Preset(
            "optax 0.2.8 warmup_exponential_decay_schedule(transition_steps=every, "
            "decay_rate=factor, transition_begin=delay); floor 0 is no end_value",
            {"name": "exponential"} | RAMP_B_FROM | AFTER | OPTAX,
            WARMUP | FROM | {"factor": None, "every": None, "delay": None, "floor": 0.0},
            note=OPTAX_NOTE,
        ),
    },
)
