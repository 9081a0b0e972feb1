"""What the tests change in a twin: a function of the pair, wherever its files use it."""

from importlib import import_module
from types import ModuleType
from typing import Any

import pytest

import jax_impl.io.detail
import jax_impl.predict
import jax_impl.update

__all__ = ["forget_compiled", "of_pair", "patch_pair"]


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
        import_module(f"{package}.{module}") for module in ("train", "update", "predict", "io.detail", "io.view")
    ]
    return [module for module in modules if hasattr(module, name)]


def forget_compiled() -> None:
    """Compiled code does not see what is changed."""
    jax_impl.update.make_segment.cache_clear()
    jax_impl.io.detail.make_detailed_segment.cache_clear()
    jax_impl.predict._evaluate.clear_cache()  # type: ignore[attr-defined] # jax.jit is typed as any callable
