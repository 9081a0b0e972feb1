"""What a normalisation takes its mean and variance over: the batch, its running statistics, groups
of channels, shards of a batch.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from lockstep.diagnose.local.forms import Settings, Words
from lockstep.diagnose.local.layer_view import LayerView
from lockstep.oracle.arithmetic import Array

__all__ = ["NORMALISATION", "normalised"]

EPS = (1e-5, 1e-3, 1e-6, 0.0, 1e-8, 1e-12, 1e-4, 1e-2, 1e-1)
BATCH = "the batch"
RUNNING = "the running statistics (evaluation mode)"
CHANNEL = "each channel of each example"
EXAMPLE = "each example as a whole"
FEATURES = "the features of each place"
SQUARES = "the mean square of each place"
SHARDS = (2, 4, 8)
MOST_GROUPS = 32
EVALUATION = "norm-in-evaluation-mode"
PAGES = {
    "norm-evaluation": EVALUATION,
    "norm-variance": "batchnorm-running-variance",
}
LARGE = 0.5
"""An eps above so much of the variance is no eps."""


class _Normalisation:
    """(x - mean) / sqrt(variance + eps) * scale + shift."""

    is_by_example = False

    def settings(self, view: LayerView) -> Iterator[Settings]:
        """The batch and the running statistics first."""
        if any(array.ndim > 1 for array in view.parameters.values()) or view.output.ndim < 2:
            return
        for source, x in view.inputs.items():
            if x.shape != view.output.shape:
                continue
            for axis in dict.fromkeys((1, x.ndim - 1)):
                for by in _ways(x, axis, view.parameters):
                    for affine in (True, False):
                        for is_unbiased in (False, True):
                            frame = {
                                "input": source,
                                "axis": axis,
                                "by": by,
                                "affine": affine,
                                "unbiased": is_unbiased,
                            }
                            for eps in _likely_eps(view, frame):
                                yield {**frame, "eps": eps}

    def output(self, view: LayerView, settings: Settings) -> Array | None:
        """The normalised input."""
        x = view.inputs.get(str(settings["input"]))
        if x is None or x.shape != view.output.shape:
            return None
        return normalised(x, settings, view.parameters)

    def words(self, layer: str, a: Settings, b: Settings) -> Words | None:
        """What the statistics are of, where that differs; an eps alone is measured elsewhere."""
        if a["by"] != b["by"]:
            return by_words(layer, str(a["by"]), str(b["by"]))
        if a["affine"] != b["affine"]:
            without, other = ("a", "b") if b["affine"] else ("b", "a")
            text = f"{without}'s {layer} leaves out its scale and shift, {other}'s applies them"
            return Words("norm-affine", text)
        if a["unbiased"] != b["unbiased"]:
            biased, other = ("a", "b") if b["unbiased"] else ("b", "a")
            text = f"{biased}'s {layer} takes its variance over n, {other}'s over n - 1"
            return Words("norm-variance", text, PAGES["norm-variance"])
        if a["axis"] != b["axis"]:
            text = (
                f"b's {layer} takes axis {b['axis']} for its channels, a's axis {a['axis']}, "
                "counted from 0"
            )
            return Words("norm-axis", text)
        return None


def by_words(layer: str, a: str, b: str) -> Words:
    """That a layer's statistics are of something else."""
    key = "norm-statistics"
    if RUNNING in (a, b):
        key = "norm-evaluation"
    return Words(key, f"b normalises {layer} by {b}, a by {a}", PAGES.get(key, ""))


def _ways(x: Array, axis: int, parameters: Mapping[str, Array]) -> Iterator[str]:
    """What statistics may be of, in words."""
    channels = x.shape[axis]
    yield BATCH
    if _running(parameters, channels) is not None:
        yield RUNNING
    if x.ndim > 2:
        yield CHANNEL
        for groups in range(2, min(channels, MOST_GROUPS + 1)):
            if channels % groups == 0:
                yield f"groups of {channels // groups} channels"
        yield EXAMPLE
    yield FEATURES
    yield SQUARES
    for shards in SHARDS:
        if len(x) % shards == 0 and len(x) > shards:
            yield f"each of {shards} shards of the batch"


def _running(parameters: Mapping[str, Array], channels: int) -> tuple[Array, Array] | None:
    mean = [a for role, a in parameters.items() if "mean" in role and a.shape == (channels,)]
    variance = [a for role, a in parameters.items() if "var" in role and a.shape == (channels,)]
    return (mean[0], variance[0]) if mean and variance else None


