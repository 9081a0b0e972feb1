"""How a library is made to do something else, from outside: what is put in the place of a function
of it.
"""

import sys
from collections.abc import Callable
from pkgutil import resolve_name
from typing import Any

__all__ = ["Change", "argument", "by_name", "called_with", "patch_library", "result"]

Change = Callable[[Any], Any]
"""From what is there to what is put in its place."""


def patch_library(function: str, change: Change) -> None:
    """Change a function for as long as this process lives, wherever its library holds it:
    `optax.trace` stands in four modules.

    Args:
        function: its dotted name; one of a class or of an operator too.
        change: how it is changed.
    """
    place, _, name = function.rpartition(".")
    owner = resolve_name(place)
    original = getattr(owner, name)
    changed = change(original)
    setattr(owner, name, changed)
    library = function.partition(".")[0]
    for module in [
        module for key, module in sys.modules.items() if key.partition(".")[0] == library
    ]:
        for held in [held for held, value in vars(module).items() if value is original]:
            setattr(module, held, changed)


def called_with(**fixed: Any) -> Change:
    """Called with other arguments than its caller's."""
    return lambda original: lambda *arguments, **named: original(*arguments, **named | fixed)


def argument(name: str, change: Callable[[Any], Any]) -> Change:
    """An argument changed, where it is given by name."""

    def put(original: Any) -> Any:
        def called(*arguments: Any, **named: Any) -> Any:
            changed = {name: change(named[name])} if name in named else {}
            return original(*arguments, **named | changed)

        return called

    return put


def by_name(names: str, **fixed: Any) -> Change:
    """Called with other arguments than its caller's, which come by their places.

    Args:
        names: of the arguments, in order.
        fixed: what is given in their place.
    """
    return lambda original: (
        lambda *arguments, **named: original(**dict(zip(names.split(), arguments)) | named | fixed)
    )


def result(change: Callable[[Any], Any]) -> Change:
    """Its result changed."""
    return lambda original: lambda *arguments, **named: change(original(*arguments, **named))
