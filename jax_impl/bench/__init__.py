"""JAX's contenders in a benchmark."""
