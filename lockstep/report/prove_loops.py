"""The proof of own loops as lines and tables, for the terminal and for the page."""

from collections.abc import Iterator, Sequence

from rich.console import Console

from lockstep.diagnose.compare import STAGES
from lockstep.printable import printable
from lockstep.studies.prove.own_loops.faults import BASES
from lockstep.studies.prove.own_loops.run import LoopOutcome, LoopProof, PairOutcome

__all__ = ["loop_section", "print_loop_proof", "summarise_loops"]


def print_loop_proof(proof: LoopProof, console: Console) -> None:
    """Print what is missed of the faults in own loops, then the sums."""
    for line in (*_missed_faults(proof), *_bad_pairs(proof)):
        console.print(printable(line), soft_wrap=True, style="red")
    for line in summarise_loops(proof):
        console.print(printable(line), soft_wrap=True, style="bold")


def summarise_loops(proof: LoopProof) -> list[str]:
    """The sums, a line for the faults and one for the other pairs."""
    lines = []
    outcomes = proof.outcomes
    if outcomes:
        keys = {outcome.fault.key for outcome in outcomes}
        placed = sum(outcome.is_placed for outcome in outcomes)
        nameless = sum(not outcome.fault.cause for outcome in outcomes)
        named = sum(outcome.is_named and bool(outcome.fault.cause) for outcome in outcomes)
        wrong = sum(bool(outcome.wrong_causes) for outcome in outcomes)
        lines.append(
            f"{len(keys)} faults planted {len(outcomes)} times in own loops: {placed} at their "
            f"update and stage, {named} with their cause"
            + (f", {nameless} known to be placed without one" if nameless else "")
            + f"; {wrong} with a wrong cause"
        )
    if proof.pairs:
        right = [pair for pair in proof.pairs if not pair.pair.odd]
        odd = [pair for pair in proof.pairs if pair.pair.odd]
        alarms = sum(pair.is_alarm for pair in right)
        caught = len(odd) - sum(pair.is_missed for pair in odd)
        wrong = sum(pair.is_named_wrongly for pair in proof.pairs)
        lines.append(
            f"{len(right)} right pairs of own loops: {alarms} false alarms; {len(odd)} with a "
            f"fault that has no name: {caught} caught; {wrong} of all {len(proof.pairs)} with a "
            "cause"
        )
    return lines


def loop_section(proof: LoopProof) -> list[str]:
    """The page's section: the table by stage and model, the faults, and what is missed."""
    lines = [
        "",
        "## Planted in own loops",
        "",
        "Small models as people write them, each trained by a loop of its own and recorded by "
        "`lockstep.Recorder`: a transformer with learned positions, LayerNorm, GELU and a tied "
        "head; one with rotary positions, RMSNorm and SwiGLU; a perceptron with LayerNorm; a "
        "convolutional net with BatchNorm; an LSTM and a GRU. A fault is planted in one side of "
        "two that are equal otherwise; the sides, the models and the precisions (float32, float64, "
        "and float32 under autocast to bfloat16) take turns over the faults. Nothing is declared, "
        "and no oracle judges. *placed* counts the pairs that are said to part at the fault's "
        "update and stage, *named* those of which its cause is said, and no other beside it that "
        "is not true. A fault whose cause is *none* is one that the diagnosis places and cannot "
        "name so far.",
        "",
        *_by_stage_and_model(proof.outcomes),
        "",
        "| fault | what is wrong | first at | cause | models | placed | named |",
        "|---|---|---|---|---|---|---|",
    ]
    for outcomes in _by_key(proof.outcomes):
        fault = outcomes[0].fault
        models = ", ".join(dict.fromkeys(outcome.fault.model for outcome in outcomes))
        place = f"{fault.update} {' or '.join(fault.stages)}"
        causes = [_code(fault.cause), _code(fault.mirrored)]
        cause = " or ".join(filter(None, causes)) or "none"
        placed = sum(outcome.is_placed for outcome in outcomes)
        named = sum(outcome.is_named for outcome in outcomes)
        names = f"{named} of {len(outcomes)}" if fault.cause else "-"
        counts = f"{placed} of {len(outcomes)} | {names}"
        lines.append(f"| `{fault.key}` | {fault.text} | {place} | {cause} | {models} | {counts} |")
    missed = [*_missed_faults(proof), *_bad_pairs(proof)]
    if missed:
        lines += ["", "Missed:", "", *(f"- {line}" for line in missed)]
    return lines


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


def _by_stage_and_model(outcomes: Sequence[LoopOutcome]) -> list[str]:
    """A row for each stage, a column for each model: how many are placed and named of how many."""
    lines = [f"| stage | {' | '.join(BASES)} |", f"|---|{'---|' * len(BASES)}"]
    for stage in STAGES:
        cells = []
        for model in BASES:
            mine = [
                outcome
                for outcome in outcomes
                if outcome.fault.model == model and outcome.fault.stages[0] == stage
            ]
            placed = sum(outcome.is_placed for outcome in mine)
            named = sum(outcome.is_named and bool(outcome.fault.cause) for outcome in mine)
            cells.append(f"{placed} placed, {named} named of {len(mine)}" if mine else "")
        if any(cells):
            lines.append(f"| {stage} | {' | '.join(cells)} |")
    return lines


def _by_key(outcomes: Sequence[LoopOutcome]) -> list[list[LoopOutcome]]:
    by_key: dict[str, list[LoopOutcome]] = {}
    for outcome in outcomes:
        by_key.setdefault(outcome.fault.key, []).append(outcome)
    return list(by_key.values())


def _missed_faults(proof: LoopProof) -> Iterator[str]:
    """A line for each fault that is not placed or not named."""
    for outcome in proof.outcomes:
        if outcome.is_placed and outcome.is_named:
            continue
        fault, answer = outcome.fault, outcome.answer
        place = f"{answer.update} {answer.stage}" if answer.stage else answer.verdict
        cause = fault.cause_in(outcome.side) or "no cause"
        expected = f"{fault.update} {' or '.join(fault.stages)}, {cause}"
        causes = ", ".join(answer.causes) or "; ".join(answer.texts) or "no cause"
        yield f"{fault.name}, in {outcome.side}: {place}, {causes}; not {expected}"


def _bad_pairs(proof: LoopProof) -> Iterator[str]:
    """A line for each other pair of which something wrong is said."""
    for outcome in proof.pairs:
        words = [
            "called wrong" if outcome.is_alarm else "",
            "not caught" if outcome.is_missed else "",
            "with a cause" if outcome.is_named_wrongly else "",
        ]
        if any(words):
            yield _bad_pair(outcome, ", ".join(filter(None, words)))


def _bad_pair(outcome: PairOutcome, what: str) -> str:
    answer = outcome.answer
    place = f"update {answer.update}, {answer.stage}" if answer.stage else answer.verdict
    return f"{outcome.pair.name}: {what}: {place}; {'; '.join(answer.texts) or 'no cause'}"
