"""What was done to two logs, and what one must know of them."""

from collections.abc import Iterator, Sequence

from lockstep.diagnose.logs.align import SeriesPair
from lockstep.logs.column_names import LOSS
from lockstep.logs.json_table import TRAINER
from lockstep.logs.log import Log

__all__ = ["remarks_on"]

SPARSE = 0.5
"""Share of the shorter log's steps below which a remark says how few are common."""
NAMED = 4
"""Quantities that a remark names."""


def remarks_on(a: Log, b: Log, pairs: Sequence[SeriesPair], offset: int) -> list[str]:
    """What was done to the logs, what is in one of them alone, and what their steps are.

    Args:
        a: one log.
        b: the other.
        pairs: the quantities that both have, aligned.
        offset: what was added to b's steps to make them a's.
    """
    remarks = [f"{side}: {note}" for side, log in (("a", a), ("b", b)) for note in log.notes]
    remarks += _on_steps(pairs, offset)
    for pair in pairs:
        for side, numbers in (("a", pair.all_a), ("b", pair.all_b)):
            if numbers.column != pair.name:
                remarks.append(f"{pair.name}: {side}'s {numbers.column!r}")
    for side, log, other in (("a", a, b), ("b", b, a)):
        alone = [name for name in log.series if name not in other.series]
        if alone:
            more = f" and {len(alone) - NAMED} more" if len(alone) > NAMED else ""
            remarks.append(f"{side} alone has {', '.join(alone[:NAMED])}{more}")
    loss = next((pair for pair in pairs if pair.name == LOSS), None)
    if loss is not None:
        for side, log, numbers in (("a", a, loss.all_a), ("b", b, loss.all_b)):
            if log.kind == TRAINER and numbers.interval > 1:
                remarks.append(
                    f"{side}: Hugging Face's Trainer logs the mean of the losses since its last "
                    f"entry, here of {numbers.interval} steps"
                )
    return remarks


def _on_steps(pairs: Sequence[SeriesPair], offset: int) -> Iterator[str]:
    """How steps are counted, how many are common, and where each log ends."""
    if offset:
        ahead, behind = ("a", "b") if offset > 0 else ("b", "a")
        sign = "+" if offset > 0 else "-"
        yield f"{ahead} counts its steps one higher than {behind}: b's step s is a's s {sign} 1"
    for pair in pairs:
        fewest = min(len(pair.all_a.steps_N), len(pair.all_b.steps_N))
        if pair.steps < SPARSE * fewest:
            yield f"{pair.name}: {pair.steps} of {fewest} steps are common to both"
    last_a = max((int(pair.all_a.steps_N[-1]) for pair in pairs), default=0)
    last_b = max((int(pair.all_b.steps_N[-1]) for pair in pairs), default=0)
    if last_a != last_b:
        yield f"a ends at step {last_a}, b at step {last_b}, in a's numbers"
