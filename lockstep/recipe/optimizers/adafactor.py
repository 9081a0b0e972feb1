"""Adafactor: a second moment in as many numbers as a weight has rows and columns. Source:
arXiv:1804.04235.
"""

from typing import Literal

from pydantic.dataclasses import dataclass

from lockstep.recipe.optimizers.base import Optimizer, OptimizerSpec, Shape
from lockstep.recipe.optimizers.free import DECAYED, TRAINED
from lockstep.recipe.optimizers.knobs import Eps, WeightDecay
from lockstep.recipe.preset import Preset
from lockstep.recipe.values import CONFIG, Count, NonNegative, Positive

__all__ = ["Adafactor"]


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Adafactor(Optimizer):
    """A factored second moment, and steps in proportion to the parameter; weight decay acts on the
    parameters (decoupled)."""

    name: Literal["adafactor"] = "adafactor"
    weight_decay: WeightDecay = 0.0
    eps: Eps = 2.0**-23
    eps_in_root: bool = False
    """eps is added to the squared gradient (Optax); false makes it the least root (PyTorch, whose
    default is the machine epsilon of the dtype)."""
    decay_power: Positive = 0.8
    """The second moment decays by 1 - (t+1)^-decay_power."""
    eps_scale: NonNegative = 1e-3
    """Least root mean square of a parameter that scales its step."""
    clip_threshold: Positive = 1.0
    """Largest root mean square of an update before the learning rate."""
    rate_cap: bool = True
    """The learning rate is at most (t+1)^-1/2 (PyTorch), or as scheduled (Optax)."""
    min_factored: Count = 1
    """Least size of both dimensions of a weight whose second moment is factored; 1 in PyTorch, 128
    in Optax.
    """


def _slots(optimizer: Adafactor, shape: Shape) -> dict[str, Shape]:
    if len(shape) < 2 or min(shape) < optimizer.min_factored:
        return {"second": shape}
    inputs, outputs = shape
    return {"row": (inputs, 1), "column": (1, outputs)}


Adafactor.spec = OptimizerSpec(
    title="adafactor",
    slots=_slots,
    decoupled=True,
    by_tensor=True,
    # of a weight (out, in) in PyTorch: each row has one output
    torch_slots={"variance": "second", "row_var": "column", "col_var": "row"},
    torch_names={
        "beta2_decay": "-decay_power",
        "eps": ("eps", "eps_scale"),
        "d": "clip_threshold",
    },
    others={"decay_power": 0.5, "eps_scale": 0.5, "clip_threshold": 0.5, "min_factored": 6},
    knob_needs={"rate_cap": {"schedule.peak": 0.1}},
    presets={
        "torch.adafactor": Preset(
            "torch 2.13 Adafactor(beta2_decay=-decay_power, eps=(eps, eps_scale), "
            "d=clip_threshold) in float32: its "
            "default eps is the machine epsilon of the dtype",
            {"name": "adafactor", "eps_in_root": False, "rate_cap": True, "min_factored": 1},
            DECAYED
            | {"decay_power": 0.8, "eps": 2.0**-23, "eps_scale": 1e-3, "clip_threshold": 1.0},
            least={"clip_threshold": 1.0},
        ),
        "optax.adafactor_full_precision": Preset(
            "optax 0.2.8 adafactor, but with its decay rate in the recipe's dtype where "
            "Optax has float32, and but "
            "for what a recipe cannot say: a momentum, no clipping, steps that are not "
            "scaled by the parameter, a "
            "weight decay that is not times the learning rate",
            {
                "name": "adafactor",
                "eps_in_root": True,
                "rate_cap": False,
                "eps_scale": 1e-3,
                "weight_decay": 0.0,
            },
            TRAINED
            | {"decay_power": 0.8, "eps": 1e-30, "clip_threshold": 1.0, "min_factored": 128},
        ),
    },
    unsaid={
        "optax.adafactor": "Optax keeps the decay rate in float32, in float64 too, which no recipe "
        "says; in the "
        "recipe's dtype it is optax.adafactor_full_precision, the same in a float32 recipe "
        "to rounding"
    },
)
