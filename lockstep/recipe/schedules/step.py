"""Steps down by one factor.

Source: torch 2.13, `StepLR`.
"""

from typing import Literal

from pydantic.dataclasses import dataclass

from lockstep.recipe.preset import Preset
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
from lockstep.recipe.schedules.library_knobs import (
    AFTER,
    FROM,
    LEAST,
    OPTAX_NOTE,
    RAMP_A,
    RAMP_B,
    RAMP_B_FROM,
    T5X,
    T5X_NOTE,
    TIMM,
    TIMM_PREFIX,
    WARMUP,
)
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

    def share(self, t: Float64, W: int, T: int) -> Float64:
        """factor^floor((t - W - delay) / every)."""
        start = decay_start_of(self, W) + (self.delay or 0)
        return exponential_decay(t, start, self.factor, self.every, staircase=True)


Step.spec = ScheduleSpec(
    title="falls in equal steps",
    counts=True,
    needs={"schedule.every": 30},
    others={"factor": 0.5, "every": 17},
    presets={
        "torch.step": Preset(
            "torch 2.13 StepLR(every, factor)",
            {"name": "step"} | RAMP_A | AFTER,
            WARMUP | {"factor": 0.1, "every": None},
        ),
        "optax.step": Preset(
            "optax 0.2.8 warmup_exponential_decay_schedule(..., staircase=True)",
            {"name": "step"} | RAMP_B_FROM | AFTER,
            WARMUP | FROM | {"factor": None, "every": None, "delay": None},
            note=OPTAX_NOTE,
        ),
        "timm.step": Preset(
            "timm 1.0.31 StepLRScheduler(decay_t=every, decay_rate=factor), whose steps count "
            "from the warmup's end",
            {"name": "step"} | RAMP_B_FROM | TIMM_PREFIX,
            WARMUP | FROM | {"factor": 1.0, "every": None},
        ),
        "timm.step_without_prefix": Preset(
            "timm 1.0.31 StepLRScheduler(decay_t=every, decay_rate=factor, "
            "warmup_prefix=False), as create_scheduler_v2 "
            "makes it, whose decay_rate is 0.1",
            {"name": "step"} | RAMP_B_FROM | TIMM,
            WARMUP | FROM | {"factor": 1.0, "every": None},
        ),
        "t5.decay_every": Preset(
            'T5X create_learning_rate_scheduler("constant * linear_warmup * decay_every"); '
            "factor is decay_factor, every "
            "steps_per_decay",
            {"name": "step", "decay_start": "0", "warmup_of": "schedule"} | RAMP_B | T5X,
            WARMUP | {"factor": 0.5, "every": 20_000} | LEAST,
            note=T5X_NOTE,
        ),
    },
)
