"""Faults that `lockstep prove` plants in the twin, or in its library."""
