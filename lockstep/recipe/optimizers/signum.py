"""Signum: a step by the sign of a mean of the gradient. Source: arXiv:1802.04434, algorithm 2."""

from typing import Literal

from pydantic.dataclasses import dataclass

from lockstep.recipe.optimizers.base import Optimizer, OptimizerSpec, like
from lockstep.recipe.optimizers.free import AFTER_DECAY, DECAYED
from lockstep.recipe.optimizers.knobs import Momentum, WeightDecay
from lockstep.recipe.preset import Preset
from lockstep.recipe.values import CONFIG

__all__ = ["Signum"]


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Signum(Optimizer):
    """The sign of a mean of the gradient; weight decay is added to the gradient (L2)."""

    name: Literal["signum"] = "signum"
    momentum: Momentum = 0.9
    """Share of the previous mean kept; with 0 it is signSGD."""
    weight_decay: WeightDecay = 0.0


# PyTorch has no Signum
Signum.spec = OptimizerSpec(
    title="signum",
    slots=like("mean"),
    optax_slots={"ema": "mean"},
    presets={
        "optax.signum": Preset(
            f"optax 0.2.8 signum(beta=momentum){AFTER_DECAY}",
            {"name": "signum"},
            DECAYED | {"momentum": 0.9},
        ),
        "optax.sign_sgd": Preset(
            f"optax 0.2.8 sign_sgd{AFTER_DECAY}", {"name": "signum", "momentum": 0.0}, DECAYED
        ),
    },
)
