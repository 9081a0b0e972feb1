"""Faults in the layers of a model and in its loss."""

from lockstep.studies.prove.own_loops.faults import LoopFault, planted

__all__ = ["MODEL_FAULTS"]

MODEL_FAULTS: tuple[LoopFault, ...] = (
    *planted(
        "dropout-on",
        "a tenth is dropped",
        "forward",
        "dropout",
        ("transformer", "perceptron"),
        dropout=0.1,
    ),
    *planted(
        "bias-left-out",
        "a bias is not added",
        "forward",
        "bias-missing",
        ("perceptron", "convolutional", "gru"),
        without_bias="head",
    ),
    *planted(
        "norm-eps",
        "the norm's eps is 1e-3 for 1e-5",
        "forward",
        "norm-eps",
        ("transformer", "rotary", "perceptron", "convolutional", "upsampling"),
        eps=1e-3,
    ),
    *planted(
        "gelu-tanh",
        "the tanh formula of GELU",
        "forward",
        "gelu-approximation",
        ("transformer", "perceptron"),
        gelu="tanh",
    ),
    *planted(
        "attention-scale",
        "scores scaled by 1 / sqrt(2 d)",
        "forward",
        "attention-scale",
        ("transformer",),
        attention_scale=0.5**0.5,
    ),
    *planted(
        "attention-mask",
        "no causal mask",
        "forward",
        "attention-mask",
        ("transformer",),
        is_causal=False,
    ),
    *planted(
        "padded-at-the-end",
        "a convolution of stride 2 pads 0 and 1, not 1 and 1",
        "forward",
        "other-padding",
        ("upsampling",),
        precisions=("float32", "float64"),
        twist="padded-at-the-end",
    ),
    *planted("label-smoothing", "labels smoothed by 0.1", "loss", "label-smoothing", smoothing=0.1),
)
"""In the order of the stages."""
