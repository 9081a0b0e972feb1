"""The optimizer's alternatives: decay, memory, rate as applied, knobs, and the gradient it is
given.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import numpy as np

from lockstep.diagnose.causes.judge import Alternative, Tensors, fitted
from lockstep.diagnose.causes.knobs import changed, fitted_knobs, made, other_choices
from lockstep.diagnose.causes.precision import NoCorrection, rounded_to
from lockstep.diagnose.causes.side import Side
from lockstep.diagnose.causes.step import Step, attempt, compute, step_of
from lockstep.oracle.arithmetic import Moments
from lockstep.recipe import Optimizer
from lockstep.schedules.rate_tables import is_weight, layer_of

__all__ = ["alternatives"]

PAGE = "l2-is-not-decoupled-decay"


def alternatives(side: Side, found: Tensors) -> Iterator[Alternative]:
    """The known other ways, those with a free number last."""
    step = step_of(side)
    if step is None:
        return
    yield from _decay(step)
    yield from _state(side, step)
    yield from _rates(side, step)
    yield from _knobs(step)
    yield from _gradients(side, step)
    yield from _untouched(found, step)
    yield from _rounded(step)
    yield from _optimizers(step)
    yield from _fits(step, found)


def _decay(step: Step) -> Iterator[Alternative]:
    """Weight decay of another form, at another place, or none."""
    optimizer, wd = step.optimizer, step.optimizer.decay_rate
    if not wd:
        return
    bare, shares = _undecayed(step, wd)
    text = f"{{side}} leaves out the recipe's weight decay of {wd:.4g}"
    yield Alternative("decay-missing", text, "adamw-default-weight-decay", compute(bare))
    if optimizer.spec.decoupled:
        text = "{side} adds weight decay to the gradient (L2); the recipe has it decoupled"
        yield Alternative("l2-for-decoupled", text, PAGE, compute(_with_l2(bare, shares)))
    elif optimizer.get("momentum"):
        text = (
            "{side} adds weight decay after the momentum; the recipe adds it to the gradient before"
        )
        after = compute(replace(bare, decay=shares))
        yield Alternative("decay-after-momentum", text, "decay-before-the-momentum", after)
    else:
        text = (
            "{side} decays the parameters themselves (decoupled); the recipe adds the decay to "
            "the gradient (L2)"
        )
        yield Alternative("decoupled-for-l2", text, PAGE, compute(replace(bare, decay=shares)))
    whole = {
        name: share / step.rates[name] if step.rates[name] else 0.0
        for name, share in shares.items()
    }
    text = f"{{side}} subtracts weight decay ({wd:.4g}) x parameter without the learning rate"
    yield Alternative("decay-without-rate", text, PAGE, compute(replace(bare, decay=whole)))
    others = (
        "biases and normalisations too" if optimizer.decay_on == "weights" else "only the weights"
    )
    other = changed(optimizer, decay_on="all" if optimizer.decay_on == "weights" else "weights")
    if other is not None:
        text = f"{{side}} decays {others}; the recipe says decay_on = {optimizer.decay_on}"
        yield Alternative("decay-on-bias", text, "", compute(replace(step, optimizer=other)))


def _undecayed(step: Step, wd: float) -> tuple[Step, dict[str, float]]:
    """The step without decay, and what of a decay acts on each parameter."""
    everywhere = step.optimizer.decay_on == "all"
    shares = {name: wd * (everywhere or is_weight(known)) for name, known in step.names.items()}
    return replace(step, optimizer=step.optimizer.with_knobs(weight_decay=0.0)), shares


def _with_l2(bare: Step, shares: Mapping[str, float]) -> Step:
    return replace(
        bare, gradients={k: g + shares[k] * bare.parameters[k] for k, g in bare.gradients.items()}
    )


def _state(side: Side, step: Step) -> Iterator[Alternative]:
    """What the optimizer remembers, and how it is corrected for its start at 0."""
    empty: dict[str, Moments] = {name: {} for name in step.moments}
    if side.update and any(step.moments.values()):
        text = "{side} forgot the optimizer's memory before this update"
        for count in (side.update, 0):
            forgotten = replace(step, moments=empty, count=count)
            yield Alternative("state-forgotten", text, "opt-state-forgotten", compute(forgotten))
        text = (
            "{side} counts this update as its first: the optimizer's count was forgotten, its "
            "moments were not"
        )
        yield Alternative(
            "state-forgotten", text, "count-forgotten", compute(replace(step, count=0))
        )
    moments = {f"moments/{slot}/{name}": np.atleast_2d(array) for name in step.moments
               for slot, array in step.moments[name].items()}  # fmt: skip
    still = {f"update/{name}": np.zeros_like(array) for name, array in step.parameters.items()}
    yield Alternative("update-skipped", "{side} skips this update", "", still | moments)
    moved = {name: array for name, array in compute(step).items() if name.startswith("moments/")}
    yield Alternative(
        "update-skipped", "{side} does not apply this update to the parameters", "", still | moved
    )
    betas = [
        name for name in ("beta1", "beta2", "momentum") if step.optimizer.get(name) is not None
    ]
    for names in (betas, *([beta] for beta in betas if len(betas) > 1)):
        which = " and ".join(names)
        corrected = compute(replace(step, arithmetic=NoCorrection(*names)))
        text = f"{{side}} does not correct the moments for their start at 0 ({which})"
        yield Alternative("no-bias-correction", text, "bias-correction-in-float32", corrected)
        mirrored = changed(
            step.optimizer, **{name: 1 - getattr(step.optimizer, name) for name in names}
        )
        if mirrored is not None:
            values = ", ".join(f"{name} = {getattr(mirrored, name):.4g}" for name in names)
            text = f"{{side}} keeps 1 minus the recipe's share: {values}"
            yield Alternative(
                "momentum-complement", text, "", compute(replace(step, optimizer=mirrored))
            )


def _rates(side: Side, step: Step) -> Iterator[Alternative]:
    """The rate as it is applied, where the one that is reported is right."""
    for offset, word in ((-1, "before"), (1, "after")):
        rates = {
            k: rate for k in step.rates if (rate := side.rate(step.names[k], offset)) is not None
        }
        if len(rates) == len(step.rates):
            text = (
                f"{{side}} applies the learning rate of the update {word} this one, and reports "
                "the right one"
            )
            found = compute(replace(step, rates=rates))
            yield Alternative("lr-not-applied", text, "last-lr-is-the-next-lr", found)
    recipe = side.recipe
    fixed = {1.0: "1"} | (
        {recipe.schedule.peak: "the schedule's peak"}
        if recipe and side.declares("schedule")
        else {}
    )
    for rate, told in fixed.items():
        text = f"{{side}} applies the learning rate {told} ({rate:.4g}), not the scheduled one"
        found = compute(replace(step, rates=dict.fromkeys(step.rates, rate)))
        yield Alternative("lr-not-applied", text, "", found)
    factors = step.optimizer.multipliers
    if factors and all(factors):
        rates = {
            name: rate / factors[layer_of(step.names[name]) - 1]
            for name, rate in step.rates.items()
        }
        text = "{side} leaves out the multipliers of the layers' learning rates"
        yield Alternative("lr-not-applied", text, "", compute(replace(step, rates=rates)))
    against = {name: -rate for name, rate in step.rates.items()}
    yield Alternative(
        "ascent",
        "{side} climbs: its step has the wrong sign",
        "",
        compute(replace(step, rates=against)),
    )
    turned = {name: -gradient for name, gradient in step.gradients.items()}
    text = "{side} gives the optimizer the gradient with the wrong sign"
    yield Alternative("ascent", text, "", compute(replace(step, gradients=turned)))


def _knobs(step: Step) -> Iterator[Alternative]:
    """Flags and words of the recipe's optimizer."""
    mine = step.optimizer
    knobs = [knob for knob in mine.knobs() if knob != "weight_decay"]
    yield from other_choices(
        "optimizer", mine, knobs, lambda other: attempt(replace(step, optimizer=other))
    )
    dampening = mine.get("dampening")
    if dampening and step.count == 0:
        damped = {name: (1 - dampening) * gradient for name, gradient in step.gradients.items()}
        text = "{side} dampens the first gradient too"
        page = "dampening-spares-the-first-step"
        yield Alternative("dampening", text, page, compute(replace(step, gradients=damped)))