def _moments(
    x: Array, by: str, axis: int, parameters: Mapping[str, Array], is_unbiased: bool
) -> tuple[Array, Array] | None:
    """The mean and the variance, of shapes that broadcast to x or to its groups; x is (..., C)."""
    channels = x.shape[-1]
    if by == RUNNING:
        return None if is_unbiased else _running(parameters, channels)
    middle = tuple(range(1, x.ndim - 1))
    grouped = x
    over: tuple[int, ...]
    if by == BATCH:
        over = (0, *middle)
    elif by == CHANNEL:
        over = middle
    elif by == EXAMPLE:
        over = (*middle, x.ndim - 1)
    elif by in (FEATURES, SQUARES):
        over = (x.ndim - 1,)
    elif by.startswith("groups of"):
        size = int(by.split()[2])
        if channels % size:
            return None
        grouped = x.reshape(*x.shape[:-1], channels // size, size)
        over = (*middle, grouped.ndim - 1)
    else:
        shards = int(by.split()[2])
        if len(x) % shards:
            return None
        grouped = x.reshape(shards, -1, *x.shape[1:])
        over = tuple(range(1, grouped.ndim - 1))
    if not over:
        return None
    is_centred = by != SQUARES
    mean = grouped.mean(over, keepdims=True) if is_centred else np.zeros(1)
    variance = np.square(grouped - mean).mean(over, keepdims=True)
    if is_unbiased:
        n = grouped.size / variance.size
        if n < 2 or not is_centred:
            return None
        variance = variance * n / (n - 1)
    shape = grouped.shape
    mean, variance = (np.broadcast_to(m, shape).reshape(x.shape) for m in (mean, variance))
    return mean, variance


def _scale_and_shift(parameters: Mapping[str, Array], channels: int) -> tuple[Array, Array]:
    scale, shift = np.ones(channels), np.zeros(channels)
    for role, array in parameters.items():
        if array.shape != (channels,) or any(word in role for word in ("mean", "var", "num_")):
            continue
        if any(word in role for word in ("bias", "beta", "offset", "shift")):
            shift = array
        else:
            scale = array
    return scale, shift


def normalised(x: Array, settings: Settings, parameters: Mapping[str, Array]) -> Array | None:
    """An input normalised as the settings say."""
    axis: Any = settings["axis"]
    eps: Any = settings["eps"]
    if axis >= x.ndim:
        return None
    last = np.moveaxis(x, axis, -1)
    moments = _moments(last, str(settings["by"]), axis, parameters, bool(settings["unbiased"]))
    if moments is None:
        return None
    mean, variance = moments
    scale, shift = _scale_and_shift(parameters, last.shape[-1])
    is_plain = bool((scale == 1).all() and (shift == 0).all())
    if not settings["affine"]:
        if is_plain:  # not to be told from one that is applied
            return None
        scale, shift = np.ones(1), np.zeros(1)
    y = (last - mean) / np.sqrt(variance + eps) * scale + shift
    return np.asarray(np.moveaxis(y, -1, axis))


def _likely_eps(view: LayerView, frame: Settings) -> Iterator[float]:
    """The usual eps, by what one channel that varies least allows, and that eps itself."""
    x = view.inputs[str(frame["input"])]
    y = normalised(x, {**frame, "eps": 0.0}, view.parameters)
    if y is None or not np.isfinite(y).all():
        return
    axis: Any = frame["axis"]
    last = np.moveaxis(x, axis, -1)
    moments = _moments(last, str(frame["by"]), axis, view.parameters, bool(frame["unbiased"]))
    if moments is None:
        return
    variance = np.broadcast_to(moments[1], last.shape)
    _, shift = _scale_and_shift(view.parameters, last.shape[-1])
    if not frame["affine"]:
        shift = np.zeros(1)
    without = np.moveaxis(y, axis, -1) - shift
    recorded = np.moveaxis(view.output, axis, -1) - shift
    least = variance <= variance.min() * (1 + 1e-9)
    square = float(np.square(without[least]).sum())
    slope = float((recorded[least] * without[least]).sum()) / square if square else 0.0
    if not slope > 0:
        return
    of_least = float(variance.min())
    estimate = of_least * (1 / slope**2 - 1)
    if not -1e-3 * of_least <= estimate <= max(LARGE * float(variance.max()), 1e-3):
        return
    yield min(EPS, key=lambda eps: abs(eps - estimate))
    if estimate > 0:
        yield float(f"{estimate:.3g}")


NORMALISATION = _Normalisation()
