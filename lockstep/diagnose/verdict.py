"""The verdict on a whole run: five checks, from the bits that went in to the rounding of what came out."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from lockstep.diagnose.compare import STAGES, Bounds, Comparison, Difference, bounds_of, compare
from lockstep.errors import InputError
from lockstep.recipe import Recipe
from lockstep.trace import Trace

__all__ = ["Check", "Verdict", "describe_difference", "float64_bounds", "judge"]

FLOAT64_UNIT = 2.0**-53
UNITS = {"bfloat16": 2.0**-8, "float32": 2.0**-24, "float64": FLOAT64_UNIT}
"""Unit roundoffs; to first order rounding errors grow with them."""


@dataclass(frozen=True)
class Check:
    """One thing that was judged, and what was found."""

    name: str
    passed: bool
    detail: str


@dataclass(frozen=True)
class Verdict:
    """`word` is identical, rounding or diverged; `max_difference` is absolute, torch against jax, with the keys lr,
    loss and parameters."""

    word: str
    checks: tuple[Check, ...]
    max_difference: dict[str, float]


def judge(traces: Mapping[str, Trace], semantics: Mapping[str, Trace]) -> Verdict:
    """Judge a run.

    Args:
        traces: torch, jax and oracle, in the recipe's dtype.
        semantics: the same in float64.

    Raises:
        InputError: an oracle's trace without rounding bounds, or traces that cannot be compared.
    """
    bounds = bounds_of(traces["oracle"])
    if bounds is None:
        raise InputError("the oracle's trace has no rounding bounds")
    training = traces["torch"].recipe.training
    exact = float64_bounds(traces["torch"].recipe, bounds)
    meant = {
        f"{backend} against oracle": compare(semantics[backend], semantics["oracle"], exact)
        for backend in ("torch", "jax")
    }
    found = {f"{a} against {b}": compare(traces[a], traces[b], bounds) for a, b in combinations(traces, 2)}
    everything = {**meant, **found}
    checks = (
        Check("same data, batches and initial parameters", *_exact(everything, "init", _data(traces))),
        Check("same learning rate, bit for bit", *_exact(everything, "lr", f"{_updates(traces)} updates")),
        Check("same semantics, in float64", *_bounded(meant)),
        Check(f"the rest is rounding, in {training.precision}", *_bounded(found)),
    )
    same = all(comparison.verdict == "identical" for comparison in everything.values())
    word = "diverged" if not all(check.passed for check in checks) else "identical" if same else "rounding"
    largest = {"lr": "updates/lr", "loss": "updates/loss", "parameters": "parameters/"}
    return Verdict(word, checks, {name: _largest(traces, prefix) for name, prefix in largest.items()})


def float64_bounds(recipe: Recipe, bounds: Bounds) -> dict[str, NDArray[np.float64]]:
    """Rounding bounds of a recipe, scaled to a run of it in float64."""
    training = recipe.training
    scale = FLOAT64_UNIT / UNITS[training.dtype if training.compute == "same" else training.compute]
    return {name: bound * scale for name, bound in bounds.items()}


def describe_difference(found: Difference) -> str:
    """Where two traces differ, in one line."""
    place = f"[{', '.join(map(str, found.element))}]" if found.element else ""
    when = "before training" if found.update < 0 else f"at update {found.update}"
    times = f"{found.ratio:.3g} times the bound" if np.isfinite(found.ratio) else "which no bound covers"
    return f"{when}, {found.stage}, {found.tensor}{place}: {found.a!r} and {found.b!r}, {times}"


def _data(traces: Mapping[str, Trace]) -> str:
    return f"hash {traces['torch'].header['data_hash'][:12]}"


def _updates(traces: Mapping[str, Trace]) -> int:
    return int(traces["torch"].header["updates"])


def _exact(comparisons: Mapping[str, Comparison], stage: str, detail: str) -> tuple[bool, str]:
    for name, comparison in comparisons.items():
        if stage in comparison.worst and comparison.worst[stage].difference != 0:
            return False, f"{name}: {describe_difference(comparison.worst[stage])}"
    return True, detail


def _bounded(comparisons: Mapping[str, Comparison]) -> tuple[bool, str]:
    parts = []
    for name, comparison in comparisons.items():
        if comparison.first is not None:
            return False, f"{name}: {describe_difference(comparison.first)}"
        inexact = [comparison.worst[stage] for stage in STAGES[2:] if stage in comparison.worst]
        worst = max(inexact, key=lambda found: found.ratio)
        parts.append(f"{name} {worst.ratio:.2g}")
    return True, "error / bound: " + ", ".join(parts)


def _largest(traces: Mapping[str, Trace], prefix: str) -> float:
    torch, jax = traces["torch"].arrays, traces["jax"].arrays
    names = [name for name in torch if name.startswith(prefix)]
    with np.errstate(all="ignore"):  # a run that blew up differs by a NaN
        return float(np.max([np.abs(torch[name].astype(np.float64) - jax[name]).max() for name in names]))
