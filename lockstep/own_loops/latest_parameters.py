"""One copy of the parameters, with which those after the next update are compared."""

import math
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lockstep.errors import InputError
from lockstep.own_loops.arrays import Tensor, to_array
from lockstep.own_loops.tensor_pieces import flat_tensor, has_numpy_dtype, size_in_bytes
from lockstep.records.tensor_summary import PIECE, Flat, Summary, sum_of_squares, summarise

__all__ = ["LatestParameters"]


class LatestParameters:
    """The parameters as they were last recorded, in their own dtypes.

    Args:
        values: the parameters by name.

    Attributes:
        shapes: name -> shape.
        bytes: the size of the parameters in a trace.
    """

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        self._copies = {name: _copy_of(value) for name, value in values.items()}
        self._lent: dict[str, NDArray[Any]] | None = None
        self.shapes = {name: tuple(copy.shape) for name, copy in self._copies.items()}
        self.bytes = sum(map(size_in_bytes, self._copies.values()))

    def lend(self) -> dict[str, NDArray[Any]]:
        """The parameters in NumPy; later ones do not overwrite these arrays."""
        if self._lent is None:
            self._lent = {name: _in_numpy(copy) for name, copy in self._copies.items()}
        return self._lent

    def summaries(self) -> dict[str, Summary]:
        """Statistics, sketches and hash of each parameter that has elements."""
        return {
            name: summarise(copy.shape, flat_tensor(copy), sketches=True, hashed=True)
            for name, copy in self._copies.items()
            if math.prod(copy.shape)
        }

    def replace(self, values: Mapping[str, Tensor], trained: Collection[str]) -> float:
        """Copy later values over those that are not lent.

        Args:
            values: the parameters by the same names.
            trained: the names of those whose change counts.

        Returns:
            The sum of the squares of their change, in float64.

        Raises:
            InputError: other names or shapes than before.
        """
        if values.keys() != self._copies.keys():
            names = sorted(values.keys() ^ self._copies.keys())
            raise InputError(f"parameters have other names than before: {', '.join(names[:5])}")
        squares = 0.0
        for name, value in values.items():
            if tuple(value.shape) != self.shapes[name]:
                raise InputError(
                    f"parameter {name}: shape {tuple(value.shape)}, before {self.shapes[name]}"
                )
            copy = self._copies[name]
            if name in trained:
                size = math.prod(value.shape)
                squares += _squares_of_change(flat_tensor(value), flat_tensor(copy), size)
            if self._lent is None:
                _overwrite(copy, value)
            else:
                self._copies[name] = _copy_of(value)
        self._lent = None
        return squares


def _squares_of_change(after: Flat, before: Flat, size: int) -> float:
    changes = np.empty(min(size, PIECE))
    begins = np.empty_like(changes)
    squares = 0.0
    with np.errstate(all="ignore"):
        for begin in range(0, size, PIECE):
            end = min(begin + PIECE, size)
            change = changes[: end - begin]
            np.copyto(change, after(begin, end))
            np.copyto(begins[: end - begin], before(begin, end))
            change -= begins[: end - begin]
            squares += sum_of_squares(change)
    return squares


def _copy_of(value: Tensor) -> Tensor:
    if hasattr(value, "detach"):
        return value.detach().to("cpu", copy=True)
    return np.array(value)


def _overwrite(copy: Tensor, value: Tensor) -> None:
    if hasattr(value, "detach"):
        copy.copy_(value.detach())
    else:
        np.copyto(copy, np.asarray(value), casting="unsafe")


def _in_numpy(copy: Tensor) -> NDArray[Any]:
    """A copy in NumPy, which shares its memory where NumPy has its dtype."""
    if not has_numpy_dtype(copy):
        return to_array(copy)[0]
    return np.asarray(copy.numpy() if hasattr(copy, "detach") else copy)
