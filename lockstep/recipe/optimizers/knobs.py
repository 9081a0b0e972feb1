"""The types of the knobs that several optimizers have, each with its text."""

from typing import Annotated, Literal

from pydantic import Field

__all__ = [
    "Beta1",
    "Beta2",
    "DecayForm",
    "Eps",
    "Momentum",
    "MomentumDecay",
    "MomentumRamp",
    "WeightDecay",
]

Momentum = Annotated[float, Field(ge=0, lt=1, description="Share of the previous momentum kept.")]
Beta1 = Annotated[float, Field(ge=0, lt=1, description="Decay of the first moment.")]
Beta2 = Annotated[float, Field(ge=0, lt=1, description="Decay of the second moment.")]
Eps = Annotated[
    float,
    Field(
        gt=0,
        description="Keeps the division finite: added to the root of the second moment, or inside "
        "it.",
    ),
]
WeightDecay = Annotated[
    float, Field(ge=0, description="Decay rate; times the learning rate where it is decoupled.")
]
DecayForm = Annotated[
    Literal["factor", "step"],
    Field(
        description="Decay by the factor 1 - lr weight_decay (PyTorch), which float32 rounds to 1 "
        "where the rate is "
        "small, or as a part of the step: lr (direction + weight_decay parameter) (Optax), "
        "which it keeps in the mean."
    ),
]
MomentumRamp = Annotated[
    bool,
    Field(
        description="beta1 grows as beta1 (1 - 0.96^(t momentum_decay) / 2) (PyTorch) or stays "
        "(Optax)."
    ),
]
MomentumDecay = Annotated[float, Field(gt=0, description="Pace of the ramp of beta1.")]
