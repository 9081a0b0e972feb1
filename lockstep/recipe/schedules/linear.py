"""A line from the peak to the floor."""

from typing import Literal

from pydantic.dataclasses import dataclass

from lockstep.recipe.preset import Preset
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
from lockstep.recipe.schedules.library_knobs import (
    AFTER,
    FROM,
    GO_ON,
    HF,
    HOLD,
    LENGTH,
    MEGATRON,
    OPTAX,
    OPTAX_NOTE,
    RAMP_A,
    RAMP_B,
    RAMP_B_FROM,
    TORCH_EDGES,
    TORCHTITAN,
    ZERO,
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

    def share(self, t: Float64, W: int, T: int) -> Float64:
        """floor + (1 - floor) (1 - done/length) of the phase from W to T."""
        start = decay_start_of(self, W)
        end = decay_end_of(self.decay_end, T)
        p = decay(self, t, start, end, hold=self.after_end == "hold")
        return between(self.floor, 1.0, linear_fall(p))


Linear.spec = ScheduleSpec(
    title="falls in a straight line",
    presets={
        "torch.linear": Preset(
            "torch 2.13 LinearLR(1, floor, T-W)",
            {"name": "linear"} | RAMP_A | AFTER | HOLD | TORCH_EDGES,
            LENGTH | {"floor": 0.0},
        ),
        "optax.linear": Preset(
            "optax 0.2.8 linear_schedule, twice, in join_schedules",
            {"name": "linear"} | RAMP_B_FROM | AFTER | HOLD | OPTAX,
            LENGTH | FROM | {"floor": 0.0},
            note=OPTAX_NOTE,
        ),
        "hf.linear": Preset(
            "transformers 5.23 get_linear_schedule_with_warmup",
            {"name": "linear"} | RAMP_B | AFTER | HOLD | ZERO | HF,
            LENGTH,
        ),
        "torchtitan.linear": Preset(
            'torchtitan lr_scheduler, "linear"',
            {"name": "linear"} | RAMP_A | AFTER | GO_ON | TORCHTITAN,
            LENGTH | {"floor": 0.0},
        ),
        "megatron.linear": Preset(
            'Megatron-LM OptimizerParamScheduler, "linear"',
            {"name": "linear"} | RAMP_B_FROM | AFTER | HOLD | MEGATRON,
            LENGTH | FROM | {"floor": 0.0},
        ),
    },
)
