"""Which explanations are tried at which stage, the most telling first."""

from collections.abc import Callable, Iterator

from lockstep.diagnose.between import rates
from lockstep.diagnose.between.batches import feature_scales, places, selections, values
from lockstep.diagnose.between.explanation import Explanation
from lockstep.diagnose.between.gradients import accumulation, backward, missing, scaled
from lockstep.diagnose.between.layers import (
    attention,
    crops,
    dropout,
    elementwise,
    linear,
    norms,
    other_layer,
    positions,
    rotary,
    scores,
    streams,
)
from lockstep.diagnose.between.losses import differences
from lockstep.diagnose.between.pair import LoopPair
from lockstep.diagnose.between.starts import draws, spectral_norms
from lockstep.diagnose.between.steps import clips, moments, step_faults, updates

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
        draws.moved_statistics,
        draws.padding_row,
        draws.constants,
        draws.scaled_draw,
        draws.wider_law,
        draws.another_draw,
    ),
    "batch": (
        selections.reordered,
        selections.other_selection,
        values.renumbered,
        places.padded_otherwise,
        places.moved,
        feature_scales.rounded,
        feature_scales.affine,
        selections.other_rows,
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
        other_layer.other_layer,
    ),
    "loss": (differences.losses_differ, crops.other_crop),
    "gradients": (
        accumulation.not_cleared,
        backward.other_backward,
        missing.without_gradient,
        missing.rows_without_gradient,
        backward.reversed_before,
        accumulation.accumulated_otherwise,
        accumulation.opposite,
        scaled.scaled_by_whole,
        scaled.clipped_when_recorded,
        scaled.scaled_by_any,
        scaled.decayed,
    ),
    "clip": (clips.zero_by_zero, clips.left_out, clips.other_clip),
    "lr": (rates.explain_rates,),
    "moments": STEPS,
    "update": STEPS,
    "parameters": STEPS,
}
