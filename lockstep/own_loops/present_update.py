"""What is recorded of the update that a loop is in."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from lockstep.errors import InputError
from lockstep.own_loops.arrays import Tensor, to_array
from lockstep.own_loops.operations import Operations

__all__ = ["Arrays", "PresentUpdate"]

Arrays = dict[str, NDArray[Any]]


class PresentUpdate:
    """Copies of the present update's tensors and scalars, which `close` clears for the next.

    Args:
        is_due: whether the tensors of the present update are recorded.

    Attributes:
        number: the updates that were closed.
        arrays: "family/name" -> array.
        scalars: name -> number.
        layers: the outputs of layers in call order, of all updates.
        operations: what the update computed, where that is listed.
        dtypes: (family, dtype of floats as the loop had them) -> how many arrays.
    """

    def __init__(self, is_due: Callable[[], bool]) -> None:
        self.is_due = is_due
        self.number = 0
        self.arrays: Arrays = {}
        self.scalars: dict[str, np.generic] = {}
        self.layers: dict[str, None] = {}
        self.operations: Operations | None = None
        self.dtypes: Counter[tuple[str, str]] = Counter()

    def read(self, family: str, values: Mapping[str, Tensor]) -> Arrays:
        """Copies of tensors in NumPy, named "family/name".

        Raises:
            InputError: a tensor that a trace cannot hold.
        """
        arrays = {}
        for name, value in values.items():
            try:
                arrays[f"{family}/{name}"], dtype = to_array(value)
            except InputError as error:
                raise InputError(f"update {self.number}: {family} {name}: {error}") from None
            if "float" in dtype:
                self.dtypes[family, dtype] += 1
        return arrays

    def add(self, family: str, values: Mapping[str, Tensor]) -> None:
        """Record tensors; those of the same names are replaced."""
        self.arrays |= self.read(family, values)

    def append(self, family: str, values: Mapping[str, Tensor]) -> None:
        """Join more rows to those of the update.

        Rows of another shape, as of a layer that is used twice, get a name of their own.
        """
        for name, array in self.read(family, values).items():
            key = name
            rows = self.arrays.get(name)
            if rows is not None and rows.shape[1:] == array.shape[1:] and array.ndim:
                array = np.concatenate([rows, array])
            else:
                prefix = f"{name}#"
                uses = [other for other in self.arrays if other == name or other.startswith(prefix)]
                key = f"{name}#{len(uses) + 1}" if uses else name
            self.arrays[key] = array
            if family == "forward":
                self.layers[key.removeprefix("forward/")] = None

    def set_scalar(self, name: str, value: Tensor) -> None:
        """Record a number: an array of one element.

        Raises:
            InputError: an array of several elements.
        """
        array, _ = to_array(value)
        if array.size != 1:
            raise InputError(f"{name}: shape {array.shape}, expected a number")
        self.scalars[name] = cast(np.generic, array.reshape(())[()])

    def set_rates(self, rates: Sequence[Tensor]) -> None:
        """Record the learning rate of each group: "lr", "lr1", "lr2", ..."""
        for group, rate in enumerate(rates):
            self.set_scalar(f"lr{group or ''}", rate)

    def close(self) -> None:
        """Begin the next update."""
        self.arrays = {}
        self.scalars = {}
        self.operations = None
        self.number += 1
