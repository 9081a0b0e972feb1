"""Warmup, stable, decay (WSD). Source: Hägele et al., arXiv:2405.18392."""

from dataclasses import replace
from typing import Annotated, Literal, Self

from pydantic import Field
from pydantic.dataclasses import dataclass

from lockstep.recipe.preset import Preset
from lockstep.recipe.schedules.base import (
    AfterEnd,
    DecayEnd,
    Floor,
    Length,
    Schedule,
    ScheduleSpec,
    decay_end_of,
)
from lockstep.recipe.schedules.library_knobs import (
    FROM,
    GO_ON,
    HF,
    HOLD,
    LENGTH,
    MEGATRON,
    RAMP_A,
    RAMP_B_FROM,
    THREE,
    TORCHTITAN,
)
from lockstep.recipe.schedules.shapes import (
    FALLS,
    Float64,
    between,
    exponential_fall,
    phase,
    power_fall,
)
from lockstep.recipe.values import CONFIG, Count, Positive

__all__ = ["Wsd"]


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Wsd(Schedule):
    """The rate stays at the peak and falls at the end: warmup, stable, decay."""

    name: Literal["wsd"] = "wsd"
    length: Length = 0
    decay_end: DecayEnd = "T"
    floor: Floor = 0.0
    after_end: AfterEnd = "hold"
    power: Positive | None = None
    """Exponent of the share done in a decay of the shape "power"; 1/2 unless set."""
    decay_length: Count = 2
    """Length of the decay, in `unit`s."""
    decay_shape: Literal["linear", "1-sqrt", "cosine", "power", "exponential"] = "linear"
    """Shape of the decay, by the share p of it that is done: a line, 1 - sqrt(p), half a cosine,
    1 - p^power, or (r^p - r) / (1 - r) with r = `decay_ratio`."""
    decay_ratio: Annotated[float, Field(gt=0, lt=1)] | None = None
    """The ratio r of an exponential decay; 1/2 unless set."""

    def share(self, t: Float64, W: int, T: int) -> Float64:
        """floor + (1 - floor) fall(done/length) of the phase of `decay_length` that ends at T."""
        end = decay_end_of(self.decay_end, T)
        p = phase(t, end - self.decay_length, end, hold=self.after_end == "hold")
        if self.decay_shape == "power" and self.power is not None:
            fall = power_fall(p, self.power)
        elif self.decay_shape == "exponential" and self.decay_ratio is not None:
            fall = exponential_fall(p, self.decay_ratio)
        else:
            fall = FALLS[self.decay_shape](p)
        return between(self.floor, 1.0, fall)

    def misfit(self, warmup: int, length: int, what: str) -> str:
        """Refuse a warmup and a decay that do not fit into T one after the other."""
        reason = super().misfit(warmup, length, what)
        may_overlap = self.edges in ("hf", "megatron")
        if reason or warmup + self.decay_length <= length or may_overlap:
            return reason
        return (
            f"decay_length: {warmup} + {self.decay_length} {self.unit}s of warmup and decay are "
            f"longer than {what}"
        )

    def with_warmup(self, warmup: int, end: int) -> Self:
        """The schedule with a linear warmup, and with a decay that fits behind it."""
        left = end - warmup
        shorter = replace(self, decay_length=max(1, min(self.decay_length, left)))
        return super(Wsd, shorter).with_warmup(warmup if left else warmup - 1, end)


Wsd.spec = ScheduleSpec(
    title="stays there until it decays at the end",
    counts=True,
    needs={"schedule.decay_length": 30},
    others={"decay_length": 60},
    presets={
        "hf.warmup_stable_decay": Preset(
            "transformers 5.23 get_wsd_schedule(num_training_steps=T, "
            "num_decay_steps=decay_length)",
            {"name": "wsd", "ramp": "t/W"} | HOLD | HF,
            LENGTH
            | {"warmup_shape": "linear", "warmup_curve": None}
            | {"decay_length": None, "decay_shape": "cosine", "floor": 0.0},
            {"warmup_start": "floor"},
            only={
                "warmup_shape": ("linear", "cosine"),
                "warmup_curve": ("1-sqrt",),
                "decay_shape": THREE,
            },
        ),
        "timm.wsd": Preset(
            "timm 1.0.31 WSDLRScheduler(t_initial=T-W, decay_t=decay_length); power is decay_power",
            {"name": "wsd", "edges": "timm"} | RAMP_B_FROM | HOLD,
            LENGTH
            | FROM
            | {"decay_length": None, "decay_shape": "1-sqrt", "floor": 0.0}
            | {"decay_ratio": None, "power": None},
            derived={
                "decay_ratio": lambda knobs: 0.1 if knobs["decay_shape"] == "exponential" else None
            },
        ),
        "torchtitan.wsd": Preset(
            "torchtitan lr_scheduler (older versions differ); decay_ratio is decay_length / T",
            {"name": "wsd"} | RAMP_A | GO_ON | TORCHTITAN,
            LENGTH | {"decay_length": None, "decay_shape": "linear", "floor": 0.0},
            only={"decay_shape": THREE},
        ),
        "megatron.wsd": Preset(
            'Megatron-LM OptimizerParamScheduler, "WSD"; decay_shape is lr_wsd_decay_style, '
            "1-sqrt being minus_sqrt",
            {"name": "wsd"} | RAMP_B_FROM | HOLD | MEGATRON,
            LENGTH | FROM | {"decay_length": None, "decay_shape": "exponential", "floor": 0.0},
            only={"decay_shape": (*THREE, "exponential")},
        ),
    },
)
