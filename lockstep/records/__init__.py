"""The files that a run leaves behind, traces, checkpoints and ensembles, and their content."""
