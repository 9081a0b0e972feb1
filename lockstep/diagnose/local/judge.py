"""Where two loops are set differently, by what each side's own tensors say."""

from collections.abc import Iterator, Sequence

from lockstep.diagnose.local.activations import ActivationFit, fit_activation, share_of
from lockstep.diagnose.local.difference import LocalDifference, is_apart, likely
from lockstep.diagnose.local.layer_calls import LayerCall, layer_calls
from lockstep.diagnose.local.losses import LEAST, measure_smoothing
from lockstep.diagnose.local.measurement import Measurement
from lockstep.diagnose.local.norms import measure_eps
from lockstep.diagnose.local.rates import other_rate
from lockstep.diagnose.local.step_differences import compare_steps
from lockstep.numbers import factor, written
from lockstep.records.trace import Trace

__all__ = ["local_differences"]

MOST_UPDATES = 4
"""Recorded updates of which the layers are measured: a setting holds from the first on."""


def local_differences(a: Trace, b: Trace, until: int) -> list[LocalDifference]:
    """The settings in which two loops differ, the earliest first.

    Args:
        a: a loop's trace.
        b: another's, in the names and layouts of `a`.
        until: the last update to look at, counted from 0.
    """
    updates = [update for update in a.header["detail"] if update in b.header["detail"]]
    differences: list[LocalDifference] = []
    for update in [update for update in updates if update <= until][:MOST_UPDATES]:
        differences += _of_layers(a, b, update)
        if differences:
            break
    differences += _of_losses(a, b, updates)
    differences += _of_steps(a, b)
    rate = other_rate(a, b)
    if rate is not None:
        differences.append(rate)
    return sorted(differences, key=lambda difference: difference.a.update)


# ---- layers


class _SideLayers:
    """What the layers of one side are, as far as it was recognised."""

    def __init__(self, trace: Trace, update: int) -> None:
        self.eps: dict[str, Measurement] = {}
        self.activations: dict[str, ActivationFit] = {}
        self.calls: dict[str, LayerCall] = {}
        for call in layer_calls(trace, update):
            self.calls[call.name] = call
            if call.is_passed_on:
                continue
            eps = measure_eps(call, update)
            if eps is not None:
                self.eps[call.name] = eps
                continue
            activation = fit_activation(call)
            if activation is not None:
                self.activations[call.name] = activation


def _of_layers(a: Trace, b: Trace, update: int) -> Iterator[LocalDifference]:
    side_a = _SideLayers(a, update)
    side_b = _SideLayers(b, update)
    for layer in side_a.calls:
        if layer in side_a.eps and layer in side_b.eps:
            mine, other = side_a.eps[layer], side_b.eps[layer]
            if is_apart(mine, other):
                yield _other_eps(mine, other)
        if layer in side_a.activations and layer in side_b.activations:
            yield from _other_activation(layer, update, side_a, side_b)


def _other_eps(a: Measurement, b: Measurement) -> LocalDifference:
    of_a = likely(a.value, a.error)
    of_b = likely(b.value, b.error)
    times = f", {factor(of_b / of_a, 3)} times a's" if of_a else ""
    text = f"b's {a.tensor} has an eps of {written(of_b)} for {written(of_a)}{times}"
    return LocalDifference(a, b, "norm-eps", text, "layernorm-eps")


def _other_activation(
    layer: str, update: int, side_a: _SideLayers, side_b: _SideLayers
) -> Iterator[LocalDifference]:
    """That a layer is another function on either side, and surely so."""
    mine, other = side_a.activations[layer], side_b.activations[layer]
    if mine.kind == other.kind:
        return
    of_a = share_of(other.kind, mine, side_a.calls[layer].output)
    of_b = share_of(mine.kind, other, side_b.calls[layer].output)
    if of_a is None or of_b is None:
        return
    is_gelu = {mine.kind, other.kind} == {"gelu", "gelu_tanh"}
    key = "gelu-approximation" if is_gelu else "other-activation"
    page = "gelu-is-approximate" if is_gelu else ""
    measured = Measurement("forward", layer, update, f"share of {other.kind}", *of_a, page)
    yield LocalDifference(
        measured,
        measured._replace(value=1 - of_b[0], error=of_b[1]),
        key,
        f"b's {layer} is {other.kind}, a's {mine.kind}",
        page,
    )


# ---- steps


def _of_steps(a: Trace, b: Trace) -> Iterator[LocalDifference]:
    for step in compare_steps(a, b):
        key = step.a.quantity.replace(" ", "-")
        yield LocalDifference(step.a, step.b, key, step.text, step.page)


# ---- losses


def _of_losses(a: Trace, b: Trace, updates: Sequence[int]) -> Iterator[LocalDifference]:
    mine = measure_smoothing(a, updates)
    other = measure_smoothing(b, updates)
    if mine is None or other is None or not is_apart(mine, other, LEAST):
        return
    of_a = written(likely(mine.value, mine.error))
    of_b = written(likely(other.value, other.error))
    text = f"b's label smoothing is {of_b}, a's {of_a}"
    yield LocalDifference(mine, other, "label-smoothing", text, mine.page)
