"""Which explanations are tried at which stage, the most telling first."""

from collections.abc import Callable, Iterator

from lockstep.diagnose.between import (
    attention,
    backward,
    batch_places,
    batch_values,
    batches,
    clips,
    crops,
    dropout,
    elementwise,
    feature_scales,
    gradients,
    layers,
    linear,
    losses,
    missing_gradients,
    moments,
    norms,
    positions,
    rates,
    rotary,
    scaled_gradients,
    scores,
    spectral_norms,
    starts,
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
    "init": (
        spectral_norms.iterated_vectors,
        rotary.frequencies,
        starts.moved_statistics,
        starts.padding_row,
        starts.constants,
        starts.scaled_draw,
        starts.wider_law,
        starts.another_draw,
    ),
    "batch": (
        batches.reordered,
        batches.other_selection,
        batch_values.renumbered,
        batch_places.padded_otherwise,
        batch_places.moved,
        feature_scales.rounded,
        feature_scales.affine,
        batches.other_rows,
    ),
    "forward": (
        positions.counted_from_elsewhere,
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
    "loss": (losses.losses_differ, crops.other_crop),
    "gradients": (
        gradients.not_cleared,
        backward.other_backward,
        missing_gradients.without_gradient,
        missing_gradients.rows_without_gradient,
        backward.reversed_before,
        gradients.accumulated_otherwise,
        gradients.opposite,
        scaled_gradients.scaled_by_whole,
        scaled_gradients.clipped_when_recorded,
        scaled_gradients.scaled_by_any,
        scaled_gradients.decayed,
    ),
    "clip": (clips.zero_by_zero, clips.left_out, clips.other_clip),
    "lr": (rates.explain_rates,),
    "moments": STEPS,
    "update": STEPS,
    "parameters": STEPS,
}
