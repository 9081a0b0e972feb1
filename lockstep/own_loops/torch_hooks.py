"""Hooks that stay with the model that is watched."""

from collections.abc import Callable
from typing import Any

__all__ = ["Hook"]


class Hook:
    """A hook of a module, which a copy of the module does not have.

    People copy a model while it trains, for a moving average of its parameters or a file. A copy
    of this hook, or what is read from such a file, does nothing.

    Args:
        function: what the hook calls.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function."""
        return self._function(*args, **kwargs)

    def __deepcopy__(self, memo: Any) -> Callable[..., None]:
        return _nothing

    def __copy__(self) -> Callable[..., None]:
        return _nothing

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[()]]:
        return _hook_of_a_copy, ()


def _hook_of_a_copy() -> Callable[..., None]:
    return _nothing


def _nothing(*_: Any, **__: Any) -> None:
    """Stands for a hook in a copy."""
