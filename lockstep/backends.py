"""The two frameworks that train a recipe, by the names that lockstep gives them."""

__all__ = ["BACKENDS", "PACKAGES", "TRAINERS", "TWINS"]

BACKENDS = ("torch", "jax")
"""The twins, in the order in which they are shown."""
TRAINERS = (*BACKENDS, "oracle")
"""Everything that trains a recipe."""
PACKAGES = {"torch": ("torch",), "jax": ("jax", "flax", "optax")}
"""Backend -> the packages that its twin imports, each of which may be upgraded alone."""
TWINS = {"torch": "pt_impl", "jax": "jax_impl"}
"""Backend -> the package that trains with it, which is loaded by this name where it is needed."""
