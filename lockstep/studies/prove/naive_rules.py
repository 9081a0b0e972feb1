"""Simple rules by which other tools call two trainings equal, to hold the diagnosis against."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from lockstep.records.trace import Trace

__all__ = ["JUDGES"]

SIMILAR = 0.99
MEANS_RTOL = 1e-3


def _final_loss_within(rtol: float) -> Callable[[Trace, Trace], bool]:
    return lambda a, b: bool(
        np.isclose(a.series("loss")[-1], b.series("loss")[-1], rtol=rtol, atol=0.0)
    )


def _similar_parameters(a: Trace, b: Trace) -> bool:
    """The cosine of the angle between all final parameters, as one vector each, is above
    `SIMILAR`.
    """
    u, v = (_final(trace) for trace in (a, b))
    u_P, v_P = (np.concatenate([found[name].ravel() for name in sorted(u)]) for found in (u, v))
    with np.errstate(all="ignore"):
        return bool(u_P @ v_P / (np.linalg.norm(u_P) * np.linalg.norm(v_P)) > SIMILAR)


def _equal_means(a: Trace, b: Trace) -> bool:
    """The mean of every final parameter tensor agrees within `MEANS_RTOL`."""
    u, v = (_final(trace) for trace in (a, b))
    return all(
        bool(np.isclose(u[name].mean(), v[name].mean(), rtol=MEANS_RTOL, atol=0.0)) for name in u
    )


def _final(trace: Trace) -> dict[str, NDArray[np.float64]]:
    found = trace.parameters(trace.recorded_updates[-1])
    return {name: array.astype(np.float64) for name, array in found.items()}


JUDGES: dict[str, Callable[[Trace, Trace], bool]] = {
    "final loss within 1e-5": _final_loss_within(1e-5),
    "final loss within 1e-3": _final_loss_within(1e-3),
    "final loss within 0.1": _final_loss_within(0.1),
    "final loss within 1": _final_loss_within(1.0),
    "cosine above 0.99": _similar_parameters,
    "equal tensor means": _equal_means,
}
"""Rule -> whether it calls two trainings equal. Relative differences; of the parameters after the
last update.
"""
