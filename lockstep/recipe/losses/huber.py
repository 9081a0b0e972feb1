"""The squared error of small errors and the absolute error of large ones.

An error e has the loss e^2 / 2 up to |e| = delta, then delta (|e| - delta / 2).

Sources: Huber, 1964; torch 2.13, `torch.nn.HuberLoss`.
"""

from typing import Any, Literal

from pydantic.dataclasses import dataclass

from lockstep.recipe.losses.base import Loss, LossSpec
from lockstep.recipe.values import CONFIG, Positive
from lockstep.recipe.variants import Cause

__all__ = ["Huber"]


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Huber(Loss):
    """A number to predict; large errors count in proportion to their size."""

    name: Literal["huber"] = "huber"
    delta: Positive = 1.0
    """Error beyond which the loss is linear: delta (|e| - delta / 2)."""

    spec = LossSpec(
        title="Huber",
        predicts_number=True,
        others={"delta": 0.3},
        causes={"delta": Cause("other-loss", "huber-delta-or-smooth-l1-beta")},
    )

    def words(self) -> dict[str, Any]:
        """The knobs that the report shows."""
        return {"delta": self.delta}
