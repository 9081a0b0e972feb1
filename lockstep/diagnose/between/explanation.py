"""An explanation: what one side's numbers would be if it did a certain thing."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from lockstep.diagnose.between.pair import Arrays

__all__ = ["Explanation"]


class Explanation(NamedTuple):
    """What `pair.mine` would have recorded if it did what `text` says.

    Attributes:
        key: of the cause, in words joined by hyphens.
        text: the cause in one sentence, with the names of the sides in it.
        predicted: name of a tensor -> array of the shape that `mine` recorded, in float64: what it
            would be. It covers every tensor of the stage that differs, unless `is_part`.
        idea: what was tried, in a few words for the list of what was ruled out ("one factor on all
            gradients").
        page: the atlas page on it, or "".
        side: who is off: "a" or "b"; "" where the numbers alone cannot tell.
        free: how many numbers were fitted to the very tensors that are predicted. With any, all
            that differs in the stage must be explained.
        stage: of the tensors, where that is not the stage at which the sides part.
        update: of the tensors, where that is not the update at which the sides part.
        also: stage -> tensors of the same update that must come out too, such as the gradients that
            a loss of another size entails.
        is_part: whether it explains only the tensors it predicts, and says so in its text. What is
            left is then explained by the next cause.
    """

    key: str
    text: str
    predicted: Arrays
    idea: str
    page: str = ""
    side: str = ""
    free: int = 0
    stage: str = ""
    update: int | None = None
    also: Mapping[str, Arrays] = MappingProxyType({})
    is_part: bool = False
