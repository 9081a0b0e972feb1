"""A comparison of logs in the terminal."""

import json
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from lockstep.diagnose.logs.align import Numbers, SeriesPair
from lockstep.diagnose.logs.judge import ENOUGH, EXIT_STATUS, LEAN, LogComparison, Quantity
from lockstep.logs.column_names import RATE
from lockstep.numbers import json_number, number, number_beside
from lockstep.printable import printable
from lockstep.version import __version__

__all__ = ["logs_json", "print_logs"]

LOGS = "lockstep.logs/1"

WORDS = {"rounding": "within rounding"}
"""Verdict -> its words, where they are others."""
DIGITS = 8
"""The most digits of a number in the table."""
RECORD = (
    "recorder.watch(model, optimizer)  # before the first update",
    "recorder.update(loss=loss)        # after each",
)
"""The two lines that record a training."""


def print_logs(comparison: LogComparison, console: Console) -> None:
    """Print each quantity with the first difference, relations, hints and the verdict."""
    for side, log in (("a", comparison.a), ("b", comparison.b)):
        console.print(f"{side}  {printable(log.path)} ({log.kind})", soft_wrap=True)
    for remark in comparison.remarks:
        _say(console, f"note  {remark}")
    console.print(_table(comparison.quantities))
    for quantity in comparison.quantities:
        sentence = _sentence(quantity)
        if sentence:
            _say(console, f"{quantity.name}: {sentence}")
    for hint in comparison.hints:
        _say(console, f"hint: {hint}")
    unseen = _unseen(comparison.quantities)
    if unseen:
        _say(console, f"Differences below these are not seen: {unseen}.")
    if comparison.verdict not in ("equal", "rounding"):
        _say(
            console,
            "This is what logs can say: they name no stage, tensor or cause. To know more, record "
            "both trainings in two lines each, and run `lockstep diagnose` (docs/own_loop.md):",
        )
        for line in RECORD:
            console.print(f"    {line}", soft_wrap=True)
    console.print(f"verdict: {_verdict(comparison)}", style="bold")


def _say(console: Console, text: str) -> None:
    for line in textwrap.wrap(printable(text), max(40, console.width), subsequent_indent="  "):
        console.print(line, soft_wrap=True)


