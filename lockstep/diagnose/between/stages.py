"""Which explanations are tried at which stage, the most telling first."""

from collections.abc import Callable, Iterator

from lockstep.diagnose.between import (
    attention,
    dropout,
    elementwise,
    gradients,
    rotary,
    scores,
)
from lockstep.diagnose.between.explanation import Explanation
from lockstep.diagnose.between.pair import LoopPair

__all__ = ["EXPLANATIONS", "Explain"]

Explain = Callable[[LoopPair], Iterator[Explanation]]

EXPLANATIONS: dict[str, tuple[Explain, ...]] = {
    "init": (),
    "batch": (),
    "forward": (
        rotary.rotary,
        scores.scores,
        attention.attention,
        dropout.dropped,
        elementwise.elementwise,
    ),
    "loss": (),
    "gradients": (gradients.not_cleared,),
    "clip": (),
    "lr": (),
    "moments": (),
    "update": (),
    "parameters": (),
}
