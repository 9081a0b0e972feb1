"""Adadelta: steps in the unit of the parameter. Source: arXiv:1212.5701, with a learning rate."""

from typing import Literal

from pydantic.dataclasses import dataclass

from lockstep.recipe.optimizers.base import Optimizer, OptimizerSpec, like
from lockstep.recipe.optimizers.free import DECAYED
from lockstep.recipe.optimizers.knobs import Eps, WeightDecay
from lockstep.recipe.preset import Preset
from lockstep.recipe.values import CONFIG, Decay
from lockstep.recipe.variants import Cause

__all__ = ["Adadelta"]


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Adadelta(Optimizer):
    """The gradient times the root of past steps over that of past gradients; weight decay is added
    to the gradient (L2)."""

    name: Literal["adadelta"] = "adadelta"
    weight_decay: WeightDecay = 0.0
    eps: Eps = 1e-6
    decay: Decay = 0.9
    """Decay of the mean of the squared gradient, and of that of the squared steps."""


Adadelta.spec = OptimizerSpec(
    title="adadelta",
    slots=like("second", "update_second"),
    torch_slots={"square_avg": "second", "acc_delta": "update_second"},
    torch_names={"rho": "decay"},
    optax_slots={"e_g": "second", "e_x": "update_second"},
    causes={"decay": Cause("other-beta", "rmsprop-decay")},
    presets={
        "torch.adadelta": Preset(
            "torch 2.13 Adadelta(rho=decay)",
            {"name": "adadelta"},
            DECAYED | {"decay": 0.9, "eps": 1e-6},
        ),
        "optax.adadelta": Preset(
            "optax 0.2.8 adadelta(learning_rate, rho=decay); without a learning rate it ascends",
            {"name": "adadelta"},
            DECAYED | {"decay": 0.9, "eps": 1e-6},
        ),
    },
)
