"""The proof as tables in the terminal and in Markdown: faults that were planted, and right runs."""

import math
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from lockstep.backends import BACKENDS
from lockstep.diagnose.verdict import describe_difference
from lockstep.files.outputs import markdown
from lockstep.numbers import factor
from lockstep.printable import printable
from lockstep.report.package_versions import measured_with
from lockstep.report.prove_loops import loop_section, print_loop_proof, summarise_loops
from lockstep.studies.prove.checker_faults import CHECKER_FAULTS
from lockstep.studies.prove.false_alarms import RightRun
from lockstep.studies.prove.naive_rules import RULES
from lockstep.studies.prove.own_loops.run import LoopProof
from lockstep.studies.prove.prove_libraries import ENGINES, LibraryOutcome
from lockstep.studies.prove.run import Outcome, Proof

__all__ = ["PROOF", "print_proof", "print_right_runs", "proof_markdown", "summarise"]

PROOF = markdown(
    "lockstep prove", "# The proof that the checks can fail\n\nFaults planted on purpose, "
)
HEADERS = ("fault", "first at", "cause", *BACKENDS, "fast", "fooled")
LIBRARIES = {"torch": "PyTorch", "jax": "JAX, Flax and Optax"}
"""Twin -> the libraries that it uses."""
LISTED = 2
"""How many cases a cell lists; more are counted."""


def print_proof(proof: Proof, console: Console) -> None:
    """Print the tables of planted faults and of checker faults, then the sums."""
    if proof.outcomes:
        _print_outcomes(proof, console)
    if proof.libraries:
        table = _table("fault of a library", "function", *ENGINES, whole=ENGINES)
        for both in _by_library_fault(proof.libraries):
            cells = [both[0].fault.key, both[0].fault.function, *map(_place, both)]
            is_right = all(outcome.is_right for outcome in both)
            table.add_row(*map(printable, cells), style="" if is_right else "red")
        console.print(table)
    if proof.loops is not None:
        print_loop_proof(proof.loops, console)
    table = _table("fault of the checker", "exposed by")
    for key, cases in _checker_rows(proof):
        table.add_row(printable(key), printable(cases), style="" if cases else "red")
    console.print(table)
    for line in summarise(proof):
        console.print(printable(line), soft_wrap=True, style="bold")


def _print_outcomes(proof: Proof, console: Console) -> None:
    table = _table(*HEADERS, whole=("first at", "fooled"))
    for outcomes in _by_fault(proof.outcomes):
        is_right = all(outcome.is_located for outcome in outcomes)
        table.add_row(*map(printable, _row(outcomes)), style="" if is_right else "red")
    console.print(table)
    for i, rule in enumerate(RULES):
        console.print(f"fooled {_letter(i)}: {rule}")
    console.print()


def proof_markdown(proof: Proof) -> str:
    """The page: how to read it, and the tables."""
    lines = [
        "# The proof that the checks can fail",
        "",
        "Faults planted on purpose, each of which the diagnosis must catch and place. "
        "`lockstep prove` trains them all and prints this page's tables; it exits with 1 where one "
        "survives.",
        "",
        f"Measured with {measured_with()}.",
        "",
        *(f"- {line}" for line in summarise(proof)),
        *(f"- {line}" for line in summarise_loops(proof.loops or LoopProof(()))),
        "",
        *_twin_section(proof.outcomes),
        *_library_section(proof.libraries),
        *(loop_section(proof.loops) if proof.loops is not None else ()),
        *_checker_section(proof),
    ]
    return "\n".join(lines) + "\n"


def _twin_section(all_outcomes: Sequence[Outcome]) -> list[str]:
    lines = [
        "## Planted in a twin",
        "",
        "Each fault is planted in one twin at a time, which is then held against the other twin "
        "and the oracle, in float64. *first at* (the update, from 0; -1 is before training; and "
        "the stage) and *cause* say where and as what it must be found; *yes* says that it was, "
        "and that the right twin was named. What was found otherwise stands in its place. The two "
        "faults at a ReLU's kink are judged without the oracle, whose bounds let a ReLU fall on "
        "either side of it, and so without a side. The runs are those by which `lockstep run` "
        "judges what the frameworks do, with all detail: float64, by the plain engine. *fast*: a "
        "fault in what the twin is told or fed is planted in the fast engine too, whose float64 "
        "run is held against the oracle, as in `lockstep run`; the others are in code that the "
        "fast engine does not have.",
        "",
        "The causes that the diagnosis knows were written with these faults in view: the score "
        "says that none of them slips through, not how many other faults would be explained.",
        "",
        "The last columns are simple rules that other tools use, asked of the same fault's run in "
        "float32 (in PyTorch, or the one twin that it is planted in) against the oracle: x is a "
        "fault that the rule lets through.",
        "",
        f"| fault | what is wrong | {' | '.join([*HEADERS[1:-1], *RULES])} |",
        "|---|---|---|---|---|---|---|" + ":---:|" * len(RULES),
    ]
    for outcomes in _by_fault(all_outcomes):
        key, *cells, _ = _row(outcomes)
        fooled = [" x" if rule in _fooled(outcomes) else " " for rule in RULES]
        columns = [f"`{key}`", outcomes[0].fault.text, *cells, *fooled]
        lines.append(f"| {' | '.join(columns)} |")
    return lines


