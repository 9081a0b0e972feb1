"""Faults in the loss and its gradients."""

from lockstep.studies.prove.own_loops.faults import EXACT, LoopFault, planted

__all__ = ["LOSS_FAULTS"]

LOSS_FAULTS: tuple[LoopFault, ...] = (
    *planted(
        "loss-summed",
        "the sum over rows for their mean",
        "loss",
        "loss-reduced",
        ("transformer", "perceptron", "gru"),
        also=("gradients-scaled",),
        twist="loss-summed",
    ),
    *planted(
        "loss-summed-in-the-log",
        "the log has the sum over rows",
        "loss",
        "loss-reduced",
        ("perceptron", "gru"),
        twist="loss-summed-in-the-log",
    ),
    *planted(
        "loss-tripled",
        "three times the loss",
        "loss",
        "loss-scaled",
        ("transformer", "perceptron"),
        also=("gradients-scaled",),
        precisions=EXACT,  # a factor that no count explains is not named from bfloat16
        twist="loss-tripled",
    ),
    *planted(
        "loss-halved",
        "half of the squared errors",
        "loss",
        "loss-halved",
        ("perceptron", "gru"),
        precisions=EXACT,
        right={"loss": "squares"},
        twist="loss-halved",
    ),
    *planted(
        "absolute-errors",
        "absolute errors for squared ones",
        "loss",
        "other-loss",
        ("perceptron", "gru"),
        right={"loss": "squares"},
        twist="absolute-errors",
    ),
    *planted(
        "softmax-twice",
        "softmax before the cross entropy",
        "loss",
        "other-loss",
        ("transformer", "perceptron", "gru"),
        twist="softmax-twice",
    ),
    *planted(
        "pads-counted",
        "padding counts in the loss",
        "loss",
        "loss-over-pads",
        ("transformer",),
        precisions=EXACT,
        right={"feed": "padded-on-the-right", "ignored": 0},
        twist="pads-counted",
    ),
    *planted(
        "labels-not-shifted",
        "each place is held against its own token",
        "loss",
        "labels-not-shifted",
        ("transformer", "rotary"),
        right={"is_whole_text": True},
        twist="labels-not-shifted",
    ),
    *planted(
        "loss-scale-not-undone",
        "gradients of 2^16 times the loss",
        "gradients",
        "gradient-scaled",
        also=("gradients-scaled",),
        loss_scale=2.0**16,
    ),
    *planted("gradient-negated", "the loss climbs", "gradients", "gradient-sign", loss_scale=-1.0),
    *planted(
        "padding-row",
        "the padding's row is not trained",
        "gradients",
        "padding-row",
        ("transformer",),
        right={"is_tied": False},
        precisions=EXACT,
        twist="padding-row",
    ),
    *planted(
        "head-frozen",
        "the head is not trained",
        "gradients",
        "gradient-missing",
        ("perceptron", "convolutional", "gru"),
        wrong="head-frozen",
    ),
)
"""In the order of the stages."""
