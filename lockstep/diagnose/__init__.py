"""From traces to a verdict and the first place where they part.

The package is a function as well: `lockstep.diagnose(a, b)` is
`lockstep.diagnose.pairs.diagnose(a, b)`.
"""

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any


class _Callable(ModuleType):
    """A package that one may call, since the public face has a function of its name."""

    @property
    def __wrapped__(self) -> Callable[..., Any]:
        """The function, by which `inspect` tells signature and documentation."""
        from lockstep.diagnose.pairs import diagnose

        return diagnose

    def __call__(self, *traces: Any, **options: Any) -> Any:
        return self.__wrapped__(*traces, **options)


sys.modules[__name__].__class__ = _Callable
