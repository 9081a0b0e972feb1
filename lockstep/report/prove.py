"""What was proved, as tables in the terminal and in Markdown: planted faults, checker faults, right
runs.
"""

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
from lockstep.studies.prove.checker import CHECKER_FAULTS
from lockstep.studies.prove.false_alarms import RightRun
from lockstep.studies.prove.libraries import ENGINES, LibraryOutcome
from lockstep.studies.prove.naive_rules import JUDGES
from lockstep.studies.prove.run import Outcome, Proof

__all__ = ["PROOF", "print_proof", "print_right_runs", "proof_markdown", "summarise"]

PROOF = markdown(
    "lockstep prove", "# The proof that the checks can fail\n\nFaults planted on purpose, "
)
HEADERS = ("fault", "first at", "cause", *BACKENDS, "fast", "fooled")
LIBRARIES = {"torch": "PyTorch", "jax": "JAX, Flax and Optax"}
"""Twin -> what it is written with."""
SHOWN = 2  # cases in a cell; more are counted


def print_proof(proof: Proof, console: Console) -> None:
    """The matrix of planted faults and that of checker faults, then the sums."""
    if proof.outcomes:
        _print_outcomes(proof, console)
    if proof.libraries:
        table = _table("fault of a library", "function", *ENGINES, whole=ENGINES)
        for both in _by_library_fault(proof.libraries):
            cells = [both[0].fault.key, both[0].fault.function, *map(_place, both)]
            is_right = all(outcome.is_right for outcome in both)
            table.add_row(*map(printable, cells), style="" if is_right else "red")
        console.print(table)
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
        table.add_row(
            *(printable(cell) for cell in _row(outcomes)), style="" if is_right else "red"
        )
    console.print(table)
    for i, rule in enumerate(JUDGES):
        console.print(f"fooled {_letter(i)}: {rule}")
    console.print()


def proof_markdown(proof: Proof) -> str:
    """A page: how to read it, and the tables."""
    lines = [
        "# The proof that the checks can fail",
        "",
        "Faults planted on purpose, each of which the diagnosis must catch and place. "
        "`lockstep prove` trains them all "
        "and prints this page's tables; it exits with 1 where one survives.",
        "",
        f"Measured with {measured_with()}.",
        "",
        *(f"- {line}" for line in summarise(proof)),
        "",
        "## Planted in a twin",
        "",
        "Each fault is planted in one twin at a time, which is then held against the other "
        "twin and the oracle, in "
        "float64. *first at* (the update, from 0; -1 is before training; and the stage) "
        "and *cause* say where and as "
        "what it must be found; *yes* says that it was, and that the right twin was named. "
        "What was found otherwise "
        "stands in its place. The two faults at a ReLU's kink are judged without the "
        "oracle, whose bounds let a ReLU "
        "fall on either side of it, and so without a side. The runs are those by which "
        "`lockstep run` judges what the "
        "frameworks do, with all detail: float64, by the plain engine. *fast*: a fault in "
        "what the twin is told or fed "
        "is planted in the fast engine too, whose float64 run is held against the oracle, "
        "as in `lockstep run`; the "
        "others are in code that the fast engine does not have.",
        "",
        "The causes that the diagnosis knows were written with these faults in view: the "
        "score says that none of them "
        "slips through, not how many other faults would be explained.",
        "",
        "The last columns are simple rules that other tools use, asked of the same fault's "
        "run in float32 (in PyTorch, "
        "or the one twin that it is planted in) against the oracle: x is a fault that the "
        "rule lets through.",
        "",
        "| fault | what is wrong | " + " | ".join([*HEADERS[1:-1], *JUDGES]) + " |",
        "|---|---|---|---|---|---|---|" + ":---:|" * len(JUDGES),
    ]
    for outcomes in _by_fault(proof.outcomes):
        key, *cells, _ = _row(outcomes)
        fooled = [" x" if rule in _fooled(outcomes) else " " for rule in JUDGES]
        lines.append(
            "| " + " | ".join([f"`{key}`", outcomes[0].fault.text, *cells, *fooled]) + " |"
        )
    lines += _library_section(proof.libraries)
    lines += [
        "",
        "## Planted in the checker",
        "",
        "The comparison itself, made wrong in the usual ways. Each must get a case wrong "
        "whose answer is known: "
        "two traces of one run, the second edited.",
        "",
        "| fault | what is wrong | exposed by |",
        "|---|---|---|",
    ]
    texts = {fault.key: fault.text for fault in CHECKER_FAULTS}
    lines += [f"| `{key}` | {texts[key]} | {cases} |" for key, cases in _checker_rows(proof)]
    return "\n".join(lines) + "\n"


