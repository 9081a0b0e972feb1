"""The heads, the scale of the scores and the mask of an attention, from its own tensors.

From queries q, keys k and values v of width E in h heads of d = E / h, an attention gives
softmax(s q k^T) v, s being 1 / sqrt(d) as a rule (Vaswani et al., arXiv:1706.03762, section 3.2.1);
a causal one leaves out what comes later. It is recomputed for each h and both masks, with the s
that comes nearest, and held against what the layer after it was given.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize_scalar

from lockstep.diagnose.local.layer_calls import LayerCall
from lockstep.oracle.arithmetic import Array

__all__ = ["AttentionFit", "attention_fits"]

STAYS = 4.0
"""Unit roundoffs of the coarsest dtype that the output may be off by, relative to its size."""
EXAMPLES = 2
"""Examples of a batch that are looked at, at most."""
LONGEST = 256
"""The longest sequence that is recomputed."""
SEARCHED = (-3.0, 3.0)
"""Where the logarithm of the scale over 1 / sqrt(d) is looked for."""
NEWTON_STEPS = 2
STEP = 1e-4
"""The step in the logarithm of the scale by which the slope is taken."""
ROLES = (("query", "key", "value"), ("q_proj", "k_proj", "v_proj"), ("q", "k", "v"))


class AttentionFit(NamedTuple):
    """An attention before the layer `name`: its heads, whether it is causal, the scale of its
    scores with the standard error, and how far its output is off, relative.
    """

    name: str
    heads: int
    is_causal: bool
    scale: float
    error: float
    residual: float


class _Projections(NamedTuple):
    """Queries, keys and values (B, T, E), and the layer that takes in what they lead to."""

    q: Array
    k: Array
    v: Array
    after: LayerCall

    @property
    def first_examples(self) -> "_Projections":
        """These of the first examples alone."""
        q, k, v = (part[:EXAMPLES] for part in (self.q, self.k, self.v))
        return _Projections(q, k, v, self.after)


def attention_fits(calls: Sequence[LayerCall]) -> Iterator[AttentionFit]:
    """The attentions among the layers of one update that could be recomputed."""
    for projections in _projections(calls):
        fit = _best(projections)
        if fit is not None:
            yield fit


def _projections(calls: Sequence[LayerCall]) -> Iterator[_Projections]:
    for place in range(len(calls)):
        three = calls[place : place + 3]
        if len(three) == 3 and _is_three(three) and place + 3 < len(calls):
            q, k, v = (call.output for call in sorted(three, key=_role))
            yield _Projections(q, k, v, calls[place + 3])
        one = calls[place].output
        if place + 1 < len(calls) and one.ndim == 3 and one.shape[-1] % 3 == 0:
            width = one.shape[-1] // 3
            if calls[place + 1].output.shape == (*one.shape[:2], width):
                q, k, v = np.split(one, 3, axis=-1)
                yield _Projections(q, k, v, calls[place + 1])


def _is_three(calls: Sequence[LayerCall]) -> bool:
    shapes = {call.output.shape for call in calls}
    roles = {call.name.rpartition(".")[2] for call in calls}
    return len(shapes) == 1 and calls[0].output.ndim == 3 and roles in [set(r) for r in ROLES]


def _role(call: LayerCall) -> int:
    last = call.name.rpartition(".")[2]
    return next(roles.index(last) for roles in ROLES if last in roles)


def _best(projections: _Projections) -> AttentionFit | None:
    """The heads and the mask that come nearest, where they come near enough."""
    length, width = projections.q.shape[1:]
    if not 1 < length <= LONGEST or not all(np.isfinite(part).all() for part in projections[:3]):
        return None
    cut = projections.first_examples
    enough = STAYS * max(projections.after.unit, projections.after.low)
    ways = [
        (lead, heads, is_causal)
        for lead in _leads(projections.after, cut.q.shape)
        for heads in range(1, width)
        if width % heads == 0
        for is_causal in (False, True)
    ]
    # most attentions have the usual scale: the others are looked for where none of these fits
    for is_searched in (False, True):
        fits = [_fit(cut, *way, is_searched=is_searched) for way in ways]
        best = min(fits, key=lambda fit: fit.residual, default=None)
        if best is not None and best.residual <= enough:
            return best
    return None


def _fit(
    projections: _Projections, lead: "_Lead", heads: int, is_causal: bool, *, is_searched: bool
) -> AttentionFit:
    """The attention with the scale that comes nearest, of all or near the usual one."""

    def gap_of(power: float) -> Array:
        return _gap(projections, lead, heads, is_causal, float(np.exp(power)))

    def misfit(power: float) -> float:
        return float(np.square(gap_of(power)).mean())

    power = 0.0
    if is_searched:
        power = float(minimize_scalar(misfit, bounds=SEARCHED, method="bounded").x)
    # Newton steps: the search stops where the square is flat, to half the digits
    for _ in range(NEWTON_STEPS):
        gap = gap_of(power)
        slope = (gap_of(power + STEP) - gap_of(power - STEP)) / (2 * STEP)
        information = float(np.square(slope).sum())
        power -= float((slope * gap).sum()) / information if information else 0.0
    deviation = float(np.sqrt(np.square(gap_of(power)).mean()))
    size = float(np.sqrt(np.square(lead.y).mean()))
    scale = float(np.exp(power)) / np.sqrt(projections.q.shape[-1] / heads)
    error = scale * deviation / np.sqrt(information) if information else np.inf
    residual = deviation / size if size else np.inf
    return AttentionFit(
        projections.after.name, heads, is_causal, float(scale), float(error), residual
    )


class _Lead(NamedTuple):
    """What an attention's output (B, T, E) leads to: y is it, or a linear layer's output of it."""

    y: Array
    kernel: Array | None
    bias: Array | None


def _leads(after: LayerCall, shape: tuple[int, ...]) -> Iterator[_Lead]:
    """What is known of the attention's output by the layer after it, whichever way its kernel is
    laid out.
    """
    if len(after.inputs) == 1:
        (x,) = after.inputs.values()
        if x.shape[1:] == shape[1:]:
            yield _Lead(x[: shape[0]], None, None)
            return
    if after.output.ndim != 3:
        return
    y = after.output[: shape[0]]
    bias = next((b for b in after.parameters.values() if b.shape == y.shape[2:]), None)
    for kernel in after.parameters.values():
        for turned in (kernel, kernel.T) if kernel.ndim == 2 else ():
            if turned.shape == (shape[-1], y.shape[-1]):
                yield _Lead(y, turned, bias)


def _gap(
    projections: _Projections, lead: _Lead, heads: int, is_causal: bool, times: float
) -> Array:
    """What the attention with so many times the usual scale leads to, less what was recorded."""
    q, k, v = (_in_heads(array, heads) for array in projections[:3])
    scores = times / np.sqrt(q.shape[-1]) * (q @ k.swapaxes(-1, -2))
    if is_causal:
        length = scores.shape[-1]
        scores = np.where(np.tri(length, dtype=bool), scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    mixed = (weights @ v).swapaxes(1, 2).reshape(projections.q.shape)
    if lead.kernel is not None:
        mixed = mixed @ lead.kernel
    if lead.bias is not None:
        mixed = mixed + lead.bias
    return np.asarray(mixed - lead.y)


def _in_heads(array: Array, heads: int) -> Array:
    """(B, T, E) as (B, h, T, d)."""
    examples, length, width = array.shape
    return array.reshape(examples, length, heads, width // heads).swapaxes(1, 2)
