"""Half a cosine from the peak to the floor.

Source: Loshchilov & Hutter, arXiv:1608.03983, eq. 5.
"""

from typing import Literal

import numpy as np
from pydantic.dataclasses import dataclass

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

    spec = ScheduleSpec(title="falls along a cosine")

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
