"""The optimizer's alternatives: decay, memory, rate as applied, knobs, and the gradient it is
given.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial

import numpy as np

from lockstep.diagnose.causes.alternatives import Alternative, fitted
from lockstep.diagnose.causes.knobs import changed, created, fitted_knobs, other_choices
from lockstep.diagnose.causes.precision import NoCorrection, rounded_to
from lockstep.diagnose.causes.side import Side
from lockstep.diagnose.causes.step import UpdateVariant, attempt, compute, variant_of
from lockstep.diagnose.causes.tensors import Tensors, each, family, only, times
from lockstep.oracle.arithmetic import Moments
from lockstep.recipe import Optimizer
from lockstep.schedules.rate_tables import is_weight, layer_of

__all__ = ["alternatives"]

PAGE = "l2-is-not-decoupled-decay"
MOMENT_FORMATS = ("float32", "float16", "bfloat16")
FACTORS = (-1e6, 1e6)


def alternatives(side: Side, recorded: Tensors) -> Iterator[Alternative]:
    """The known other ways, those with a free number last."""
    variant = variant_of(side)
    if variant is None:
        return
    if variant.optimizer.decay_rate:
        yield from _other_decay(variant)
    yield from _forgotten(side, variant)
    yield from _skipped(variant)
    yield from _other_betas(variant)
    yield from _other_rates(side, variant)
    yield from _ascent(variant)
    yield from _other_words(variant)
    yield from _other_gradients(side, variant)
    yield from _untouched(variant, recorded)
    yield from _rounded_moments(variant)
    yield from _other_optimizers(variant, recorded)
    yield from _fits(variant, recorded)


# ---- weight decay


def _other_decay(variant: UpdateVariant) -> Iterator[Alternative]:
    """Weight decay of another form, at another place, or none."""
    optimizer = variant.optimizer
    decay = optimizer.decay_rate
    bare, shares = _undecayed(variant, decay)
    text = f"{{side}} leaves out the recipe's weight decay of {decay:.4g}"
    yield Alternative("decay-missing", text, "adamw-default-weight-decay", compute(bare))
    decoupled = replace(bare, decay=shares)
    if optimizer.spec.decoupled:
        text = "{side} adds weight decay to the gradient (L2); the recipe has it decoupled"
        yield Alternative("l2-for-decoupled", text, PAGE, compute(_with_l2(bare, shares)))
    elif optimizer.get("momentum"):
        text = (
            "{side} adds weight decay after the momentum; the recipe adds it to the gradient before"
        )
        page = "decay-before-the-momentum"
        yield Alternative("decay-after-momentum", text, page, compute(decoupled))
    else:
        text = (
            "{side} decays the parameters themselves (decoupled); the recipe adds the decay to the "
            "gradient (L2)"
        )
        yield Alternative("decoupled-for-l2", text, PAGE, compute(decoupled))
    whole = {
        name: share / variant.rates[name] if variant.rates[name] else 0.0
        for name, share in shares.items()
    }
    text = f"{{side}} subtracts weight decay ({decay:.4g}) x parameter without the learning rate"
    yield Alternative("decay-without-rate", text, PAGE, compute(replace(bare, decay=whole)))
    if optimizer.decay_on == "weights":
        what = "biases and normalisations too"
        other = changed(optimizer, decay_on="all")
    else:
        what = "only the weights"
        other = changed(optimizer, decay_on="weights")
    if other is not None:
        text = f"{{side}} decays {what}; the recipe says decay_on = {optimizer.decay_on}"
        tensors = compute(replace(variant, optimizer=other))
        yield Alternative("decay-on-bias", text, "", tensors)


def _undecayed(variant: UpdateVariant, decay: float) -> tuple[UpdateVariant, dict[str, float]]:
    """The update without decay, and the decay that acts on each parameter."""
    everywhere = variant.optimizer.decay_on == "all"
    shares = {
        name: decay * (everywhere or is_weight(known)) for name, known in variant.names.items()
    }
    optimizer = variant.optimizer.with_knobs(weight_decay=0.0)
    return replace(variant, optimizer=optimizer), shares


def _with_l2(bare: UpdateVariant, shares: Mapping[str, float]) -> UpdateVariant:
    """The update with a decay in the gradient."""
    gradients = {
        name: gradient + shares[name] * bare.parameters[name]
        for name, gradient in bare.gradients.items()
    }
    return replace(bare, gradients=gradients)


# ---- what the optimizer remembers


def _forgotten(side: Side, variant: UpdateVariant) -> Iterator[Alternative]:
    """An optimizer that forgot its moments, its count, or both."""
    if not side.update or not any(variant.moments.values()):
        return
    empty: dict[str, Moments] = {name: {} for name in variant.moments}
    text = "{side} forgot the optimizer's memory before this update"
    for count in (side.update, 0):
        tensors = compute(replace(variant, moments=empty, count=count))
        yield Alternative("state-forgotten", text, "opt-state-forgotten", tensors)
    text = (
        "{side} counts this update as its first: the optimizer's count was forgotten, its moments "
        "were not"
    )
    tensors = compute(replace(variant, count=0))
    yield Alternative("state-forgotten", text, "count-forgotten", tensors)


def _skipped(variant: UpdateVariant) -> Iterator[Alternative]:
    """An update that does nothing, or changes the moments alone."""
    still = family("update", each(np.zeros_like, variant.parameters))
    moments: Tensors = {}
    for name, slots in variant.moments.items():
        for slot, array in slots.items():
            moments[f"moments/{slot}/{name}"] = np.atleast_2d(array)
    yield Alternative("update-skipped", "{side} skips this update", "", still | moments)
    moved = only("moments/", compute(variant))
    text = "{side} does not apply this update to the parameters"
    yield Alternative("update-skipped", text, "", still | moved)


def _other_betas(variant: UpdateVariant) -> Iterator[Alternative]:
    """Moments that are not corrected for their start at 0, and betas taken for their complements:
    of all betas together, then of each.
    """
    optimizer = variant.optimizer
    betas = [name for name in ("beta1", "beta2", "momentum") if optimizer.get(name) is not None]
    groups = [betas]
    if len(betas) > 1:
        groups += [[beta] for beta in betas]
    for names in groups:
        corrected = compute(replace(variant, arithmetic=NoCorrection(*names)))
        text = f"{{side}} does not correct the moments for their start at 0 ({' and '.join(names)})"
        yield Alternative("no-bias-correction", text, "bias-correction-in-float32", corrected)
        complements = {name: 1 - getattr(optimizer, name) for name in names}
        mirrored = changed(optimizer, **complements)
        if mirrored is not None:
            values = ", ".join(f"{name} = {getattr(mirrored, name):.4g}" for name in names)
            text = f"{{side}} keeps 1 minus the recipe's share: {values}"
            tensors = compute(replace(variant, optimizer=mirrored))
            yield Alternative("momentum-complement", text, "", tensors)


def _rounded_moments(variant: UpdateVariant) -> Iterator[Alternative]:
    """Moments kept in fewer bits."""
    tensors = compute(variant)
    for format_name in MOMENT_FORMATS:
        text = f"{{side}} keeps its moments in {format_name}"
        low = tensors | each(partial(rounded_to, format_name), only("moments/", tensors))
        yield Alternative("moments-rounded", text, "", low)


# ---- the rate as it is applied


def _other_rates(side: Side, variant: UpdateVariant) -> Iterator[Alternative]:
    """Another rate than the reported one, which is right: of a neighbouring update, a fixed one, or
    one without the layers' multipliers.
    """

    def with_rates(text: str, page: str, rates: Mapping[str, float]) -> Alternative:
        return Alternative("lr-not-applied", text, page, compute(replace(variant, rates=rates)))

    for offset, word in ((-1, "before"), (1, "after")):
        rates = _rates_at(side, variant, offset)
        if rates is not None:
            text = (
                f"{{side}} applies the learning rate of the update {word} this one, and reports "
                "the right one"
            )
            yield with_rates(text, "last-lr-is-the-next-lr", rates)
    fixed = {1.0: "1"}
    if side.recipe and side.declares("schedule"):
        fixed[side.recipe.schedule.peak] = "the schedule's peak"
    for rate, words in fixed.items():
        text = f"{{side}} applies the learning rate {words} ({rate:.4g}), not the scheduled one"
        yield with_rates(text, "", dict.fromkeys(variant.rates, rate))
    factors = variant.optimizer.multipliers
    if factors and all(factors):
        rates = {
            name: rate / factors[layer_of(variant.names[name]) - 1]
            for name, rate in variant.rates.items()
        }
        text = "{side} leaves out the multipliers of the layers' learning rates"
        yield with_rates(text, "", rates)


def _rates_at(side: Side, variant: UpdateVariant, offset: int) -> dict[str, float] | None:
    """The rate of every parameter so many updates later; None where one is not known."""
    rates: dict[str, float] = {}
    for name in variant.rates:
        rate = side.rate(variant.names[name], offset)
        if rate is None:
            return None
        rates[name] = rate
    return rates


def _ascent(variant: UpdateVariant) -> Iterator[Alternative]:
    """A step or a gradient with the wrong sign."""
    against = {name: -rate for name, rate in variant.rates.items()}
    text = "{side} climbs: its step has the wrong sign"
    yield Alternative("ascent", text, "", compute(replace(variant, rates=against)))
    turned = each(np.negative, variant.gradients)
    text = "{side} gives the optimizer the gradient with the wrong sign"
    yield Alternative("ascent", text, "", compute(replace(variant, gradients=turned)))


# ---- knobs and gradients


def _other_words(variant: UpdateVariant) -> Iterator[Alternative]:
    """Flags and words of the recipe's optimizer."""
    optimizer = variant.optimizer
    knobs = [knob for knob in optimizer.knobs() if knob != "weight_decay"]
    yield from other_choices(
        "optimizer", optimizer, knobs, lambda other: attempt(replace(variant, optimizer=other))
    )
    dampening = optimizer.get("dampening")
    if dampening and variant.count == 0:
        damped = times(1 - dampening, variant.gradients)
        text = "{side} dampens the first gradient too"
        tensors = compute(replace(variant, gradients=damped))
        yield Alternative("dampening", text, "dampening-spares-the-first-step", tensors)


