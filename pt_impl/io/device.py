"""Where the arithmetic runs, and what runs it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import functional

from lockstep.data_prep import PreparedData
from lockstep.errors import InputError
from lockstep.records.matmul_precision import Precision, measure_precision

__all__ = [
    "describe_environment",
    "effective_precision",
    "few_threads",
    "select_device",
    "synchronise",
]


@contextmanager
def few_threads(data: PreparedData) -> Iterator[None]:
    """One thread for what is small, as `PreparedData.is_small` says; afterwards as many as
    before.
    """
    before = torch.get_num_threads()
    if data.is_small:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def select_device(name: str) -> torch.device:
    """The device for "cpu", "gpu" or "auto" (a GPU where there is one), with float32 products in
    full precision.

    Raises:
        InputError: "gpu" where PyTorch sees none.
    """
    torch.set_float32_matmul_precision(
        "highest"
    )  # no TF32: both frameworks multiply in the recipe's dtype
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = (
        False  # sums of bfloat16 products in float32
    )
    found = torch.cuda.is_available()
    if name == "gpu" and not found:
        raise InputError(f"--device gpu: PyTorch {torch.__version__} sees no GPU on this machine")
    return torch.device("cuda", 0) if found and name != "cpu" else torch.device("cpu")


def effective_precision(device: torch.device) -> Precision:
    """How the device computes products of float32, whatever the settings say."""

    def product(a: Any, b: Any) -> Any:
        a, b = (torch.from_numpy(factor).to(device) for factor in (a, b))
        return functional.linear(a, b.T).cpu().numpy()

    return measure_precision(product)


def describe_environment(device: torch.device) -> dict[str, Any]:
    """Versions, device and settings that a trace carries; `matmul_bits` and `subnormals` are
    measured.
    """
    gpu, precision = device.type == "cuda", effective_precision(device)
    return {
        "torch": str(torch.__version__),
        "device": torch.cuda.get_device_name(device) if gpu else "cpu",
        "threads": torch.get_num_threads(),
        "matmul_precision": torch.get_float32_matmul_precision(),
        "matmul_bits": precision.bits,
        "subnormals": precision.subnormals,
    }


def synchronise(tensors: Any) -> None:
    """Wait until everything queued on the device is computed."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
