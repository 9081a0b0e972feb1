"""Where the settings of two optimizers differ, each measured from its own side's steps."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from lockstep.diagnose.local.corrections import NUMBERS
from lockstep.diagnose.local.difference import SURE
from lockstep.diagnose.local.least_squares import Estimate, pooled
from lockstep.diagnose.local.measurement import Measurement
from lockstep.diagnose.local.readings import Steps
from lockstep.diagnose.local.slot_fits import is_unlike
from lockstep.diagnose.local.steps import StepsOfSide
from lockstep.records.trace import Trace

__all__ = ["StepDifference", "compare_steps"]

MOST_UPDATES = 8
PAGES = {
    "weight decay": "adamw-default-weight-decay",
    "weight decay in the gradient": "adamw-default-weight-decay",
    "decay": "rmsprop-decay",
    "dampening": "dampening-spares-the-first-step",
    "nesterov": "nesterov-needs-its-flag",
    "amsgrad": "amsgrad-of-which-moment",
    "eps in the root": "rmsprop-eps-in-the-root",
    "bias correction": "adam-without-its-correction",
}
MASK = "decay-mask-forgotten"
FORMS = "l2-is-not-decoupled-decay"
CORRECTS = {
    1.0: "corrects both moments for their start at 0",
    0.0: "does not correct its moments for their start at 0",
    2.0: "corrects the first moment alone for its start at 0",
    3.0: "corrects the second moment alone for its start at 0",
}
"""Number that stands for a bias correction -> what a side does."""
ORDER = (
    "optimizer",
    "gradient sign",
    "clip norm",
    "beta1",
    "beta2",
    "decay",
    "momentum",
    "dampening",
    "weight decay in the gradient",
    "amsgrad",
    "bias correction",
    "nesterov",
    "eps in the root",
    "eps",
    "learning rate",
    "weight decay",
)
"""Quantities, causes first."""
OF_ALL_UPDATES = ("optimizer", "bias correction")
"""Quantities that are not another at one update alone."""
SAME = 1e-7
"""Settings that differ by so little of their values are one: nobody writes so many digits."""
NORMS = 1e-4
ADDED = 1e-6
"""Relative distance of two norms that are one, and what PyTorch adds to a norm."""
RATE_FLOOR = 8.0
"""Units by which a rate may be off, of the largest: a schedule in float32 cancels."""


class StepDifference(NamedTuple):
    """A setting that differs.

    Attributes:
        a: as one side's tensors give it, at the first update that shows the difference.
        b: the other's.
        tensors: the parameters that it holds for; empty for all.
        updates: the updates that show it.
        persists: whether no later update contradicts it. Where it is False, it is a matter of these
            updates alone.
        text: a line that says it, of "a" and "b".
        page: the atlas page, or "".
    """

    a: Measurement
    b: Measurement
    tensors: tuple[str, ...]
    updates: tuple[int, ...]
    persists: bool
    text: str
    page: str


class _Gap(NamedTuple):
    """A number of one update that the two sides do not share."""

    update: int
    quantity: str
    tensors: tuple[str, ...]
    a: Estimate
    b: Estimate
    text: str
    page: str
    where: str = ""


def compare_steps(a: Trace, b: Trace) -> list[StepDifference]:
    """The settings of the optimizer that two loops do not share, in the order of their causes.

    Each side is measured by itself, from gradients, moments and parameters that it recorded, so
    that gradients which differ by noise do not matter. Two values differ where they are further
    apart than 8 of their standard errors.

    Args:
        a: a loop's trace.
        b: another's, in the names and layouts of `a`.
    """
    side_a = StepsOfSide(a)
    side_b = StepsOfSide(b)
    gaps: dict[tuple[str, str], list[_Gap]] = {}
    measured: list[tuple[Steps, Steps]] = []
    for update in _chosen([u for u in side_a.updates if u in set(side_b.updates)]):
        steps_a, steps_b = side_a.at(update), side_b.at(update)
        if steps_a is None or steps_b is None:
            continue
        if _are_ambiguous(side_a, side_b, steps_a, steps_b):
            continue
        measured.append((steps_a, steps_b))
        for gap in _gaps(steps_a, steps_b):
            gaps.setdefault((gap.quantity, gap.where), []).append(gap)
    differences = [_difference(series, measured) for series in gaps.values()]
    differences = [d for d in differences if d.persists or d.a.quantity not in OF_ALL_UPDATES]
    return sorted(differences, key=lambda d: (d.updates[0], ORDER.index(d.a.quantity)))


def _are_ambiguous(side_a: StepsOfSide, side_b: StepsOfSide, a: Steps, b: Steps) -> bool:
    """Whether two rules differ although one side may go by either."""
    if a.rule == b.rule:
        return False
    return side_a.is_explained(a.update, b.rule) or side_b.is_explained(b.update, a.rule)


def _chosen(updates: Sequence[int]) -> list[int]:
    """The first updates and some of the rest."""
    if len(updates) <= MOST_UPDATES:
        return list(updates)
    places = np.unique(np.geomspace(1, len(updates), MOST_UPDATES).astype(int) - 1)
    return [updates[place] for place in places]


def _difference(series: Sequence[_Gap], measured: Sequence[tuple[Steps, Steps]]) -> StepDifference:
    """The gaps of one quantity over the updates."""
    first = series[0]
    sharpest = first
    if first.quantity != "learning rate":  # which differs from update to update
        sharpest = min(series, key=lambda gap: gap.a.error + gap.b.error)
    updates = tuple(gap.update for gap in series)
    later = [a.update for a, b in measured if a.update >= first.update]
    persists = set(later) <= set(updates) or len(updates) > len(later) / 2
    text = sharpest.text
    if not persists:
        text += f", at update {', '.join(map(str, updates))} alone"
    tensors = tuple(sorted({name for gap in series for name in gap.tensors}))
    tensor = tensors[0] if len(tensors) == 1 else ""
    stage = "clip" if first.quantity == "clip norm" else "update"
    sides = [
        Measurement(stage, tensor, first.update, first.quantity, side.value, side.error, first.page)
        for side in (sharpest.a, sharpest.b)
    ]
    return StepDifference(sides[0], sides[1], tensors, updates, persists, text, first.page)


def _gaps(a: Steps, b: Steps) -> Iterator[_Gap]:
    """All that differs at one update."""
    if a.rule != b.rule:
        if "normalised" not in (a.rule, b.rule):
            text = f"a updates by {a.rule}, b by {b.rule}"
            none = Estimate(0.0, 0.0)
            yield _Gap(a.update, "optimizer", (), none, none, text, "")
        return
    yield from _clip_gaps(a, b)
    is_other_correction = False
    for quantity, mine, its in _numbers(a, b):
        if not is_unlike(_minus(mine, its)):
            continue
        if quantity == "eps" and (is_other_correction or _are_other_eps(a, b)):
            continue
        is_other_correction |= quantity == "bias correction"
        text = _words(quantity, mine, its)
        yield _Gap(a.update, quantity, (), mine, its, text, PAGES.get(quantity, ""))
    if not is_other_correction:
        reports = _reports(a, b)
        for gap in _tensor_gaps(a, "learning rate", _rates(a, b)):
            yield gap._replace(text=gap.text + reports)
    yield from _decay_gaps(a, b)


def _are_other_eps(a: Steps, b: Steps) -> bool:
    """Whether one eps is in the root and the other outside: their values are of two kinds."""
    name = "eps in the root"
    return name in a.numbers and name in b.numbers and a.numbers[name] != b.numbers[name]


def _numbers(a: Steps, b: Steps) -> Iterator[tuple[str, Estimate, Estimate]]:
    """The numbers that both sides have, and a bias correction that only a comparison tells."""
    kinds = None
    if "bias correction" not in a.numbers or "bias correction" not in b.numbers:
        kinds = _unlike_corrections(a, b)
    if kinds is not None:
        mine, its = (Estimate(NUMBERS[kind], 0.0) for kind in kinds)
        yield "bias correction", mine, its
    for quantity in sorted(a.numbers.keys() & b.numbers.keys(), key=ORDER.index):
        yield quantity, a.numbers[quantity], b.numbers[quantity]


def _unlike_corrections(a: Steps, b: Steps) -> tuple[str, str] | None:
    """Kinds of bias correction that give both sides one learning rate, where the same kind does not
    and neither side's recorded rate tells; one of them is the usual kind.
    """
    if a.factors.keys() != b.factors.keys() or "corrected" not in a.factors:
        return None
    if a.recorded and b.recorded:
        return None
    length_a, length_b = pooled(list(a.lengths.values())), pooled(list(b.lengths.values()))
    usual = "corrected"

    def agree(kind_a: str, kind_b: str) -> bool:
        if not a.factors[kind_a] or not b.factors[kind_b]:
            return False
        rate_a = length_a.times(1 / a.factors[kind_a])
        rate_b = length_b.times(1 / b.factors[kind_b])
        return all(map(math.isfinite, (*rate_a, *rate_b))) and not is_unlike(_minus(rate_a, rate_b))

    if agree(usual, usual):
        return None
    pairs = [(usual, kind) for kind in a.factors] + [(kind, usual) for kind in a.factors]
    fitting = [pair for pair in pairs if agree(*pair)]
    return fitting[0] if len(fitting) == 1 else None


def _clip_gaps(a: Steps, b: Steps) -> Iterator[_Gap]:
    """The norm to which a gradient is clipped, or the sign that it is given."""
    if a.scale is None or b.scale is None or a.norm is None or b.norm is None:
        return
    if not is_unlike(_minus(a.scale, b.scale)) or not all((a.scale.value, b.scale.value)):
        return
    if a.scale.value * b.scale.value < 0:
        side = "a" if a.scale.value < 0 else "b"
        text = f"{side} gives its optimizer the gradient with the other sign: it climbs"
        yield _Gap(a.update, "gradient sign", (), a.scale, b.scale, text, "")
        return
    norms = [
        Estimate(abs(side.scale.value) * side.norm, 0.0, side.norm * side.scale.error)
        for side in (a, b)
        if side.scale and side.norm
    ]
    is_clipped = [not _is_power_of_2(side) for side in (a.scale, b.scale)]
    apart = abs(norms[0].value - norms[1].value)
    near = NORMS * max(norms[0].value, norms[1].value) + 2 * ADDED
    if not any(is_clipped) or apart <= near:
        return
    if all(is_clipped):
        text = f"a clips its gradient to the norm {norms[0].value:.4g}, b to {norms[1].value:.4g}"
    else:
        clips, other = ("a", "b") if is_clipped[0] else ("b", "a")
        bound, free = norms if is_clipped[0] else norms[::-1]
        if free.value < bound.value:
            return
        text = (
            f"{clips} clips its gradient to the norm {bound.value:.4g}, {other} does not clip its "
            f"gradient of norm {free.value:.4g}"
        )
    yield _Gap(a.update, "clip norm", (), norms[0], norms[1], text, "")


def _is_power_of_2(scale: Estimate) -> bool:
    """Whether a factor is 1, or a loss scale that is divided out."""
    nearest = 2.0 ** round(math.log2(abs(scale.value)))
    gap = Estimate(abs(scale.value), scale.spread, scale.floor + 1e-6 * nearest)
    return not is_unlike(gap, nearest)


Pairs = dict[str, tuple[Estimate, Estimate]]
"""Parameter -> what it is on either side."""


def _rates(a: Steps, b: Steps) -> Pairs:
    """The learning rates, which a schedule in float32 may miss by roundings of the largest."""
    largest = max([abs(rate) for rate in (*a.recorded, *b.recorded)], default=0.0)
    floor = RATE_FLOOR * 2.0**-24 * largest
    rates_a, rates_b = a.rates, b.rates
    if not (rates_a and rates_b) and _have_one_correction(a, b):
        factor = a.factors["corrected"]
        rates_a, rates_b = (
            {name: length.times(1 / factor) for name, length in side.lengths.items()}
            for side in (a, b)
        )
    return {
        name: (rate.with_floor(floor), rates_b[name].with_floor(floor))
        for name, rate in rates_a.items()
        if name in rates_b
    }


def _have_one_correction(a: Steps, b: Steps) -> bool:
    """Whether the lengths of both sides' steps are learning rates up to one factor."""
    if not (a.is_one_length and b.is_one_length and a.factors.get("corrected")):
        return False
    betas = [
        not is_unlike(_minus(a.numbers[name], b.numbers[name]))
        for name in ("beta1", "beta2")
        if name in a.numbers and name in b.numbers
    ]
    known = [
        side.numbers["bias correction"].value
        for side in (a, b)
        if "bias correction" in side.numbers
    ]
    return all(betas) and 0.0 not in known and a.factors.keys() == b.factors.keys()