def _library_section(outcomes: Sequence[LibraryOutcome]) -> list[str]:
    if not outcomes:
        return []
    lines = [
        "",
        "## Planted in a library",
        "",
        "A function of PyTorch, JAX, Flax or Optax made wrong from outside, before the "
        "twin is imported, in a process "
        "of its own. Both engines then train in float64 as in `lockstep run`, and what "
        "they record is judged as there, "
        "against the oracle, each engine by itself. *plain* and *fast* say where the "
        "engine's run first leaves the "
        "oracle, in what a run records; *not reached* that the engine does not come by the "
        "function in this recipe: "
        "its run has the bits of one without the fault. Recipes are the planted faults' "
        "one, in the fields named.",
        "",
        "| fault | function | what it does | recipe | plain | fast |",
        "|---|---|---|---|---|---|",
    ]
    for both in _by_library_fault(outcomes):
        fault = both[0].fault
        fields = ", ".join(f"{name} {value}" for name, value in fault.recipe.items())
        cells = [f"`{fault.key}`", f"`{fault.function}`", fault.text, fields, *map(_place, both)]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _by_library_fault(outcomes: Sequence[LibraryOutcome]) -> list[list[LibraryOutcome]]:
    """The outcomes of each fault, in the order of `ENGINES`."""
    found: dict[str, list[LibraryOutcome]] = {}
    for outcome in outcomes:
        found.setdefault(outcome.fault.key, []).append(outcome)
    return list(found.values())


def _place(outcome: LibraryOutcome) -> str:
    """Where it was found, and, where that is not as it should be, where it should have been."""
    first, place = outcome.first, outcome.fault.places[outcome.engine]
    if outcome.error:
        return outcome.error
    found = (
        f"{first.update} {first.stage}"
        if first is not None
        else "survives"
        if outcome.is_reached
        else "not reached"
    )
    expected = "not reached" if place is None else f"{place.update} {place.stage}"
    return found if outcome.is_right else f"{found}, not {expected}"


def _summarise_libraries(outcomes: Sequence[LibraryOutcome]) -> list[str]:
    """Of each twin's libraries: how many faults there are, how many each engine comes by, and how
    many are caught.
    """
    lines = []
    for twin, named in LIBRARIES.items():
        mine = [outcome for outcome in outcomes if outcome.fault.twin == twin]
        parts = []
        for engine in ENGINES:
            reached = [
                outcome for outcome in mine if outcome.engine == engine and outcome.is_reached
            ]
            caught = sum(outcome.first is not None for outcome in reached)
            placed = sum(outcome.is_right for outcome in reached)
            parts.append(
                f"{len(reached)} reach the {engine} engine, {caught} caught, {placed} at "
                "their place"
            )
        if mine:
            lines.append(
                f"{len(mine) // len(ENGINES)} faults planted in {named}: {'; '.join(parts)}"
            )
    return lines


def summarise(proof: Proof) -> list[str]:
    """What was caught, and what was let through."""
    lines = _summarise_outcomes(proof.outcomes) if proof.outcomes else []
    lines += _summarise_libraries(proof.libraries)
    exposed = sum(bool(cases) for _, cases in _checker_rows(proof))
    wrong = proof.checker[""]
    lines.append(
        f"{len(CHECKER_FAULTS)} faults of the checker: {exposed} exposed; the right one gets "
        + (f"{len(wrong)} cases wrong: {'; '.join(wrong)}" if wrong else "every case right")
    )
    lines.append(
        f"{proof.unpatched} recipes trained without a fault: "
        f"{proof.unpatched - len(proof.alarms)} equal in both twins"
        + "".join(f"; {alarm}" for alarm in proof.alarms)
    )
    faults = list(_by_fault(proof.outcomes))
    for rule in JUDGES if faults else ():
        fooled = sum(rule in _fooled(outcomes) for outcomes in faults)
        refused = proof.unpatched - proof.accepted[rule]
        lines.append(
            f"{rule}: lets {fooled} of {len(faults)} faults through, and refuses {refused} "
            f"of {proof.unpatched} right "
            "runs"
        )
    return lines


