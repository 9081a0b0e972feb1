"""The functional port, Flax and Optax; the twin of `pt_impl`."""