def _reports(a: Steps, b: Steps) -> str:
    """What the loops say of a rate that only one of them applies."""
    if not a.recorded or list(a.recorded) != list(b.recorded):
        return ""
    return f", though both report {', '.join(f'{rate:.4g}' for rate in a.recorded)}"


def _tensor_gaps(a: Steps, quantity: str, pairs: Pairs) -> Iterator[_Gap]:
    """The differences of a quantity that each parameter has of its own, put together where both
    values are the same.
    """
    apart = {name: pair for name, pair in pairs.items() if is_unlike(_minus(*pair))}
    while apart:
        name, (mine, its) = min(apart.items(), key=lambda item: item[1][0].error)
        alike = [
            other
            for other, pair in apart.items()
            if not is_unlike(_minus(pair[0], mine)) and not is_unlike(_minus(pair[1], its))
        ]
        names = list(dict.fromkeys([name, *alike]))
        mean_a = pooled([apart[name][0] for name in names])
        mean_b = pooled([apart[name][1] for name in names])
        told = [name for name, pair in pairs.items() if _would_tell(pair, mean_a, mean_b)]
        whole = set(told) <= set(names)
        tensors = () if whole else tuple(sorted(names))
        where = "" if whole else _of(tensors, told, a.ndims)
        text = _words(quantity, mean_a, mean_b) + where
        page = PAGES.get(quantity, "")
        is_mask = bool(where) and not (is_unlike(mean_a) and is_unlike(mean_b))
        if is_mask and quantity != "learning rate":
            text, page = _of_mask(mean_a, mean_b, where, _decaying(pairs, names)), MASK
        yield _Gap(a.update, quantity, tensors, mean_a, mean_b, text, page, where)
        for name in names:
            del apart[name]


