"""Judge float64 traces: within 1e-12, or where that does not hold within bounds on rounding, which
cost some ten trainings.
"""

from collections.abc import Callable
from functools import cache

from lockstep.data_prep import PreparedData
from lockstep.diagnose.compare import Bounds, Comparison, bounds_of, compare
from lockstep.oracle.train import train as train_oracle
from lockstep.recipe import Recipe
from lockstep.records.run_recorder import Watch
from lockstep.records.trace import Trace

__all__ = ["DeriveBounds", "compare_exactly", "float64_bounds"]

DeriveBounds = Callable[[], Bounds]
"""Gives bounds on rounding in float64. They are derived once, when they are first asked for."""


def compare_exactly(a: Trace, b: Trace, derive_bounds: DeriveBounds) -> Comparison:
    """Judge two traces in float64, of twins or of a twin and the oracle.

    Args:
        a: one trace.
        b: the other.
        derive_bounds: from `float64_bounds`.

    Raises:
        InputError: as `lockstep.diagnose.compare.compare`.
    """
    comparison = compare(a, b, {})
    if comparison.verdict in ("identical", "rounding"):
        return comparison
    return compare(a, b, derive_bounds())


def float64_bounds(
    recipe: Recipe,
    data: PreparedData,
    *,
    parameters_every: int = 0,
    receive: Callable[[Trace], None] | None = None,
) -> DeriveBounds:
    """Bounds on rounding in a float64 run, from an ensemble in float64. An ensemble in float32,
    scaled down, would say less: it saturates where a training is chaotic.

    Args:
        recipe: in float64.
        data: what it is trained on.
        parameters_every: as the traces recorded their parameters.
        receive: gets the oracle's trace that carries the bounds, if they are derived.
    """

    @cache
    def derive() -> Bounds:
        oracle = train_oracle(recipe, data, watch=Watch(parameters_every=parameters_every))
        if receive is not None:
            receive(oracle)
        return bounds_of(oracle) or {}

    return derive
