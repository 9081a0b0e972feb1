"""Controls: faults planted in one framework, which a study must find different."""

from collections.abc import Iterator
from dataclasses import dataclass

from lockstep.recipe import Recipe

__all__ = ["Control", "controls"]


@dataclass(frozen=True)
class Control:
    """A recipe that is trained in place of the right one, and how it differs."""

    key: str
    text: str
    recipe: Recipe


def controls(recipe: Recipe) -> Iterator[Control]:
    """A control for each of learning rate, momentum and initialisation, a little wrong, if the
    recipe has it.
    """
    higher = recipe.with_values({"schedule.peak": 1.05 * recipe.schedule.peak})
    yield Control("rate", "learning rate 5 % too high", higher)
    for knob in ("momentum", "beta1"):
        right = recipe.optimizer.get(knob)
        if right:
            wrong = 0.88 if right != 0.88 else 0.9
            text = f"{knob} {wrong:g} instead of {right:g}"
            yield Control("momentum", text, recipe.with_values({f"optimizer.{knob}": wrong}))
            break
    if recipe.model.init != "zeros":
        other = "flax" if recipe.model.init != "flax" else "torch"
        text = f"{other} initialisation instead of {recipe.model.init}"
        yield Control("init", text, recipe.with_values({"model.init": other}))
