"""Commands that judge traces."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lockstep.errors import InputError

if TYPE_CHECKING:
    from lockstep.trace import Trace

__all__ = ["compare", "junit_option", "names", "refusals_in"]

junit_option = click.option(
    "--junit", type=click.Path(path_type=Path), metavar="FILE", help="Write the result as JUnit XML too."
)


@click.command()
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@junit_option
def compare(a: Path, b: Path, junit: Path | None) -> int:
    """Judge two traces of one recipe: identical, rounding or diverged.

    Exits with 0 where they are equal, 1 where they diverge, 2 where they cannot be compared.
    """
    from lockstep.diagnose import compare as diagnose
    from lockstep.report.console import make_console, print_comparison
    from lockstep.report.junit import junit_comparison
    from lockstep.tensor_file import write_file
    from lockstep.trace import Trace

    names = str(a), str(b)
    with refusals_in(junit, names):
        traces = Trace.load(a), Trace.load(b)
        diagnose.refuse_different_runs(*traces)
        found = diagnose.compare(*traces, diagnose.bounds_of(*traces) or _derive_bounds(*traces))
    print_comparison(found, names, make_console())
    if junit is not None:
        write_file(junit, junit_comparison(found, names))
    return 1 if found.verdict == "diverged" else 0


@click.command()
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, metavar="FILE", help="The TOML file to write.")
@click.option(
    "--given", type=click.Path(path_type=Path), metavar="FILE", help="A name map with lines that are settled already."
)
def names(a: Path, b: Path, out: Path, given: Path | None) -> int:
    """Propose which of B's names and layouts are which of A's, for two traces of your own loops.

    Drawn from the shapes and values of the initial parameters, and refused where these leave a choice.
    """
    from lockstep.diagnose.names import load_names, save_names
    from lockstep.diagnose.propose import propose
    from lockstep.trace import Trace

    if out.exists():
        raise InputError(f"{out}: exists already, and is kept; name another file")
    found, reasons = propose(Trace.load(a), Trace.load(b), load_names(given) if given else None)
    save_names(out, found, reasons)
    turned = sum(bool(layout.axes or layout.reshape) for layout in found.names.values())
    click.echo(f"{out}: {len(found.names)} parameters, {turned} of them laid out otherwise")
    for reason in dict.fromkeys(reasons.values()):
        told_by = [name for name in found.names if reasons[name] == reason]
        click.echo(f"  {len(told_by)} by {reason}" + (f": {', '.join(told_by)}" if "shape" in reason else ""))
    return 0


@contextmanager
def refusals_in(junit: Path | None, names: tuple[str, str]) -> Iterator[None]:
    """Where traces cannot be compared, the file says so too: nobody takes an older result for this one."""
    from lockstep.report.junit import junit_error
    from lockstep.tensor_file import write_file

    try:
        yield
    except InputError as error:
        if junit is not None:
            write_file(junit, junit_error(str(error), names))
        raise


def _derive_bounds(a: "Trace", b: "Trace") -> dict[str, Any]:
    from lockstep.data_prep import prepare
    from lockstep.oracle.rounding import rounding_bounds
    from lockstep.oracle.trajectory import rows_of

    data = prepare(a.recipe)
    if data.hash != a.header["data_hash"]:
        raise InputError(
            f"the data of these traces ({a.header['data_hash'][:12]}) cannot be prepared again here (found "
            f"{data.hash[:12]}): compare with an oracle's trace, which carries the rounding bounds"
        )
    recorded = set(a.recorded_updates) & set(b.recorded_updates)
    return rounding_bounds(a.recipe, rows_of(a.recipe, data), recorded)
