"""The squared error e^2, not half of it. Source: torch 2.13, `torch.nn.MSELoss`."""

from typing import Literal

from pydantic.dataclasses import dataclass

from lockstep.recipe.losses.base import Loss, LossSpec
from lockstep.recipe.values import CONFIG

__all__ = ["SquaredError"]


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class SquaredError(Loss):
    """A number to predict."""

    name: Literal["mse"] = "mse"

    spec = LossSpec(title="mean squared error", predicts_number=True)
