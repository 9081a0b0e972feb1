"""What the gradients of one loop are of the other's."""

from collections.abc import Iterator

from lockstep.diagnose.between.explanation import Explanation
from lockstep.diagnose.between.pair import LoopPair

__all__ = ["not_cleared"]


def not_cleared(pair: LoopPair) -> Iterator[Explanation]:
    """That a side adds its gradients to those of its own update before."""
    mine, other = pair.mine.name, pair.other.name
    before = pair.mine.tensors("gradients", pair.update - 1)
    others = pair.other.tensors("gradients", pair.update)
    summed = {
        name: array + before[name]
        for name, array in others.items()
        if name in before and before[name].shape == array.shape
    }
    text = (
        f"{mine}'s gradient is {other}'s plus {mine}'s own of the update before: {mine} does not "
        "clear it"
    )
    idea = "gradients that are not cleared"
    yield Explanation("gradient-stale", text, summed, idea, "forgotten-zero-grad", mine)
