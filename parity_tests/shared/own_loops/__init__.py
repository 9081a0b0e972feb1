"""Training loops of many models, each in several right ways and with planted faults."""