def _gradients(side: Side, step: Step) -> Iterator[Alternative]:
    """Another gradient than the one that was recorded."""
    raw, before = side.detail("gradients"), side.detail("clip", side.update - 1)
    before = before or side.detail("gradients", side.update - 1)
    if side.detail("clip") and raw.keys() >= step.gradients.keys():
        text = "{side} gives the optimizer the gradient as it was before clipping"
        yield Alternative("clip-missing", text, "", compute(replace(step, gradients=raw)))
    if before.keys() >= step.gradients.keys():
        text = "{side} gives the optimizer the gradient of the update before"
        yield Alternative(
            "gradient-stale", text, "forgotten-zero-grad", compute(replace(step, gradients=before))
        )
        both = {name: step.gradients[name] + before[name] for name in step.gradients}
        text = "{side} gives the optimizer this gradient plus that of the update before"
        yield Alternative(
            "gradient-stale", text, "forgotten-zero-grad", compute(replace(step, gradients=both))
        )


def _untouched(found: Tensors, step: Step) -> Iterator[Alternative]:
    """Some parameters that did not move."""
    still = [name for name in step.parameters if not found.get(f"update/{name}", np.ones(1)).any()]
    if still and len(still) < len(step.parameters):
        tensors = compute(step)
        kept = {k: v for k, v in tensors.items() if k.startswith("update/")}
        kept |= {f"update/{name}": np.zeros_like(step.parameters[name]) for name in still}
        text = f"{{side}} does not train {', '.join(still)}"
        yield Alternative("update-skipped", text, "parameters-without-gradient", kept)


