"""RMSprop: the gradient over the root of its mean square. Sources: Tieleman & Hinton (2012);
arXiv:1308.0850.
"""

from typing import Literal

from pydantic.dataclasses import dataclass

from lockstep.recipe.optimizers.base import Optimizer, OptimizerSpec, Shape
from lockstep.recipe.optimizers.free import DECAYED
from lockstep.recipe.optimizers.knobs import Eps, Momentum, WeightDecay
from lockstep.recipe.preset import Preset
from lockstep.recipe.values import CONFIG, Decay
from lockstep.recipe.variants import Cause

__all__ = ["RMSprop"]


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class RMSprop(Optimizer):
    """The gradient over the root of its mean square; weight decay is added to the gradient (L2)."""

    name: Literal["rmsprop"] = "rmsprop"
    momentum: Momentum = 0.0
    weight_decay: WeightDecay = 0.0
    eps: Eps = 1e-8
    eps_in_root: bool = False
    """eps is added inside the root."""
    decay: Decay = 0.99
    """Decay of the mean of the squared gradient."""
    centered: bool = False
    """Divide by the root of the variance, not of the second moment."""
    rate_in_momentum: bool = False
    """The momentum sums steps that their learning rates have scaled (Optax), or is scaled itself
    (PyTorch).
    """


def _slots(optimizer: RMSprop, shape: Shape) -> dict[str, Shape]:
    used = {"second": True, "first": optimizer.centered, "momentum": optimizer.momentum > 0}
    return {slot: shape for slot, is_used in used.items() if is_used}


RMSprop.spec = OptimizerSpec(
    title="rmsprop",
    slots=_slots,
    torch_slots={"square_avg": "second", "grad_avg": "first", "momentum_buffer": "momentum"},
    optax_slots={"nu": "second", "mu": "first", "trace": "momentum"},
    torch_names={"alpha": "decay"},
    knob_needs={"rate_in_momentum": {"optimizer.momentum": 0.8, "schedule.peak": 0.005}},
    causes={"decay": Cause("other-beta", "rmsprop-decay")},
    presets={
        "torch.rmsprop": Preset(
            "torch 2.13 RMSprop(alpha=decay)",
            {"name": "rmsprop", "eps_in_root": False, "rate_in_momentum": False},
            DECAYED | {"decay": 0.99, "eps": 1e-8, "centered": False, "momentum": 0.0},
        ),
        "optax.rmsprop": Preset(
            "optax 0.2.8 rmsprop without bias correction or nesterov; with a weight decay "
            "after add_decayed_weights",
            {"name": "rmsprop", "rate_in_momentum": True},
            DECAYED
            | {"decay": 0.9, "eps": 1e-8, "eps_in_root": True, "centered": False, "momentum": 0.0},
        ),
    },
)
