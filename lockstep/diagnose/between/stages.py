"""Which explanations are tried at which stage, the most telling first."""

from collections.abc import Callable, Iterator

from lockstep.diagnose.between import (
    attention,
    backward,
    clips,
    crops,
    dropout,
    elementwise,
    gradients,
    layers,
    linear,
    moments,
    norms,
    rates,
    rotary,
    scores,
    spectral_norms,
    step_faults,
    streams,
    updates,
)
from lockstep.diagnose.between.explanation import Explanation
from lockstep.diagnose.between.pair import LoopPair

__all__ = ["EXPLANATIONS", "Explain"]

Explain = Callable[[LoopPair], Iterator[Explanation]]

STEPS: tuple[Explain, ...] = (
    updates.not_trained,
    updates.other_rule,
    step_faults.same_rule_with_a_fault,
    moments.memory_of_another_kind,
    moments.of_another_gradient,
    moments.rounded_memory,
    step_faults.scaled_step,
)
"""Of the stages in which an optimizer shows."""

EXPLANATIONS: dict[str, tuple[Explain, ...]] = {
    "init": (spectral_norms.iterated_vectors, rotary.frequencies),
    "batch": (),
    "forward": (
        rotary.rotary,
        scores.scores,
        attention.attention,
        dropout.dropped,
        elementwise.elementwise,
        linear.linear,
        norms.norms,
        streams.streams,
        streams.nothing,
        layers.other_layer,
    ),
    "loss": (crops.other_crop,),
    "gradients": (gradients.not_cleared, backward.other_backward, backward.reversed_before),
    "clip": (clips.zero_by_zero, clips.other_clip),
    "lr": (rates.explain_rates,),
    "moments": STEPS,
    "update": STEPS,
    "parameters": STEPS,
}
