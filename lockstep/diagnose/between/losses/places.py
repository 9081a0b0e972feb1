"""The losses of single places, by what a loop recorded of its outputs and its batch.

A place is one prediction: a row of a classifier, a token of a language model, a pixel, a number of
a regression. Places stand in an array (rows, places of a row).
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lockstep.diagnose.between.pair import LoopSide
from lockstep.oracle.arithmetic import Array

__all__ = ["Places", "Target", "places_of", "targets_of"]

MOST = 2**22
"""Elements of an output that are looked at: a loss over more is not recomputed."""
MOST_SHIFT = 2
"""Places that labels may be ahead of the outputs: none, one, or one twice."""
SMOOTHINGS = (0.1, 0.05, 0.2, 0.01)
"""Label smoothings that are tried beside 0."""
NEAR_ONE = 1e-3
"""How near probabilities must add up to 1."""
LABELS = ("y", "labels", "label", "targets", "target")
TINY = 1e-300

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]
PlaceLoss = tuple[Array, Array]
"""The losses of the places, and their slopes with respect to the outputs."""


class Target(NamedTuple):
    """What an output is held against, and by which loss.

    Attributes:
        array: name of an array of the batch.
        kind: the loss of a place, a key of `CLASS_LOSSES` or `NUMBER_LOSSES`.
        shift: how many places the labels are ahead of the outputs.
        start: number of the first class.
        smoothing: of the labels.
    """

    array: str
    kind: str
    shift: int = 0
    start: int = 0
    smoothing: float = 0.0


class Places(NamedTuple):
    """The losses of all places of an update under one target.

    Attributes:
        losses: (rows, places), 0 where no label can be scored.
        slopes: of the losses with respect to the output, (rows, places, outputs of a place).
        counts: (rows, places), whether the place has a label that can be scored.
        labels: (rows, places); None where targets are numbers.
        tokens: what is fed at each place (rows, places); None where that is not known.
        size: the largest absolute output.
        used: how many outputs of a row are scored, from the first.
    """

    losses: Array
    slopes: Array
    counts: Flags
    labels: Ints | None
    tokens: Ints | None
    size: float
    used: int


def targets_of(side: LoopSide, layer: str, update: int) -> Iterator[Target]:
    """What a layer's output may be held against, the plainest first."""
    batch = side.tensors("batch", update)
    output = side.tensors("forward", update).get(layer)
    if output is None or not output.ndim or output.size > MOST or output.dtype.kind != "f":
        return
    names = sorted(batch, key=lambda name: name.rpartition(".")[2] not in LABELS)
    for name in names:
        array = batch[name]
        if array.dtype.kind in "iu":
            yield from _class_targets(name, array, output)
        if array.size == output.size and array.dtype.kind in "fiub":
            yield from _number_targets(name, array, output)


def _class_targets(name: str, array: NDArray[Any], output: Array) -> Iterator[Target]:
    """Every way to take an array of integers for the labels of an output."""
    shifts = range(MOST_SHIFT + 1) if array.ndim == 2 and output.ndim == 3 else (0,)
    for shift in shifts:
        aligned = _aligned(output, array, shift)
        if aligned is None:
            continue
        logits, labels = aligned
        for start in (0, 1):
            if not start <= int(labels.max(initial=-1)) < logits.shape[-1] + start:
                continue
            if start and (labels == 0).any():
                continue
            for kind in CLASS_LOSSES:
                yield Target(name, kind, shift, start)
            for smoothing in SMOOTHINGS:
                yield Target(name, "cross-entropy", shift, start, smoothing)


def _number_targets(name: str, array: NDArray[Any], output: Array) -> Iterator[Target]:
    """Every way to take an array of numbers for the targets of an output."""
    is_share = bool(((array >= 0) & (array <= 1)).all())
    for kind in NUMBER_LOSSES:
        if is_share or not kind.startswith("binary"):
            yield Target(name, kind)
    is_distribution = array.ndim > 1 and array.shape[-1] > 1 and is_share
    if is_distribution and np.allclose(array.sum(axis=-1), 1, atol=NEAR_ONE):
        yield Target(name, DISTRIBUTION)


