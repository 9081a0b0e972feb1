"""The facts about an activation that the rest of lockstep reads."""

from typing import NamedTuple

__all__ = ["ActivationSpec"]


class ActivationSpec(NamedTuple):
    """An activation's name and formula; oracle and twins implement it in files of its name."""

    title: str
    """The activation's name in the report."""
    formula: str
    """The activation of z, which the layer before gives."""
