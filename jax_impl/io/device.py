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
    """No change: XLA does not share a small operation among threads."""
    yield


def select_device(name: str) -> jax.Device:
    """The device for "cpu", "gpu" or "auto", with float32 products in full precision.

    "auto" is a GPU where there is one.

    Raises:
        InputError: "gpu" where JAX sees none.
    """
    # no TF32: both frameworks multiply in the recipe's dtype
    jax.config.update("jax_default_matmul_precision", "highest")
    has_gpu = jax.default_backend() == "gpu"
    if name == "gpu" and not has_gpu:
        raise InputError(f"--device gpu: JAX {jax.__version__} sees no GPU on this machine")
    return jax.devices("gpu" if has_gpu and name != "cpu" else "cpu")[0]


def effective_precision(device: jax.Device) -> Precision:
    """How the device computes products of float32, whatever the settings say."""

    def product(a: NDArray[Any], b: NDArray[Any]) -> NDArray[Any]:
        left = jax.device_put(a, device)
        right = jax.device_put(b, device)
        return np.asarray(jnp.matmul(left, right))

    return measure_precision(product)


def describe_environment(device: jax.Device) -> dict[str, Any]:
    """Versions, device and settings of a trace; `matmul_bits` and `subnormals` are measured."""
    precision = effective_precision(device)
    # not every system tells which cores a process may use
    has_affinity = hasattr(os, "sched_getaffinity")
    threads = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count()
    gpu = device.platform == "gpu"
    return {
        "jax": jax.__version__,
        "jaxlib": jaxlib.version.__version__,
        "flax": version("flax"),  # from its metadata: the fast engine does not load it
        "optax": optax.__version__,
        "device": device.device_kind if gpu else "cpu",
        "threads": threads,
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
    """Classes in int32: JAX has no 64-bit integers unless it has 64-bit floats."""
    return y_N.astype(np.int32) if y_N.dtype.kind == "i" else y_N