def _other_gradients(side: Side, variant: UpdateVariant) -> Iterator[Alternative]:
    """Another gradient than the one that was recorded."""
    names = variant.gradients.keys()
    raw = side.detail("gradients")
    if side.detail("clip") and raw.keys() >= names:
        text = "{side} gives the optimizer the gradient as it was before clipping"
        yield Alternative("clip-missing", text, "", compute(replace(variant, gradients=raw)))
    last = side.update - 1
    before = side.detail("clip", last) or side.detail("gradients", last)
    if before.keys() >= names:
        page = "forgotten-zero-grad"
        text = "{side} gives the optimizer the gradient of the update before"
        tensors = compute(replace(variant, gradients=before))
        yield Alternative("gradient-stale", text, page, tensors)
        summed = {name: variant.gradients[name] + before[name] for name in names}
        text = "{side} gives the optimizer this gradient plus that of the update before"
        tensors = compute(replace(variant, gradients=summed))
        yield Alternative("gradient-stale", text, page, tensors)


def _untouched(variant: UpdateVariant, recorded: Tensors) -> Iterator[Alternative]:
    """Some parameters that did not move."""
    still = [
        name for name in variant.parameters if not recorded.get(f"update/{name}", np.ones(1)).any()
    ]
    if not still or len(still) == len(variant.parameters):
        return
    tensors = only("update/", compute(variant))
    for name in still:
        tensors[f"update/{name}"] = np.zeros_like(variant.parameters[name])
    text = f"{{side}} does not train {', '.join(still)}"
    yield Alternative("update-skipped", text, "parameters-without-gradient", tensors)