def _decaying(pairs: Pairs, apart: Sequence[str]) -> bool:
    """Whether other parameters decay on both sides."""
    return any(
        is_unlike(mine) and is_unlike(its)
        for name, (mine, its) in pairs.items()
        if name not in apart
    )


def _of_mask(a: Estimate, b: Estimate, where: str, others_decay: bool) -> str:
    """That one side leaves some parameters out of its decay."""
    decaying, bare = ("a", "b") if is_unlike(a) else ("b", "a")
    whose = where.removeprefix(" (of ").removesuffix(")")
    also = " as well" if others_decay else ""
    value = _number(a if decaying == "a" else b)
    return f"{decaying} decays {whose}{also} by {value}, {bare} leaves them out"


def _would_tell(pair: tuple[Estimate, Estimate], mine: Estimate, its: Estimate) -> bool:
    """Whether a parameter would show such a difference."""
    error = math.hypot(pair[0].error, pair[1].error)
    return abs(mine.value - its.value) > SURE * error


def _of(tensors: Sequence[str], told: Sequence[str], ndims: Mapping[str, int]) -> str:
    """ " (of biases and norms)": which of the parameters that tell."""
    vectors = {name for name in told if ndims.get(name, 2) < 2}
    matrices = set(told) - vectors
    if set(tensors) == vectors:
        return " (of biases and norms)"
    if set(tensors) == matrices:
        return " (of the weights)"
    more = f" and {len(tensors) - 3} more" if len(tensors) > 3 else ""
    return f" (of {', '.join(tensors[:3])}{more})"


