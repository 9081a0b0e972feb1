"""The fields and methods of all losses."""

import dataclasses
from typing import Any, ClassVar

from pydantic.dataclasses import dataclass

from lockstep.recipe.values import CONFIG
from lockstep.recipe.variants import NamedSection, Spec

__all__ = ["Loss", "LossSpec", "number_losses"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossSpec(Spec):
    """The facts about a loss; `title` is its name: "mean squared error"."""

    predicts_number: bool = False
    """Whether the target is a number, and not a class."""
    link: str = ""
    """The function in the loss that turns outputs into a prediction: "softmax", "sigmoid", ""."""


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Loss(NamedSection):
    """The loss, whose mean over the rows of a batch is minimised."""

    name: str = "cross_entropy"
    """The loss, whose mean over the rows of a batch is minimised."""

    spec: ClassVar[LossSpec]

    @property
    def predicts_number(self) -> bool:
        """Whether the target is a number, and not a class."""
        return self.spec.predicts_number

    @property
    def ignored_class(self) -> str:
        """The class whose rows do not count in the loss; "" is none."""
        return ""

    @property
    def class_weights(self) -> tuple[float, ...]:
        """The weight of each class's rows; () is 1 for each."""
        return ()

    def outputs(self, classes: int) -> int:
        """Units of the last layer for that many classes; 0 stands for a number to predict."""
        return 1

    def words(self) -> dict[str, Any]:
        """The knobs that the report shows: {"label smoothing": 0.1}."""
        return {}


def number_losses() -> str:
    """The losses that predict a number, in words: "mse or huber"."""
    names = [name for name, kind in Loss.variants.items() if kind.spec.predicts_number]
    return " or ".join(names)
