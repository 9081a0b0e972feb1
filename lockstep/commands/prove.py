"""The command that puts the checks themselves to the test."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lockstep.errors import InputError

if TYPE_CHECKING:
    from lockstep.studies.prove.faults import PlantedFault
    from lockstep.studies.prove.library_faults import LibraryFault
    from lockstep.studies.prove.own_loops.faults import LoopFault

__all__ = ["prove"]


@click.command(short_help="Plant faults and show that each is caught and placed.")
@click.argument("words", nargs=-1)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the tables as Markdown too.",
)
@click.option(
    "--unpatched",
    type=click.IntRange(min=1),
    metavar="N",
    help="Train N runs without a fault instead, and count false alarms.",
)
@click.option(
    "--pairs",
    type=click.IntRange(min=1),
    metavar="N",
    help="Judge N pairs of own loops without a known fault instead, and count wrong answers.",
)
def prove(words: Sequence[str], out: Path | None, unpatched: int | None, pairs: int | None) -> int:
    """Plant faults in both twins, in their libraries, in own loops and in the checker, and show
    that each is caught and placed.

    WORDS choose the faults whose key, text, stage, cause or function holds each of them; "own
    loops" chooses those of own loops, which WORDS plant in both sides, and no WORDS in one side,
    the sides in turn. The exit status is 1 where a fault survives, or where a right
    run is called wrong.
    """
    from dataclasses import replace

    from lockstep.files.outputs import check_output, write_file
    from lockstep.report.console import make_console
    from lockstep.report.progress import training_progress
    from lockstep.report.prove import PROOF, print_proof, print_right_runs, proof_markdown
    from lockstep.report.prove_loops import print_loop_proof
    from lockstep.studies.prove.false_alarms import right_runs
    from lockstep.studies.prove.own_loops.pairs import DEFAULT_PAIRS, nameless_pairs
    from lockstep.studies.prove.own_loops.run import prove_loops
    from lockstep.studies.prove.run import prove as run

    if pairs is not None:
        if words or out or unpatched:
            raise InputError("--pairs: plants no fault, and takes no WORDS and no other option")
        with training_progress("pairs") as report:
            judged = prove_loops((), nameless_pairs(pairs), report=report)
        print_loop_proof(judged, make_console())
        return 0 if judged.holds else 1
    if unpatched is not None:
        if words or out:
            raise InputError(
                "--unpatched: trains without faults, and takes neither WORDS nor --out"
            )
        with training_progress() as report:
            runs = right_runs(unpatched, report=report)
        print_right_runs(runs, make_console())
        return 1 if any(right.first is not None for right in runs) else 0
    faults, library_faults, loop_faults = _faults_with(words)
    if out is not None:
        check_output(out, PROOF, option="--out")
    with training_progress() as report:
        proof = run(faults, library_faults, report=report)
    if loop_faults:
        with training_progress("pairs") as report:
            others = () if words else nameless_pairs(DEFAULT_PAIRS)
            loops = prove_loops(loop_faults, others, report=report, in_turn=not words)
            proof = replace(proof, loops=loops)
    print_proof(proof, make_console())
    if out is not None:
        write_file(out, proof_markdown(proof).encode(), PROOF)
    return 0 if proof.holds else 1


def _faults_with(
    words: Sequence[str],
) -> "tuple[list[PlantedFault], list[LibraryFault], list[LoopFault]]":
    """The faults of twins, of libraries and of own loops whose text holds every word."""
    from lockstep.studies.prove.faults import FAULTS
    from lockstep.studies.prove.library_faults import LIBRARY_FAULTS
    from lockstep.studies.prove.own_loops.fault_list import DEFAULT_FAULTS

    faults = []
    for key, fault in FAULTS.items():
        text = f"{key} {fault.text} {fault.stage} {fault.cause}"
        if all(word in text for word in words):
            faults.append(fault)
    library_faults = []
    for key, library_fault in LIBRARY_FAULTS.items():
        text = f"{key} {library_fault.function} {library_fault.text}"
        if all(word in text for word in words):
            library_faults.append(library_fault)
    loop_faults = []
    for loop_fault in DEFAULT_FAULTS:
        text = f"{loop_fault.name} {loop_fault.text} {loop_fault.cause} own loops"
        text = f"{text} {' '.join(loop_fault.stages)}"
        if all(word in text for word in words):
            loop_faults.append(loop_fault)
    if not (faults or library_faults or loop_faults):
        stages = ", ".join(dict.fromkeys(fault.stage for fault in FAULTS.values()))
        raise InputError(
            f"{' '.join(words)}: no fault's key, text, stage, cause or function holds that; "
            f"the stages: {stages}"
        )
    return faults, library_faults, loop_faults
