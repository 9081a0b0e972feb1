"""The command line. The commands are the only room of the core that reaches for the twins, and only when one needs
them."""

import signal
import sys
from collections.abc import Sequence

import click

from lockstep import __version__
from lockstep.commands.bench import bench
from lockstep.commands.catalogue import atlas, curve, matrix, rates
from lockstep.commands.compare import compare, names
from lockstep.commands.converge import converge
from lockstep.commands.diagnose import diagnose
from lockstep.commands.prove import prove
from lockstep.commands.recipe import recipe_group
from lockstep.commands.train import convert, record, run, worker
from lockstep.commands.versions import bless, matrix_versions, upgrade_check
from lockstep.errors import InputError
from lockstep.printable import echo

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
    """The entry point: bad input is one line on standard error and exit status 2."""
    if arguments is None:
        # as Ctrl-C: what was begun is tidied up, and no worker left behind
        signal.signal(signal.SIGTERM, signal.default_int_handler)
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
    except BrokenPipeError:
        sys.stderr.close()  # whoever read our output has left, and that is no fault
        status = 0
    sys.exit(status if isinstance(status, int) else 0)


def _complain(message: str) -> int:
    echo("lockstep: " + " ".join(message.split()), err=True)
    return 2
