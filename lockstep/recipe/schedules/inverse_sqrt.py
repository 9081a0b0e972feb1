"""The inverse square root of the time since the start."""

from dataclasses import replace
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from lockstep.recipe.preset import Preset
from lockstep.recipe.schedules.base import (
    DecayStart,
    Floor,
    Length,
    Schedule,
    ScheduleSpec,
    WarmupOf,
    decay_start_of,
)
from lockstep.recipe.schedules.library_knobs import (
    AFTER,
    FROM,
    HF,
    LEAST,
    MEGATRON,
    RAMP_A,
    RAMP_B,
    RAMP_B_FROM,
    T5X,
    T5X_NOTE,
    WARMUP,
    ZERO,
)
from lockstep.recipe.schedules.shapes import Float64
from lockstep.recipe.values import CONFIG

__all__ = ["InverseSqrt", "inverse_sqrt_decay"]


def inverse_sqrt_decay(t: Float64, start: float, timescale: float) -> Float64:
    """1 until `start`, then sqrt(timescale / (timescale + t - start)).

    Sources: Vaswani et al., arXiv:1706.03762, section 5.3, where timescale = W and start = W-1;
    Raffel et al., arXiv:1910.10683, section 3.1.2.

    Example: `inverse_sqrt_decay(np.array([4.0, 16]), 4, 4)` is 1, 0.5.
    """
    return np.sqrt(timescale / (timescale + np.maximum(t - start, 0)))


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class InverseSqrt(Schedule):
    """The rate falls with the inverse square root of the time."""

    name: Literal["inverse_sqrt"] = "inverse_sqrt"
    warmup_of: WarmupOf = "peak"
    length: Length | None = None
    decay_start: DecayStart = "W"
    floor: Floor = 0.0
    timescale: Annotated[int, Field(ge=0)] = 0
    """The time, in `unit`s, from which the root counts at the decay's start; 0 is W."""

    def share(self, t: Float64, W: int, T: int) -> Float64:
        """sqrt(timescale / (timescale + t - W)), and no less than the floor."""
        start = decay_start_of(self, W)
        timescale = self.timescale or W
        if not timescale:  # without a warmup the libraries have numbers of their own
            start, timescale = {"hf": (0, 10_000), "megatron": (1, 1)}[self.edges or ""]
        share = np.maximum(inverse_sqrt_decay(t, start, timescale), self.floor)
        return np.where(t > T, self.floor, share) if self.length else share

    def contradiction(self) -> str:
        """Refuse a root without a timescale where there is no warmup."""
        counts_from_warmup = self.timescale == 0 and self.warmup == 0 and not self.untuned
        if counts_from_warmup and not self.edges_change_rates(0):
            return "timescale: must be above 0 where there is no warmup"
        return super().contradiction()

    def without_warmup(self, warmup: int) -> Self:
        """The schedule without its warmup, whose root keeps W as its timescale."""
        counted = replace(self, timescale=self.timescale or warmup)
        return super(InverseSqrt, counted).without_warmup(warmup)


InverseSqrt.spec = ScheduleSpec(
    title="falls with the inverse square root of the time",
    counts=True,
    needs={"schedule.timescale": 20},
    others={"timescale": 50},
    presets={
        "hf.inverse_sqrt": Preset(
            "transformers 5.23 get_inverse_sqrt_schedule",
            {"name": "inverse_sqrt"} | RAMP_B | AFTER | ZERO | HF,
            WARMUP | {"timescale": None},
        ),
        "megatron.inverse_sqrt": Preset(
            'Megatron-LM OptimizerParamScheduler, "inverse-square-root"; length is '
            "lr_decay_steps, and unset past the run",
            {"name": "inverse_sqrt", "timescale": 0} | RAMP_B_FROM | AFTER | MEGATRON,
            WARMUP | FROM | {"length": None, "floor": 0.0},
        ),
        "t5.inverse_sqrt": Preset(
            "Raffel et al., arXiv:1910.10683, section 3.1.2: 1 / sqrt(max(t, W)), whose peak "
            "is 1 / sqrt(W)",
            {
                "name": "inverse_sqrt",
                "warmup_shape": "linear",
                "ramp": "t/W",
                "warmup_start": 1.0,
                "timescale": 0,
            }
            | AFTER
            | ZERO,
            WARMUP,
        ),
        "t5.linear_warmup": Preset(
            'T5X create_learning_rate_scheduler("constant * linear_warmup * '
            'rsqrt_normalized_decay"); least_rate is '
            "min_learning_rate",
            {"name": "inverse_sqrt", "timescale": 0} | RAMP_B | AFTER | ZERO | T5X,
            WARMUP | LEAST,
            note=T5X_NOTE,
        ),
        "noam": Preset(
            "Vaswani et al., arXiv:1706.03762, section 5.3, whose peak is 1 / sqrt(d_model W)",
            {"name": "inverse_sqrt", "timescale": 0, "decay_start": "W-1", "warmup_of": "peak"}
            | RAMP_A
            | ZERO,
            WARMUP,
        ),
    },
)
