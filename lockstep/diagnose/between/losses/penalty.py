"""A penalty on the parameters that one loop's loss holds and the other's does not."""

from collections.abc import Callable, Iterator

import numpy as np

from lockstep.diagnose.between.explanation import Explanation
from lockstep.diagnose.between.losses.reading import Formula, formulas_of, score, updates_of
from lockstep.diagnose.between.pair import Arrays, LoopPair, LoopSide
from lockstep.numbers import number
from lockstep.oracle.arithmetic import Array

__all__ = ["penalised"]

FEWEST = 3
"""Updates that must give one coefficient."""
SAME = 1e-4
"""How much a coefficient may vary over the updates, relative, beside rounding."""
LEAST_CHANGE = 20.0
"""Times that the size of the parameters must vary more than the coefficient: a constant in place of
the penalty would fit else."""


def penalised(pair: LoopPair) -> Explanation | None:
    """That mine's loss is the other's formula plus a multiple of the parameters' squares, or of
    their absolute values.
    """
    for formula in formulas_of(pair.other)[:1]:
        for words, sizes in _penalties(pair.mine):
            coefficient = _coefficient(pair.mine, formula, sizes)
            scored = score(pair.mine, formula, pair.update)
            if coefficient is None or scored is None:
                continue
            loss = scored.value + coefficient * sizes[pair.update]
            text = (
                f"{pair.mine.name}'s loss holds a penalty of {number(coefficient)} times the sum "
                f"of {words}, {pair.other.name}'s does not"
            )
            page = "l2-is-not-decoupled-decay"
            idea = "a penalty in the loss"
            return Explanation("loss-penalty", text, {"loss": np.array(loss)}, idea, page)
    return None


def _penalties(side: LoopSide) -> Iterator[tuple[str, dict[int, float]]]:
    """The sums that a penalty may take, in words, and their values by update."""

    def squares(array: Array) -> float:
        return float(np.square(array).sum())

    def absolute(array: Array) -> float:
        return float(np.abs(array).sum())

    for kind, of in (("squares", squares), ("absolute values", absolute)):
        yield f"the {kind} of all parameters", _sums(side, of, 1)
        yield f"the {kind} of all parameters but biases and norms", _sums(side, of, 2)


def _sums(side: LoopSide, of: Callable[[Array], float], least_axes: int) -> dict[int, float]:
    sums: dict[int, float] = {}
    for update in updates_of(side):
        parameters: Arrays = side.parameters(update)
        trained = [array for name, array in parameters.items() if name not in side.buffers]
        sums[update] = sum(of(array) for array in trained if array.ndim >= least_axes)
    return sums


def _coefficient(side: LoopSide, formula: Formula, sizes: dict[int, float]) -> float | None:
    """The one number by which a penalty enters every loss; None where there is none."""
    values: list[float] = []
    errors: list[float] = []
    for update, size in sizes.items():
        loss = side.series("loss", update)
        scored = score(side, formula, update)
        if loss is None or scored is None or not size:
            return None
        values.append((loss - scored.value) / size)
        errors.append(scored.error / size)
    if len(values) < FEWEST or min(values) <= max(errors):
        return None
    middle = float(np.median(values))
    spread = max(values) - min(values)
    change = (max(sizes.values()) - min(sizes.values())) / max(sizes.values())
    allowed = max(2 * max(errors), SAME * middle)
    is_one = spread <= allowed and change > LEAST_CHANGE * spread / middle
    return middle if is_one and change * middle > 2 * max(errors) else None
