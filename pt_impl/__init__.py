"""PyTorch as people write it; the twin of `jax_impl`."""