def _decay_gaps(a: Steps, b: Steps) -> Iterator[_Gap]:
    """Weight decay: another one, of other parameters, or in the gradient on one side."""
    inner = {name: (value, b.added[name]) for name, value in a.added.items() if name in b.added}
    outer = {name: (value, b.decays[name]) for name, value in a.decays.items() if name in b.decays}
    gaps_in = list(_tensor_gaps(a, "weight decay in the gradient", inner))
    gaps_out = list(_tensor_gaps(a, "weight decay", outer))
    for gap in gaps_in:
        partner = next((other for other in gaps_out if _are_swapped(gap, other)), None)
        if partner is None:
            yield gap
            continue
        gaps_out.remove(partner)
        l2, apart, in_gradient, decoupled = "a", "b", gap.a, partner.b
        if abs(gap.b.value) > abs(gap.a.value):
            l2, apart, in_gradient, decoupled = "b", "a", gap.b, partner.a
        text = (
            f"{l2} adds a weight decay of {_number(in_gradient)} to the gradient (L2), {apart} "
            f"decays the parameters themselves by {_number(decoupled)} (decoupled)"
        )
        yield gap._replace(text=text, page=FORMS)
    yield from gaps_out


def _are_swapped(inner: _Gap, outer: _Gap) -> bool:
    """Whether one side decays in the gradient alone, and the other the parameters alone."""
    values = [not is_unlike(side) for side in (inner.a, inner.b, outer.a, outer.b)]
    return values in ([False, True, True, False], [True, False, False, True])


