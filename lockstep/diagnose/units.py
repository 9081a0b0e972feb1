"""The unit roundoff of each array of a loop, by the dtype that it was computed or kept in."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lockstep.diagnose.names import split_name
from lockstep.oracle.arithmetic import BFLOAT16, unit_roundoff
from lockstep.records.trace import Trace

__all__ = [
    "FLOAT32",
    "coarsest_dtype",
    "dtype_of",
    "unit_of_dtype",
    "unit_of_rate",
    "unit_of_schedule",
]

FLOAT32 = 2.0**-24
"""Unit roundoff of float32. A dtype of a larger one is low: its products are summed in float32."""
COARSE = {"bfloat16": BFLOAT16, "float8_e5m2": 2.0**-3, "float8": 2.0**-4}
"""Begin of a dtype's name that NumPy does not know -> its unit roundoff."""
BFLOAT16_BITS = np.uint32(0xFFFF)
"""The bits of a float32 that are 0 where its value is one of bfloat16."""


def unit_of_dtype(dtype: str) -> float:
    """Unit roundoff of a dtype by its name; 0 for integers and flags, which are exact."""
    for name, unit in COARSE.items():
        if dtype.startswith(name):
            return unit
    return unit_roundoff(dtype) if dtype.startswith("float") else 0.0


def dtype_of(trace: Trace, name: str) -> str:
    """The dtype that a loop held an array in.

    A trace keeps what NumPy cannot hold in float32, and says so in its header. An older trace says
    only that there were such arrays: there the values tell.

    Args:
        trace: of a loop.
        name: of an array in it.
    """
    array = trace.arrays[name]
    _, family, tensor = split_name(name)
    widened = trace.header.get("array_dtypes")
    if widened is not None:
        known = name.split("/", 2)[2] if name.startswith("detail/") else f"{family}/{tensor}"
        return str(widened.get(known, array.dtype.name))
    if "bfloat16" in trace.header.get("dtypes", []) and _is_of_bfloat16(array):
        return "bfloat16"
    return str(array.dtype.name)


def _is_of_bfloat16(array: NDArray[Any]) -> bool:
    """Whether a float32 array holds values of bfloat16 alone, and not only zeros and ones."""
    if array.dtype != np.float32 or not array.ndim:
        return False
    bits = np.ascontiguousarray(array).view(np.uint32)
    finite = array[np.isfinite(array)]
    return not (bits & BFLOAT16_BITS).any() and bool((finite % 1 != 0).any())


def coarsest_dtype(trace: Trace) -> str:
    """The coarsest dtype that anything of a loop was computed in, autocast's among them."""
    dtypes: list[str] = [*trace.header.get("dtypes", []), trace.header.get("dtype", "float64")]
    autocast = (trace.header.get("read") or {}).get("autocast") or {}
    dtypes.append(str(autocast.get("dtype", "float64")))
    return max(dtypes, key=unit_of_dtype)


def unit_of_rate(trace: Trace, name: str) -> float:
    """Unit roundoff of a learning rate: of its own dtype, or of float32 where the parameters have
    no more than that.

    A rate that is logged as a float64 may come of a schedule in float32. No framework keeps rates
    in less, whatever the parameters are in.
    """
    of_parameters = unit_of_dtype(trace.header.get("dtype", "float64"))
    own = unit_of_dtype(trace.arrays[name].dtype.name)
    return min(max(own, of_parameters), FLOAT32)


def unit_of_schedule(trace: Trace, name: str) -> float:
    """Unit roundoff that a series of learning rates was computed in: float32's where all of them
    are numbers of float32, whatever they are kept in.
    """
    rates = trace.arrays[name].astype(np.float64)
    rates = rates[rates != 0]
    is_short = len(rates) > 0 and bool((rates.astype(np.float32) == rates).all())
    return FLOAT32 if is_short else unit_of_rate(trace, name)
