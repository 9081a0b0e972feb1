"""Where the same lines mean different things: pages that run, and whether they still hold."""
