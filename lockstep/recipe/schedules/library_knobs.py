"""What presets of several schedules fix, and what they leave free: knob -> the library's own
default, None where the recipe's stays.

The presets of torch have LinearLR(1/W, total_iters=W-1), then what is named, in a SequentialLR with
the milestone W.
"""

from typing import Any

__all__ = [
    "AFTER",
    "ANY",
    "FROM",
    "GO_ON",
    "HF",
    "HF_EARLY",
    "HOLD",
    "IN_FLOAT32",
    "LEAST",
    "LENGTH",
    "MEGATRON",
    "OPTAX",
    "OPTAX_NOTE",
    "PYTORCH_WARMUP",
    "RAMP_A",
    "RAMP_B",
    "RAMP_B_FROM",
    "RAMP_C",
    "T5X",
    "T5X_NOTE",
    "THREE",
    "TIMM",
    "TIMM_PREFIX",
    "TORCHTITAN",
    "TORCH_EDGES",
    "WARMUP",
    "ZERO",
]

ANY: dict[str, Any] = {"peak": None, "unit": None}
WARMUP = ANY | {"warmup": None}
LENGTH = WARMUP | {"length": None}
RAMP_A = {"warmup_shape": "linear", "ramp": "(t+1)/W", "warmup_start": 0.0}
RAMP_B = {"warmup_shape": "linear", "ramp": "t/W", "warmup_start": 0.0}
RAMP_C = {"warmup_shape": "linear", "ramp": "(t+1)/(W+1)", "warmup_start": 0.0}
RAMP_B_FROM = {"warmup_shape": "linear", "ramp": "t/W"}  # from a rate of the user's choice
FROM = {"warmup_start": 0.0}
AFTER = {"decay_start": "W", "warmup_of": "peak"}
HOLD = {"decay_end": "T", "after_end": "hold"}
GO_ON = {"decay_end": "T", "after_end": "continue"}
ZERO = {"floor": 0.0}
# without warmup_prefix the warmup covers the decay's first steps; with it the decay comes after
TIMM = {"decay_start": "0", "warmup_of": "peak", "edges": "timm"}
HF_EARLY = {"decay_start": "W-1", "warmup_of": "peak", "decay_end": "T-1", "after_end": "continue"}
TIMM_PREFIX = AFTER | {"edges": "timm"}
OPTAX, HF, MEGATRON, TORCHTITAN = (
    {"edges": name} for name in ("optax", "hf", "megatron", "torchtitan")
)
TORCH_EDGES, T5X = {"edges": "torch"}, {"edges": "t5x"}
LEAST = {"least_rate": 1e-8}
PYTORCH_WARMUP = {"edges": "pytorch_warmup"}
THREE = ("linear", "1-sqrt", "cosine")
IN_FLOAT32 = (
    "{} without x64 computes its schedules in float32: under jit they are not this closed "
    "form rounded once at many an "
    "update, in a cosine by up to 1.5e-07 of the peak (lockstep atlas "
    "schedule-in-float32-under-jit)"
)
OPTAX_NOTE, T5X_NOTE = IN_FLOAT32.format("Optax"), IN_FLOAT32.format("T5X")
