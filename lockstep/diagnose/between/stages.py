"""Which explanations are tried at which stage, the most telling first."""

from collections.abc import Callable, Iterator

from lockstep.diagnose.between import (
    attention,
    backward,
    crops,
    dropout,
    elementwise,
    gradients,
    layers,
    rotary,
    scores,
    spectral_norms,
)
from lockstep.diagnose.between.explanation import Explanation
from lockstep.diagnose.between.pair import LoopPair

__all__ = ["EXPLANATIONS", "Explain"]

Explain = Callable[[LoopPair], Iterator[Explanation]]

EXPLANATIONS: dict[str, tuple[Explain, ...]] = {
    "init": (spectral_norms.iterated_vectors,),
    "batch": (),
    "forward": (
        rotary.rotary,
        scores.scores,
        attention.attention,
        dropout.dropped,
        elementwise.elementwise,
        layers.other_layer,
    ),
    "loss": (crops.other_crop,),
    "gradients": (gradients.not_cleared, backward.other_backward, backward.reversed_before),
    "clip": (),
    "lr": (),
    "moments": (),
    "update": (),
    "parameters": (),
}
