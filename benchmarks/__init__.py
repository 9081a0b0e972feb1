"""Both backends timed side by side."""
