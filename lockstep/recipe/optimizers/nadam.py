"""NAdam and NAdamW: Adam that looks ahead along its momentum. Source: Dozat, ICLR workshop 2016."""

from typing import Literal

from pydantic.dataclasses import dataclass

from lockstep.recipe.optimizers.base import Optimizer, OptimizerSpec, Shape
from lockstep.recipe.optimizers.free import AFTER_DECAY, BETAS, BETAS_DECAYED
from lockstep.recipe.optimizers.knobs import (
    Beta1,
    Beta2,
    DecayForm,
    Eps,
    MomentumDecay,
    MomentumRamp,
    WeightDecay,
)
from lockstep.recipe.preset import Preset
from lockstep.recipe.values import CONFIG

__all__ = ["NAdam", "NAdamW"]

TORCH_SLOTS = {"exp_avg": "first", "exp_avg_sq": "second", "mu_product": "momentum_product"}
OPTAX_SLOTS = {"mu": "first", "nu": "second"}
OTHERS = {"momentum_decay": 0.5}
BY_MAGNITUDE = ("momentum_decay",)
WITHOUT_RAMP = {
    "momentum_ramp": False,
    "momentum_decay": 0.004,
}  # without a ramp its pace is no matter
UNSAID = (
    "PyTorch keeps the product of its momenta in float32, in float64 too, which no recipe "
    "says; in the recipe's dtype "
    "it is {}, the same in a float32 recipe"
)


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class NAdam(Optimizer):
    """Adam that looks ahead along its momentum; weight decay is added to the gradient (L2)."""

    name: Literal["nadam"] = "nadam"
    weight_decay: WeightDecay = 0.0
    beta1: Beta1 = 0.9
    beta2: Beta2 = 0.999
    eps: Eps = 1e-8
    momentum_ramp: MomentumRamp = True
    momentum_decay: MomentumDecay = 0.004


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class NAdamW(Optimizer):
    """NAdam whose weight decay acts on the parameters (decoupled)."""

    name: Literal["nadamw"] = "nadamw"
    weight_decay: WeightDecay = 0.01
    decay_form: DecayForm = "factor"
    beta1: Beta1 = 0.9
    beta2: Beta2 = 0.999
    eps: Eps = 1e-8
    momentum_ramp: MomentumRamp = True
    momentum_decay: MomentumDecay = 0.004


def _slots(optimizer: NAdam | NAdamW, shape: Shape) -> dict[str, Shape]:
    slots = {"first": shape, "second": shape}
    # without a ramp the product of the momenta is a power of beta1
    return slots | {"momentum_product": ()} if optimizer.momentum_ramp else slots


NAdam.spec = OptimizerSpec(
    title="nadam",
    slots=_slots,
    torch_slots=TORCH_SLOTS,
    optax_slots=OPTAX_SLOTS,
    others=OTHERS,
    by_magnitude=BY_MAGNITUDE,
    presets={
        "torch.nadam_full_precision": Preset(
            "torch 2.13 NAdam, but with its mu_product in the recipe's dtype where PyTorch "
            "has float32",
            {"name": "nadam", "momentum_ramp": True},
            BETAS_DECAYED | {"momentum_decay": 0.004},
        ),
        "optax.nadam": Preset(
            f"optax 0.2.8 nadam{AFTER_DECAY}", {"name": "nadam"} | WITHOUT_RAMP, BETAS_DECAYED
        ),
    },
    unsaid={"torch.nadam": UNSAID.format("torch.nadam_full_precision")},
)
NAdamW.spec = OptimizerSpec(
    title="nadamw",
    slots=_slots,
    decoupled=True,
    torch_slots=TORCH_SLOTS,
    optax_slots=OPTAX_SLOTS,
    others=OTHERS,
    by_magnitude=BY_MAGNITUDE,
    presets={
        "torch.nadamw_full_precision": Preset(
            "torch 2.13 NAdam(decoupled_weight_decay=True), but with its mu_product in the "
            "recipe's dtype where "
            "PyTorch has float32",
            {"name": "nadamw", "momentum_ramp": True, "decay_form": "factor"},
            BETAS_DECAYED | {"momentum_decay": 0.004},
        ),
        "optax.nadamw": Preset(
            "optax 0.2.8 nadamw",
            {"name": "nadamw", "decay_form": "step"} | WITHOUT_RAMP,
            BETAS | {"weight_decay": 1e-4},
        ),
    },
    unsaid={"torch.nadamw": UNSAID.format("torch.nadamw_full_precision")},
)
