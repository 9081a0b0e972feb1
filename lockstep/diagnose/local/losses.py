"""How far the labels of a cross-entropy are smoothed, from a loop's own logits, labels and losses.

With -log p of the label's class as C and its mean over all classes as U, a loss with labels
smoothed by e is (1 - e) C + e U (Szegedy et al., arXiv:1512.00567), averaged over the rows. Each
update gives e = (loss - C) / (U - C); a loss of that form gives the same e at every update.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lockstep.diagnose.local.measurement import Measurement
from lockstep.diagnose.units import dtype_of, unit_of_dtype
from lockstep.oracle.arithmetic import SAFETY, Array
from lockstep.records.trace import Trace
from lockstep.tensor_file import arrays_below

__all__ = ["measure_smoothing"]

FEWEST = 3
"""Updates that must agree: one number is found from each."""
LEAST = 5e-3
"""Smoothings that differ by less are taken to be the same."""


def measure_smoothing(trace: Trace, updates: Sequence[int]) -> Measurement | None:
    """The label smoothing of a loop's loss; None where the loss is no mean cross-entropy.

    Args:
        trace: of a loop.
        updates: those recorded in detail.
    """
    readings = [reading for update in updates if (reading := _read(trace, update)) is not None]
    if len(readings) < FEWEST:
        return None
    values = np.array([value for value, _ in readings])
    errors = np.array([error for _, error in readings])
    weights = 1 / np.square(errors)
    mean = float((weights * values).sum() / weights.sum())
    formal = float(1 / np.sqrt(weights.sum()))
    scatter = float(np.std(values, ddof=1) / np.sqrt(len(values)))
    # what is no such loss gives another number at each update
    if not np.isfinite(mean) or not -LEAST <= mean < 1 or scatter > max(LEAST, 4 * formal):
        return None
    error = max(formal, scatter)
    page = "label-smoothing-over-k-or-k-minus-1"
    return Measurement("loss", "loss", updates[0], "label smoothing", mean, error, page)


def _read(trace: Trace, update: int) -> tuple[float, float] | None:
    """The smoothing that one update gives, and its error."""
    layers = trace.header.get("layers", [])
    outputs = arrays_below(trace.arrays, f"detail/{update}/forward/")
    losses = trace.arrays.get("updates/loss")
    if losses is None or not layers or layers[-1] not in outputs:
        return None
    logits = outputs[layers[-1]].astype(np.float64)
    labels = _labels(trace, update, logits)
    if labels is None:
        return None
    logits = logits.reshape(-1, logits.shape[-1])[labels >= 0]
    labels = labels[labels >= 0]
    largest = logits.max(axis=1, keepdims=True)
    logarithm = largest + np.log(np.exp(logits - largest).sum(axis=1, keepdims=True))
    surprise = logarithm - logits
    of_label = float(surprise[np.arange(len(labels)), labels].mean())
    of_all = float(surprise.mean())
    reach = of_all - of_label
    if not reach:
        return None
    unit = max(2.0**-24, unit_of_dtype(dtype_of(trace, "updates/loss")))
    error = SAFETY * unit * (1 + float(np.abs(logits).max(initial=0.0))) / abs(reach)
    return (float(losses[update]) - of_label) / reach, error


def _labels(trace: Trace, update: int, logits: Array) -> NDArray[np.int64] | None:
    """The labels of the rows of logits; None where nothing in the batch is a label of each."""
    if logits.ndim < 2:
        return None
    batch = arrays_below(trace.arrays, f"detail/{update}/batch/")
    for name in sorted(batch, key=lambda name: name not in ("y", "labels", "targets")):
        labels = batch[name]
        is_whole = labels.dtype.kind in "iu" and labels.shape == logits.shape[:-1]
        if is_whole and labels.max(initial=0) < logits.shape[-1] and (labels >= 0).any():
            return labels.astype(np.int64).ravel()
    return None
