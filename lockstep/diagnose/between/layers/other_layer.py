"""A layer forward that is another one on either side, as each side's own numbers tell it."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import product

from lockstep.diagnose.between.explanation import Explanation
from lockstep.diagnose.between.layers.training_span import training_words
from lockstep.diagnose.between.pair import LoopPair
from lockstep.diagnose.local.convolutions import CONVOLUTION
from lockstep.diagnose.local.features import FLATTENING, LINEAR
from lockstep.diagnose.local.forms import AFTER, Form, Kind, Words, in_words_of, other_forms
from lockstep.diagnose.local.layer_view import INPUT, LayerView, layer_view, unflattened
from lockstep.diagnose.local.normed_kernels import NORMED_KERNEL
from lockstep.diagnose.local.passing import PASSING
from lockstep.diagnose.local.pooling import POOLING, REDUCTION
from lockstep.diagnose.local.recurrent import RECURRENT
from lockstep.diagnose.local.resizing import RESIZING
from lockstep.diagnose.local.statistics import NORMALISATION, by_words
from lockstep.diagnose.local.steps_between import EPS_WORDS, with_steps
from lockstep.diagnose.local.transposed_convolutions import TRANSPOSED_CONVOLUTION
from lockstep.recipe.activations import ACTIVATIONS
from lockstep.records.trace import Trace

__all__ = ["other_layer"]

IDEA = "a layer recomputed from its input"
WITH_KERNEL: tuple[Kind, ...] = (
    NORMED_KERNEL,
    CONVOLUTION,
    TRANSPOSED_CONVOLUTION,
    LINEAR,
    RECURRENT,
)
POOLED: tuple[Kind, ...] = (LINEAR, CONVOLUTION, PASSING, FLATTENING)
"""Kinds that may follow an unrecorded pooling."""
WITHOUT: tuple[Kind, ...] = (POOLING, REDUCTION, RESIZING, FLATTENING)
OTHER = "other-activation"
DEFAULT = "1e-05"
"""The eps of a step whose words have none."""
TELLING = 1e-2
"""Largest relative error of a form: in lower precision than float32 more would tell nothing."""


def other_layer(pair: LoopPair) -> Iterator[Explanation]:
    """That the layer at which two loops part has other settings on either side."""
    layer = pair.first.tensor
    if pair.mine.name != "b":  # both forms are known or none is
        return
    contrast = _forms(pair, layer)
    if contrast is None:
        return
    views, forms, words = contrast
    form = forms[pair.mine.name]
    predicted = form.kind.output(views[pair.mine.name], form.settings)
    recorded = pair.mine.tensors("forward", pair.update)[layer]
    if predicted is None or predicted.size != recorded.size:
        return
    predicted = views[pair.mine.name].as_recorded(predicted, recorded.shape)
    text = words.text
    if words.key == "norm-evaluation":
        text += training_words(pair)
    yield Explanation(words.key, text, {layer: predicted}, IDEA, words.page, words.side)


def _forms(
    pair: LoopPair, layer: str
) -> tuple[dict[str, LayerView], dict[str, Form], Words] | None:
    """The layer of each side, its forms, and what these differ in; None where they do not tell."""
    traces = {side.name: side.trace for side in (pair.mine, pair.other)}
    tolerance = min(pair.tolerance, TELLING)
    of_other_inputs = None
    for views, is_pooled in _views(traces, layer, pair.update):
        kinds = WITH_KERNEL if views["a"].nested else WITHOUT
        for kind in POOLED if is_pooled else (*kinds, NORMALISATION, PASSING):
            forms = other_forms(kind, views["a"], views["b"], tolerance)
            if forms is None:
                continue
            if not forms:
                return of_other_inputs
            words = _words(layer, *forms)
            contrast = (views, dict(zip("ab", forms)), words) if words is not None else None
            if contrast is None or forms[0].settings["input"] == forms[1].settings["input"]:
                return contrast or of_other_inputs
            of_other_inputs = of_other_inputs or contrast
    return of_other_inputs


def _views(
    traces: Mapping[str, Trace], layer: str, update: int
) -> Iterator[tuple[dict[str, LayerView], bool]]:
    """The layer of both sides: by what is known to feed it; by any array that both recorded; by
    what steps in between make of these, and whether pooling is among them.
    """
    known = {side: layer_view(trace, layer, update) for side, trace in traces.items()}
    if any(view is None for view in known.values()):
        return
    yield {side: view for side, view in known.items() if view is not None}, False
    recorded = [_recorded(trace, update) for trace in traces.values()]
    common = {name for name in recorded[0] if name in recorded[1]}
    views = {side: layer_view(trace, layer, update, common) for side, trace in traces.items()}
    plain = {side: view for side, view in views.items() if view is not None}
    yield plain, False
    for layout, flat in product(("first", "last"), repeat=2):
        shaped = {side: unflattened(view, layout, flat) for side, view in plain.items()}
        cut = {side: view for side, view in shaped.items() if view is not None}
        if len(cut) == len(plain):
            yield cut, False
            yield {side: with_steps(view, pools=False) for side, view in cut.items()}, False
    yield {side: with_steps(view, pools=False) for side, view in plain.items()}, False
    yield {side: with_steps(view, pools=True) for side, view in plain.items()}, True


def _recorded(trace: Trace, update: int) -> set[str]:
    """The arrays of an update that may feed a layer, by family and name."""
    prefix = f"detail/{update}/"
    return {
        name.removeprefix(prefix)
        for name in trace.arrays
        if name.startswith((f"{prefix}forward/", f"{prefix}batch/"))
    }


def _words(layer: str, a: Form, b: Form) -> Words | None:
    """What differs in the forms of a layer."""
    shown = f"input of {layer.removesuffix(INPUT)}" if layer.endswith(INPUT) else layer
    words = a.kind.words(shown, a.settings, b.settings)
    if words is not None:
        return words
    of_a, of_b = str(a.settings["input"]), str(b.settings["input"])
    if of_a == of_b:
        return None
    is_all = a.kind is PASSING and not layer.endswith(INPUT)
    return _input_words(shown, of_a.split(AFTER), of_b.split(AFTER), is_all=is_all)


def _input_words(layer: str, a: Sequence[str], b: Sequence[str], *, is_all: bool) -> Words:
    """That a layer is fed something else, or the same after other steps; `is_all` where the steps
    are all that the layer does.
    """
    apart = [(of_a, of_b) for of_a, of_b in zip(a, b) if of_a != of_b]
    if len(a) == len(b) and len(apart) == 1:
        of_a, of_b = apart[0]
        norm_a, _, by_a = of_a.partition(" by ")
        norm_b, _, by_b = of_b.partition(" by ")
        if by_a and by_b and norm_a == norm_b:
            statistics_a, _, eps_a = by_a.partition(EPS_WORDS)
            statistics_b, _, eps_b = by_b.partition(EPS_WORDS)
            if statistics_a != statistics_b:
                return by_words(norm_a, statistics_a, statistics_b)
            text = f"b's {norm_a} has an eps of {eps_b or DEFAULT} for {eps_a or DEFAULT}"
            return Words("norm-eps", text, "layernorm-eps")
        if of_a in ACTIVATIONS and of_b in ACTIVATIONS:
            place = list(a).index(of_a)
            source = "" if is_all and place == len(a) - 1 else _chain(a[:place])
            return _activation_words(layer, of_a, of_b, source)
    text = f"b's {layer} takes {_chain(b)}, a's {_chain(a)}"
    return Words("other-input", text)


def _activation_words(layer: str, a: str, b: str, source: str) -> Words:
    """That an activation is another one: of a layer that was recorded, or before it."""
    is_gelu = {a, b} == {"gelu", "gelu_tanh"}
    key, page = ("gelu-approximation", "gelu-is-approximate") if is_gelu else (OTHER, "")
    if source:
        return Words(key, f"b's {layer} takes {b} of {source}, a's {a}", page)
    return Words(key, f"b's {layer} is {b}, a's {a}", page)


def _chain(steps: Sequence[str]) -> str:
    """Steps in words, the last first: "relu of conv1"."""
    return in_words_of(AFTER.join(steps))
