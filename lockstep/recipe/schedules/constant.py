"""The peak, from the end of the warmup on."""

from typing import Literal

import numpy as np
from pydantic.dataclasses import dataclass

from lockstep.recipe.preset import Preset
from lockstep.recipe.schedules.base import Schedule, ScheduleSpec
from lockstep.recipe.schedules.library_knobs import (
    ANY,
    FROM,
    OPTAX,
    OPTAX_NOTE,
    PYTORCH_WARMUP,
    RAMP_A,
    RAMP_B,
    RAMP_B_FROM,
    TORCH_EDGES,
    WARMUP,
)
from lockstep.recipe.schedules.shapes import Float64
from lockstep.recipe.values import CONFIG

__all__ = ["Constant"]


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Constant(Schedule):
    """The rate stays at the peak."""

    name: Literal["constant"] = "constant"

    def share(self, t: Float64, W: int, T: int) -> Float64:
        """1."""
        return np.ones_like(t)

    def refusal(self, warmup: int, length: int) -> str:
        """No library refuses any length."""
        return ""


Constant.spec = ScheduleSpec(
    title="stays there",
    alone="This recipe has no warmup; its learning rate is {peak} from the first update.",
    presets={
        "torch.constant": Preset("torch 2.13 LinearLR", {"name": "constant"} | RAMP_A, WARMUP),
        "torch.constant_lr": Preset(
            "torch 2.13 ConstantLR(factor=warmup_start, total_iters=W), alone",
            {
                "name": "constant",
                "warmup_curve": "constant",
                "warmup_shape": "linear",
                "ramp": "t/W",
            }
            | TORCH_EDGES,
            ANY | {"warmup": 5, "warmup_start": 1 / 3},
        ),
        "optax.constant": Preset(
            "optax 0.2.8 warmup_constant_schedule",
            {"name": "constant"} | RAMP_B_FROM | OPTAX,
            WARMUP | FROM,
            note=OPTAX_NOTE,
        ),
        "hf.constant": Preset(
            "transformers 5.23 get_constant_schedule", {"name": "constant", "warmup": 0}, ANY
        ),
        "hf.constant_with_warmup": Preset(
            "transformers 5.23 get_constant_schedule_with_warmup",
            {"name": "constant"} | RAMP_B,
            WARMUP,
        ),
        "megatron.constant": Preset(
            'Megatron-LM OptimizerParamScheduler, "constant"',
            {"name": "constant"} | RAMP_B_FROM,
            WARMUP | FROM,
        ),
        "pytorch_warmup.linear": Preset(
            "pytorch_warmup 0.2 LinearWarmup(W)",
            {"name": "constant"} | RAMP_A | PYTORCH_WARMUP,
            WARMUP,
        ),
        "pytorch_warmup.exponential": Preset(
            "pytorch_warmup 0.2 ExponentialWarmup(W)",
            {
                "name": "constant",
                "warmup_shape": "exponential",
                "ramp": "(t+1)/W",
                "warmup_start": 0.0,
            }
            | PYTORCH_WARMUP,
            WARMUP,
        ),
        "pytorch_warmup.untuned_linear": Preset(
            "pytorch_warmup 0.2 UntunedLinearWarmup, whose period is int(2 / (1 - beta2))",
            {"name": "constant", "warmup_shape": "untuned_linear", "warmup": 0, "unit": "update"}
            | {"ramp": "(t+1)/W", "warmup_start": 0.0}
            | PYTORCH_WARMUP,
            {"peak": None},
        ),
        "pytorch_warmup.untuned_exponential": Preset(
            "pytorch_warmup 0.2 UntunedExponentialWarmup, whose period is int(1 / (1 - beta2))",
            {
                "name": "constant",
                "warmup_shape": "untuned_exponential",
                "warmup": 0,
                "unit": "update",
            }
            | {"ramp": "(t+1)/W", "warmup_start": 0.0}
            | PYTORCH_WARMUP,
            {"peak": None},
        ),
        "deepspeed.warmup": Preset(
            "DeepSpeed WarmupLR(warmup_type='log'), whose first two updates have warmup_min_lr",
            {
                "name": "constant",
                "warmup_curve": "log",
                "warmup_shape": "linear",
                "ramp": "t/W",
                "edges": "deepspeed",
            },
            ANY | {"warmup": 1000, "warmup_start": 0.0},
        ),
    },
)
