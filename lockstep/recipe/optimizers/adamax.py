"""Adamax: Adam whose second moment is an infinity norm. Source: arXiv:1412.6980, algorithm 2."""

from typing import Literal

from pydantic.dataclasses import dataclass

from lockstep.recipe.optimizers.base import Optimizer, OptimizerSpec, like
from lockstep.recipe.optimizers.free import AFTER_DECAY, BETAS_DECAYED
from lockstep.recipe.optimizers.knobs import Beta1, Beta2, Eps, WeightDecay
from lockstep.recipe.preset import Preset
from lockstep.recipe.values import CONFIG

__all__ = ["Adamax"]


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Adamax(Optimizer):
    """Adam whose second moment is an infinity norm; weight decay is added to the gradient (L2)."""

    name: Literal["adamax"] = "adamax"
    weight_decay: WeightDecay = 0.0
    beta1: Beta1 = 0.9
    beta2: Beta2 = 0.999
    eps: Eps = 1e-8


Adamax.spec = OptimizerSpec(
    title="adamax",
    slots=like("first", "infinity"),
    torch_slots={"exp_avg": "first", "exp_inf": "infinity"},
    # the state of Optax calls the infinity norm what it calls a second moment
    optax_slots={"mu": "first", "nu": "infinity"},
    presets={
        "torch.adamax": Preset("torch 2.13 Adamax", {"name": "adamax"}, BETAS_DECAYED),
        "optax.adamax": Preset(
            f"optax 0.2.8 adamax{AFTER_DECAY}", {"name": "adamax"}, BETAS_DECAYED
        ),
    },
)
