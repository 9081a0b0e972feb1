"""Simple rules by which other tools call two trainings equal, for comparison with the diagnosis."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from lockstep.records.trace import Trace

__all__ = ["RULES"]

SIMILAR = 0.99
MEANS_RTOL = 1e-3


def _final_loss_within(rtol: float) -> Callable[[Trace, Trace], bool]:
    return lambda a, b: _close(a.series("loss")[-1], b.series("loss")[-1], rtol)


def _similar_parameters(a: Trace, b: Trace) -> bool:
    """Whether the cosine between the final parameters, as one vector each, is above `SIMILAR`."""
    a_P = _as_vector(_final(a))
    b_P = _as_vector(_final(b))
    with np.errstate(all="ignore"):
        return bool(a_P @ b_P / (np.linalg.norm(a_P) * np.linalg.norm(b_P)) > SIMILAR)


def _equal_means(a: Trace, b: Trace) -> bool:
    """Whether the mean of every final parameter tensor agrees within `MEANS_RTOL`."""
    final_a = _final(a)
    final_b = _final(b)
    return all(_close(final_a[name].mean(), final_b[name].mean(), MEANS_RTOL) for name in final_a)


def _close(a: float, b: float, rtol: float) -> bool:
    return bool(np.isclose(a, b, rtol=rtol, atol=0.0))


def _as_vector(parameters: dict[str, NDArray[np.float64]]) -> NDArray[np.float64]:
    return np.concatenate([parameters[name].ravel() for name in sorted(parameters)])


def _final(trace: Trace) -> dict[str, NDArray[np.float64]]:
    """The parameters after the last update."""
    parameters = trace.parameters(trace.recorded_updates[-1])
    return {name: array.astype(np.float64) for name, array in parameters.items()}


RULES: dict[str, Callable[[Trace, Trace], bool]] = {
    "final loss within 1e-5": _final_loss_within(1e-5),
    "final loss within 1e-3": _final_loss_within(1e-3),
    "final loss within 0.1": _final_loss_within(0.1),
    "final loss within 1": _final_loss_within(1.0),
    "cosine above 0.99": _similar_parameters,
    "equal tensor means": _equal_means,
}
"""Rule -> whether it calls two trainings equal. Differences are relative, and parameters are those
after the last update.
"""
