"""The peak, from the end of the warmup on."""

from typing import Literal

import numpy as np
from pydantic.dataclasses import dataclass

from lockstep.recipe.schedules.base import Schedule, ScheduleSpec
from lockstep.recipe.schedules.shapes import Float64
from lockstep.recipe.values import CONFIG

__all__ = ["Constant"]


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Constant(Schedule):
    """The rate stays at the peak."""

    name: Literal["constant"] = "constant"

    spec = ScheduleSpec(
        title="stays there",
        alone="This recipe has no warmup; its learning rate is {peak} from the first update.",
    )

    def share(self, t: Float64, W: int, T: int) -> Float64:
        """1."""
        return np.ones_like(t)

    def refusal(self, warmup: int, length: int) -> str:
        """No library refuses any length."""
        return ""
