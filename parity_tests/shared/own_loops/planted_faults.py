"""Faults that people make in mixed precision, each planted in side B of a right pair."""

from dataclasses import dataclass, replace

from lockstep.studies.prove.own_loops.right_pairs import GROUPED, MIXED_GPT, MIXED_MLP, Pair
from lockstep.studies.prove.own_loops.ways import Loop

__all__ = ["FAULTS", "Fault"]


@dataclass(frozen=True)
class Fault:
    """A right loop and a wrong one.

    Attributes:
        pair: the loops; b is the wrong one.
        stages: where they may first part; any of these is right.
        tensors: beginnings of the tensor's name, any of which is right.
        cause: words that the cause must hold, in any order and case; a "|" stands for "or".
        update: the update at which they part.
    """

    pair: Pair
    stages: tuple[str, ...]
    tensors: tuple[str, ...]
    cause: tuple[str, ...]
    update: int = 0


STEP = ("update", "parameters")
"""A wrong step shows in its norm or in what it leads to."""

LEFT_OUT = "bias left|missing|without"


def _fault(
    right: Loop, stages: str, tensors: str, cause: str, update: int = 0, **fault: object
) -> dict[str, Fault]:
    """The fault with bfloat16 on both sides, and with the right side in float32."""
    wrong = replace(right, **fault)
    expected = tuple(stages.split()), tuple(tensors.split(",")), tuple(cause.split()), update
    return {
        "both": Fault(Pair(right, wrong), *expected),
        "one": Fault(Pair(replace(right, compute=""), wrong), *expected),
    }


MIXED_CONVNET = replace(GROUPED, compute="bfloat16")
MOMENTUM = replace(MIXED_MLP, optimizer="sgd", lr=0.1, weight_decay=1e-3)
PLANTED = {
    "lr": _fault(MIXED_GPT, "lr", "lr", "learning 1.05", lr=1.05 * MIXED_GPT.lr),
    "lr-mlp": _fault(MIXED_MLP, "lr", "lr", "learning 1.05", lr=1.05 * MIXED_MLP.lr),
    "warmup-one-early": _fault(MIXED_GPT, "lr", "lr", "early", lr_offset=1),
    "weight-decay": _fault(
        MIXED_GPT, "update parameters", "", "decay 0.0001|1e-4|1e-04 0.1", weight_decay=1e-4
    ),
    "weight-decay-mlp": _fault(
        MIXED_MLP, "update parameters", "", "decay 0.0001|1e-4|1e-04 0.1", weight_decay=1e-4
    ),
    "decay-of-norms-and-biases": _fault(
        replace(MIXED_GPT, groups=2), "update parameters", "", "decay 0.1", decays_norms=True
    ),
    "layernorm-eps": _fault(MIXED_GPT, "forward", "blocks.0.norm1", "eps 100", eps=1e-3),
    "layernorm-eps-mlp": _fault(MIXED_MLP, "forward", "norm1", "eps 100", eps=1e-3),
    "gelu-tanh": _fault(MIXED_GPT, "forward", "blocks.0.gelu", "gelu tanh", gelu="tanh"),
    "gelu-tanh-mlp": _fault(MIXED_MLP, "forward", "gelu1", "gelu tanh", gelu="tanh"),
    "beta2": _fault(MIXED_GPT, "moments", "second", "beta2|second 0.95|50", beta2=0.95),
    "beta1": _fault(MIXED_MLP, "moments", "first", "beta1|first 0.95|0.5", beta1=0.95),
    "adam-eps": _fault(MIXED_GPT, "update parameters", "", "eps 1e-6|1e-06|100", adam_eps=1e-6),
    "attention-scale": _fault(
        MIXED_GPT,
        "forward",
        "blocks.0.attention",
        "scale|scores",
        attention_scale=0.5**0.5,
    ),
    "attention-sees-the-future": _fault(
        MIXED_GPT, "forward", "blocks.0.attention", "mask|future|causal", is_causal=False
    ),
    "label-smoothing": _fault(
        replace(MIXED_GPT, smoothing=0.1), "loss", "loss", "smoothing 0.1", smoothing=0.0
    ),
    "label-smoothing-mlp": _fault(
        replace(MIXED_MLP, smoothing=0.1), "loss", "loss", "smoothing 0.1", smoothing=0.0
    ),
    "accumulated-not-divided": _fault(
        replace(MIXED_GPT, micro=2), "gradients", "", "2 times", is_divided=False
    ),
    "no-bias-correction": _fault(
        replace(MIXED_GPT, optimizer_code="written"),
        "update parameters",
        "",
        "correct start",
        is_bias_corrected=False,
    ),
    "clipping-forgotten": _fault(
        replace(MIXED_GPT, clip=0.5), "clip update parameters", "", "clip 0.5", clip=0.0
    ),
    "dropout-on": _fault(MIXED_GPT, "forward", "blocks.0.drop", "dropout 10", dropout=0.1),
    "dropout-on-mlp": _fault(MIXED_MLP, "forward", "drop1", "dropout 10", dropout=0.1),
    "bias-left-out": _fault(MIXED_GPT, "forward", "blocks.0.up", LEFT_OUT, without_bias="up"),
    "bias-left-out-mlp": _fault(MIXED_MLP, "forward", "head", LEFT_OUT, without_bias="head"),
    "gradients-not-zeroed": _fault(
        MIXED_MLP, "gradients", "", "accumulate|zero|clear", update=1, is_zeroed=False
    ),
    "momentum": _fault(
        MOMENTUM, "moments update parameters", "", "momentum 0.95", update=1, momentum=0.95
    ),
    "nesterov": _fault(MOMENTUM, "update parameters", "", "nesterov", is_nesterov=True),
    "decay-of-adam-for-adamw": _fault(
        MIXED_MLP, "moments update parameters", "", "decay", optimizer="adam"
    ),
    "groupnorm-eps": _fault(MIXED_CONVNET, "forward", "norm1", "eps 100", eps=1e-3),
}
FAULTS: dict[str, Fault] = {
    f"{name}-{where}": fault for name, both in PLANTED.items() for where, fault in both.items()
}