def _library_section(outcomes: Sequence[LibraryOutcome]) -> list[str]:
    if not outcomes:
        return []
    lines = [
        "",
        "## Planted in a library",
        "",
        "A function of PyTorch, JAX, Flax or Optax made wrong from outside, before the twin is "
        "imported, in a process of its own. Both engines then train in float64 as in "
        "`lockstep run`, and what they record is judged as there, against the oracle, each engine "
        "by itself. *plain* and *fast* say where the engine's run first leaves the oracle, in what "
        "a run records; *not reached* that the engine does not come by the function in this "
        "recipe: its run has the bits of one without the fault. Recipes are the planted faults' "
        "one, in the fields named.",
        "",
        "| fault | function | what it does | recipe | plain | fast |",
        "|---|---|---|---|---|---|",
    ]
    for both in _by_library_fault(outcomes):
        fault = both[0].fault
        fields = ", ".join(f"{name} {value}" for name, value in fault.recipe.items())
        cells = [f"`{fault.key}`", f"`{fault.function}`", fault.text, fields, *map(_place, both)]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _checker_section(proof: Proof) -> list[str]:
    lines = [
        "",
        "## Planted in the checker",
        "",
        "The comparison itself, made wrong in the usual ways. Each must get a case wrong whose "
        "answer is known: two traces of one run, the second edited.",
        "",
        "| fault | what is wrong | exposed by |",
        "|---|---|---|",
    ]
    texts = {fault.key: fault.text for fault in CHECKER_FAULTS}
    lines += [f"| `{key}` | {texts[key]} | {cases} |" for key, cases in _checker_rows(proof)]
    return lines


def _by_library_fault(outcomes: Sequence[LibraryOutcome]) -> list[list[LibraryOutcome]]:
    """The outcomes of each fault, in the order of `ENGINES`."""
    by_fault: dict[str, list[LibraryOutcome]] = {}
    for outcome in outcomes:
        by_fault.setdefault(outcome.fault.key, []).append(outcome)
    return list(by_fault.values())


def _place(outcome: LibraryOutcome) -> str:
    """Where the run first leaves the oracle, and where it should if that is elsewhere."""
    if outcome.error:
        return outcome.error
    if outcome.first is not None:
        place = f"{outcome.first.update} {outcome.first.stage}"
    else:
        place = "survives" if outcome.is_reached else "not reached"
    if outcome.is_right:
        return place
    expected = outcome.fault.places[outcome.engine]
    if expected is None:
        return f"{place}, not not reached"
    return f"{place}, not {expected.update} {expected.stage}"


def _summarise_libraries(outcomes: Sequence[LibraryOutcome]) -> list[str]:
    """A line for each twin's libraries: how many faults each engine reaches, and how many are
    caught.
    """
    lines = []
    for twin, libraries in LIBRARIES.items():
        mine = [outcome for outcome in outcomes if outcome.fault.twin == twin]
        parts = []
        for engine in ENGINES:
            reached = [
                outcome for outcome in mine if outcome.engine == engine and outcome.is_reached
            ]
            caught = sum(outcome.first is not None for outcome in reached)
            placed = sum(outcome.is_right for outcome in reached)
            parts.append(
                f"{len(reached)} reach the {engine} engine, {caught} caught, "
                f"{placed} at their place"
            )
        if mine:
            faults = len(mine) // len(ENGINES)
            lines.append(f"{faults} faults planted in {libraries}: {'; '.join(parts)}")
    return lines


def summarise(proof: Proof) -> list[str]:
    """The sums, a line each: what was caught, and what was let through."""
    lines = _summarise_outcomes(proof.outcomes) if proof.outcomes else []
    lines += _summarise_libraries(proof.libraries)
    exposed = sum(bool(cases) for _, cases in _checker_rows(proof))
    wrong = proof.checker[""]
    right_one = f"{len(wrong)} cases wrong: {'; '.join(wrong)}" if wrong else "every case right"
    lines.append(
        f"{len(CHECKER_FAULTS)} faults of the checker: {exposed} exposed; the right one gets "
        f"{right_one}"
    )
    equal = proof.unpatched - len(proof.alarms)
    unpatched = f"{proof.unpatched} recipes trained without a fault: {equal} equal in both twins"
    lines.append("; ".join([unpatched, *proof.alarms]))
    faults = _by_fault(proof.outcomes)
    for rule in RULES if faults else ():
        fooled = sum(rule in _fooled(outcomes) for outcomes in faults)
        refused = proof.unpatched - proof.accepted[rule]
        lines.append(
            f"{rule}: lets {fooled} of {len(faults)} faults through, and refuses {refused} of "
            f"{proof.unpatched} right runs"
        )
    return lines


