"""A power of the time that is left, from the peak to the floor."""

from typing import Literal

import numpy as np
from pydantic.dataclasses import dataclass

from lockstep.recipe.preset import Preset
from lockstep.recipe.schedules.base import (
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
    HF,
    LENGTH,
    OPTAX,
    OPTAX_NOTE,
    RAMP_A,
    RAMP_B,
    RAMP_B_FROM,
    TIMM,
    TIMM_PREFIX,
    TORCH_EDGES,
    ZERO,
)
from lockstep.recipe.schedules.shapes import Float64, between, linear_fall, stretched
from lockstep.recipe.values import CONFIG, Positive

__all__ = ["Polynomial"]


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Polynomial(Schedule):
    """The rate falls as a power of the share of time left."""

    name: Literal["polynomial"] = "polynomial"
    warmup_of: WarmupOf = "peak"
    length: Length = 0
    decay_start: DecayStart = "W"
    decay_end: DecayEnd = "T"
    floor: Floor = 0.0
    power: Positive = 1.0
    """Exponent of the share of time left."""
    k_decay: KDecay | None = None
    end_rate: Positive | None = None
    """The learning rate at which the decay ends, instead of `floor`."""

    def share(self, t: Float64, W: int, T: int) -> Float64:
        """floor + (1 - floor) (1 - done/length)^power of the phase from W to T."""
        p = decay(self, t, decay_start_of(self, W), decay_end_of(self.decay_end, T), hold=True)
        if self.k_decay is not None:
            p = stretched(p, self.k_decay)
        floor = self.floor if self.end_rate is None else self.end_rate / self.peak
        return between(floor, 1.0, np.power(linear_fall(p), self.power))

    def contradiction(self) -> str:
        """Refuse an `end_rate` that is not below the peak."""
        if self.end_rate is not None and self.end_rate >= self.peak:
            return f"end_rate: must be below peak = {self.peak}, got {self.end_rate}"
        return super().contradiction()


Polynomial.spec = ScheduleSpec(
    title="falls as a power of what is left",
    others={"power": 2.0},
    presets={
        "torch.polynomial": Preset(
            "torch 2.13 PolynomialLR(T-W, power)",
            {"name": "polynomial", "decay_end": "T"} | RAMP_A | AFTER | ZERO | TORCH_EDGES,
            LENGTH | {"power": 1.0},
        ),
        "optax.polynomial": Preset(
            "optax 0.2.8 linear_schedule, then polynomial_schedule, in join_schedules",
            {"name": "polynomial", "decay_end": "T"} | RAMP_B_FROM | AFTER | OPTAX,
            LENGTH | FROM | {"power": 1.0, "floor": 0.0},
            note=OPTAX_NOTE,
        ),
        "hf.polynomial": Preset(
            "transformers 5.23 get_polynomial_decay_schedule_with_warmup; end_rate is lr_end, "
            "or floor is lr_end / lr",
            {"name": "polynomial", "decay_end": "T"} | RAMP_B | AFTER | HF,
            LENGTH | {"power": 1.0, "floor": None, "end_rate": 1e-7},
            derived={"end_rate": lambda knobs: None if "floor" in knobs else 1e-7},
        ),
        "timm.polynomial": Preset(
            "timm 1.0.31 PolyLRScheduler(t_initial=T)",
            {"name": "polynomial", "decay_end": "T"} | RAMP_B_FROM | TIMM,
            LENGTH | FROM | {"power": 0.5, "floor": 0.0, "k_decay": None},
        ),
        "timm.polynomial_prefix": Preset(
            "timm 1.0.31 PolyLRScheduler(t_initial=T-W, warmup_prefix=True)",
            {"name": "polynomial", "decay_end": "T"} | RAMP_B_FROM | TIMM_PREFIX,
            LENGTH | FROM | {"power": 0.5, "floor": 0.0, "k_decay": None},
        ),
    },
)
