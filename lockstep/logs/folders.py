"""The log in a folder that a program wrote."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from lockstep.errors import InputError
from lockstep.logs.event_table import is_event_name

__all__ = ["files_in"]

NAMES = ("trainer_state.json", "metrics.csv", "wandb-history.jsonl", "metrics.jsonl", "log.jsonl")
"""Files that Hugging Face, Lightning and others write into the folder of a run."""
OFFLINE = ".wandb"
"""The end of the name of an offline run of Weights & Biases."""
LEVELS = 3
"""Levels below the folder that are searched."""
MOST = 10_000
"""Entries that are looked at."""
NAMED = 4
"""Logs that a message names."""
CHECKPOINT = re.compile(r"checkpoint-(\d+)")


def files_in(folder: Path) -> Sequence[Path]:
    """The one log in a folder: all event files of one run, or one other file.

    Of Hugging Face's checkpoints the last holds the whole history.

    Raises:
        InputError: there is no log, or there are several.
    """
    entries = sorted(_entries(folder, LEVELS, [MOST]))
    events: dict[Path, list[Path]] = {}
    for path in entries:
        if is_event_name(path):
            events.setdefault(path.parent, []).append(path)
    if folder in events:  # folders below it are of SummaryWriter.add_scalars and add_hparams
        return events[folder]
    known = [path for path in entries if path.name in NAMES or path.suffix == OFFLINE]
    logs = [[path] for path in _without_older(known)]
    logs += events.values()
    if len(logs) == 1:
        return logs[0]
    if not logs:
        raise InputError(
            f"{folder}: holds no log: neither event files of TensorBoard nor {', '.join(NAMES[:3])}"
        )
    places = [str(log[0] if len(log) == 1 else log[0].parent) for log in logs]
    more = f" and {len(places) - NAMED} more" if len(places) > NAMED else ""
    raise InputError(f"{folder}: holds several logs; give one: {', '.join(places[:NAMED])}{more}")


def _entries(folder: Path, levels: int, left: list[int]) -> Iterable[Path]:
    """Files below a folder; links to folders are not followed."""
    try:
        children = list(folder.iterdir())
    except OSError as error:
        raise InputError(f"{folder}: cannot be read: {error.strerror}") from None
    for child in children:
        left[0] -= 1
        if left[0] < 0:
            raise InputError(f"{folder}: holds more than {MOST} entries; give the log itself")
        if child.is_file():
            yield child
        elif levels and child.is_dir() and not child.is_symlink():
            yield from _entries(child, levels - 1, left)


def _without_older(paths: list[Path]) -> list[Path]:
    """The files without the states of checkpoints that a later one continues."""
    latest: dict[Path, tuple[int, Path]] = {}
    others: list[Path] = []
    for path in paths:
        match = CHECKPOINT.fullmatch(path.parent.name)
        if match is None:
            others.append(path)
            continue
        run = path.parent.parent
        latest[run] = max(latest.get(run, (-1, path)), (int(match[1]), path))
    runs = {path.parent for path in others}
    return others + [path for run, (_, path) in latest.items() if run not in runs]
