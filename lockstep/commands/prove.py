"""The command that puts the checks themselves to the test."""

from collections.abc import Sequence
from pathlib import Path

import click

from lockstep.errors import InputError

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
    help="Train N right runs instead: false alarms.",
)
def prove(words: Sequence[str], out: Path | None, unpatched: int | None) -> int:
    """Plant faults in both twins, in their libraries and in the checker, and show that each is
    caught and placed.

    WORDS choose faults: those whose key, text, stage, cause or function holds each of them. Exits
    with 1 where one survives, or where a right run is called wrong.
    """
    from lockstep.files.outputs import check_output, write_file
    from lockstep.report.console import make_console
    from lockstep.report.progress import training_progress
    from lockstep.report.prove import PROOF, print_proof, print_right_runs, proof_markdown
    from lockstep.studies.prove.false_alarms import right_runs
    from lockstep.studies.prove.faults import FAULTS
    from lockstep.studies.prove.library_faults import LIBRARY_FAULTS
    from lockstep.studies.prove.run import prove as run

    if unpatched is not None:
        if words or out:
            raise InputError(
                "--unpatched: trains without faults, and takes neither WORDS nor --out"
            )
        with training_progress() as report:
            runs = right_runs(unpatched, report=report)
        print_right_runs(runs, make_console())
        return 1 if any(right.first is not None for right in runs) else 0
    texts = {
        key: f"{key} {fault.text} {fault.stage} {fault.cause}" for key, fault in FAULTS.items()
    }
    of_libraries = {
        key: f"{key} {fault.function} {fault.text}" for key, fault in LIBRARY_FAULTS.items()
    }
    chosen = [FAULTS[key] for key, text in texts.items() if all(word in text for word in words)]
    in_libraries = [
        LIBRARY_FAULTS[key]
        for key, text in of_libraries.items()
        if all(word in text for word in words)
    ]
    if not (chosen or in_libraries):
        stages = ", ".join(dict.fromkeys(fault.stage for fault in FAULTS.values()))
        raise InputError(
            f"{' '.join(words)}: no fault's key, text, stage, cause or function holds that; "
            f"the stages: {stages}"
        )
    if out is not None:
        check_output(out, PROOF, option="--out")
    with training_progress() as report:
        proof = run(chosen, in_libraries, report=report)
    print_proof(proof, make_console())
    if out is not None:
        write_file(out, proof_markdown(proof).encode(), PROOF)
    return 0 if proof.holds else 1
