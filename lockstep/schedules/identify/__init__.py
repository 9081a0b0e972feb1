"""Which schedule a learning-rate series is of: its pieces, their laws, and what they come to."""
