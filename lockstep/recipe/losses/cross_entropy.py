"""The cross entropy of K classes.

A row with logits z and class y has the loss -sum_k w_k q_k log softmax(z)_k, where q_k = (1 - s)
[k = y] + s / K, s is `label_smoothing` and w `class_weights`. The mean divides by the sum of the
rows' w_y. Source: torch 2.13, `torch.nn.CrossEntropyLoss`.
"""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field
from pydantic.dataclasses import dataclass

from lockstep.recipe.losses.base import Loss, LossSpec
from lockstep.recipe.values import CONFIG, Decay, NonNegative
from lockstep.recipe.variants import Cause

__all__ = ["CrossEntropy"]


def _named(value: object) -> object:
    """The name of a class, which may be written as an integer."""
    return str(value) if type(value) is int else value


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class CrossEntropy(Loss):
    """K classes."""

    name: Literal["cross_entropy"] = "cross_entropy"
    label_smoothing: Decay = 0.0
    """Share of each label spread evenly over all classes."""
    class_weights: Annotated[tuple[NonNegative, ...], Field(strict=False)] = ()
    """Weight of each class's rows, in the order of the classes; the mean divides by the sum of the
    rows' weights. [] is 1 for each."""
    ignored_class: Annotated[str, BeforeValidator(_named)] = ""
    """Name of a class whose rows do not count in the loss; "" is none."""

    spec = LossSpec(
        title="cross entropy",
        link="softmax",
        others={"label_smoothing": 0.1, "class_weights": (0.5, 1.0, 2.0), "ignored_class": "1"},
        causes={"label_smoothing": Cause("label-smoothing", "label-smoothing-over-k-or-k-minus-1")},
    )

    def outputs(self, classes: int) -> int:
        """A unit for each class."""
        return classes

    def words(self) -> dict[str, Any]:
        """The knobs that the report shows."""
        return {
            "label smoothing": self.label_smoothing,
            "class weights": self.class_weights,
            "ignores class": self.ignored_class,
        }
