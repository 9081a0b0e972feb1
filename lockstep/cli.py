"""The command line: its groups of commands, and the exit status of each outcome."""

import atexit
import gc
import os
import signal
import sys
from collections.abc import Sequence
from itertools import chain

import click

from lockstep.commands.bench import bench
from lockstep.commands.catalogue import atlas, curve, matrix, rates
from lockstep.commands.compare import compare, names
from lockstep.commands.converge import converge
from lockstep.commands.diagnose import diagnose, repro
from lockstep.commands.prove import prove
from lockstep.commands.recipe import recipe_group
from lockstep.commands.streams import flush_output, outlast_readers
from lockstep.commands.train import convert, record, run, worker
from lockstep.commands.versions import bless, matrix_versions, upgrade_check
from lockstep.errors import InputError
from lockstep.printable import echo
from lockstep.version import __version__

__all__ = ["main"]


GROUPS: dict[str, tuple[click.Command, ...]] = {
    "Train and compare": (run, record, convert, compare, diagnose, repro),
    "Own loops": (names,),
    "Versions": (bless, upgrade_check, matrix_versions),
    "Studies": (matrix, prove, converge, bench),
    "Look up": (recipe_group, curve, atlas),
}
"""Headings of the help -> their commands; `compare` and `diagnose` serve own loops as well."""
HIDDEN = (rates, worker)
"""Processes that other commands start."""


class _Grouped(click.Group):
    """Commands under headings, each with one whole sentence."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write a section for each group, with the sentences of all sections aligned."""
        widest = max(len(command.name or "") for command in chain.from_iterable(GROUPS.values()))
        for title, commands in GROUPS.items():
            rows = [
                (f"{command.name:{widest}}", command.get_short_help_str(1000))
                for command in commands
            ]
            with formatter.section(title):
                formatter.write_dl(rows)


@click.group(
    cls=_Grouped,
    context_settings={"help_option_names": ["-h", "--help"]},
    subcommand_metavar="COMMAND [ARGUMENTS]",
)
@click.version_option(__version__, prog_name="lockstep")
def cli() -> None:
    """Train one recipe in PyTorch and in JAX, and say whether the two do the same thing."""


for command in (*chain.from_iterable(GROUPS.values()), *HIDDEN):
    cli.add_command(command)


def main(arguments: Sequence[str] | None = None) -> None:
    """The entry point: bad input is one line on standard error and exit status 2.

    Args:
        arguments: the words after the program's name. None: those of the process, whose signals and
            streams this command then handles.
    """
    stopped: list[int] = []
    if arguments is None:
        atexit.register(_end_as_stopped, stopped)  # the first to be registered runs last
        _heed_signals()
        outlast_readers()
    try:
        status = cli.main(args=arguments, prog_name="lockstep", standalone_mode=False)
    except InputError as error:
        status = _complain(str(error))
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        status = 2
    except click.ClickException as error:
        status = _complain(error.format_message())
    except MemoryError as error:
        status = _complain(f"there is not the memory for this: {error}")
    except (click.Abort, KeyboardInterrupt):
        echo("lockstep: stopped", err=True)
        status = 130
    except OSError as error:  # a place without permission, a full disk
        status = _complain(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    if arguments is None:
        failure = flush_output()
        if failure is not None:
            status = _complain(f"standard output: cannot be written: {failure.strerror}")
        if status == 130:
            stopped.append(status)
    sys.exit(status if isinstance(status, int) else 0)


def _heed_signals() -> None:
    """Let SIGTERM and SIGHUP stop the command as Ctrl-C does, so that no worker is left behind."""
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is None:
            continue
        is_ignored = signal.getsignal(number) is signal.SIG_IGN  # by nohup
        if not is_ignored:
            signal.signal(number, signal.default_int_handler)


def _end_as_stopped(stopped: list[int]) -> None:
    """End with the status of a stopped command.

    Python itself would end by SIGINT where that interrupted a library as it loaded.
    """
    if stopped:
        gc.collect()  # tidies up after a generator that was interrupted as it began
        sys.stderr.flush()
        os._exit(stopped[0])


def _complain(message: str) -> int:
    echo("lockstep: " + " ".join(message.split()), err=True)
    return 2
