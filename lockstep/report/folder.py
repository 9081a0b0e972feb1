"""The run folder: filled under another name, and there under its own only once it is whole."""

import itertools
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lockstep.errors import InputError
from lockstep.report.html import render_html
from lockstep.report.story import Story, build_story
from lockstep.report.summary import summarise
from lockstep.session import Run
from lockstep.tensor_file import write_file

__all__ = ["RunFolder", "new_run_folder", "write_reports"]


@dataclass
class RunFolder:
    """`partial` is where to write; `final` is where all of it lies in the end."""

    partial: Path
    final: Path


@contextmanager
def new_run_folder(wanted: Path) -> Iterator[RunFolder]:
    """A folder to fill; renamed to `wanted`, or to `wanted`-2, -3, ... where that exists, once the block ends well.

    Raises:
        InputError: the folder cannot be made.
    """
    try:
        wanted.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=wanted.parent, prefix=f".{wanted.name}."))
    except OSError as error:
        raise InputError(f"{wanted}: cannot be made: {error.strerror}") from None
    try:
        folder = RunFolder(partial, wanted)
        yield folder
        partial.chmod(0o755)  # a temporary folder is private; the result is an ordinary one
        for number in itertools.count(1):
            folder.final = wanted if number == 1 else wanted.with_name(f"{wanted.name}-{number}")
            if not folder.final.exists():
                partial.rename(folder.final)
                break
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_reports(run: Run, folder: Path) -> Story:
    """Write `report.html` and `summary.json` beside the traces.

    Returns:
        the story that the report tells.

    Raises:
        InputError: a file cannot be written.
    """
    story = build_story(run.data, run.table, run.traces, run.contrast, run.verdict)
    write_file(folder / "report.html", render_html(story).encode())
    summary = json.dumps(summarise(run.traces, run.verdict), indent=2, allow_nan=False)
    write_file(folder / "summary.json", summary.encode())
    return story
