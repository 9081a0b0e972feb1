"""What all losses have."""

import dataclasses
from typing import Any, ClassVar

from pydantic.dataclasses import dataclass

from lockstep.recipe.values import CONFIG
from lockstep.recipe.variants import NamedSection, Spec

__all__ = ["Loss", "LossSpec", "number_losses"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossSpec(Spec):
    """What stands beside the fields of a loss; `title` is its name: "mean squared error"."""

    predicts_number: bool = False
    """The target is a number and not a class."""
    link: str = ""
    """What makes a prediction of the outputs, and is a part of the loss: "softmax", "sigmoid", or
    "" for nothing.
    """


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Loss(NamedSection):
    """What is minimised: the mean over the rows of a batch."""

    name: str = "cross_entropy"
    """What is minimised: the mean of this loss over the rows of a batch."""

    spec: ClassVar[LossSpec]

    @property
    def predicts_number(self) -> bool:
        """The target is a number and not a class."""
        return self.spec.predicts_number

    @property
    def ignored_class(self) -> str:
        """Name of the class whose rows do not count in the loss; "" is none."""
        return ""

    @property
    def class_weights(self) -> tuple[float, ...]:
        """Weight of the rows of each class; () is 1 for each."""
        return ()

    def outputs(self, classes: int) -> int:
        """Units of the last layer, where the data has so many classes (0: a number to predict)."""
        return 1

    def words(self) -> dict[str, Any]:
        """The knobs that the report tells of: {"label smoothing": 0.1}."""
        return {}


def number_losses() -> str:
    """The losses that predict a number, in words: "mse or huber"."""
    return " or ".join(name for name, kind in Loss.variants.items() if kind.spec.predicts_number)
