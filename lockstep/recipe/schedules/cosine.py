"""Half a cosine from the peak to the floor.

Source: Loshchilov & Hutter, arXiv:1608.03983, eq. 5.
"""

from typing import Literal

import numpy as np
from pydantic.dataclasses import dataclass

from lockstep.recipe.preset import Preset
from lockstep.recipe.schedules.base import (
    AfterEnd,
    DecayEnd,
    DecayStart,
    Floor,
    KDecay,
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
    HF_EARLY,
    HOLD,
    LENGTH,
    MEGATRON,
    OPTAX,
    OPTAX_NOTE,
    RAMP_A,
    RAMP_B,
    RAMP_B_FROM,
    RAMP_C,
    TIMM,
    TIMM_PREFIX,
    TORCH_EDGES,
    TORCHTITAN,
    ZERO,
)
from lockstep.recipe.schedules.shapes import Float64, between, cosine_fall, cosine_waves, stretched
from lockstep.recipe.values import CONFIG, Positive

__all__ = ["Cosine"]


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Cosine(Schedule):
    """The rate falls along half a cosine to the floor."""

    name: Literal["cosine"] = "cosine"
    warmup_of: WarmupOf = "peak"
    length: Length = 0
    decay_start: DecayStart = "W"
    decay_end: DecayEnd = "T"
    floor: Floor = 0.0
    after_end: AfterEnd = "hold"
    power: Positive | None = None
    """Exponent of the cosine (Optax's `exponent`); 1 unless set."""
    waves: Positive | None = None
    """Whole waves until T; half a wave unless set, which ends at the floor."""
    k_decay: KDecay | None = None

    def share(self, t: Float64, W: int, T: int) -> Float64:
        """floor + (1 - floor) (1 + cos(pi done/length)) / 2 of the phase from W to T."""
        start = decay_start_of(self, W)
        end = decay_end_of(self.decay_end, T)
        if self.edges == "hf":
            end = max(end, start + 1)  # a length of max(1, T - W)
        p = decay(self, t, start, end, hold=self.after_end == "hold")
        if self.k_decay is not None:
            p = stretched(p, self.k_decay)
        share = cosine_fall(p) if self.waves is None else cosine_waves(p, self.waves)
        if self.power is not None:
            share = np.power(share, self.power)
        return between(self.floor, 1.0, share)


Cosine.spec = ScheduleSpec(
    title="falls along a cosine",
    presets={
        "torch.cosine": Preset(
            "torch 2.13 CosineAnnealingLR(T-W, eta_min)",
            {"name": "cosine"} | RAMP_A | AFTER | GO_ON | TORCH_EDGES,
            LENGTH | {"floor": 0.0},
        ),
        "optax.cosine": Preset(
            "optax 0.2.8 warmup_cosine_decay_schedule(decay_steps=T, exponent=power)",
            {"name": "cosine"} | RAMP_B_FROM | AFTER | HOLD | OPTAX,
            LENGTH | FROM | {"floor": 0.0, "power": None},
            note=OPTAX_NOTE,
        ),
        "hf.cosine": Preset(
            "transformers 5.23 get_cosine_schedule_with_warmup; waves is num_cycles",
            {"name": "cosine"} | RAMP_B | AFTER | GO_ON | ZERO | HF,
            LENGTH | {"waves": None},
        ),
        "hf.cosine_with_min_lr": Preset(
            "transformers 5.23 get_cosine_with_min_lr_schedule_with_warmup; floor is min_lr_rate",
            {"name": "cosine"} | RAMP_B | AFTER | GO_ON | HF,
            LENGTH | {"floor": None, "waves": None},
        ),
        "hf.cosine_warmup_with_min_lr": Preset(
            "transformers 5.23 get_cosine_with_min_lr_schedule_with_warmup_lr_rate; floor is "
            "min_lr_rate",
            {"name": "cosine"} | HF_EARLY | RAMP_A | HF,
            LENGTH | {"floor": None, "waves": None},
        ),
        "hf.cosine_warmup_from_lr_rate": Preset(
            "transformers 5.23 "
            "get_cosine_with_min_lr_schedule_with_warmup_lr_rate(warmup_lr_rate=warmup_start)",
            {"name": "cosine", "warmup_shape": "linear", "ramp": "t/W", "warmup_top": "W-1"}
            | HF_EARLY
            | HF,
            LENGTH | {"warmup_start": None, "floor": None, "waves": None},
        ),
        "timm.cosine": Preset(
            "timm 1.0.31 CosineLRScheduler(t_initial=T)",
            {"name": "cosine"} | RAMP_B_FROM | TIMM | HOLD,
            LENGTH | FROM | {"floor": 0.0, "k_decay": None},
        ),
        "timm.cosine_prefix": Preset(
            "timm 1.0.31 CosineLRScheduler(t_initial=T-W, warmup_prefix=True)",
            {"name": "cosine"} | RAMP_B_FROM | TIMM_PREFIX | HOLD,
            LENGTH | FROM | {"floor": 0.0, "k_decay": None},
        ),
        "nanogpt.cosine": Preset(
            "nanoGPT train.py get_lr (older versions have the ramp t/W); floor is min_lr / "
            "learning_rate",
            {"name": "cosine"} | RAMP_C | AFTER | HOLD | {"edges": "nanogpt"},
            LENGTH | {"floor": 0.1},
        ),
        "torchtitan.cosine": Preset(
            'torchtitan lr_scheduler, "cosine"',
            {"name": "cosine"} | RAMP_A | AFTER | GO_ON | TORCHTITAN,
            LENGTH | {"floor": 0.0},
        ),
        "megatron.cosine": Preset(
            'Megatron-LM OptimizerParamScheduler, "cosine"',
            {"name": "cosine"} | RAMP_B_FROM | AFTER | HOLD | MEGATRON,
            LENGTH | FROM | {"floor": 0.0},
        ),
        "bolts.cosine": Preset(
            "lightning-bolts 0.7 LinearWarmupCosineAnnealingLR(warmup_epochs=W, max_epochs=T)",
            {
                "name": "cosine",
                "warmup_shape": "linear",
                "ramp": "t/W",
                "warmup_top": "W-1",
                "edges": "bolts",
            }
            | AFTER
            | GO_ON,
            LENGTH | {"warmup_start": 0.0, "floor": 0.0},
        ),
    },
)