def _other_optimizers(variant: UpdateVariant, recorded: Tensors) -> Iterator[Alternative]:
    """Other optimizers, with the recipe's knobs or their own. One that remembers what was not
    recorded is none of them.
    """
    remembered = _slots(recorded)
    mine = variant.optimizer
    common = {"decay_on": mine.decay_on, "multipliers": mine.multipliers}
    for name, kind in Optimizer.variants.items():
        if name == mine.name:
            continue
        shared = {knob: getattr(mine, knob) for knob in kind.knobs() if hasattr(mine, knob)}
        for values in (shared, {}):
            other = created(kind, **common, **values)
            tensors = None if other is None else attempt(replace(variant, optimizer=other))
            if tensors is None or (remembered and not _slots(tensors) <= remembered):
                continue
            text = f"{{side}} updates by {name}; the recipe says {mine.name}"
            yield Alternative("other-optimizer", text, "", tensors, rank=1)


def _slots(tensors: Tensors) -> set[str]:
    """What an optimizer remembers, by the names of its moments."""
    return {name.split("/")[1] for name in tensors if name.startswith("moments/")}


def _fits(variant: UpdateVariant, recorded: Tensors) -> Iterator[Alternative]:
    """The numbers of the optimizer, then factors on the rate and on the gradient."""
    optimizer = variant.optimizer
    yield from fitted_knobs(
        "optimizer",
        optimizer,
        list(optimizer.knobs()),
        lambda other: attempt(replace(variant, optimizer=other)),
        recorded,
    )
    if optimizer.spec.decoupled:
        text = (
            "{side} adds a weight decay of {value} to the gradient (L2); the recipe has it "
            "decoupled"
        )
        make = _attempting(lambda decay: _with_l2(*_undecayed(variant, decay)))
        start = optimizer.decay_rate
        yield from fitted("l2-for-decoupled", text, PAGE, make, recorded, start, (0.0, 1e3))
    elif optimizer.get("weight_decay") is not None:

        def decoupled(decay: float) -> UpdateVariant:
            bare, shares = _undecayed(variant, decay)
            return replace(bare, decay=shares)

        text = "{side} decays the parameters themselves by {value} (decoupled); the recipe has L2"
        make = _attempting(decoupled)
        yield from fitted("decoupled-for-l2", text, PAGE, make, recorded, 0.0, (0.0, 1e3))

    def with_rates_times(factor: float) -> UpdateVariant:
        rates = {name: factor * rate for name, rate in variant.rates.items()}
        return replace(variant, rates=rates)

    text = "{side}'s step is {value} times what the learning rate that it reports gives"
    make = _attempting(with_rates_times)
    yield from fitted("lr-not-applied", text, "", make, recorded, 1.0, FACTORS)

    def with_gradients_times(factor: float) -> UpdateVariant:
        return replace(variant, gradients=times(factor, variant.gradients))

    text = "{side} gives the optimizer {value} times the gradient"
    make = _attempting(with_gradients_times)
    yield from fitted("gradient-scaled", text, "", make, recorded, 1.0, FACTORS)


def _attempting(vary: Callable[[float], UpdateVariant]) -> Callable[[float], Tensors | None]:
    """The tensors of the update for a number."""
    return lambda value: attempt(vary(value))
