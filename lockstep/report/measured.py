"""What a page of figures was measured with."""

import platform
from importlib.metadata import version

__all__ = ["measured_with"]


def measured_with() -> str:
    """ "torch 2.13.0, jax 0.10.2, ..., on x86_64"."""
    versions = ", ".join(f"{package} {version(package)}" for package in ("torch", "jax", "flax", "optax", "numpy"))
    return f"{versions}, on {platform.machine()}"
