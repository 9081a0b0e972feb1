"""Adagrad: rates that fall with the squared gradients so far. Source: Duchi, Hazan & Singer, JMLR
12 (2011).
"""

from typing import Literal

from pydantic.dataclasses import dataclass

from lockstep.recipe.optimizers.base import Optimizer, OptimizerSpec, like
from lockstep.recipe.optimizers.free import AFTER_DECAY, DECAYED
from lockstep.recipe.optimizers.knobs import Eps, WeightDecay
from lockstep.recipe.preset import Preset
from lockstep.recipe.values import CONFIG, NonNegative
from lockstep.recipe.variants import Cause

__all__ = ["Adagrad"]


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Adagrad(Optimizer):
    """The gradient over the root of the sum of its squares; weight decay is added to the gradient
    (L2).
    """

    name: Literal["adagrad"] = "adagrad"
    weight_decay: WeightDecay = 0.0
    eps: Eps = 1e-10
    eps_in_root: bool = False
    """eps is added inside the root."""
    initial_accumulator: NonNegative = 0.0
    """The sum of squares before the first update; 0 in PyTorch, 0.1 in Optax."""
    lr_decay: NonNegative = 0.0
    """Divides the learning rate by 1 + t lr_decay."""


Adagrad.spec = OptimizerSpec(
    title="adagrad",
    slots=like("second"),
    torch_slots={"sum": "second"},
    torch_names={"initial_accumulator_value": "initial_accumulator"},
    optax_slots={"sum_of_squares": "second"},
    others={"initial_accumulator": 0.1, "lr_decay": 0.01},
    causes={
        "initial_accumulator": Cause("other-initial-accumulator", "adagrad-initial-accumulator")
    },
    presets={
        "torch.adagrad": Preset(
            "torch 2.13 Adagrad",
            {"name": "adagrad", "eps_in_root": False},
            DECAYED | {"eps": 1e-10, "initial_accumulator": 0.0, "lr_decay": 0.0},
        ),
        "optax.adagrad": Preset(
            f"optax 0.2.8 adagrad{AFTER_DECAY}",
            {"name": "adagrad", "eps_in_root": True, "lr_decay": 0.0},
            DECAYED | {"eps": 1e-7, "initial_accumulator": 0.1},
        ),
    },
)