def _summarise_outcomes(outcomes: Sequence[Outcome]) -> list[str]:
    faults = _by_fault(outcomes)
    counts = {name: sum(outcome.right[name] for outcome in outcomes) for name in outcomes[0].right}
    bounded = [outcome for outcome in outcomes if outcome.fault.is_bounded]
    named = sum(outcome.is_named for outcome in bounded)
    fast = [outcome.is_fast_caught for outcome in outcomes if outcome.is_fast_caught is not None]
    return [
        f"{len(faults)} faults planted {len(outcomes)} times: {counts['caught']} caught, "
        f"{counts['update']} at their update, {counts['stage']} at their stage, "
        f"{counts['cause']} with their cause; of {len(bounded)} held against the oracle {named} "
        f"with the side that is off; {len(fast)} planted in the fast engine too: {sum(fast)} caught"
    ]


def print_right_runs(runs: Sequence[RightRun], console: Console) -> None:
    """Print a row for each recipe and precision, then the alarms."""
    ratio_headers = ("error / bound: median", "90 %", "largest")
    table = _table("recipe", "precision", "runs", *ratio_headers, "alarms", "judged in part")
    for recipe, dtype in dict.fromkeys((run.recipe, run.dtype) for run in runs):
        mine = [run for run in runs if (run.recipe, run.dtype) == (recipe, dtype)]
        # a run called wrong has an infinite ratio, so quantiles are taken and no mean
        ratios = sorted(run.ratio for run in mine)
        quantiles = [ratios[math.ceil(share * len(ratios)) - 1] for share in (0.5, 0.9, 1.0)]
        cells = [factor(value, 2) for value in quantiles]
        called_wrong = sum(run.first is not None for run in mine)
        judged_in_part = sum(run.limit is not None for run in mine)
        counts = (str(called_wrong), str(judged_in_part))
        table.add_row(recipe, dtype, str(len(mine)), *cells, *counts)
    console.print(table)
    alarms = [run for run in runs if run.first is not None]
    for run in alarms:
        assert run.first is not None
        place = f"{run.recipe}, {run.dtype}, seed {run.seed}, {run.twin}"
        console.print(
            printable(f"{place}: {describe_difference(run.first)}"), soft_wrap=True, style="red"
        )
    console.print(f"{len(runs)} right runs, {len(alarms)} false alarms", style="bold")


def _table(*headers: str, whole: Sequence[str] = ()) -> Table:
    """A table. The columns in `whole` are never folded."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for header in headers:
        table.add_column(header, overflow="fold", no_wrap=header in whole)
    return table


def _by_fault(outcomes: Sequence[Outcome]) -> list[list[Outcome]]:
    by_fault: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        by_fault.setdefault(outcome.fault.key, []).append(outcome)
    return list(by_fault.values())


def _row(outcomes: Sequence[Outcome]) -> list[str]:
    fault = outcomes[0].fault
    twins = {outcome.twin: outcome for outcome in outcomes}
    cells = [_verdict(twins[twin]) if twin in twins else "" for twin in BACKENDS]
    fooled = "".join(_letter(i) for i, rule in enumerate(RULES) if rule in _fooled(outcomes))
    place = f"{fault.update} {fault.stage}"
    return [fault.key, place, fault.cause, *cells, _fast_verdict(outcomes), fooled]


def _verdict(outcome: Outcome) -> str:
    """ "yes", or what the diagnosis says otherwise than it should."""
    if all(is_right for name, is_right in outcome.right.items() if name != "fast"):
        return "yes"
    if outcome.first is None:
        return "survives"
    answers = {
        "update": f"update {outcome.first.update}",
        "stage": outcome.first.stage,
        "cause": outcome.cause or "no cause",
        "side": "side",
    }
    wrong = [f"{name} ({text})" for name, text in answers.items() if not outcome.right[name]]
    return f"not {', '.join(wrong)}"


def _fast_verdict(outcomes: Sequence[Outcome]) -> str:
    """ "yes", or the twins in whose fast engine the fault survives; "" if planted in none."""
    if outcomes[0].is_fast_caught is None:
        return ""
    missed = [outcome.twin for outcome in outcomes if not outcome.is_fast_caught]
    return f"survives in {' and '.join(missed)}" if missed else "yes"


def _fooled(outcomes: Sequence[Outcome]) -> tuple[str, ...]:
    """The simple rules that let the fault through."""
    return next((outcome.fooled for outcome in outcomes if outcome.fooled is not None), ())


def _letter(i: int) -> str:
    return "abcdefghij"[i]


def _checker_rows(proof: Proof) -> list[tuple[str, str]]:
    """Each fault of the checker, and the first cases that expose it."""
    rows = []
    for key, cases in proof.checker.items():
        more = f" and {len(cases) - LISTED} more" if len(cases) > LISTED else ""
        if key:
            rows.append((key, "; ".join(cases[:LISTED]) + more))
    return rows
