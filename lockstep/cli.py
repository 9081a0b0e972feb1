"""The command line. The commands are the only room of the core that reaches for the twins, and only when one needs
them."""

import signal
import sys
from collections.abc import Sequence

import click

from lockstep.commands.bench import bench
from lockstep.commands.catalogue import atlas, curve, matrix, rates
from lockstep.commands.compare import compare, names
from lockstep.commands.converge import converge
from lockstep.commands.diagnose import diagnose
from lockstep.commands.prove import prove
from lockstep.commands.recipe import recipe_group
from lockstep.commands.streams import flush_output, outlast_readers
from lockstep.commands.train import convert, record, run, worker
from lockstep.commands.versions import bless, matrix_versions, upgrade_check
from lockstep.errors import InputError
from lockstep.printable import echo
from lockstep.version import __version__

__all__ = ["main"]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="lockstep")
def cli() -> None:
    """Train one recipe in PyTorch and in JAX, and say whether the two do the same thing."""


for command in (
    run,
    record,
    convert,
    compare,
    diagnose,
    names,
    matrix,
    prove,
    converge,
    curve,
    rates,
    recipe_group,
    bless,
    upgrade_check,
    matrix_versions,
    bench,
    atlas,
    worker,
):
    cli.add_command(command)


def main(arguments: Sequence[str] | None = None) -> None:
    """The entry point: bad input is one line on standard error and exit status 2.

    Of `arguments` None, those of the process are taken, and its signals and streams are this command's to handle.
    """
    if arguments is None:
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
    sys.exit(status if isinstance(status, int) else 0)


def _heed_signals() -> None:
    """As Ctrl-C: what was begun is tidied up, and no worker left behind."""
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:  # nohup's wish is kept
            signal.signal(number, signal.default_int_handler)


def _complain(message: str) -> int:
    echo("lockstep: " + " ".join(message.split()), err=True)
    return 2
