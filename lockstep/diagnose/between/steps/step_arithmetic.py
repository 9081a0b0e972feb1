"""How a correction for the start at 0 may go wrong: the arithmetic of a rule with other powers of
its betas.
"""

from collections.abc import Callable, Mapping

from lockstep.oracle.arithmetic import Constant, Exact

__all__ = ["CORRECTIONS", "OtherPowers"]

FIRST = ("beta1 power",)
ALL = ("beta1 power", "beta2 power", "beta3 power")
LATER = ALL[1:]


class OtherPowers(Exact):
    """Some powers of the betas are changed, which the divisor 1 - power follows.

    Args:
        names: of the constants.
        change: power -> what stands in its place.
    """

    def __init__(self, names: tuple[str, ...], change: Callable[[float], float]) -> None:
        self.names = names
        self.change = change

    def constant(self, name: str, value: Constant) -> Constant:
        """A constant, or what stands in the place of a power."""
        return self.change(float(value)) if name in self.names else value


def _none(power: float) -> float:
    """The divisor is 1."""
    return 0.0


def _twice(power: float) -> float:
    """The divisor is squared."""
    return 1 - (1 - power) ** 2


def _inverse(power: float) -> float:
    """What is to be divided is multiplied."""
    return 1 - 1 / (1 - power)


CORRECTIONS: Mapping[str, Exact] = {
    "does not correct its moments for their start at 0": OtherPowers(ALL, _none),
    "does not correct the first moment for its start at 0": OtherPowers(FIRST, _none),
    "does not correct the second moment for its start at 0": OtherPowers(LATER, _none),
    "corrects its moments twice for their start at 0": OtherPowers(ALL, _twice),
    "corrects the first moment twice for its start at 0": OtherPowers(FIRST, _twice),
    "corrects the second moment twice for its start at 0": OtherPowers(LATER, _twice),
    "multiplies its moments by 1 - beta^t instead of dividing": OtherPowers(ALL, _inverse),
}
"""What a side does -> the arithmetic of it."""
