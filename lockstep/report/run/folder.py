"""The run folder, which has its own name only once it is whole."""

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lockstep.errors import InputError
from lockstep.files.outputs import NEW, check_folder, write_file
from lockstep.files.partial import NewFolder, new_folder
from lockstep.report.run.html import render_html
from lockstep.report.run.story import Story, build_story
from lockstep.report.run.summary import summarise
from lockstep.run.everywhere import Run

__all__ = ["new_run_folder", "write_reports"]


@contextmanager
def new_run_folder(wanted: Path) -> Iterator[NewFolder]:
    """A folder to fill under another name.

    Once the block ends well it is renamed to `wanted`, or to `wanted`-2, -3, ... where that exists.
    What a killed process left of it is settled first.

    Raises:
        InputError: the folder cannot be made, or cannot be renamed; then the message says where
            everything lies.
    """
    check_folder(wanted)
    parents: list[Path] = []
    try:
        parents += [folder for folder in wanted.parents if not folder.exists()]
        wanted.parent.mkdir(parents=True, exist_ok=True)
        with new_folder(wanted) as folder:
            yield folder
    except OSError as error:
        raise InputError(f"{wanted}: cannot be made: {error.strerror or error}") from None
    finally:
        for parent in parents:  # one that holds nothing was made in vain
            with suppress(OSError):
                parent.rmdir()


def write_reports(run: Run, folder: Path) -> Story:
    """Write `report.html` and `summary.json` beside the traces.

    Returns:
        the story that the report tells.

    Raises:
        InputError: a file cannot be written.
    """
    story = build_story(run.data, run.table, run.traces, run.contrast, run.verdict)
    write_file(folder / "report.html", render_html(story).encode(), NEW)
    summary = json.dumps(summarise(run.traces, run.verdict), indent=2, allow_nan=False)
    write_file(folder / "summary.json", summary.encode(), NEW)
    return story
