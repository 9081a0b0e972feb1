"""What the learning rates of one loop are of the other's, or of its own declared schedule."""

from lockstep.diagnose.between.rates.explain import explain_rates

__all__ = ["explain_rates"]
