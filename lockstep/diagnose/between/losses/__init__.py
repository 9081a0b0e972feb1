"""How one loop takes its loss beside the other."""
