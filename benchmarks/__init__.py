"""What a benchmark needs a checkout for: floors, peers, and parts of an update alone."""
