"""AdaBelief: Adam whose second moment is that of the gradient's distance from its mean. Source:
arXiv:2010.07468, algorithm 2.
"""

from typing import Literal

from pydantic.dataclasses import dataclass

from lockstep.recipe.optimizers.base import Optimizer, OptimizerSpec, like
from lockstep.recipe.optimizers.free import AFTER_DECAY, BETAS_DECAYED
from lockstep.recipe.optimizers.knobs import Beta1, Beta2, Eps, WeightDecay
from lockstep.recipe.preset import Preset
from lockstep.recipe.values import CONFIG, NonNegative
from lockstep.recipe.variants import Cause

__all__ = ["AdaBelief"]


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class AdaBelief(Optimizer):
    """Adam whose steps are long where the gradient is near its mean; weight decay is added to the
    gradient (L2).
    """

    name: Literal["adabelief"] = "adabelief"
    weight_decay: WeightDecay = 0.0
    beta1: Beta1 = 0.9
    beta2: Beta2 = 0.999
    eps: Eps = 1e-16
    """Added to the root of the second moment."""
    eps_root: NonNegative = 1e-16
    """Added to the second moment itself at every update, and remembered with it."""
    nesterov: bool = False
    """Look ahead along the first moment (Optax)."""


# PyTorch has no AdaBelief
AdaBelief.spec = OptimizerSpec(
    title="adabelief",
    slots=like("first", "second"),
    optax_slots={"mu": "first", "nu": "second"},
    others={"eps_root": 1e-6},
    causes={"eps_root": Cause("other-eps")},
    by_magnitude=("eps_root",),
    presets={
        "optax.adabelief": Preset(
            f"optax 0.2.8 adabelief{AFTER_DECAY}",
            {"name": "adabelief"},
            BETAS_DECAYED | {"eps": 1e-16, "eps_root": 1e-16, "nesterov": False},
        )
    },
)
