"""Train one recipe in PyTorch and in JAX and say whether the two do the same thing.

This package is the framework-free core: NumPy and small libraries. It imports neither torch nor jax.
"""

__version__ = "0.1.0"
