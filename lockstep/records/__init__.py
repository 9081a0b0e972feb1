"""What a run leaves behind: traces, checkpoints and ensembles, and what must stand in each."""
