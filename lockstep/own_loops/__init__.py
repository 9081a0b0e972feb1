"""Record training loops that lockstep did not write, from the arrays of any framework."""
