"""The parts of a benchmark that need a checkout: floors, peers, and parts of an update alone."""
