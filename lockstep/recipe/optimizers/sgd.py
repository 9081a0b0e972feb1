"""Stochastic gradient descent with momentum. Source: `torch.optim.SGD` 2.13, `optax.sgd` 0.2.8."""

from typing import Literal, Self

from pydantic import model_validator
from pydantic.dataclasses import dataclass

from lockstep.recipe.optimizers.base import Optimizer, OptimizerSpec, Shape
from lockstep.recipe.optimizers.free import AFTER_DECAY, DECAYED
from lockstep.recipe.optimizers.knobs import Momentum, WeightDecay
from lockstep.recipe.preset import Preset
from lockstep.recipe.values import CONFIG, Decay
from lockstep.recipe.variants import Cause

__all__ = ["Sgd"]

FREE = DECAYED | {"momentum": 0.0, "nesterov": False}


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Sgd(Optimizer):
    """The gradient, or its momentum; weight decay is added to the gradient (L2)."""

    name: Literal["sgd"] = "sgd"
    momentum: Momentum = 0.9
    dampening: Decay = 0.0
    """The gradient enters the momentum times 1 - dampening, but at the first update whole, as in
    PyTorch.
    """
    nesterov: bool = False
    """Look ahead along the momentum."""
    weight_decay: WeightDecay = 0.0

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> Self:
        if self.nesterov and (self.momentum == 0 or self.dampening):
            raise ValueError("nesterov: true needs a momentum above 0 and a dampening of 0")
        return self


def _slots(optimizer: Sgd, shape: Shape) -> dict[str, Shape]:
    return {"momentum": shape} if optimizer.momentum else {}


Sgd.spec = OptimizerSpec(
    title="sgd",
    slots=_slots,
    in_full=True,
    torch_slots={"momentum_buffer": "momentum"},
    optax_slots={"trace": "momentum"},
    others={"dampening": 0.3},
    causes={"dampening": Cause("dampening", "dampening-spares-the-first-step")},
    spans={"dampening": (0.0, 1 - 1e-9)},
    presets={
        "torch.sgd": Preset("torch 2.13 SGD", {"name": "sgd"}, FREE | {"dampening": 0.0}),
        "optax.sgd": Preset(
            f"optax 0.2.8 sgd{AFTER_DECAY}", {"name": "sgd", "dampening": 0.0}, FREE
        ),
    },
)
