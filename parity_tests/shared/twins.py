"""The two twins, what each makes of a recipe, and a way to change a function wherever a twin uses
it.
"""

from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any

import pytest

import jax_impl.io.detail
import jax_impl.predict
import jax_impl.train
import pt_impl.train
from lockstep.recipe import Recipe
from lockstep.records.run_recorder import Watch
from lockstep.records.trace import Trace
from parity_tests.shared.recipes import prepared

__all__ = ["TWINS", "forget_compiled", "of_pair", "patch_pair", "twin_trace"]

TWINS = {"torch": pt_impl.train, "jax": jax_impl.train}


@cache
def twin_trace(backend: str, recipe: Recipe) -> Trace:
    """What a twin records of a small recipe, with the parameters of every update."""
    return TWINS[backend].train(recipe, prepared(recipe), watch=Watch(parameters_every=1))


def of_pair(train: ModuleType, name: str) -> Any:
    """What a twin, named by its module `train`, uses under this name."""
    return getattr(_users(train, name)[0], name)


def patch_pair(monkeypatch: pytest.MonkeyPatch, train: ModuleType, name: str, value: Any) -> None:
    """Put something else there."""
    for module in _users(train, name):
        monkeypatch.setattr(module, name, value)


def _users(train: ModuleType, name: str) -> list[ModuleType]:
    package, _, _ = train.__name__.partition(".")
    modules = [
        import_module(f"{package}.{module}")
        for module in ("train", "update", "predict", "io.detail", "io.view")
    ]
    return [module for module in modules if hasattr(module, name)]


def forget_compiled() -> None:
    """Compiled code does not see what is changed."""
    jax_impl.train.make_segment.cache_clear()
    jax_impl.io.detail.make_detailed_segment.cache_clear()
    jax_impl.predict._evaluate.clear_cache()  # type: ignore[attr-defined] # jax.jit is typed as any callable
