"""How the length of a step follows from the learning rate, by what an optimizer may do to its
moments.
"""

import math
from typing import NamedTuple

from lockstep.diagnose.local.rules import Memory, Rule

__all__ = [
    "CORRECTED",
    "NUMBERS",
    "Correction",
    "corrections_of",
    "nadam_ratio",
    "rectified_length",
]

CORRECTED = ("adam", "nadam", "radam", "amsgrad", "adamax", "adabelief")
"""Rules that correct their moments for the start at 0."""
NUMBERS = {
    "corrected": 1.0,
    "uncorrected": 0.0,
    "first moment alone": 2.0,
    "second moment alone": 3.0,
}
"""Which moments are corrected -> the number that stands for it."""
RAMPS = (True, False)
"""Whether the momentum of NAdam grows (PyTorch) or stays (Optax)."""


class Correction(NamedTuple):
    """What may stand between a learning rate and a step.

    Attributes:
        kind: a key of `NUMBERS`, or "plain", "nesterov".
        factor: the length of a step over the learning rate.
        eps: eps as it was fitted over eps; NaN where that is not known.
        rule: the name of the optimizer that does it, where it is not the rule's own.
    """

    kind: str
    factor: float
    eps: float
    rule: str = ""


def corrections_of(rule: Rule, memory: Memory, update: int) -> list[Correction]:
    """The ways that there are, the usual one first.

    Sources: as in `lockstep.oracle.optimizers`.
    """
    betas = memory.betas
    if rule.name == "sgd" and rule.only_first and rule.slots:
        ahead = 1 + betas.get("momentum", math.nan)
        return [Correction("plain", 1.0, 1.0), Correction("nesterov", ahead, 1.0)]
    root = math.sqrt(max(1 - betas.get("second", math.nan) ** memory.count, 0.0))
    if rule.name == "rmsprop" and rule.slots == {"second"}:
        return [Correction("plain", 1.0, 1.0), Correction("corrected", root, root)]
    if rule.name not in CORRECTED:
        return [Correction("plain", 1.0, 1.0)]
    first = 1 - betas.get("first", math.nan) ** memory.count
    is_of_first = rule.name in ("adamax", "radam")
    if is_of_first or memory.kind.get("largest_second") == "corrected":
        return [Correction("corrected", 1 / first, 1.0), Correction("uncorrected", 1.0, 1.0)]
    if rule.name == "nadam":
        return [_nadam(memory, ramp, root, update) for ramp in RAMPS]
    usual = [
        Correction("corrected", root / first, root),
        Correction("uncorrected", 1.0, 1.0),
        Correction("first moment alone", 1 / first, 1.0),
        Correction("second moment alone", root, root),
    ]
    if rule.name == "adam":
        rectified = _rectified(betas.get("second", math.nan), memory.count)
        usual.append(Correction("corrected", rectified * root / first, math.nan, "radam"))
    if rule.name == "adam" and update == 0:
        # the first moment is a multiple of the gradient, so that one direction holds both
        usual += [_nadam(memory, ramp, root, update)._replace(rule="nadam") for ramp in RAMPS]
    return usual


def nadam_ratio(memory: Memory, ramp: bool) -> float:
    """The length along the first moment over that along the gradient."""
    now, following, product = _momenta(memory, ramp)
    return following * (1 - product) / ((1 - product * following) * (1 - now))


def _nadam(memory: Memory, ramp: bool, root: float, update: int) -> Correction:
    now, following, product = _momenta(memory, ramp)
    factor = root * following / (1 - product * following)
    if update == 0:
        here = (1 - now) / (1 - product) / (1 - memory.betas.get("first", math.nan))
        factor += root * here
    return Correction("corrected", factor, root)


def _momenta(memory: Memory, ramp: bool) -> tuple[float, float, float]:
    """The momentum of this update, of the next, and the product of all so far."""
    beta = memory.betas.get("first", math.nan)

    def at(t: int) -> float:
        return beta * (1 - 0.5 * 0.96 ** (t * 0.004)) if ramp else beta

    product = math.prod(at(t) for t in range(1, memory.count + 1))
    return at(memory.count), at(memory.count + 1), product


def rectified_length(beta2: float, count: int) -> float:
    """RAdam's rho: below 5 it leaves the second moment out."""
    if not 0 < beta2 < 1:
        return math.nan
    power = beta2**count
    return 2 / (1 - beta2) - 1 - 2 * count * power / (1 - power)


def _rectified(beta2: float, count: int) -> float:
    rho = rectified_length(beta2, count)
    if not rho > 5:
        return math.nan
    longest = 2 / (1 - beta2) - 1
    numerator = (rho - 4) * (rho - 2) * longest
    return math.sqrt(numerator / ((longest - 4) * (longest - 2) * rho))
