"""A verdict in words: headlines, the place of a difference, and the end of judging."""

from collections.abc import Sequence

import numpy as np

from lockstep.diagnose.compare import Difference, Limit
from lockstep.numbers import factor

__all__ = ["describe_difference", "describe_limit", "failure_sentence", "verdict_sentence"]

TWINS = {"torch": "PyTorch", "jax": "JAX"}
HEADLINES = {
    "identical": "PyTorch and JAX produced the same bits.",
    "rounding": "PyTorch and JAX do the same thing; they differ by rounding only, within the "
    "bound.",
    "diverged": "PyTorch and JAX do not do the same thing.",
    "inconclusive": "Not all of this training can be judged.",
}


def verdict_sentence(word: str, limit: Limit | None) -> str:
    """The headline of a run in which nothing failed.

    Args:
        word: the verdict: identical, rounding or inconclusive.
        limit: where judging ends; None where everything was judged.
    """
    if limit is None:
        return HEADLINES[word]
    if word == "rounding":
        return (
            "PyTorch and JAX do the same thing, as float64 shows at every update. As trained here "
            f"they differ by rounding, within the bound up to update {limit.update - 1}; from "
            f"there on {limit.reason}."
        )
    text = describe_limit(limit)
    return f"{text[0].upper()}{text[1:]}."


def failure_sentence(form: str, off: Sequence[str], alike: bool, float64: Limit | None) -> str:
    """The headline of a run in which something failed.

    Args:
        form: what failed: "traces" (the run in the recipe's dtype), "semantics" (float64 by the
            plain engine) or "fast" (float64 by the fast engine).
        off: the twins that part from the oracle.
        alike: whether the twins agree with one another.
        float64: where judging in float64 ends; None where it was judged throughout.
    """
    if not off:
        return HEADLINES["diverged"]
    if form == "traces":
        return _stray_sentence(off, float64)
    engine = "'s fast engine" if form == "fast" else ""
    if len(off) == 1:
        return (
            f"PyTorch and JAX do not do the same thing: {TWINS[off[0]]}{engine} does not do what "
            "the recipe says."
        )
    both = f"PyTorch{engine} and JAX{engine}"
    if alike:
        return f"{both} do the same thing, and it is not what the recipe says."
    return f"{both} do not do the same thing, and neither does what the recipe says."


def _stray_sentence(off: Sequence[str], float64: Limit | None) -> str:
    """The headline where a twin strays in the recipe's dtype, and does not in float64."""
    names = " and ".join(TWINS[twin] for twin in off)
    verb = "strays" if len(off) == 1 else "stray"
    strays = f"s trained here, {names} {verb} farther than rounding can"
    if float64 is None:
        return f"In float64 both do what the recipe says; a{strays}."
    return f"A{strays}; in float64, {describe_limit(float64)}."


def describe_difference(difference: Difference) -> str:
    """Where two traces differ, in one line."""
    indices = ", ".join(map(str, difference.element))
    place = f"[{indices}]" if indices else ""
    when = "before training" if difference.update < 0 else f"at update {difference.update}"
    if np.isfinite(difference.ratio):
        size = f"{factor(difference.ratio, 3)} times the bound"
    else:
        size = "which no bound covers"
    quantity = f", {difference.quantity}" if difference.quantity else ""
    return (
        f"{when}, {difference.stage}, {difference.tensor}{place}{quantity}: {difference.a!r} and "
        f"{difference.b!r}, {size}"
    )


def describe_limit(limit: Limit) -> str:
    """The last update up to which two trainings are known to be equal, and why no farther."""
    if limit.update <= 0:
        return f"nothing was judged: from the start on {limit.reason}"
    return f"equal up to update {limit.update - 1}; from there on {limit.reason}"