def _summarise_outcomes(outcomes: Sequence[Outcome]) -> list[str]:
    faults = _by_fault(outcomes)
    counts = {name: sum(outcome.right[name] for outcome in outcomes) for name in outcomes[0].right}
    asked = [outcome for outcome in outcomes if outcome.fault.is_bounded]
    fast = [outcome.is_fast_caught for outcome in outcomes if outcome.is_fast_caught is not None]
    return [
        f"{len(faults)} faults planted {len(outcomes)} times: {counts['caught']} caught, "
        f"{counts['update']} at their "
        f"update, {counts['stage']} at their stage, {counts['cause']} with their cause; of "
        f"{len(asked)} "
        f"held against the oracle {sum(outcome.is_named for outcome in asked)} with the "
        "side that is off; "
        f"{len(fast)} planted in the fast engine too: {sum(fast)} caught"
    ]


def print_right_runs(runs: Sequence[RightRun], console: Console) -> None:
    """A row for each recipe and precision, then the alarms."""
    table = _table(
        "recipe",
        "precision",
        "runs",
        "error / bound: median",
        "90 %",
        "largest",
        "alarms",
        "judged in part",
    )
    for recipe, dtype in dict.fromkeys((run.recipe, run.dtype) for run in runs):
        mine = [run for run in runs if (run.recipe, run.dtype) == (recipe, dtype)]
        ratios = sorted(
            run.ratio for run in mine
        )  # of runs called wrong infinite, which no mean is
        quantiles = [ratios[math.ceil(share * len(ratios)) - 1] for share in (0.5, 0.9, 1.0)]
        called_wrong = sum(run.first is not None for run in mine)
        in_part = sum(run.limit is not None for run in mine)
        counts = str(called_wrong), str(in_part)
        table.add_row(
            recipe, dtype, str(len(mine)), *(factor(value, 2) for value in quantiles), *counts
        )
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
    """A table, some of whose columns are never folded."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for header in headers:
        table.add_column(header, overflow="fold", no_wrap=header in whole)
    return table


def _by_fault(outcomes: Sequence[Outcome]) -> list[list[Outcome]]:
    found: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        found.setdefault(outcome.fault.key, []).append(outcome)
    return list(found.values())


def _row(outcomes: Sequence[Outcome]) -> list[str]:
    fault, twins = outcomes[0].fault, {outcome.twin: outcome for outcome in outcomes}
    cells = [_verdict(twins[twin]) if twin in twins else "" for twin in BACKENDS]
    cells.append(_fast_verdict(outcomes))
    fooled = "".join(_letter(i) for i, rule in enumerate(JUDGES) if rule in _fooled(outcomes))
    return [fault.key, f"{fault.update} {fault.stage}", fault.cause, *cells, fooled]


def _verdict(outcome: Outcome) -> str:
    """ "yes", or what was found in the place of what should be."""
    if all(is_right for name, is_right in outcome.right.items() if name != "fast"):
        return "yes"
    if outcome.first is None:
        return "survives"
    found = [
        f"update {outcome.first.update}",
        outcome.first.stage,
        outcome.cause or "no cause",
        "side",
    ]
    named = ("update", "stage", "cause", "side")
    return "not " + ", ".join(
        f"{name} ({what})" for name, what in zip(named, found) if not outcome.right[name]
    )


def _fast_verdict(outcomes: Sequence[Outcome]) -> str:
    """Of a fault planted in the fast engine too: "yes", or the twins in which it survives."""
    if outcomes[0].is_fast_caught is None:
        return ""
    missed = [outcome.twin for outcome in outcomes if not outcome.is_fast_caught]
    return f"survives in {' and '.join(missed)}" if missed else "yes"


def _fooled(outcomes: Sequence[Outcome]) -> tuple[str, ...]:
    return next((outcome.fooled for outcome in outcomes if outcome.fooled is not None), ())


def _letter(i: int) -> str:
    return "abcdefghij"[i]


def _checker_rows(proof: Proof) -> list[tuple[str, str]]:
    rows = []
    for key, cases in proof.checker.items():
        more = f" and {len(cases) - SHOWN} more" if len(cases) > SHOWN else ""
        if key:
            rows.append((key, "; ".join(cases[:SHOWN]) + more))
    return rows
