"""The summaries of every update's tensors, as tables that grow by a row an update."""

from array import array as packed
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from lockstep.records.tensor_statistics import STATISTICS
from lockstep.records.tensor_summary import SKETCHES, Summary

__all__ = ["SummaryTables"]


class SummaryTables:
    """Statistics, and sketches if they are asked for, of tensors by name.

    Args:
        sketches: whether there are sketches.

    Attributes:
        bytes: the size of all tables.
        shapes: name -> shape of the tensor when it was first summarised.
        until: the update that the tables end before; None while they grow.
    """

    def __init__(self, *, sketches: bool) -> None:
        self.sketches = sketches
        self.bytes = 0
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.until: int | None = None
        self._rows: dict[str, packed[float]] = {}

    @property
    def width(self) -> int:
        """Numbers of a row."""
        return len(STATISTICS) + SKETCHES * self.sketches

    def add(self, update: int, summaries: Mapping[str, Summary]) -> None:
        """Add a row to the tables of the tensors that the update has."""
        for name, summary in summaries.items():
            self.shapes.setdefault(name, summary.shape)
            rows = self._rows.setdefault(name, packed("d"))
            numbers = self.width * update - len(rows)
            rows.extend([np.nan] * numbers)
            rows.extend(summary.statistics)
            rows.extend(summary.sketches)
            self.bytes += rows.itemsize * (numbers + self.width)

    def arrays(self, updates: int) -> dict[str, NDArray[np.float64]]:
        """The tables by their names in a trace; an update without a tensor has NaN.

        Args:
            updates: the number of updates that were recorded.
        """
        arrays = {}
        for name, values in self._rows.items():
            rows = np.array(values).reshape(-1, self.width)
            missing = (updates if self.until is None else self.until) - len(rows)
            padded = np.pad(rows, ((0, missing), (0, 0)), constant_values=np.nan)
            arrays[f"statistics/{name}"] = padded[:, : len(STATISTICS)]
            if self.sketches:
                arrays[f"sketches/{name}"] = padded[:, len(STATISTICS) :]
        return arrays
