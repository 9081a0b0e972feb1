"""Where the arithmetic runs, and what runs it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

import jax
import jax.numpy as jnp
import jaxlib.version
import numpy as np
import optax
from numpy.typing import NDArray

from lockstep.data_prep import PreparedData
from lockstep.errors import InputError
from lockstep.records.matmul_precision import Precision, measure_precision

__all__ = [
    "describe_environment",
    "effective_precision",
    "few_threads",
    "narrow",
    "select_device",
    "synchronise",
]


@contextmanager
def few_threads(data: PreparedData) -> Iterator[None]:
    """Nothing to do: XLA shares no small operation."""
    yield


def select_device(name: str) -> jax.Device:
    """The device for "cpu", "gpu" or "auto" (a GPU where there is one), with float32 products in
    full precision.

    Raises:
        InputError: "gpu" where JAX sees none.
    """
    jax.config.update("jax_default_matmul_precision", "highest")  # no TF32, as in the twin
    found = jax.default_backend() == "gpu"
    if name == "gpu" and not found:
        raise InputError(f"--device gpu: JAX {jax.__version__} sees no GPU on this machine")
    return jax.devices("gpu" if found and name != "cpu" else "cpu")[0]


def effective_precision(device: jax.Device) -> Precision:
    """How the device computes products of float32, whatever the settings say."""

    def product(a: Any, b: Any) -> Any:
        a, b = (jax.device_put(factor, device) for factor in (a, b))
        return np.asarray(jnp.matmul(a, b))

    return measure_precision(product)


def describe_environment(device: jax.Device) -> dict[str, Any]:
    """Versions, device and settings that a trace carries; `matmul_bits` and `subnormals` are
    measured.
    """
    gpu, precision = device.platform == "gpu", effective_precision(device)
    return {
        "jax": jax.__version__,
        "jaxlib": jaxlib.version.__version__,
        "flax": version("flax"),  # which the fast engine does not load
        "optax": optax.__version__,
        "device": device.device_kind if gpu else "cpu",
        "threads": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "matmul_precision": jax.config.values["jax_default_matmul_precision"],
        "matmul_bits": precision.bits,
        "subnormals": precision.subnormals,
        "x64": jax.config.values["jax_enable_x64"],
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }


def synchronise(tensors: Any) -> None:
    """Wait until everything queued on the device is computed."""
    jax.block_until_ready(tensors)


def narrow(y_N: NDArray[Any]) -> NDArray[Any]:
    """Labels as JAX takes them: it has no 64-bit integers unless it has 64-bit floats."""
    return y_N.astype(np.int32) if y_N.dtype.kind == "i" else y_N
