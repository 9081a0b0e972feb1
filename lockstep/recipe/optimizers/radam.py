"""RAdam: Adam without its second moment until that is worth something. Source: arXiv:1908.03265."""

from typing import Literal

from pydantic.dataclasses import dataclass

from lockstep.recipe.optimizers.base import Optimizer, OptimizerSpec, like
from lockstep.recipe.optimizers.free import AFTER_DECAY, BETAS_DECAYED
from lockstep.recipe.optimizers.knobs import Beta1, Beta2, Eps, WeightDecay
from lockstep.recipe.preset import Preset
from lockstep.recipe.values import CONFIG

__all__ = ["RAdam"]


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class RAdam(Optimizer):
    """Adam, rectified while its second moment is of few gradients; weight decay is added to the
    gradient (L2).
    """

    name: Literal["radam"] = "radam"
    weight_decay: WeightDecay = 0.0
    beta1: Beta1 = 0.9
    beta2: Beta2 = 0.999
    eps: Eps = 1e-8
    eps_corrected: bool = False
    """eps is added to the root of the bias-corrected second moment (Optax), or of the raw one
    (PyTorch).
    """


RAdam.spec = OptimizerSpec(
    title="radam",
    slots=like("first", "second"),
    torch_slots={"exp_avg": "first", "exp_avg_sq": "second"},
    presets={
        "torch.radam": Preset(
            "torch 2.13 RAdam", {"name": "radam", "eps_corrected": False}, BETAS_DECAYED
        ),
        "optax.radam": Preset(
            f"optax 0.2.8 radam{AFTER_DECAY}",
            {"name": "radam", "eps_corrected": True},
            BETAS_DECAYED,
        ),
    },
)