def _aligned(output: Array, array: NDArray[Any], shift: int) -> tuple[Array, Ints] | None:
    """Outputs (rows, places, classes) and the labels (rows, places) that belong to them; None where
    the shapes say that they do not.
    """
    labels = array.astype(np.int64)
    logits = output
    if labels.ndim == 2 and output.ndim == 3 and len(labels) == len(output):
        places = min(output.shape[1], labels.shape[1] - shift)
        if places < 1 or labels.shape[1] not in (output.shape[1], output.shape[1] + 1):
            return None
        return output[:, :places], labels[:, shift : shift + places]
    if output.ndim > 2 and labels.shape == (len(output), *output.shape[2:]):
        logits = np.moveaxis(output, 1, -1)
    elif labels.shape == (*output.shape[:-1], 1):
        labels = labels[..., 0]
    elif output.ndim == 2 and labels.ndim == 2 and labels.size == len(output):
        logits = output.reshape(*labels.shape, -1)
    if labels.shape != logits.shape[:-1] or not labels.ndim or logits.shape[-1] < 2 or shift:
        return None
    rows = len(labels)
    return logits.reshape(rows, -1, logits.shape[-1]), labels.reshape(rows, -1)


def places_of(side: LoopSide, layer: str, target: Target, update: int) -> Places | None:
    """The losses of an update's places; None where the update lacks what they need."""
    output = side.tensors("forward", update).get(layer)
    array = side.tensors("batch", update).get(target.array)
    if output is None or array is None or not output.size:
        return None
    size = float(np.abs(output).max())
    if target.kind in NUMBER_LOSSES or target.kind == DISTRIBUTION:
        if array.size != output.size:
            return None
        return _of_numbers(output, array.astype(np.float64), target.kind, size)
    aligned = _aligned(output, array, target.shift)
    if aligned is None:
        return None
    logits, labels = aligned
    labels = labels - target.start
    counts = (labels >= 0) & (labels < logits.shape[-1])
    put = np.where(counts, labels, 0)
    losses, slopes = CLASS_LOSSES[target.kind](logits, put, target.smoothing)
    if not np.isfinite(losses[counts]).all():
        return None
    losses = np.where(counts, losses, 0.0)
    slopes = np.where(counts[..., None], slopes, 0.0)
    tokens = _tokens(side, update, labels.shape)
    return Places(losses, slopes, counts, labels, tokens, size, logits.shape[1])


def _of_numbers(output: Array, target: Array, kind: str, size: float) -> Places | None:
    rows = len(output)
    if kind == DISTRIBUTION:
        z = output.reshape(rows, -1, output.shape[-1])
        y = target.reshape(z.shape)
        losses, slopes = _of_distribution(z, y)
    else:
        flat_losses, flat_slopes = NUMBER_LOSSES[kind](
            output.reshape(rows, -1), target.reshape(rows, -1)
        )
        losses, slopes = flat_losses, flat_slopes[..., None]
    if not np.isfinite(losses).all():
        return None
    counts = np.ones(losses.shape, bool)
    return Places(losses, slopes, counts, None, None, size, losses.shape[1])


def _tokens(side: LoopSide, update: int, shape: tuple[int, ...]) -> Ints | None:
    """What is fed at each place: the first array of integers of the batch that is as wide."""
    for name, array in side.tensors("batch", update).items():
        is_wide = array.dtype.kind in "iu" and array.ndim == 2 and array.shape[0] == shape[0]
        if is_wide and array.shape[1] >= shape[1] > 1 and name.rpartition(".")[2] not in LABELS:
            return array[:, : shape[1]].astype(np.int64)
    return None


# ---- losses of a place with labels (rows, places) and outputs (rows, places, classes)


def _log_softmax(z: Array) -> Array:
    shifted = z - z.max(axis=-1, keepdims=True)
    logarithm = np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return np.asarray(shifted - logarithm)


def _one_hot(labels: Ints, classes: int) -> Array:
    return np.asarray(np.arange(classes) == labels[..., None], np.float64)


def _of_logits(z: Array, labels: Ints, smoothing: float) -> PlaceLoss:
    classes = z.shape[-1]
    wanted = (1 - smoothing) * _one_hot(labels, classes) + smoothing / classes
    return _of_distribution(z, wanted)


def _of_distribution(z: Array, wanted: Array) -> PlaceLoss:
    logarithms = _log_softmax(z)
    total = wanted.sum(axis=-1, keepdims=True)
    return -(wanted * logarithms).sum(axis=-1), np.exp(logarithms) * total - wanted


