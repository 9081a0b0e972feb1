"""The forward pass's alternatives: kernels, biases, activation, normalisation, dropout, precision,
stale parameters.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lockstep.diagnose.causes.alternatives import Alternative, fitted
from lockstep.diagnose.causes.knobs import changed, choices
from lockstep.diagnose.causes.passes import Bend, PassVariant, compute, parts
from lockstep.diagnose.causes.precision import FORMATS, LowProducts, WideVariance
from lockstep.diagnose.causes.side import Side
from lockstep.diagnose.causes.tensors import Tensors, only
from lockstep.numbers import written
from lockstep.recipe import Model

__all__ = ["alternatives", "fits"]

SWAPPED = Bend(np.transpose, np.transpose)
ABSENT = Bend(np.zeros_like, np.zeros_like)


def alternatives(side: Side, variant: PassVariant) -> Iterator[Alternative]:
    """The known other ways without a free number."""
    yield from _other_parameters(side, variant)
    yield from _other_activations(variant)
    if variant.recipe.model.norm != "none":
        yield from _other_normalisations(side, variant)
    for name in FORMATS:
        text = f"{{side}} multiplies matrices in {name}"
        tensors = compute(replace(variant, arithmetic=LowProducts(name)))
        yield Alternative("low-precision-matmul", text, "", tensors)
    if variant.masks:
        yield from _other_dropout(variant)


def fits(variant: PassVariant, recorded: Tensors) -> Iterator[Alternative]:
    """Those that say little, and those with a number to find."""
    model = variant.recipe.model
    masks = tuple(
        _units_kept(recorded, model.activation, i, mask)
        for i, mask in enumerate(variant.masks, start=1)
    )
    if any((mine != its).any() for mine, its in zip(masks, variant.masks)):
        text = "{side} drops other units than its mask says"
        tensors = compute(replace(variant, masks=masks))
        yield Alternative("other-mask", text, "", tensors, rank=1)

    def with_knobs(**values: Any) -> Tensors | None:
        other = changed(model, **values)
        return None if other is None else compute(_with_model(variant, other))

    if model.norm != "none":
        text = (
            "{side} adds an eps of {value} to the variance; the recipe says "
            f"{written(model.norm_eps)}"
        )
        yield from fitted(
            "norm-eps",
            text,
            "layernorm-eps",
            lambda eps: with_knobs(norm_eps=eps),
            recorded,
            model.norm_eps,
            (1e-12, 1.0),
            log=True,
        )
    if variant.masks:
        text = (
            "{side} scales what dropout keeps as for a rate of {value}; the recipe says "
            f"{written(model.dropout)}"
        )
        yield from fitted(
            "dropout-scale",
            text,
            "",
            lambda rate: with_knobs(dropout=rate),
            recorded,
            model.dropout,
            (0.0, 0.999),
        )


def _with_model(variant: PassVariant, model: Model) -> PassVariant:
    return replace(variant, recipe=replace(variant.recipe, model=model))


def _each_and_all(names: Sequence[str]) -> list[tuple[str, ...]]:
    """Each name alone, then all."""
    groups: list[tuple[str, ...]] = [(name,) for name in names]
    if len(names) > 1:
        groups.append(tuple(names))
    return groups


def _other_parameters(side: Side, variant: PassVariant) -> Iterator[Alternative]:
    """Transposed kernels, absent biases, and parameters of another time."""
    linear = only("linear", variant.parameters)
    square_kernels = [
        name
        for name, array in linear.items()
        if name.endswith(".weight") and array.shape[0] == array.shape[1] > 1
    ]
    for names in _each_and_all(square_kernels):
        text = f"{{side}} uses {' and '.join(names)} transposed"
        tensors = compute(replace(variant, bends=dict.fromkeys(names, SWAPPED)))
        yield Alternative("kernel-transposed", text, "kernel-layout", tensors)
    biases = [name for name in linear if name.endswith(".bias")]
    for names in _each_and_all(biases):
        text = f"{{side}} leaves out {' and '.join(names)}"
        tensors = compute(replace(variant, bends=dict.fromkeys(names, ABSENT)))
        yield Alternative("bias-missing", text, "", tensors)
    for updates, words in {side.update - 1: "of the update before", 0: "of the start"}.items():
        old = side.parameters(updates) if 0 <= updates < side.update else {}
        if old.keys() == variant.parameters.keys():
            text = f"{{side}} computes with the parameters {words}"
            tensors = compute(replace(variant, parameters=old))
            yield Alternative("stale-parameters", text, "", tensors)


def _other_activations(variant: PassVariant) -> Iterator[Alternative]:
    """Other activations. The layers keep the names that the recipe gives them."""
    model = variant.recipe.model
    if not model.hidden:
        return
    for name in choices(model, "activation"):
        if name == model.activation:
            continue
        text = f"{{side}} has the activation {name}; the recipe says {model.activation}"
        tensors: Tensors = {}
        for key, array in compute(_with_model(variant, replace(model, activation=name))).items():
            tensors[key.replace(f"forward/{name}", f"forward/{model.activation}")] = array
        if {name, model.activation} == {"gelu", "gelu_tanh"}:
            yield Alternative("gelu-approximation", text, "gelu-is-approximate", tensors)
        else:
            yield Alternative("other-activation", text, "", tensors)


def _other_normalisations(side: Side, variant: PassVariant) -> Iterator[Alternative]:
    """Another normalisation, running statistics, or a variance over n - 1."""
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


def _other_dropout(variant: PassVariant) -> Iterator[Alternative]:
    """No dropout, another scale, or the mask turned round."""
    model = variant.recipe.model
    unscaled = _with_model(variant, replace(model, dropout=0.0))
    all_kept = tuple(np.ones_like(mask) for mask in variant.masks)
    text = "{side} drops no unit, as in evaluation"
    tensors = compute(replace(unscaled, masks=all_kept))
    yield Alternative("dropout-missing", text, "", tensors)
    text = "{side} does not scale what dropout keeps by 1 / (1 - rate)"
    yield Alternative("dropout-scale", text, "", compute(unscaled))
    mirrored = changed(model, dropout=1 - model.dropout)
    if mirrored is not None:
        text = "{side} takes dropout's rate for the share that is kept: it scales by 1 / rate"
        yield Alternative("dropout-scale", text, "", compute(_with_model(variant, mirrored)))
    inverted = tuple(~mask for mask in variant.masks)
    text = "{side} drops the units that should stay"
    yield Alternative("other-mask", text, "", compute(replace(variant, masks=inverted)))


def _units_kept(
    recorded: Tensors, activation: str, layer: int, mask: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Which units stayed, by what was recorded. Those that are 0 before dropout say nothing: the
    mask stands for them.
    """
    before = recorded.get(f"forward/{activation}{layer}")
    after = recorded.get(f"forward/dropout{layer}")
    if before is None or after is None or before.shape != mask.shape:
        return mask
    return np.where(before == 0, mask, after != 0)
