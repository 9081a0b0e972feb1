"""torch.optim without the compiler that it loads."""

import importlib
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch  # noqa: F401 - loaded first: while it loads, it uses more of the module

__all__ = ["spare_compiler"]

COMPILER = "torch._dynamo"


def spare_compiler() -> None:
    """Keep `torch.optim` from loading `torch._dynamo` in a process that compiles nothing.

    torch 2.13.0 loads it at the first optimizer, which takes almost as long as all the rest of
    torch: `torch/_compile.py` for `disable` and `torch/optim/optimizer.py` for `graph_break`.
    Outside `torch.compile` a disabled function is the function itself, and a graph break does
    nothing. Any other attribute of the module loads it.
    """
    if COMPILER not in sys.modules:
        sys.modules[COMPILER] = _Eager(COMPILER)


class _Eager(ModuleType):
    def disable(
        self, function: Callable[..., Any], recursive: bool = True, *, wrapping: bool = True
    ) -> Any:
        return function

    def graph_break(self) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__path__":  # `inspect` looks these up in every module
            raise AttributeError(name)
        if sys.modules.get(COMPILER) is self:
            del sys.modules[COMPILER]
        return getattr(importlib.import_module(COMPILER), name)
