"""Pairs of own loops without a fault that has a name: right ones, and ones with an odd fault."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count, islice
from typing import Any

from lockstep.studies.prove.own_loops.faults import BASES, DTYPES
from lockstep.studies.prove.own_loops.right_pairs import RIGHT_PAIRS
from lockstep.studies.prove.own_loops.ways import Loop

__all__ = ["DEFAULT_PAIRS", "ODD_FAULTS", "TRUE_CAUSES", "NamelessPair", "nameless_pairs"]


@dataclass(frozen=True)
class NamelessPair:
    """Two loops of which no cause may be named.

    Attributes:
        name: of the pair.
        a: a right loop.
        b: one that means the same, or that has an odd fault.
        odd: what is wrong; "" for a right pair.
    """

    name: str
    a: Loop
    b: Loop
    odd: str = ""


ODD_FAULTS: dict[str, dict[str, Any]] = {
    "one initial weight is off": {"start": "one-changed"},
    "noise on the features or other tokens": {"feed": "odd-noise"},
    "rates that jitter": {"rates": "odd-jitter"},
    "a layer's output bent": {"wrong": "odd-output"},
    "a layer more": {"wrong": "odd-layer"},
    "a term more in the loss": {"wrong": "odd-loss"},
    "noise on one gradient": {"wrong": "odd-gradient"},
    "half of one gradient is 0": {"wrong": "odd-holes"},
    "noise on one tensor's memory": {"wrong": "odd-memory"},
    "noise on one tensor after the step": {"wrong": "odd-step"},
}
"""What is wrong -> the field of the loop that does it, at places and by amounts drawn by `odd`."""


DEFAULT_PAIRS = 40


TRUE_CAUSES = {"rates that jitter": {"learning-rate"}}
"""What is wrong -> keys of causes that are true of it, as a rate at one update is."""


def nameless_pairs(number: int) -> tuple[NamelessPair, ...]:
    """So many pairs, right ones and odd ones in turn, over models, precisions and seeds."""
    right, odd = _right(), _odd()
    drawn = ((next(right), next(odd)) for _ in count())
    return tuple(islice((pair for both in drawn for pair in both), number))


def _right() -> Iterator[NamelessPair]:
    """The right pairs of one framework, then those of two, and all again with other seeds."""
    pairs = {name: pair for name, pair in RIGHT_PAIRS.items() if not pair.seeds}
    of_torch = {name for name, pair in pairs.items() if "jax" not in _frameworks(pair.a, pair.b)}
    for seed in count():
        for names in (of_torch, pairs.keys() - of_torch):
            for name in (name for name in pairs if name in names):
                pair = pairs[name]
                a, b = _drawn_by(pair.a, seed), _drawn_by(pair.b, seed)
                yield NamelessPair(f"{name}, seed {seed}", a, b)


def _odd() -> Iterator[NamelessPair]:
    """The odd faults, each in the next model and precision."""
    places = [(model, precision) for precision in DTYPES for model in BASES]
    texts = list(ODD_FAULTS)
    for i in count():
        model, precision = places[i % len(places)]
        # the number of places has a factor in common with that of faults
        text = texts[(i + i // len(places)) % len(texts)]
        loop = replace(BASES[model], **DTYPES[precision])
        name = f"{text}, {model}, {precision}, seed {i}"
        yield NamelessPair(name, loop, replace(loop, odd=i, **ODD_FAULTS[text]), text)


def _drawn_by(loop: Loop, seed: int) -> Loop:
    """The loop with other numbers and the smallest sizes."""
    return replace(loop, seed=seed, is_tiny=True, updates=min(loop.updates, 4))


def _frameworks(*loops: Loop) -> set[str]:
    return {loop.framework for loop in loops}
