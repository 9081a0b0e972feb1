"""Training loops in JAX as people write them, in right ways and with planted faults."""
