"""The forward pass's alternatives: kernels, biases, activation, normalisation, dropout, precision,
stale parameters.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from lockstep.diagnose.causes.judge import Alternative, Tensors, fitted
from lockstep.diagnose.causes.knobs import changed, choices
from lockstep.diagnose.causes.passes import Bend, Variant, compute, parts
from lockstep.diagnose.causes.precision import FORMATS, LowProducts, WideVariance
from lockstep.diagnose.causes.side import Side
from lockstep.numbers import written

__all__ = ["alternatives", "fits"]

SWAPPED = Bend(np.transpose, np.transpose)
ABSENT = Bend(np.zeros_like, np.zeros_like)


def alternatives(side: Side, variant: Variant) -> Iterator[Alternative]:
    """The known other ways without a free number."""
    yield from _parameters(side, variant)
    yield from _model(variant)
    if variant.recipe.model.norm != "none":
        yield from _normalisation(side, variant)
    for name in FORMATS:
        text = f"{{side}} multiplies matrices in {name}"
        tensors = compute(replace(variant, arithmetic=LowProducts(name)))
        yield Alternative("low-precision-matmul", text, "", tensors)
    if variant.masks:
        yield from _dropout(variant)


def fits(variant: Variant, found: Tensors) -> Iterator[Alternative]:
    """Those that say little, and those with a number to find."""
    model = variant.recipe.model
    seen = tuple(
        _kept(found, model.activation, i, mask) for i, mask in enumerate(variant.masks, start=1)
    )
    if any((mine != its).any() for mine, its in zip(seen, variant.masks)):
        text = "{side} drops other units than its mask says"
        yield Alternative("other-mask", text, "", compute(replace(variant, masks=seen)), rank=1)

    def with_model(**values: Any) -> Tensors | None:
        other = changed(model, **values)
        return None if other is None else compute(_with_model(variant, other))

    if model.norm != "none":
        text = (
            f"{{side}} adds an eps of {{value}} to the variance; the recipe says "
            f"{written(model.norm_eps)}"
        )
        yield from fitted(
            "norm-eps",
            text,
            "layernorm-eps",
            lambda eps: with_model(norm_eps=eps),
            found,
            model.norm_eps,
            (1e-12, 1.0),
            log=True,
        )
    if variant.masks:
        text = (
            f"{{side}} scales what dropout keeps as for a rate of {{value}}; the recipe says "
            f"{written(model.dropout)}"
        )
        yield from fitted("dropout-scale", text, "", lambda rate: with_model(dropout=rate), found,
                          model.dropout, (0.0, 0.999))  # fmt: skip


def _with_model(variant: Variant, model: Any) -> Variant:
    return replace(variant, recipe=replace(variant.recipe, model=model))


def _some(names: Sequence[str]) -> list[tuple[str, ...]]:
    """Each name alone, then all."""
    return [*((name,) for name in names), *([tuple(names)] if len(names) > 1 else [])]


def _parameters(side: Side, variant: Variant) -> Iterator[Alternative]:
    kernels = [
        name
        for name, p in variant.parameters.items()
        if name.startswith("linear") and name.endswith(".weight") and p.shape[0] == p.shape[1] > 1
    ]
    for names in _some(kernels):
        text = f"{{side}} uses {' and '.join(names)} transposed"
        tensors = compute(replace(variant, bends=dict.fromkeys(names, SWAPPED)))
        yield Alternative("kernel-transposed", text, "kernel-layout", tensors)
    biases = [
        name for name in variant.parameters if name.startswith("linear") and name.endswith(".bias")
    ]
    for names in _some(biases):
        text = f"{{side}} leaves out {' and '.join(names)}"
        yield Alternative(
            "bias-missing", text, "", compute(replace(variant, bends=dict.fromkeys(names, ABSENT)))
        )
    for done, told in {side.update - 1: "of the update before", 0: "of the start"}.items():
        old = side.parameters(done) if 0 <= done < side.update else {}
        if old.keys() == variant.parameters.keys():
            text = f"{{side}} computes with the parameters {told}"
            yield Alternative(
                "stale-parameters", text, "", compute(replace(variant, parameters=old))
            )


def _model(variant: Variant) -> Iterator[Alternative]:
    """Other activations. The layers keep the names that the recipe gives them."""
    model = variant.recipe.model
    for name in choices(model, "activation") if model.hidden else ():
        if name != model.activation:
            is_gelu = {name, model.activation} == {"gelu", "gelu_tanh"}
            text = f"{{side}} has the activation {name}; the recipe says {model.activation}"
            tensors = compute(_with_model(variant, replace(model, activation=name)))
            tensors = {
                k.replace(f"forward/{name}", f"forward/{model.activation}"): v
                for k, v in tensors.items()
            }
            key, page = (
                ("gelu-approximation", "gelu-is-approximate")
                if is_gelu
                else ("other-activation", "")
            )
            yield Alternative(key, text, page, tensors)


def _normalisation(side: Side, variant: Variant) -> Iterator[Alternative]:
    model = variant.recipe.model
    for norm in choices(model, "norm"):
        if norm != model.norm:
            text = f"{{side}} has {norm} normalisation; the recipe says {model.norm}"
            tensors = compute(_with_model(variant, replace(model, norm=norm)))
            yield Alternative("other-norm", text, "", tensors)
    statistics = side.statistics(side.update)
    if model.norm == "batch" and statistics:
        text = "{side} normalises by the running statistics, as in evaluation"
        tensors = compute(replace(variant, statistics=statistics))
        yield Alternative("norm-evaluation-mode", text, "", tensors)
    sizes = (
        rows.stop - rows.start if model.norm == "batch" else units
        for rows, _ in parts(variant)
        for units in model.hidden
    )
    tensors = compute(replace(variant, arithmetic=WideVariance(sizes)))
    outputs = {name: array for name, array in tensors.items() if not name.startswith("gradients/")}
    text = "{side} normalises by the variance over n - 1; the recipe takes it over n"
    yield Alternative("norm-variance", text, "std-divides-by-n", outputs)


def _dropout(variant: Variant) -> Iterator[Alternative]:
    model = variant.recipe.model
    plain, kept = replace(model, dropout=0.0), tuple(np.ones_like(mask) for mask in variant.masks)
    yield Alternative(
        "dropout-missing", "{side} drops no unit, as in evaluation", "",
        compute(replace(_with_model(variant, plain), masks=kept)),
    )  # fmt: skip
    text = "{side} does not scale what dropout keeps by 1 / (1 - rate)"
    yield Alternative("dropout-scale", text, "", compute(_with_model(variant, plain)))
    if (mirrored := changed(model, dropout=1 - model.dropout)) is not None:
        text = "{side} takes dropout's rate for the share that is kept: it scales by 1 / rate"
        yield Alternative("dropout-scale", text, "", compute(_with_model(variant, mirrored)))
    inverted = tuple(~mask for mask in variant.masks)
    text = "{side} drops the units that should stay"
    yield Alternative("other-mask", text, "", compute(replace(variant, masks=inverted)))


def _kept(found: Tensors, activation: str, layer: int, mask: Any) -> Any:
    """Which units stayed, by what was recorded: those that are 0 before dropout say nothing."""
    before, after = found.get(f"forward/{activation}{layer}"), found.get(f"forward/dropout{layer}")
    if before is None or after is None or before.shape != mask.shape:
        return mask
    return np.where(before == 0, mask, after != 0)
