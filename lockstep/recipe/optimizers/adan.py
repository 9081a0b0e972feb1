"""Adan: Nesterov momentum from the differences of gradients. Source: arXiv:2208.06677,
algorithm 1.
"""

from typing import Literal

from pydantic.dataclasses import dataclass

from lockstep.recipe.optimizers.base import Optimizer, OptimizerSpec, like
from lockstep.recipe.optimizers.free import DECAYED
from lockstep.recipe.optimizers.knobs import Beta1, Beta2, Eps, WeightDecay
from lockstep.recipe.preset import Preset
from lockstep.recipe.values import CONFIG, Decay, NonNegative
from lockstep.recipe.variants import Cause

__all__ = ["Adan"]


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Adan(Optimizer):
    """The means of the gradient and of its differences, over the root of a second moment of both;
    weight decay acts on the parameters (decoupled).
    """

    name: Literal["adan"] = "adan"
    weight_decay: WeightDecay = 0.02
    proximal: bool = True
    """The step is divided by 1 + lr weight_decay (the paper), or decay is a part of it: lr
    (direction + weight_decay parameter) (Optax).
    """
    beta1: Beta1 = 0.98
    """Decay of the mean of the gradient: 1 less the paper's beta1, as are beta2 and beta3."""
    beta2: Beta2 = 0.92
    """Decay of the mean of the gradient's differences."""
    beta3: Decay = 0.99
    """Decay of the second moment."""
    eps: Eps = 1e-8
    """Added to the root of the second moment."""
    eps_root: NonNegative = 0.0
    """Added to the second moment inside the root (Optax)."""
    difference_weight: Literal["beta2", "1 - beta2"] = "beta2"
    """Weight of a difference beside the gradient: beta2 (the paper, which calls it 1 - beta2), or
    1 - beta2 (Optax).
    """


# PyTorch has no Adan
Adan.spec = OptimizerSpec(
    title="adan",
    slots=like("first", "difference", "second", "previous"),
    decoupled=True,
    optax_slots={"m": "first", "v": "difference", "n": "second", "g": "previous", "t": "count"},
    others={"beta3": 0.95, "eps_root": 1e-6},
    causes={
        "beta3": Cause("other-beta"),
        "eps_root": Cause("other-eps"),
        "proximal": Cause("other-decay-form"),
    },
    spans={"beta3": (0.0, 1 - 1e-9)},
    by_magnitude=("eps_root",),
    presets={
        "optax.adan": Preset(
            "optax 0.2.8 adan",
            {"name": "adan", "proximal": False, "difference_weight": "1 - beta2"},
            DECAYED | {"beta1": 0.98, "beta2": 0.92, "beta3": 0.99, "eps": 1e-8, "eps_root": 1e-8},
        )
    },
)
