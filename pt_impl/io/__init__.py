"""Input and output of a run: device, checkpoints, detail, draws, and the framework's own files."""