def _table(quantities: Sequence[Quantity]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("quantity", overflow="fold", min_width=9)
    for header in ("steps", "parts at", "a", "b", "apart by", "allowed"):
        table.add_column(header, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for quantity in quantities:
        pair = quantity.pair
        at = pair.first
        if at is None:  # where the two are farthest apart
            at = int(np.argmax(pair.gaps_N))
        a, b = float(pair.a.values_N[at]), float(pair.b.values_N[at])
        table.add_row(
            printable(quantity.name),
            str(pair.steps),
            "" if quantity.first_step is None else f"step {quantity.first_step}",
            *_beside(a, b),
            f"{pair.gaps_N[at]:.2g}",
            f"{pair.allowed_N[at]:.2g}",
            "averages" if _is_average(quantity) else quantity.verdict,
        )
    return table


def _beside(a: float, b: float) -> tuple[str, str]:
    """Two numbers with as many digits as tell them apart, up to `DIGITS`."""
    texts = number_beside(a, b), number_beside(b, a)
    if max(map(len, texts)) <= DIGITS + 2:
        return texts
    return number(a, DIGITS), number(b, DIGITS)


def _is_average(quantity: Quantity) -> bool:
    """Whether one side logs averages of the other's numbers, and nothing else differs."""
    return quantity.relation is not None and quantity.relation.only_logged


def _sentence(quantity: Quantity) -> str:
    """What is to be said of a quantity; "" where the table says all."""
    if quantity.relation is not None:
        return quantity.relation.text
    if quantity.reason:
        return quantity.reason
    return _how_far(quantity) if quantity.verdict == "parted" else ""


def _unseen(quantities: Sequence[Quantity]) -> str:
    """The differences that cut digits hide where quantities agree; "" where none were cut."""
    texts = []
    for quantity in quantities:
        pair = quantity.pair
        cut = [side.digits for side in (pair.a, pair.b) if side.digits.kind != "full"]
        if quantity.verdict in ("equal", "rounding") and cut:
            coarsest = min(cut, key=lambda digits: digits.count)
            width = number(float(np.median(pair.allowed_N)), 2)
            texts.append(f"{quantity.name} {width} ({coarsest.text})")
    return ", ".join(texts)


def _how_far(quantity: Quantity) -> str:
    """From which step on a quantity parts, where most and to which side; of a rate, its course."""
    pair = quantity.pair
    if pair.name == RATE and pair.steps >= ENOUGH and pair.is_judged_N.all():
        return f"a {_course(pair.a)}; b {_course(pair.b)}{_again(pair)}"
    first = pair.first or 0
    count = int(pair.parts_N.sum())
    gaps_N = np.where(np.isfinite(pair.gaps_N), pair.gaps_N, -1.0)
    worst = int(np.argmax(gaps_N))
    lone = ""
    if not np.isfinite(pair.gaps_N[first]):
        lone = "one side has no number there; "
    size = max(abs(float(pair.a.values_N[worst])), abs(float(pair.b.values_N[worst])))
    share = f", {gaps_N[worst] / size:.2%} of the larger" if size and gaps_N[worst] > 0 else ""
    most = f"most at step {pair.a.steps_N[worst]}, by {gaps_N[worst]:.2g}{share}"
    since = f"from step {quantity.first_step} on"
    end = _again(pair) or _lean(pair)
    return f"{lone}they part at {count} of {pair.steps} common steps {since}, {most}{end}"


def _course(rates: Numbers) -> str:
    """How a rate begins, where it is largest, and how it ends."""
    values_N, steps_N = rates.values_N, rates.steps_N
    top = int(np.argmax(values_N))
    begin = f"begins with {number(values_N[0])}"
    if values_N.min() == values_N.max():
        return f"stays at {number(values_N[0])}"
    if top:
        begin += f", is largest at step {steps_N[top]} ({number(values_N[top])})"
    return f"{begin} and ends with {number(values_N[-1])} at step {steps_N[-1]}"


def _again(pair: SeriesPair) -> str:
    """From which step on two series agree again; "" where they do not."""
    last = int(np.flatnonzero(pair.parts_N)[-1])
    if pair.steps - last <= ENOUGH:
        return ""
    return f"; from step {pair.a.steps_N[last + 1]} on they agree"


def _lean(pair: SeriesPair) -> str:
    """Whether b lies above or below a from the first difference on, beyond chance."""
    differences_N = (pair.b.values_N - pair.a.values_N)[pair.first :]
    differences_N = differences_N[np.isfinite(differences_N)]
    if len(differences_N) < ENOUGH:
        return ""
    error = float(differences_N.std()) / np.sqrt(len(differences_N))
    mean = float(differences_N.mean())
    if abs(mean) > LEAN * error:
        return (
            f"; b's lies {number(abs(mean), 2)} {'above' if mean > 0 else 'below'} a's on average"
        )
    return "; they lean to neither side, as with other batches or other draws"


def _verdict(comparison: LogComparison) -> str:
    word = WORDS.get(comparison.verdict, comparison.verdict)
    if comparison.verdict == "rounding" and any(map(_is_average, comparison.quantities)):
        word += ", as far as averages tell"
    steps = max((quantity.pair.steps for quantity in comparison.quantities), default=0)
    names = len(comparison.quantities)
    return f"{word} ({names} {'quantity' if names == 1 else 'quantities'}, {steps} common steps)"


def logs_json(comparison: LogComparison) -> str:
    """What `lockstep compare` says of two logs, as strict JSON: null for NaN and infinities."""
    content = {
        "schema": LOGS,
        "lockstep": __version__,
        "a": comparison.a.path,
        "b": comparison.b.path,
        "kinds": [comparison.a.kind, comparison.b.kind],
        "verdict": comparison.verdict,
        "exit_status": EXIT_STATUS[comparison.verdict],
        "added_to_steps_of_b": comparison.offset,
        "quantities": [_as_json(quantity) for quantity in comparison.quantities],
        "hints": list(comparison.hints),
        "notes": list(comparison.remarks),
        "to_record": [] if comparison.verdict in ("equal", "rounding") else list(RECORD),
    }
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def _as_json(quantity: Quantity) -> dict[str, Any]:
    pair, relation = quantity.pair, quantity.relation
    first = None
    if pair.first is not None:
        first = {
            "step": quantity.first_step,
            "a": json_number(pair.a.values_N[pair.first]),
            "b": json_number(pair.b.values_N[pair.first]),
            "difference": json_number(pair.gaps_N[pair.first]),
            "allowed": json_number(pair.allowed_N[pair.first]),
        }
    related = None
    if relation is not None:
        related = {
            "kind": relation.kind,
            "text": relation.text,
            "value": None if relation.value is None else json_number(relation.value),
            "since_step": relation.since,
            "only_logged": relation.only_logged,
        }
    return {
        "name": quantity.name,
        "columns": [pair.all_a.column, pair.all_b.column],
        "digits": [pair.a.digits.text, pair.b.digits.text],
        "steps": pair.steps,
        "verdict": quantity.verdict,
        "first": first,
        "relation": related,
        "text": _sentence(quantity),
    }