def _minus(a: Estimate, b: Estimate) -> Estimate:
    floor = SAME * max(abs(a.value), abs(b.value))
    return Estimate(a.value - b.value, math.hypot(a.error, b.error, floor))


def _words(quantity: str, a: Estimate, b: Estimate) -> str:
    """ "weight decay 0.1 in a and 0.0001 in b"."""
    if quantity == "nesterov":
        side = "b" if b.value else "a"
        return f"{side} takes Nesterov's step, the other does not"
    if quantity == "eps in the root":
        inside, outside = ("b", "a") if b.value else ("a", "b")
        return f"{inside} adds eps inside the root of the second moment, {outside} outside"
    if quantity == "amsgrad":
        corrected, raw = ("b", "a") if b.value else ("a", "b")
        return (
            f"{raw} keeps the largest second moment as it is, {corrected} the largest corrected one"
        )
    if quantity == "bias correction":
        return f"a {CORRECTS[a.value]}, b {CORRECTS[b.value]}"
    text = f"{quantity} {_number(a)} in a and {_number(b)} in b"
    if quantity == "learning rate" and a.value and b.value:
        text += f", {b.value / a.value:.4g} times a's"
    return text


def _number(estimate: Estimate) -> str:
    """The value with the digits that its error leaves."""
    if abs(estimate.value) < 3 * estimate.error:
        return "0"
    digits = 4
    if estimate.error > 0:
        relative = abs(estimate.value) / estimate.error
        digits = min(max(int(math.log10(relative / 2)), 1), 4)
    return f"{estimate.value:.{digits}g}"
