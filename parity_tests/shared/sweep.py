"""Which cases of a table every `make test` runs, and which only `make sweep`."""

from collections.abc import Collection, Iterable
from typing import Any

import pytest

__all__ = ["sweep_but"]


def sweep_but(chosen: Collection[str], cases: Iterable[str]) -> list[Any]:
    """All cases, for `parametrize`; those that are not chosen run with `make sweep`.

    Chosen is a case for each thing that may go wrong by itself; the others are its combinations.
    """
    names = list(cases)
    assert set(chosen) <= set(names), set(chosen) - set(names)
    return [
        name if name in chosen else pytest.param(name, marks=pytest.mark.sweep) for name in names
    ]
