"""What the order of first differences hints at: the rate, the gradient or the loss parts first."""

from collections.abc import Mapping, Sequence

from lockstep.diagnose.logs.align import SeriesPair
from lockstep.diagnose.logs.relations import Relation
from lockstep.logs.column_names import LOSS, NORM, RATE

__all__ = ["hints_of"]


def hints_of(parted: Mapping[str, Relation | None], pairs: Sequence[SeriesPair]) -> list[str]:
    """Hints at the stage, which say no more than the order of the numbers does.

    Args:
        parted: the quantities that part, with how they are related.
        pairs: all quantities.
    """
    shared = {pair.name: pair for pair in pairs}
    hints = [_factor_hint(parted, shared)]
    first: dict[str, int] = {}
    for name in (RATE, NORM, LOSS):
        # a loss that is off by one factor throughout parts from no step on
        if name in parted and (name == RATE or not _is_throughout(parted[name])):
            first[name] = _step(shared[name])
    earliest = min(first.values(), default=0)
    if first.get(RATE) == earliest:
        hints.append(_rate_hint(earliest, [first[name] for name in (NORM, LOSS) if name in first]))
    elif first.get(LOSS) == earliest:
        hints.append(_loss_hint(earliest, shared))
    elif first.get(NORM) == earliest:
        hints.append(_norm_hint(earliest, LOSS in parted, shared))
    return [hint for hint in hints if hint]


def _is_throughout(relation: Relation | None) -> bool:
    """Whether a relation without a beginning turns one side's numbers into the other's."""
    return relation is not None and relation.since is None


def _factor_hint(parted: Mapping[str, Relation | None], shared: Mapping[str, SeriesPair]) -> str:
    """What a factor of the loss throughout says beside the gradients' norms."""
    loss, norm = parted.get(LOSS), parted.get(NORM)
    if loss is None or loss.kind != "factor" or not _is_throughout(loss) or NORM not in shared:
        return ""
    if shared[NORM].first is None:
        return (
            "the gradients' norms agree, so that the factor is in the loss that is logged and not "
            "in the one that is trained"
        )
    if norm is not None and norm.kind == "factor" and norm.value == loss.value:
        return "loss and gradients' norms have one factor: the loss that is trained has it"
    return ""


def _step(pair: SeriesPair) -> int:
    place = pair.first
    assert place is not None
    return int(pair.a.steps_N[place])


def _rate_hint(rate: int, others: Sequence[int]) -> str:
    if others and min(others) == rate:
        return (
            f"the rate parts at step {rate}, and what else is logged parts there too: an update by "
            "another rate shows in the loss of the next step, so that there may be two causes"
        )
    later = "what parts later may follow from it" if others else "nothing else parts"
    return f"the rate parts first, at step {rate}: look at the schedule first; {later}"


def _loss_hint(step: int, shared: Mapping[str, SeriesPair]) -> str:
    pair = shared[LOSS]
    if pair.first == 0:
        is_start = step <= 1 and step == min(pair.all_a.steps_N[0], pair.all_b.steps_N[0])
        if not is_start:
            return f"step {step} is the first that both have; what came before is not in the logs"
        return (
            "the loss parts at the first step, before updates can have parted: look first at the "
            "initial parameters, at the batch and at how the loss is computed"
        )
    before = int(pair.a.steps_N[(pair.first or 1) - 1])
    agree = [name for name in (RATE, NORM) if _agrees_until(shared.get(name), step)]
    words = {RATE: "the rates", NORM: "the gradients' norms"}
    also = f", and so do {' and '.join(words[name] for name in agree)}" if agree else ""
    between = (
        f"the update of step {before}"
        if step == before + 1
        else (f"an update between the steps {before} and {step}")
    )
    return (
        f"the losses agree up to step {before}{also}: look at {between} (clipping, optimizer, "
        f"weight decay) and at the batch of step {step}"
    )


def _agrees_until(pair: SeriesPair | None, step: int) -> bool:
    """Whether a quantity is logged before a step, and agrees until then."""
    if pair is None or not pair.steps or pair.a.steps_N[0] >= step:
        return False
    return pair.first is None or _step(pair) >= step


def _norm_hint(norm: int, loss_parts: bool, shared: Mapping[str, SeriesPair]) -> str:
    if not loss_parts and LOSS in shared:
        return (
            f"the gradients' norms part at step {norm}, and the losses never do: the norm may be "
            "taken elsewhere on one side (before or after clipping, of other parameters)"
        )
    if not _agrees_until(shared.get(LOSS), norm + 1):
        return ""
    return (
        f"at step {norm} the losses agree and the gradients' norms do not: look at the backward "
        "pass, at accumulation, and at where the norm is taken"
    )
