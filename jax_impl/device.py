"""Where the arithmetic runs, and what runs it."""

import os
from typing import Any

import flax
import jax
import optax

from lockstep.errors import InputError

__all__ = ["describe_environment", "select_device", "synchronise"]


def select_device(name: str) -> jax.Device:
    """The device for "cpu", "gpu" or "auto" (a GPU where there is one), with float32 products in full precision.

    Raises:
        InputError: "gpu" where JAX sees none.
    """
    jax.config.update("jax_default_matmul_precision", "highest")  # no TF32, as in the twin
    found = jax.default_backend() == "gpu"
    if name == "gpu" and not found:
        raise InputError(f"--device gpu: JAX {jax.__version__} sees no GPU on this machine")
    return jax.devices("gpu" if found and name != "cpu" else "cpu")[0]


def describe_environment(device: jax.Device) -> dict[str, Any]:
    """Versions, device and settings that a trace carries."""
    gpu = device.platform == "gpu"
    return {
        "jax": jax.__version__,
        "flax": flax.__version__,
        "optax": optax.__version__,
        "device": device.device_kind if gpu else "cpu",
        "threads": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "matmul_precision": jax.config.values["jax_default_matmul_precision"],
    }


def synchronise(tensors: Any) -> None:
    """Wait until everything queued on the device is computed."""
    jax.block_until_ready(tensors)
