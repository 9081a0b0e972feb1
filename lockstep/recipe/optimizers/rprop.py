"""Rprop: step sizes that follow the signs of the gradient. Source: Riedmiller & Braun, ICNN
1993.
"""

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from lockstep.recipe.optimizers.base import Optimizer, OptimizerSpec, like
from lockstep.recipe.optimizers.free import TRAINED
from lockstep.recipe.preset import Preset
from lockstep.recipe.values import CONFIG, Positive

__all__ = ["Rprop"]


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Rprop(Optimizer):
    """A step size for every element, which grows while its gradient keeps its sign; there is no
    weight decay.
    """

    name: Literal["rprop"] = "rprop"
    shrink: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Factor on a step size whose gradient has changed its sign."""
    grow: Annotated[float, Field(gt=1)] = 1.2
    """Factor on a step size whose gradient has kept its sign."""
    step_min: Positive = 1e-6
    """Smallest step size. The first is the learning rate of the first update; the later ones do
    nothing.
    """
    step_max: Positive = 50.0
    """Largest step size."""


# there is no preset of optax.rprop: it takes each step one update late
Rprop.spec = OptimizerSpec(
    title="rprop",
    slots=like("previous", "step_size"),
    torch_slots={"prev": "previous"},
    torch_names={"etas": ("shrink", "grow"), "step_sizes": ("step_min", "step_max")},
    others={"shrink": 0.4, "grow": 1.3, "step_min": 0.01, "step_max": 0.02},
    spans={"shrink": (1e-6, 1 - 1e-9), "grow": (1 + 1e-9, 1e3)},
    by_magnitude=("step_min", "step_max"),
    presets={
        "torch.rprop": Preset(
            "torch 2.13 Rprop(etas=(shrink, grow))",
            {"name": "rprop"},
            TRAINED | {"shrink": 0.5, "grow": 1.2, "step_min": 1e-6, "step_max": 50.0},
        )
    },
)
