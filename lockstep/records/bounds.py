"""What the rounding bounds in a trace are made with."""

__all__ = ["SAFETY"]

SAFETY = 8.0
"""How far beyond the widest of the members a right run may lie: measured, not derived. A pilot of
72 right float32
runs (12 seeds, three recipes) went to 4.7 times the widest of 8 members; the factor was then set,
and held over 240 runs, which share those seeds and came to 4.1 (docs/equality.md)."""
