"""One optimizer update recomputed: from the gradient, the moments before and the rate, as a side
recorded them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from lockstep.diagnose.causes.judge import Tensors
from lockstep.diagnose.causes.side import Side
from lockstep.oracle.arithmetic import Array, Exact, Moments, unit_roundoff
from lockstep.oracle.optimizer import update_parameter
from lockstep.recipe import Optimizer

__all__ = ["Step", "attempt", "compute", "null", "recorded", "rounding", "step_of"]


@dataclass(frozen=True, kw_only=True)
class Step:
    """One update as it may have been done, parameter by parameter.

    `decay` has what is taken off a parameter apart from the optimizer: rate x decay x parameter.
    `names` has the canonical name under which the optimizer sees each parameter.
    """

    optimizer: Optimizer
    rates: Mapping[str, float]
    count: int
    parameters: Tensors
    gradients: Tensors
    moments: Mapping[str, Moments]
    names: Mapping[str, str]
    arithmetic: Exact = field(default_factory=Exact)
    decay: Mapping[str, float] = field(default_factory=dict)


def step_of(side: Side) -> Step | None:
    """The update as the recipe has it; None where its inputs were not recorded."""
    recipe, moments = side.recipe, side.moments_before()
    gradients = side.detail("clip") or side.detail("gradients")
    parameters = side.parameters(side.update)
    if recipe is None or not side.declares("optimizer"):
        return None
    if moments is None and not recipe.optimizer.slots((1,)):
        moments = {}  # it remembers nothing
    known = [name for name in gradients if name in parameters]
    names = {name: _canonical(side, name, parameters[name]) for name in known}
    rates = {name: rate for name in known if (rate := side.rate(names[name])) is not None}
    if moments is None or not known or len(rates) < len(known):
        return None
    return Step(
        optimizer=recipe.optimizer,
        rates=rates,
        count=side.update,
        parameters={name: parameters[name] for name in known},
        gradients={name: gradients[name] for name in known},
        moments={name: moments.get(name, {}) for name in known},
        names=names,
    )


def compute(step: Step) -> Tensors:
    """The change of every parameter, and what the optimizer remembers after it."""
    found: Tensors = {}
    for name, gradient in step.gradients.items():
        before, moments = step.parameters[name], dict(step.moments[name])
        with np.errstate(all="ignore"):
            after = update_parameter(
                step.names[name],
                step.optimizer,
                step.rates[name],
                step.count,
                before,
                gradient,
                moments,
                step.arithmetic,
            )
        found[f"update/{name}"] = (
            after - step.rates[name] * step.decay.get(name, 0.0) * before - before
        )
        found |= {f"moments/{slot}/{name}": np.atleast_2d(array) for slot, array in moments.items()}
    return found


def attempt(step: Step) -> Tensors | None:
    """As `compute`; None for an optimizer that needs other moments than there are."""
    try:
        return compute(step)
    except (KeyError, ValueError):
        return None


def recorded(side: Side) -> Tensors:
    """What `compute` gives, as it was recorded."""
    before, after = side.parameters(side.update), side.parameters(side.update + 1)
    steps = {f"update/{name}": after[name] - before[name] for name in after if name in before}
    return steps | {f"moments/{name}": array for name, array in side.detail("moments").items()}


def null(side: Side) -> Tensors | None:
    """The update as the recipe has it; None where its inputs were not recorded."""
    step = step_of(side)
    return None if step is None else compute(step)


def rounding(side: Side) -> dict[str, float]:
    """The 2-norm of what storing the parameters before and after may do to their change."""
    unit = unit_roundoff("float64" if side.precision == "float64" else "float32")
    after = side.parameters(side.update + 1)
    return {
        f"update/{name}": 2 * unit * float(np.linalg.norm(array)) for name, array in after.items()
    }


def _canonical(side: Side, name: str, parameter: Array) -> str:
    """Of a loop's own names, which say nothing about what decays, a weight has more than one
    row.
    """
    if "recipe" in side.trace.header:
        return name
    return "linear1.weight" if min(parameter.shape[-2:]) > 1 else "linear1.bias"
