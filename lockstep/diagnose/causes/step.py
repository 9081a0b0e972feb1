"""One optimizer update recomputed: from the gradient, the moments before and the rate, as a side
recorded them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from lockstep.diagnose.causes.side import Side
from lockstep.diagnose.causes.tensors import Tensors, family
from lockstep.oracle.arithmetic import Array, Exact, Moments, unit_roundoff
from lockstep.oracle.optimizer import update_parameter
from lockstep.recipe import Optimizer

__all__ = ["UpdateVariant", "attempt", "compute", "null", "recorded_by", "rounding", "variant_of"]


@dataclass(frozen=True, kw_only=True)
class UpdateVariant:
    """One update as it may have been done, parameter by parameter.

    `rates`, `moments` and `names` have every parameter of `parameters` and `gradients`. `count` is
    the number of updates that the optimizer has counted before. `decay` is what is taken off a
    parameter apart from the optimizer: rate x decay x parameter. `names` has the canonical name
    under which the optimizer sees each parameter.
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


def variant_of(side: Side) -> UpdateVariant | None:
    """The update as the recipe has it; None where its inputs were not recorded."""
    recipe = side.recipe
    if recipe is None or not side.declares("optimizer"):
        return None
    moments = side.moments_before()
    if moments is None and not recipe.optimizer.slots((1,)):
        moments = {}  # it remembers nothing
    gradients = side.detail("clip") or side.detail("gradients")
    parameters = side.parameters(side.update)
    known = [name for name in gradients if name in parameters]
    if moments is None or not known:
        return None
    names: dict[str, str] = {}
    rates: dict[str, float] = {}
    for name in known:
        names[name] = _canonical(side, name, parameters[name])
        rate = side.rate(names[name])
        if rate is None:
            return None
        rates[name] = rate
    return UpdateVariant(
        optimizer=recipe.optimizer,
        rates=rates,
        count=side.update,
        parameters={name: parameters[name] for name in known},
        gradients={name: gradients[name] for name in known},
        moments={name: moments.get(name, {}) for name in known},
        names=names,
    )


def compute(variant: UpdateVariant) -> Tensors:
    """The change of every parameter, and what the optimizer remembers after it."""
    tensors: Tensors = {}
    for name, gradient in variant.gradients.items():
        before = variant.parameters[name]
        moments = dict(variant.moments[name])
        with np.errstate(all="ignore"):
            after = update_parameter(
                variant.names[name],
                variant.optimizer,
                variant.rates[name],
                variant.count,
                before,
                gradient,
                moments,
                variant.arithmetic,
            )
        decayed = variant.rates[name] * variant.decay.get(name, 0.0) * before
        tensors[f"update/{name}"] = after - decayed - before
        for slot, array in moments.items():
            tensors[f"moments/{slot}/{name}"] = np.atleast_2d(array)
    return tensors


def attempt(variant: UpdateVariant) -> Tensors | None:
    """As `compute`; None for an optimizer that needs other moments than there are."""
    try:
        return compute(variant)
    except (KeyError, ValueError):
        return None


def recorded_by(side: Side) -> Tensors:
    """What `compute` gives, as it was recorded."""
    before = side.parameters(side.update)
    after = side.parameters(side.update + 1)
    steps = {name: after[name] - before[name] for name in after if name in before}
    return family("update", steps) | family("moments", side.detail("moments"))


def null(side: Side) -> Tensors | None:
    """The update as the recipe has it; None where its inputs were not recorded."""
    variant = variant_of(side)
    return None if variant is None else compute(variant)


def rounding(side: Side) -> dict[str, float]:
    """The 2-norm of the rounding that storing the parameters, before and after, may add to their
    change.
    """
    unit = unit_roundoff("float64" if side.precision == "float64" else "float32")
    after = side.parameters(side.update + 1)
    return {
        f"update/{name}": 2 * unit * float(np.linalg.norm(array)) for name, array in after.items()
    }


def _canonical(side: Side, name: str, parameter: Array) -> str:
    """The name by which a parameter decays or does not. A loop's own names do not say that: there a
    weight has more than one row.
    """
    if "recipe" in side.trace.header:
        return name
    return "linear1.weight" if min(parameter.shape[-2:]) > 1 else "linear1.bias"
