"""Training loops as people write them, in right ways and with planted faults."""
