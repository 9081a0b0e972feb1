"""The losses that can be minimised: one file for each."""

from lockstep.recipe.losses.base import Loss
from lockstep.recipe.losses.binary_cross_entropy import BinaryCrossEntropy
from lockstep.recipe.losses.cross_entropy import CrossEntropy
from lockstep.recipe.losses.huber import Huber
from lockstep.recipe.losses.mse import SquaredError
from lockstep.recipe.variants import load_variants

__all__ = ["BinaryCrossEntropy", "CrossEntropy", "Huber", "Loss", "SquaredError"]

load_variants(Loss, __name__, __path__, ("cross_entropy", "binary_cross_entropy", "mse", "huber"))
