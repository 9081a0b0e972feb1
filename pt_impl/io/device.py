"""Where the arithmetic runs, and what runs it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from numpy.typing import NDArray
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
    """One thread within the block if the data are small; afterwards as many as before."""
    before = torch.get_num_threads()
    if data.is_small:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def select_device(name: str) -> torch.device:
    """The device for "cpu", "gpu" or "auto", with float32 products in full precision.

    "auto" is a GPU where there is one.

    Raises:
        InputError: "gpu" where PyTorch sees none.
    """
    # no TF32: both frameworks multiply in the recipe's dtype
    torch.set_float32_matmul_precision("highest")
    # products of bfloat16 are added in float32
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    has_gpu = torch.cuda.is_available()
    if name == "gpu" and not has_gpu:
        raise InputError(f"--device gpu: PyTorch {torch.__version__} sees no GPU on this machine")
    return torch.device("cuda", 0) if has_gpu and name != "cpu" else torch.device("cpu")


def effective_precision(device: torch.device) -> Precision:
    """How the device computes products of float32, whatever the settings say."""

    def product(a: NDArray[Any], b: NDArray[Any]) -> NDArray[Any]:
        left = torch.from_numpy(a).to(device)
        right = torch.from_numpy(b).to(device)
        values: NDArray[Any] = functional.linear(left, right.T).cpu().numpy()
        return values

    return measure_precision(product)


def describe_environment(device: torch.device) -> dict[str, Any]:
    """Versions, device and settings of a trace; `matmul_bits` and `subnormals` are measured."""
    precision = effective_precision(device)
    gpu = device.type == "cuda"
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