def _softmax_twice(z: Array, labels: Ints, smoothing: float) -> PlaceLoss:
    shares = np.exp(_log_softmax(z))
    losses, slopes = _of_logits(shares, labels, smoothing)
    inner = (slopes * shares).sum(axis=-1, keepdims=True)
    return losses, shares * (slopes - inner)


def _of_log_probabilities(z: Array, labels: Ints, smoothing: float) -> PlaceLoss:
    del smoothing
    wanted = _one_hot(labels, z.shape[-1])
    is_logarithm = np.abs(np.exp(z).sum(axis=-1) - 1).max() < NEAR_ONE
    losses = -(wanted * z).sum(axis=-1) if is_logarithm else np.full(labels.shape, np.nan)
    return losses, -wanted


def _of_raw_scores(z: Array, labels: Ints, smoothing: float) -> PlaceLoss:
    del smoothing
    wanted = _one_hot(labels, z.shape[-1])
    return -(wanted * z).sum(axis=-1), -wanted


def _of_probabilities(z: Array, labels: Ints, smoothing: float) -> PlaceLoss:
    del smoothing
    wanted = _one_hot(labels, z.shape[-1])
    is_share = bool((z >= 0).all()) and np.abs(z.sum(axis=-1) - 1).max() < NEAR_ONE
    own = (wanted * z).sum(axis=-1)
    losses = -np.log(np.maximum(own, TINY)) if is_share else np.full(labels.shape, np.nan)
    return losses, -wanted / np.maximum(own, TINY)[..., None]


CLASS_LOSSES: dict[str, Callable[[Array, Ints, float], PlaceLoss]] = {
    "cross-entropy": _of_logits,
    "softmax twice": _softmax_twice,
    "log-probabilities": _of_log_probabilities,
    "probabilities": _of_probabilities,
    "raw scores": _of_raw_scores,
}
"""Kind -> losses and slopes by outputs, labels and label smoothing."""
DISTRIBUTION = "cross-entropy of shares"
"""The kind whose targets are a share of each class."""


# ---- losses of a place with a number as its target, both (rows, places)


def _squares(z: Array, y: Array) -> PlaceLoss:
    return (z - y) ** 2, 2 * (z - y)


def _half_squares(z: Array, y: Array) -> PlaceLoss:
    return (z - y) ** 2 / 2, z - y


def _absolute(z: Array, y: Array) -> PlaceLoss:
    return np.abs(z - y), np.sign(z - y)


def _huber(z: Array, y: Array) -> PlaceLoss:
    gap = np.abs(z - y)
    return np.where(gap < 1, gap**2 / 2, gap - 0.5), np.clip(z - y, -1, 1)


def _broadcast_squares(z: Array, y: Array) -> PlaceLoss:
    # a column against a row: each output meets every target
    if z.shape[1] != 1 or len(z) < 2:
        return np.full(z.shape, np.nan), z
    return (z - y.mean()) ** 2 + y.var(), 2 * (z - y.mean())


def _binary(z: Array, y: Array) -> PlaceLoss:
    losses = np.maximum(z, 0) - z * y + np.log1p(np.exp(-np.abs(z)))
    return losses, 1 / (1 + np.exp(-z)) - y


def _sigmoid_twice(z: Array, y: Array) -> PlaceLoss:
    share = 1 / (1 + np.exp(-z))
    losses, slopes = _binary(share, y)
    return losses, slopes * share * (1 - share)


def _binary_of_shares(z: Array, y: Array) -> PlaceLoss:
    if not ((z > 0) & (z < 1)).all():
        return np.full(z.shape, np.nan), z
    return -(y * np.log(z) + (1 - y) * np.log1p(-z)), (z - y) / (z * (1 - z))


NUMBER_LOSSES: dict[str, Callable[[Array, Array], PlaceLoss]] = {
    "squares": _squares,
    "half squares": _half_squares,
    "absolute errors": _absolute,
    "Huber": _huber,
    "broadcast squares": _broadcast_squares,
    "binary": _binary,
    "binary, sigmoid twice": _sigmoid_twice,
    "binary of shares": _binary_of_shares,
}
"""Kind -> losses and slopes by outputs and targets."""
