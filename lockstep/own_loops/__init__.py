"""Loops that nobody here wrote: recorded from any framework's arrays."""
