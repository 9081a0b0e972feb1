"""What turns a gradient into an update: one file for each optimizer, or for two near relatives."""

from lockstep.recipe.optimizers.base import Optimizer, OptimizerSpec, Shape
from lockstep.recipe.variants import load_variants

__all__ = ["Optimizer", "OptimizerSpec", "Shape"]

FIRST = (
    "sgd",
    "adam",
    "adamw",
    "nadam",
    "nadamw",
    "radam",
    "adamax",
    "lamb",
    "lion",
    "adagrad",
    "rmsprop",
    "adadelta",
    "rprop",
    "adafactor",
    "muon",
)
"""The order of the first optimizers in matrix and catalogue; later ones follow by name."""

load_variants(Optimizer, __name__, __path__, FIRST)
