"""The two frameworks that train a recipe, by the names that lockstep gives them."""

__all__ = ["BACKENDS", "PACKAGES", "TRAINERS", "TWINS"]

BACKENDS = ("torch", "jax")
"""In the order in which they are shown."""
TRAINERS = (*BACKENDS, "oracle")
"""All that train a recipe."""
PACKAGES = {"torch": ("torch",), "jax": ("jax", "flax", "optax")}
"""Backend -> the packages that its twin imports, which may be bumped one by one."""
TWINS = {"torch": "pt_impl", "jax": "jax_impl"}
"""Backend -> the package that trains with it; it is loaded by this name, and only where it is
needed.
"""
