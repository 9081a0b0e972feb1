"""The numbers that the tests' logs hold: loss, rate and the gradient's norm of 40 steps."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Curves = dict[str, NDArray[Any]]


def curves(steps: int = 40) -> Curves:
    """The numbers by name, with the steps from 0."""
    step_N = np.arange(steps)
    return {
        "step": step_N,
        "loss": np.round(2.3 * np.exp(-step_N / 15) + 0.1 * np.cos(7 * step_N), 6),
        "lr": 1e-3 * np.minimum((step_N + 1) / 8, 1),
        "grad_norm": np.round(1 + 0.5 * np.sin(5 * step_N), 6),
    }


def write_csv(path: Path, columns: Mapping[str, Sequence[Any] | NDArray[Any]]) -> Path:
    """A CSV as the csv module writes it, with floats in full."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*[np.asarray(column).tolist() for column in columns.values()]))
    return path


def write_json_lines(path: Path, columns: Mapping[str, Sequence[Any] | NDArray[Any]]) -> Path:
    """One object a line."""
    rows = zip(*[np.asarray(column).tolist() for column in columns.values()])
    lines = [json.dumps(dict(zip(columns, row))) for row in rows]
    path.write_text("\n".join(lines) + "\n")
    return path
