"""Recipes: their sections, their presets, and how a recipe is read."""

from lockstep.recipe.losses import BinaryCrossEntropy, CrossEntropy, Huber, Loss, SquaredError
from lockstep.recipe.optimizers import Optimizer
from lockstep.recipe.schedules import Schedule
from lockstep.recipe.sections import (
    KNOBS,
    LATER,
    OPTIONS,
    SECTIONS,
    Average,
    Convergence,
    Data,
    Gradient,
    Model,
    Recipe,
    Training,
    field_docstrings,
    field_infos,
    load_recipe,
    parse_value,
    ready_made_recipes,
    variants_of,
)

__all__ = [
    "KNOBS",
    "LATER",
    "OPTIONS",
    "SECTIONS",
    "Average",
    "BinaryCrossEntropy",
    "Convergence",
    "CrossEntropy",
    "Data",
    "Gradient",
    "Huber",
    "Loss",
    "Model",
    "Optimizer",
    "Recipe",
    "Schedule",
    "SquaredError",
    "Training",
    "field_docstrings",
    "field_infos",
    "load_recipe",
    "parse_value",
    "ready_made_recipes",
    "variants_of",
]
