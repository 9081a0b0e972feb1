"""What an activation is to the rest of lockstep."""

from typing import NamedTuple

__all__ = ["ActivationSpec"]


class ActivationSpec(NamedTuple):
    """What stands beside an activation's implementations, which oracle and twins have in files of
    its name.
    """

    title: str
    """Its name in the report."""
    formula: str
    """What it makes of the input z of a layer."""
