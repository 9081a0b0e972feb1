"""What a comparison of two traces must say. A failure names the first difference."""

from lockstep.diagnose.compare import Bounds, Comparison, bounds_of, compare
from lockstep.diagnose.verdict import describe_difference
from lockstep.records.trace import Trace

__all__ = ["assert_agreement", "assert_rounding", "assert_verdict", "first_place"]


def assert_verdict(comparison: Comparison, *allowed: str) -> None:
    """The verdict is one of those allowed."""
    first = comparison.first and describe_difference(comparison.first)
    assert comparison.verdict in allowed, (comparison.verdict, first)


def assert_rounding(trace: Trace, oracle: Trace, bounds: Bounds | None = None) -> None:
    """The traces differ, and by rounding alone. Without `bounds`, the oracle's trace must carry
    them.
    """
    if bounds is None:
        bounds = bounds_of(oracle)
        assert bounds
    assert_verdict(compare(trace, oracle, bounds), "rounding")


def assert_agreement(trace: Trace, oracle: Trace, bounds: Bounds) -> None:
    """The traces are identical or differ by rounding alone."""
    assert_verdict(compare(trace, oracle, bounds), "identical", "rounding")


def first_place(trace: Trace, oracle: Trace, bounds: Bounds) -> tuple[str, int]:
    """The stage and the update at which the traces part; they must."""
    comparison = compare(trace, oracle, bounds)
    assert comparison.first is not None, comparison.verdict
    return comparison.first.stage, comparison.first.update
