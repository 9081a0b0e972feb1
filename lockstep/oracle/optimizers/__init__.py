"""The rules of the optimizers: one file each, named as the recipe's.

A rule is (optimizer, lr, update, parameter, gradient, moments, exact) -> the parameter after the
update, and what is remembered of it. The gradient has L2 decay in it; a decoupled decay is the
rule's own.
"""

from importlib import import_module

from lockstep.oracle.arithmetic import Rule
from lockstep.recipe import Optimizer

__all__ = ["RULES", "WEIGHT_RULES"]

_FILES = {
    name: import_module(f"lockstep.oracle.optimizers.{kind.file_name()}")
    for name, kind in Optimizer.variants.items()
}
RULES: dict[str, Rule] = {name: file.rule for name, file in _FILES.items()}
"""Optimizer -> its rule."""
WEIGHT_RULES: dict[str, Rule] = {
    name: file.weight_rule for name, file in _FILES.items() if hasattr(file, "weight_rule")
}
"""Optimizer -> its rule for the weights of linear layers, where they have one of their own."""