def _rounded(step: Step) -> Iterator[Alternative]:
    """Moments kept in fewer bits."""
    tensors = compute(step)
    for name in ("float32", "float16", "bfloat16"):
        low = {
            k: rounded_to(name, v) if k.startswith("moments/") else v for k, v in tensors.items()
        }
        yield Alternative("moments-rounded", f"{{side}} keeps its moments in {name}", "", low)


def _optimizers(step: Step) -> Iterator[Alternative]:
    """Other optimizers, with the recipe's knobs or their own."""
    mine = step.optimizer
    rest = {"decay_on": mine.decay_on, "multipliers": mine.multipliers}
    for name, kind in Optimizer.variants.items():
        kept = {knob: getattr(mine, knob) for knob in kind.knobs() if hasattr(mine, knob)}
        for values in (kept, {}) if name != mine.name else ():
            other = made(kind, **rest, **values)
            tensors = None if other is None else attempt(replace(step, optimizer=other))
            if tensors is not None:
                text = f"{{side}} updates by {name}; the recipe says {mine.name}"
                yield Alternative("other-optimizer", text, "", tensors, rank=1)


def _fits(step: Step, found: Tensors) -> Iterator[Alternative]:
    """The numbers of the optimizer, then factors on the rate and on the gradient."""
    mine = step.optimizer
    yield from fitted_knobs(
        "optimizer", mine, list(mine.knobs()),
        lambda other: attempt(replace(step, optimizer=other)), found,
    )  # fmt: skip

    def with_number(make: Callable[[float], Step]) -> Callable[[float], Tensors | None]:
        return lambda value: attempt(make(value))

    if mine.spec.decoupled:
        text = (
            "{side} adds a weight decay of {value} to the gradient (L2); the recipe has it "
            "decoupled"
        )
        l2 = with_number(lambda wd: _with_l2(*_undecayed(step, wd)))
        yield from fitted("l2-for-decoupled", text, PAGE, l2, found, mine.decay_rate, (0.0, 1e3))
    elif mine.get("weight_decay") is not None:
        text = "{side} decays the parameters themselves by {value} (decoupled); the recipe has L2"
        apart = with_number(
            lambda wd: replace(_undecayed(step, wd)[0], decay=_undecayed(step, wd)[1])
        )
        yield from fitted("decoupled-for-l2", text, PAGE, apart, found, 0.0, (0.0, 1e3))
    text = "{side}'s step is {value} times what the learning rate that it reports gives"
    scaled = with_number(
        lambda c: replace(step, rates={name: c * rate for name, rate in step.rates.items()})
    )
    yield from fitted("lr-not-applied", text, "", scaled, found, 1.0, (-1e6, 1e6))
    text = "{side} gives the optimizer {value} times the gradient"
    scaled = with_number(
        lambda c: replace(step, gradients={name: c * g for name, g in step.gradients.items()})
    )
    yield from fitted("gradient-scaled", text, "", scaled, found, 1.0, (-1e6, 1e6))
