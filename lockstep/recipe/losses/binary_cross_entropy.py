"""The cross entropy of 2 classes by one logit.

A row with the logit x and the class y, 0 or 1, has the loss -w y log sigmoid(x) - (1 - y) log(1 -
sigmoid(x)), where w is `positive_weight`. The mean divides by the number of rows.

Source: torch 2.13, `torch.nn.BCEWithLogitsLoss`.
"""

from typing import Any, Literal

from pydantic.dataclasses import dataclass

from lockstep.recipe.losses.base import Loss, LossSpec
from lockstep.recipe.values import CONFIG, Positive
from lockstep.recipe.variants import Cause

__all__ = ["BinaryCrossEntropy"]


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class BinaryCrossEntropy(Loss):
    """2 classes, one logit."""

    name: Literal["binary_cross_entropy"] = "binary_cross_entropy"
    positive_weight: Positive = 1.0
    """Factor on the loss of the rows of the second class."""

    spec = LossSpec(
        title="binary cross entropy",
        link="sigmoid",
        needs={"data.classes": 2},
        others={"positive_weight": 3.0},
        causes={"positive_weight": Cause("other-loss", "bce-positive-weight")},
    )

    def words(self) -> dict[str, Any]:
        """The knobs that the report shows."""
        weight = self.positive_weight
        return {"positive weight": None if weight == 1 else weight}
