"""Whole numbers that a layer is given, such as positions, where one side counts them from
elsewhere.
"""

from collections.abc import Iterator

import numpy as np

from lockstep.diagnose.between.explanation import Explanation
from lockstep.diagnose.between.pair import LoopPair

__all__ = ["counted_from_elsewhere"]

INPUT = ".input"
FEWEST = 3
"""Different numbers that must move by the same."""


def counted_from_elsewhere(pair: LoopPair) -> Iterator[Explanation]:
    """That all whole numbers that a layer is given are the other side's plus one number."""
    layer = pair.first.tensor
    mine = pair.mine.tensors("forward", pair.update).get(layer)
    other = pair.other.tensors("forward", pair.update).get(layer)
    if mine is None or other is None or not layer.endswith(INPUT) or mine.shape != other.shape:
        return
    if mine.dtype.kind not in "iu" or other.dtype.kind not in "iu":
        return
    apart = mine.astype(np.int64) - other.astype(np.int64)
    if not apart.size or np.ptp(apart) or len(np.unique(other)) < FEWEST:
        return
    begin, others = int(mine.min()), int(other.min())
    name = layer.removesuffix(INPUT)
    text = (
        f"{pair.mine.name} gives {name} the numbers from {begin} on, {pair.other.name} from "
        f"{others} on"
    )
    predicted = {layer: other.astype(np.int64) + int(apart.flat[0])}
    idea = "numbers that are counted from elsewhere"
    page = "embedding-scale-and-position"
    yield Explanation("position-offset", text, predicted, idea, page)
