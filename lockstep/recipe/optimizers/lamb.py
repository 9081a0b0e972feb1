"""LAMB: Adam whose step is as long, in every tensor, as the parameter is large. Source:
arXiv:1904.00962.
"""

from typing import Literal

from pydantic.dataclasses import dataclass

from lockstep.recipe.optimizers.base import Optimizer, OptimizerSpec, like
from lockstep.recipe.optimizers.free import BETAS_DECAYED
from lockstep.recipe.optimizers.knobs import Beta1, Beta2, Eps, WeightDecay
from lockstep.recipe.preset import Preset
from lockstep.recipe.values import CONFIG

__all__ = ["Lamb"]


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Lamb(Optimizer):
    """Adam whose step has a length in proportion to the parameter's; weight decay is decoupled,
    within that length.
    """

    name: Literal["lamb"] = "lamb"
    weight_decay: WeightDecay = 0.01
    beta1: Beta1 = 0.9
    beta2: Beta2 = 0.999
    eps: Eps = 1e-6


# PyTorch has no LAMB
Lamb.spec = OptimizerSpec(
    title="lamb",
    slots=like("first", "second"),
    decoupled=True,
    by_tensor=True,
    optax_slots={"mu": "first", "nu": "second"},
    # each step is a share of the parameter's norm, and 2 % of it makes rounding grow
    needs={"schedule.peak": 0.005},
    presets={
        "optax.lamb": Preset("optax 0.2.8 lamb", {"name": "lamb"}, BETAS_DECAYED | {"eps": 1e-6})
    },
)
