"""Half cosines one after the other (warm restarts).

Source: Loshchilov & Hutter, arXiv:1608.03983, eq. 5.
"""

from typing import Annotated, Literal

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from lockstep.recipe.preset import Preset
from lockstep.recipe.schedules.base import (
    AfterEnd,
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
    LENGTH,
    OPTAX_NOTE,
    RAMP_A,
    RAMP_B,
    RAMP_B_FROM,
    T5X,
    T5X_NOTE,
    WARMUP,
    ZERO,
)
from lockstep.recipe.schedules.shapes import Float64
from lockstep.recipe.values import CONFIG, Count
from lockstep.recipe.variants import Cause

__all__ = ["CosineRestarts", "cosine_restarts"]


def cosine_restarts(
    t: Float64,
    first: int,
    growth: int,
    cycles: int | None,
    *,
    parts: int = 1,
    floor: float = 0.0,
    decay: float = 1.0,
) -> Float64:
    """Half cosines from decay^k to `floor`, one after the other.

    Cycle k has the length first growth^k / parts. After the last of `cycles` the floor holds; None
    is cycles without end.

    Sources: Loshchilov & Hutter, arXiv:1608.03983, eq. 5; torch 2.13 `CosineAnnealingWarmRestarts`
    has no end, timm 1.0 `CosineLRScheduler` has one.

    Example: `cosine_restarts(np.array([0.0, 2, 4, 6, 8]), 4, 1, 2)` is 1, 0.5, 1, 0.5, 0.
    """
    t = np.maximum(t, 0) * parts  # whole numbers stay exact where cycles begin between two updates
    starts = [0]
    length = first
    while starts[-1] <= t.max(initial=0) and (cycles is None or len(starts) <= cycles):
        starts.append(starts[-1] + length)
        length *= growth
    edges = np.array(starts, dtype=np.float64)
    k = np.minimum(np.searchsorted(edges, t, side="right") - 1, len(edges) - 2)
    done = t - edges[k]
    left = edges[k + 1] - t
    quarter = np.pi / (2 * np.diff(edges)[k])
    first_half = np.cos(quarter * done) ** 2
    second_half = np.sin(quarter * np.maximum(left, 0)) ** 2
    falling = np.where(done <= left, first_half, second_half)
    return floor + (np.power(decay, k) - floor) * falling


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class CosineRestarts(Schedule):
    """The rate falls along cosines, each from the top again."""

    name: Literal["cosine_restarts"] = "cosine_restarts"
    warmup_of: WarmupOf = "peak"
    length: Length = 0
    decay_start: DecayStart = "W"
    floor: Floor = 0.0
    after_end: AfterEnd = "hold"
    cycle: Annotated[int, Field(ge=0)] = 0
    """Length of the first cycle, in `unit`s; 0: the cycles fill the time until T."""
    cycles: Count = 2
    """The number of cycles."""
    cycle_growth: Count = 1
    """Length of each cycle over that of the one before."""
    cycle_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Peak of each cycle over that of the one before."""

    def share(self, t: Float64, W: int, T: int) -> Float64:
        """Half cosines from W on, of the length `cycle`, or so that they end at T."""
        start = decay_start_of(self, W)
        first = self.cycle
        parts = 1
        if not first:  # the cycles share the time until T
            first = max(T - start, 1)
            parts = sum(self.cycle_growth**k for k in range(self.cycles))
        return cosine_restarts(
            t - start,
            first,
            self.cycle_growth,
            self.cycles if self.after_end == "hold" else None,
            parts=parts,
            floor=self.floor,
            decay=self.cycle_decay,
        )

    def misfit(self, warmup: int, length: int, what: str) -> str:
        """Refuse a first cycle shorter than one unit."""
        reason = super().misfit(warmup, length, what)
        short = self.cycle == 0 and self.cycle_units > length - warmup > 0
        if reason or not short or self.edges == "hf":
            return reason
        return (
            f"cycles: the first of {self.cycles} cycles would be shorter than one {self.unit} in "
            f"{what}"
        )

    @property
    def cycle_units(self) -> int:
        """The length of all cycles over that of the first."""
        growth = self.cycle_growth
        if growth == 1:
            return self.cycles
        units: int = (growth**self.cycles - 1) // (growth - 1)
        return units


CosineRestarts.spec = ScheduleSpec(
    title="falls along cosines, each from the top again",
    counts=True,
    others={"cycle": 40, "cycles": 3, "cycle_growth": 2, "cycle_decay": 0.5},
    causes={"cycles": Cause("other-schedule", "warm-restarts-after-the-last")},
    presets={
        "torch.cosine_restarts": Preset(
            "torch 2.13 CosineAnnealingWarmRestarts(T_0=cycle, T_mult=cycle_growth, eta_min)",
            {
                "name": "cosine_restarts",
                "length": 0,
                "cycles": 1,
                "cycle_decay": 1.0,
                "after_end": "continue",
            }
            | RAMP_A
            | AFTER,
            WARMUP | {"cycle": 10, "cycle_growth": 1, "floor": 0.0},
        ),
        "optax.cosine_restarts": Preset(
            "optax 0.2.8 linear_schedule, then sgdr_schedule with warmup_steps = 0, in "
            "join_schedules",
            {"name": "cosine_restarts", "length": 0, "after_end": "hold", "cycle_decay": 1.0}
            | RAMP_B_FROM
            | AFTER,
            WARMUP | FROM | {"cycle": None, "cycles": None, "cycle_growth": 1, "floor": 0.0},
            note=OPTAX_NOTE,
        ),
        "hf.cosine_with_restarts": Preset(
            "transformers 5.23 get_cosine_with_hard_restarts_schedule_with_warmup",
            {
                "name": "cosine_restarts",
                "cycle": 0,
                "cycle_growth": 1,
                "cycle_decay": 1.0,
                "after_end": "hold",
            }
            | RAMP_B
            | AFTER
            | ZERO
            | HF,
            LENGTH | {"cycles": 1},
        ),
        "timm.cosine_restarts": Preset(
            "timm 1.0.31 CosineLRScheduler(t_initial=cycle, cycle_limit=cycles, cycle_mul, "
            "warmup_prefix=True)",
            {"name": "cosine_restarts", "length": 0, "after_end": "hold"} | RAMP_B_FROM | AFTER,
            WARMUP
            | FROM
            | {"cycle": None, "cycles": 1, "cycle_growth": 1, "cycle_decay": 1.0, "floor": 0.0},
        ),
        "t5.cosine_decay": Preset(
            'T5X create_learning_rate_scheduler("constant * linear_warmup * cosine_decay"); '
            "cycle is steps_per_cycle",
            {
                "name": "cosine_restarts",
                "length": 0,
                "cycles": 1,
                "cycle_growth": 1,
                "cycle_decay": 1.0,
            }
            | {"after_end": "continue"}
            | RAMP_B
            | AFTER
            | ZERO
            | T5X,
            WARMUP | {"cycle": 100_000} | LEAST,
            note=T5X_NOTE,
        ),
    },
)
