"""Patches of a library from outside: another function in the place of one of its own."""

import sys
from collections.abc import Callable
from pkgutil import resolve_name
from typing import Any

__all__ = ["Change", "argument", "by_name", "called_with", "patch_library", "result"]

Change = Callable[[Any], Any]
"""Makes a function's replacement from the original."""


def patch_library(function: str, change: Change) -> None:
    """Replace a function for as long as this process lives, wherever its library holds it.

    `optax.trace`, for example, stands in four modules.

    Args:
        function: its dotted name; it may be a method or an operator.
        change: makes its replacement.
    """
    place, _, name = function.rpartition(".")
    owner = resolve_name(place)
    original = getattr(owner, name)
    changed = change(original)
    setattr(owner, name, changed)
    library = function.partition(".")[0]
    for key, module in list(sys.modules.items()):
        if key.partition(".")[0] != library:
            continue
        for attribute, value in list(vars(module).items()):
            if value is original:
                setattr(module, attribute, changed)


def called_with(**fixed: Any) -> Change:
    """A change: the function gets these arguments by name, whatever its caller gives."""
    return lambda original: lambda *arguments, **named: original(*arguments, **named | fixed)


def argument(name: str, change: Callable[[Any], Any]) -> Change:
    """A change: an argument that the caller gives by name is changed."""

    def replacement(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            changed = {name: change(named[name])} if name in named else {}
            return original(*arguments, **named | changed)

        return call

    return replacement


def by_name(names: str, **fixed: Any) -> Change:
    """A change: the function gets these arguments, although its caller gives them by position.

    Args:
        names: the names of the function's arguments, in order.
        fixed: what the function gets.
    """

    def replacement(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            by_position = dict(zip(names.split(), arguments))
            return original(**by_position | named | fixed)

        return call

    return replacement


def result(change: Callable[[Any], Any]) -> Change:
    """A change: the function's result is changed."""
    return lambda original: lambda *arguments, **named: change(original(*arguments, **named))
