"""Lion: a step by the sign of the momentum. Source: arXiv:2302.06675."""

from typing import Literal

from pydantic.dataclasses import dataclass

from lockstep.recipe.optimizers.base import Optimizer, OptimizerSpec, like
from lockstep.recipe.optimizers.free import TRAINED
from lockstep.recipe.optimizers.knobs import Beta1, Beta2, WeightDecay
from lockstep.recipe.preset import Preset
from lockstep.recipe.values import CONFIG

__all__ = ["Lion"]


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Lion(Optimizer):
    """The sign of the momentum; weight decay acts on the parameters (decoupled)."""

    name: Literal["lion"] = "lion"
    weight_decay: WeightDecay = 0.01
    beta1: Beta1 = 0.9
    beta2: Beta2 = 0.99


# PyTorch has no Lion
Lion.spec = OptimizerSpec(
    title="lion",
    slots=like("first"),
    decoupled=True,
    optax_slots={"mu": "first"},
    presets={
        "optax.lion": Preset(
            "optax 0.2.8 lion",
            {"name": "lion"},
            TRAINED | {"beta1": 0.9, "beta2": 0.99, "weight_decay": 1e-3},
        )
    },
)
