"""Where two loops are set differently, by what each side's own tensors say."""

from collections.abc import Iterator, Sequence
from functools import cached_property

from lockstep.diagnose.local.activations import ActivationFit, fit_activation, share_of
from lockstep.diagnose.local.attention import AttentionFit, attention_fits
from lockstep.diagnose.local.difference import NEAR, LocalDifference, is_apart, likely
from lockstep.diagnose.local.dropout import measure_dropout
from lockstep.diagnose.local.gradients import other_gradients
from lockstep.diagnose.local.layer_calls import LayerCall, layer_calls
from lockstep.diagnose.local.linear import LinearFit, measure_linear
from lockstep.diagnose.local.losses import LEAST, measure_smoothing
from lockstep.diagnose.local.measurement import Measurement
from lockstep.diagnose.local.norms import likely_eps, measure_eps
from lockstep.diagnose.local.step_differences import compare_steps
from lockstep.numbers import factor, number, written
from lockstep.records.trace import Trace

__all__ = ["local_differences"]

LEAST_RATE = 1e-3
"""Rates of dropout that differ by less are one."""
LEAST_SCALE = 5e-3
"""Factors that differ by less are one: a factor that is itself rounded to bfloat16 is off by as
much."""
HALF = 0.5
"""A bias is added once or not at all."""
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
    recorded = [update for update in updates if update <= until][:MOST_UPDATES]
    for update in recorded:
        differences += _of_layers(a, b, update)
        if differences:
            break
    for update in recorded:
        differences += other_gradients(a, b, update)
    differences += _of_losses(a, b, updates)
    differences += _of_steps(a, b)
    return sorted(differences, key=lambda difference: difference.a.update)


# ---- layers


class _SideLayers:
    """What the layers of one side are, as far as it was recognised."""

    def __init__(self, trace: Trace, update: int) -> None:
        self.calls: dict[str, LayerCall] = {}
        self.eps: dict[str, Measurement] = {}
        self.rates: dict[str, Measurement] = {}
        self.activations: dict[str, ActivationFit] = {}
        self.linear: dict[str, LinearFit] = {}
        for call in layer_calls(trace, update):
            self.calls[call.name] = call
            self._recognise(call, update)

    @cached_property
    def attentions(self) -> dict[str, AttentionFit]:
        """The attentions, by the layer that takes in what they give."""
        return {fit.name: fit for fit in attention_fits(list(self.calls.values()))}

    def _recognise(self, call: LayerCall, update: int) -> None:
        rate = measure_dropout(call, update)
        if rate is not None:
            self.rates[call.name] = rate
            return
        eps = measure_eps(call, update)
        if eps is not None:
            self.eps[call.name] = eps
            return
        linear = measure_linear(call, update)
        if linear is not None:
            self.linear[call.name] = linear
            return
        activation = fit_activation(call)
        if activation is not None:
            self.activations[call.name] = activation


def _of_layers(a: Trace, b: Trace, update: int) -> Iterator[LocalDifference]:
    side_a = _SideLayers(a, update)
    side_b = _SideLayers(b, update)
    if update == min(a.header["detail"]):
        for layer, attention in side_a.attentions.items():
            if layer in side_b.attentions:
                yield from _other_attention(attention, side_b.attentions[layer], update)
    for layer in side_a.calls:
        if layer in side_a.rates and layer in side_b.rates:
            yield from _other_dropout(side_a.rates[layer], side_b.rates[layer])
        if layer in side_a.eps and layer in side_b.eps:
            mine, other = side_a.eps[layer], side_b.eps[layer]
            if is_apart(mine, other):
                yield _other_eps(mine, other)
        if layer in side_a.linear and layer in side_b.linear:
            yield from _other_linear(side_a.linear[layer], side_b.linear[layer])
        if layer in side_a.activations and layer in side_b.activations:
            yield from _other_activation(layer, update, side_a, side_b)


def _other_dropout(a: Measurement, b: Measurement) -> Iterator[LocalDifference]:
    if not is_apart(a, b, LEAST_RATE):
        return
    of_a, of_b = (likely(rate.value, max(rate.error, 1e-4)) for rate in (a, b))
    text = f"dropout: b's {a.tensor} drops {of_b:.0%} of its input, a's {of_a:.0%}"
    yield LocalDifference(a, b, "dropout", text, "")


def _other_linear(a: LinearFit, b: LinearFit) -> Iterator[LocalDifference]:
    layer = a.scale.tensor
    # of inputs that are all 0 the factor is not told
    if a.scale.value and b.scale.value and is_apart(a.scale, b.scale, LEAST_SCALE):
        times = factor(likely(b.scale.value / a.scale.value, b.scale.error), 4)
        text = f"b's {layer} is {times} times its product with the kernel, a's once"
        yield LocalDifference(a.scale, b.scale, "linear-scaled", text, "")
    if a.bias is None or b.bias is None or not is_apart(a.bias, b.bias, HALF):
        return
    without = "b" if abs(b.bias.value) < abs(a.bias.value) else "a"
    if min(abs(a.bias.value), abs(b.bias.value)) > HALF:
        return
    text = f"{without}'s {layer} is without its bias"
    yield LocalDifference(a.bias, b.bias, "bias-missing", text, "")


def _other_attention(a: AttentionFit, b: AttentionFit, update: int) -> Iterator[LocalDifference]:
    """That two attentions have other heads, masks or scales of their scores."""

    def measured(quantity: str, value: float, error: float = 0.0) -> Measurement:
        return Measurement("forward", a.name, update, quantity, value, error)

    if a.heads != b.heads:
        text = f"b's attention before {a.name} has {b.heads} heads, a's {a.heads}"
        heads = measured("heads", float(a.heads)), measured("heads", float(b.heads))
        yield LocalDifference(*heads, "attention-heads", text, "")
        return
    if a.is_causal != b.is_causal:
        causal, other = ("a", "b") if a.is_causal else ("b", "a")
        text = f"{other}'s attention before {a.name} sees the future: {causal}'s mask is causal"
        masks = (
            measured("causal mask", float(a.is_causal)),
            measured("causal mask", float(b.is_causal)),
        )
        yield LocalDifference(*masks, "attention-mask", text, "")
        return
    name = "scale of the scores"
    mine, other_scale = measured(name, a.scale, a.error), measured(name, b.scale, b.error)
    if is_apart(mine, other_scale, LEAST_SCALE * a.scale):
        of_a, of_b = (written(likely(fit.scale, fit.error)) for fit in (a, b))
        text = f"b's attention before {a.name} scales its scores by {of_b}, a's by {of_a}"
        yield LocalDifference(mine, other_scale, "attention-scale", text, "")


def _other_eps(a: Measurement, b: Measurement) -> LocalDifference:
    of_a = likely_eps(a.value, a.error)
    of_b = likely_eps(b.value, b.error)
    times = f", {factor(of_b / of_a)} times a's" if of_a and of_b else ""
    # what cannot be told from 0 need not be 0
    text_a = written(of_a) if of_a else f"one below {_most(a)}"
    text_b = f"of {written(of_b)}" if of_b else f"below {_most(b)}"
    text = f"b's {a.tensor} has an eps {text_b} for {text_a}{times}"
    return LocalDifference(a, b, "norm-eps", text, "layernorm-eps")


def _most(measurement: Measurement) -> str:
    return number(abs(measurement.value) + NEAR * measurement.error, 1)


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
