"""Tensors of any framework, read piece by piece."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lockstep.errors import InputError
from lockstep.own_loops.arrays import Tensor, to_array
from lockstep.records.tensor_summary import Flat, flat_of

__all__ = ["dtype_of", "flat_tensor", "has_numpy_dtype", "size_in_bytes"]


def dtype_of(value: Tensor) -> str:
    """The name of a tensor's dtype: "float32", "bfloat16"."""
    dtype = value.dtype if hasattr(value, "dtype") else np.asarray(value).dtype
    return str(getattr(dtype, "name", None) or dtype).rpartition(".")[2]


def has_numpy_dtype(value: Tensor) -> bool:
    """Whether NumPy has the tensor's dtype by itself, so that a trace can hold it as it is."""
    try:
        return np.dtype(dtype_of(value)).kind != "V"
    except TypeError:
        return False


def size_in_bytes(value: Tensor) -> int:
    """The bytes of a tensor in a trace, where a float that NumPy does not know takes 4."""
    width = np.dtype(dtype_of(value)).itemsize if has_numpy_dtype(value) else 4
    return math.prod(getattr(value, "shape", ())) * width


def flat_tensor(value: Tensor) -> Flat:
    """The elements of a tensor, without a copy of the whole where its framework allows it.

    A tensor of PyTorch on another device, or of a dtype that NumPy lacks, is copied piece by piece.
    One that does not lie in C order is copied as a whole.

    Raises:
        InputError: a complex number, a random key, or no array at all.
    """
    if not hasattr(value, "detach"):
        array = np.asarray(value)
        if array.dtype.kind != "V" or array.dtype.names is not None:
            return flat_of(_checked(array))
        elements = array.reshape(-1)  # in a dtype of ml_dtypes
        return lambda begin, end: elements[begin:end].astype(np.float32)
    tensor = value.detach()
    if tensor.device.type == "cpu" and has_numpy_dtype(tensor):
        return flat_of(_checked(tensor.numpy()))
    flat = tensor.reshape(-1)

    def piece(begin: int, end: int) -> NDArray[Any]:
        array, _ = to_array(flat[begin:end])
        return array

    return piece


def _checked(array: NDArray[Any]) -> NDArray[Any]:
    if array.dtype.kind not in "biuf":
        raise InputError(f"an array of {array.dtype.name} cannot be recorded")
    return array
