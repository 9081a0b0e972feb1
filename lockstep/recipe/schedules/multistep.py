"""Steps down at milestones.

Source: torch 2.13, `MultiStepLR`.
"""

from typing import Annotated, Literal

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from lockstep.recipe.preset import Preset
from lockstep.recipe.schedules.base import (
    DecayStart,
    Factor,
    Schedule,
    ScheduleSpec,
    WarmupOf,
    decay_start_of,
)
from lockstep.recipe.schedules.library_knobs import (
    AFTER,
    FROM,
    OPTAX_NOTE,
    RAMP_A,
    RAMP_B_FROM,
    WARMUP,
)
from lockstep.recipe.schedules.shapes import Float64
from lockstep.recipe.values import CONFIG, Count, NonNegative
from lockstep.recipe.variants import Cause

__all__ = ["Multistep"]


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Multistep(Schedule):
    """The rate falls by a factor at each of its milestones."""

    name: Literal["multistep"] = "multistep"
    warmup_of: WarmupOf = "peak"
    decay_start: DecayStart = "W"
    factor: Factor = 0.1
    milestones: Annotated[tuple[Count, ...], Field(strict=False)] = (2, 4)
    """The times at which `factor` applies, in `unit`s after the decay's start."""
    factors: Annotated[tuple[NonNegative, ...], Field(strict=False)] | None = None
    """A factor for each milestone, instead of `factor`."""

    def share(self, t: Float64, W: int, T: int) -> Float64:
        """factor^n, or the product of the first n factors, after n milestones."""
        order = np.argsort(self.milestones, kind="stable")
        milestones = np.array(self.milestones, dtype=np.int64)[order]
        passed = np.searchsorted(milestones, t - decay_start_of(self, W), side="right")
        if self.edges == "timm":  # its step_update is first called after the first update
            passed = np.where(t > 0, passed, 0)
        share = np.power(self.factor, passed)
        if self.factors is not None:
            factors = np.array(self.factors, dtype=np.float64)[order]
            share = np.concatenate([[1.0], np.cumprod(factors)])[passed]
        return share

    def contradiction(self) -> str:
        """Refuse another number of factors than of milestones."""
        if self.factors is not None and len(self.factors) != len(self.milestones):
            return f"factors: {len(self.factors)} for {len(self.milestones)} milestones"
        return super().contradiction()


Multistep.spec = ScheduleSpec(
    title="falls at its milestones",
    counts=True,
    needs={"schedule.milestones": (50, 100)},
    others={"factor": 0.5, "milestones": (10, 100)},
    causes={"milestones": Cause("other-schedule", "multistep-boundaries")},
    presets={
        "torch.multistep": Preset(
            "torch 2.13 MultiStepLR(milestones, factor)",
            {"name": "multistep"} | RAMP_A | AFTER,
            WARMUP | {"factor": 0.1, "milestones": None},
        ),
        "optax.multistep": Preset(
            "optax 0.2.8 linear_schedule, then piecewise_constant_schedule, in join_schedules; "
            "unequal scales are factors",
            {"name": "multistep"} | RAMP_B_FROM | AFTER,
            WARMUP | FROM | {"factor": None, "milestones": None, "factors": None},
            note=OPTAX_NOTE,
        ),
        "timm.multistep_prefix": Preset(
            "timm 1.0.31 MultiStepLRScheduler(decay_t=milestones, warmup_prefix=True), whose "
            "steps come one update early",
            {"name": "multistep", "decay_start": "W-1", "warmup_of": "peak", "edges": "timm"}
            | RAMP_B_FROM,
            WARMUP | FROM | {"factor": 1.0, "milestones": None},
        ),
    },
)
