"""Muon for the weights of linear layers, AdamW for all else. Source: Jordan, Muon (2024)."""

from typing import Literal, Self

from pydantic import model_validator
from pydantic.dataclasses import dataclass

from lockstep.recipe.optimizers.base import Optimizer, OptimizerSpec, Shape
from lockstep.recipe.optimizers.free import TRAINED
from lockstep.recipe.optimizers.knobs import Beta1, Beta2, Eps, Momentum, WeightDecay
from lockstep.recipe.preset import Preset
from lockstep.recipe.values import CONFIG, Count, Positive

__all__ = ["Muon"]

FREE = {
    "momentum": 0.95,
    "nesterov": True,
    "beta1": 0.9,
    "beta2": 0.999,
    "orthogonalisations": 5,
    "adjust": "original",
}


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Muon(Optimizer):
    """The momentum of a weight, orthogonalised, and AdamW for all else; weight decay acts on the
    parameters (decoupled)."""

    name: Literal["muon"] = "muon"
    momentum: Momentum = 0.95
    nesterov: bool = True
    """Look ahead along the momentum."""
    weight_decay: WeightDecay = 0.1
    beta1: Beta1 = 0.9
    beta2: Beta2 = 0.999
    eps: Eps = 1e-8
    orthogonalisations: Count = 5
    """Newton-Schulz iterations."""
    eps_norm: Positive = 1e-7
    """Keeps the division by a weight's norm finite; eps is that of AdamW, which trains all else."""
    eps_norm_added: bool = False
    """eps_norm is added to the norm (Optax), or is the least norm (PyTorch)."""
    momentum_correction: bool = False
    """Divide the momentum by 1 - momentum^(t+1) (Optax)."""
    nesterov_rest: bool = False
    """Look ahead along the first moment of AdamW too (Optax)."""
    adjust: Literal["original", "match_rms_adamw"] = "original"
    """Scale of a step of an (in, out) weight: sqrt(max(1, out / in)), or 0.2 sqrt(max(in, out))."""

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> Self:
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov: true needs a momentum above 0 and a dampening of 0")
        return self


def _slots(optimizer: Muon, shape: Shape) -> dict[str, Shape]:
    return dict.fromkeys(("momentum",) if len(shape) == 2 else ("first", "second"), shape)


# both twins have it by hand, with the slots of a checkpoint
Muon.spec = OptimizerSpec(
    title="muon",
    slots=_slots,
    decoupled=True,
    by_tensor=True,
    in_full=True,
    torch_names={"ns_steps": "orthogonalisations", "eps": "eps_norm", "adjust_lr_fn": "adjust"},
    others={"orthogonalisations": 3},
    by_magnitude=("eps_norm",),
    presets={
        "torch.muon_full_precision": Preset(
            "torch 2.13 Muon for the weights, but in the recipe's dtype where PyTorch "
            "iterates in bfloat16, beside "
            "AdamW with the same weight decay",
            {
                "name": "muon",
                "momentum_correction": False,
                "nesterov_rest": False,
                "eps_norm_added": False,
            },
            TRAINED | FREE | {"eps": 1e-8, "eps_norm": 1e-7, "weight_decay": 0.1},
        ),
        "optax.muon": Preset(
            "optax 0.2.8 contrib.muon; adjust match_rms_adamw is consistent_rms=0.2",
            {
                "name": "muon",
                "momentum_correction": True,
                "eps_norm_added": True,
                "decay_on": "weights",
            },
            FREE | {"eps": 1e-8, "weight_decay": 0.0, "multipliers": None},
            {"nesterov_rest": "nesterov", "eps_norm": "eps"},
        ),
    },
    unsaid={
        "torch.muon": "PyTorch iterates in bfloat16, which no recipe says; in the recipe's dtype "
        "it is "
        "torch.muon_full_precision"
    },
)
