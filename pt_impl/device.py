"""Where the arithmetic runs, and what runs it."""

from typing import Any

import torch

from lockstep.errors import InputError

__all__ = ["describe_environment", "select_device", "synchronise"]


def select_device(name: str) -> torch.device:
    """The device for "cpu", "gpu" or "auto" (a GPU where there is one), with float32 products in full precision.

    Raises:
        InputError: "gpu" where PyTorch sees none.
    """
    torch.set_float32_matmul_precision("highest")  # no TF32: both frameworks multiply in the recipe's dtype
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False  # sums of bfloat16 products in float32
    found = torch.cuda.is_available()
    if name == "gpu" and not found:
        raise InputError(f"--device gpu: PyTorch {torch.__version__} sees no GPU on this machine")
    return torch.device("cuda", 0) if found and name != "cpu" else torch.device("cpu")


def describe_environment(device: torch.device) -> dict[str, Any]:
    """Versions, device and settings that a trace carries."""
    gpu = device.type == "cuda"
    return {
        "torch": str(torch.__version__),
        "device": torch.cuda.get_device_name(device) if gpu else "cpu",
        "threads": torch.get_num_threads(),
        "matmul_precision": torch.get_float32_matmul_precision(),
    }


def synchronise(tensors: Any) -> None:
    """Wait until everything queued on the device is computed."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
