"""Adam and AdamW. Sources: arXiv:1412.6980, arXiv:1904.09237 (AMSGrad), arXiv:1711.05101 (decoupled
decay).
"""

from typing import Literal

from pydantic.dataclasses import dataclass

from lockstep.recipe.optimizers.base import Optimizer, OptimizerSpec, Shape
from lockstep.recipe.optimizers.free import AFTER_DECAY, BETAS, BETAS_DECAYED
from lockstep.recipe.optimizers.knobs import Beta1, Beta2, DecayForm, Eps, WeightDecay
from lockstep.recipe.preset import Preset
from lockstep.recipe.values import CONFIG
from lockstep.recipe.variants import Cause

__all__ = ["Adam", "AdamW"]

Amsgrad = Literal["off", "raw", "corrected"]
AMSGRAD = {"amsgrad": Cause("amsgrad", "amsgrad-of-which-moment")}
OUTSIDE = {"eps_in_root": False}
TORCH_SLOTS = {"exp_avg": "first", "exp_avg_sq": "second", "max_exp_avg_sq": "largest_second"}
OPTAX_SLOTS = {"mu": "first", "nu": "second", "nu_max": "largest_second"}


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Adam(Optimizer):
    """Both moments of the gradient, corrected for their start at 0; weight decay is added to the
    gradient (L2).
    """

    name: Literal["adam"] = "adam"
    weight_decay: WeightDecay = 0.0
    beta1: Beta1 = 0.9
    beta2: Beta2 = 0.999
    eps: Eps = 1e-8
    eps_in_root: bool = False
    """eps is added inside the root."""
    amsgrad: Amsgrad = "off"
    """Divide by the largest second moment so far: of the raw one (PyTorch) or of the bias-corrected
    one (Optax).
    """


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class AdamW(Optimizer):
    """Adam whose weight decay acts on the parameters (decoupled)."""

    name: Literal["adamw"] = "adamw"
    weight_decay: WeightDecay = 0.01
    decay_form: DecayForm = "factor"
    beta1: Beta1 = 0.9
    beta2: Beta2 = 0.999
    eps: Eps = 1e-8
    eps_in_root: bool = False
    """eps is added inside the root."""
    amsgrad: Amsgrad = "off"
    """Divide by the largest second moment so far: of the raw one (PyTorch) or of the bias-corrected
    one (Optax).
    """


def _slots(optimizer: Adam | AdamW, shape: Shape) -> dict[str, Shape]:
    slots = (
        ("first", "second") if optimizer.amsgrad == "off" else ("first", "second", "largest_second")
    )
    return dict.fromkeys(slots, shape)


Adam.spec = OptimizerSpec(
    title="adam",
    slots=_slots,
    torch_slots=TORCH_SLOTS,
    optax_slots=OPTAX_SLOTS,
    causes=AMSGRAD,
    presets={
        "torch.adam": Preset(
            "torch 2.13 Adam", {"name": "adam", "amsgrad": "off"} | OUTSIDE, BETAS_DECAYED
        ),
        "optax.adam": Preset(
            f"optax 0.2.8 adam{AFTER_DECAY}",
            {"name": "adam", "amsgrad": "off"} | OUTSIDE,
            BETAS_DECAYED,
        ),
        "torch.amsgrad": Preset(
            "torch 2.13 Adam(amsgrad=True)",
            {"name": "adam", "amsgrad": "raw"} | OUTSIDE,
            BETAS_DECAYED,
        ),
        "optax.amsgrad": Preset(
            f"optax 0.2.8 amsgrad{AFTER_DECAY}",
            {"name": "adam", "amsgrad": "corrected"} | OUTSIDE,
            BETAS_DECAYED,
        ),
    },
)
AdamW.spec = OptimizerSpec(
    title="adamw",
    slots=_slots,
    decoupled=True,
    in_full=True,
    torch_slots=TORCH_SLOTS,
    optax_slots=OPTAX_SLOTS,
    causes=AMSGRAD,
    presets={
        "torch.adamw": Preset(
            "torch 2.13 AdamW",
            {"name": "adamw", "amsgrad": "off", "decay_form": "factor"} | OUTSIDE,
            BETAS | {"weight_decay": 0.01},
        ),
        "optax.adamw": Preset(
            "optax 0.2.8 adamw",
            {"name": "adamw", "amsgrad": "off", "decay_form": "step"} | OUTSIDE,
            BETAS | {"weight_decay": 1e-4},
        ),
    },
)
