"""The figures of a benchmark, for the terminal."""

import math
from statistics import median

from rich import box
from rich.console import Console
from rich.table import Table

from lockstep.bench.intervals import median_interval, ratios, three_digits
from lockstep.bench.limits import LIMITS
from lockstep.bench.results import Measured, Outcome
from lockstep.numbers import number_beside
from lockstep.printable import printable

__all__ = ["print_measured"]


def print_measured(name: str, measured: Measured, console: Console) -> None:
    """Print the times, the bars, who was not timed and why, and what ran each contender."""
    timed = {
        contender: outcome for contender, outcome in measured.contenders.items() if outcome.samples
    }
    training = measured.recipe["training"]
    seeds = f" of {measured.seeds} seeds" if measured.seeds > 1 else ""
    threads = "1 thread" if measured.threads == 1 else f"{measured.threads} threads"
    console.print(
        f"\n{name}: time per update, steady state: {measured.updates} updates{seeds}, "
        f"{training['batch']} rows, {training['dtype']}; {threads}; "
        f"{measured.rounds} interleaved rounds",
        highlight=False,
        style="bold",
    )
    console.print(_times(timed, measured.rounds))
    console.print(
        "first run: compiling, where there is any, and one run; cold: a whole process to the end "
        "of its first run; products: the needed matrix products alone\n",
        highlight=False,
    )
    _print_limits(name, timed, console)
    for contender, outcome in measured.contenders.items():
        if outcome.differs is not None:
            far = f"{outcome.differs:.1e} from the oracle in float64"
            if outcome.differs == float("inf"):
                far = "parameters of other names or shapes"
            console.print(
                f"{contender}: computes something else ({far}): not timed", highlight=False
            )
    reasons = dict.fromkeys(
        outcome.skipped for outcome in measured.contenders.values() if outcome.skipped
    )
    for reason in reasons:
        skipped = [
            name for name, outcome in measured.contenders.items() if outcome.skipped == reason
        ]
        console.print(
            f"{', '.join(skipped)}: skipped: {printable(reason)}", soft_wrap=True, highlight=False
        )
    for contender, outcome in timed.items():
        settings = ", ".join(f"{key} {value}" for key, value in outcome.environment.items())
        error = ""
        if outcome.float64_error is not None:
            error = f"; float64 error {outcome.float64_error:.1e}"
        console.print(f"{contender}: {printable(settings)}{error}", highlight=False)


def _times(timed: dict[str, Outcome], rounds: int) -> Table:
    fastest = min(timed, key=lambda name: median(timed[name].samples), default="")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("contender", no_wrap=True)
    interval = "95 %" if rounds >= 6 else "range"  # of fewer samples there is no such interval
    times = (f"us/update\n{interval}", f"x fastest\n{interval}")
    for header in (*times, "import\ns", "first\nrun s", "cold\ns", "MiB\n"):
        table.add_column(header, justify="right", no_wrap=True)
    for name, outcome in timed.items():
        time = _with_interval([1e6 * sample for sample in outcome.samples])
        ratio = _with_interval(ratios(outcome.samples, timed[fastest].samples))
        once = (outcome.import_seconds, outcome.first_run_seconds, outcome.cold_seconds)
        table.add_row(
            name,
            time,
            ratio,
            *(f"{value:.1f}" for value in once if value),
            f"{outcome.peak_mib:.0f}",
        )
    return table


def _with_interval(samples: list[float]) -> str:
    middle, low, high = map(three_digits, median_interval(samples))
    return f"{middle}\n{low}-{high}"


def _print_limits(name: str, timed: dict[str, Outcome], console: Console) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for header in ("bar", "ratio", "interval", "at most", ""):
        table.add_column(header, justify="left" if header == "bar" else "right", no_wrap=True)
    for limit in LIMITS.get(name, ()):
        if limit.contender not in timed or limit.over not in timed:
            continue
        samples = ratios(timed[limit.contender].samples, timed[limit.over].samples)
        ratio, low, high = median_interval(samples)
        table.add_row(
            f"{limit.contender} over {limit.over}",
            _share(ratio, limit.most),
            f"{_share(low)}-{_share(high)}",
            _share(limit.most),
            "met" if ratio <= limit.most else "missed",
        )
    if table.row_count:
        console.print(table)


def _share(ratio: float, bar: float = math.inf) -> str:
    """A ratio with three digits, or as many as tell it from its bar; 1 over a number if small."""
    if ratio < 0.1:
        return f"1/{three_digits(1 / ratio)}"
    return three_digits(ratio) if ratio >= 100 else number_beside(ratio, bar, 3)
