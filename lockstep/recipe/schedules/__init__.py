"""The schedules of the learning rate: one file for each, with its closed form."""

from lockstep.recipe.schedules.base import Schedule
from lockstep.recipe.variants import load_variants

__all__ = ["Schedule"]

load_variants(
    Schedule,
    __name__,
    __path__,
    (
        "constant",
        "linear",
        "polynomial",
        "cosine",
        "inverse_sqrt",
        "exponential",
        "step",
        "multistep",
        "wsd",
        "one_cycle",
        "cosine_restarts",
    ),
)
