"""Each side of two loops judged by itself: what its own tensors say of the settings it runs with.

A stage is recomputed in float64 from what that side recorded before it, so that the error is that
of one operation, whatever the roundings before it came to.
"""
