"""How fast is fast enough: bars on ratios of times within one interleaved run."""

from dataclasses import dataclass

__all__ = ["LIMITS", "Limit"]


@dataclass(frozen=True)
class Limit:
    """A bar: the contender's time over that of `over` is at most `most`."""

    contender: str
    over: str
    most: float


LIMITS = {
    "W1": (
        Limit("jax fast", "c", 4),
        Limit("torch fast", "c", 14),
        Limit("jax fast", "jax unrecorded", 1.1),
        Limit("torch fast", "torch unrecorded", 1.1),
        Limit("jax fast", "keras jax", 1 / 20),
        Limit("torch fast", "keras torch", 1 / 20),
        Limit("torch fast", "lightning", 1 / 20),
        Limit("torch fast", "skorch", 1 / 20),
    ),
    "W1-adamw": (Limit("jax fast", "c", 6), Limit("torch fast", "c", 22)),
    "W2": (
        Limit("jax fast", "jax products", 1.25),
        Limit("torch fast", "torch products", 1.25),
        Limit("jax fast", "keras jax", 1),
        Limit("torch fast", "keras torch", 1),
        Limit("torch fast", "lightning", 1),
        Limit("torch fast", "skorch", 1),
    ),
    "W3": (
        Limit("jax ensemble", "c", 2.5),
        Limit("torch ensemble", "c", 4),
        Limit("jax ensemble", "torch steps", 1 / 50),
        Limit("torch ensemble", "torch steps", 1 / 50),
    ),
}
"""Workload -> its bars, which hold on two CPU cores."""
