"""List the operations of a program while it is evaluated."""

import sysconfig
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from types import CodeType
from typing import Any

import numpy as np

from lockstep.own_loops.jaxpr_layers import Layer
from lockstep.own_loops.jaxpr_program import Frame, Program, Step, package_folder
from lockstep.own_loops.operations import LIMIT, OUTSIDE, Operations, result_norms

__all__ = ["JaxOperations"]

SAME_VALUES = {
    "broadcast_in_dim",
    "copy",
    "expand_dims",
    "reshape",
    "squeeze",
    "stop_gradient",
    "transpose",
}
"""Operations that give the values of their input; they are not listed."""
LIBRARIES = ("jax", "jaxlib", "flax", "optax", "equinox", "haiku", "einops")


class JaxOperations:
    """A listing that an evaluation fills.

    Args:
        program: the program that is evaluated.
        layers: its layers.

    Attributes:
        listing: the operations.
    """

    def __init__(self, program: Program, layers: Sequence[Layer]) -> None:
        self.listing = Operations()
        self._layers: dict[int, str] = {}
        for layer in layers:
            for index in layer.steps:
                self._layers[id(layer.program.steps[index])] = layer.name
        self._entries: dict[int, list[int]] = {}
        for value in program.constants:
            self._entries[value] = [OUTSIDE] if program.types[value].shape else []

    def observe(self, step: Step, results: Sequence[Any]) -> None:
        """List an operation's results; constants have no inputs."""
        sources: list[int] = []
        for value in step.reads:
            sources += self._entries.get(value, [OUTSIDE])
        for value, out, result in zip(step.writes, step.equation.outvars, results):
            kind = out.aval
            if not _has_norms(kind) or len(self.listing.entries) >= LIMIT:
                continue
            if step.name in SAME_VALUES and step.equation.invars[0].aval.size == kind.size:
                self._entries[value] = sources
                continue
            entry = self.listing.add(
                step.name,
                layer=self._layers.get(id(step), ""),
                line=_line_of(step.chain),
                shape=kind.shape,
                dtype=str(kind.dtype),
                inputs=sources,
                norms=result_norms(np.asarray(result)),
            )
            self._entries[value] = [entry]


def _has_norms(kind: Any) -> bool:
    dtype = str(getattr(kind, "dtype", "key"))
    return "key" not in dtype and "complex" not in dtype and kind.size > 0


def _line_of(chain: Sequence[Frame]) -> str:
    """The innermost line of source outside the libraries: "model.py:12 in loss_of"."""
    for frame in reversed(chain):
        if not _is_of_a_library(frame.code.co_filename):
            name = Path(frame.code.co_filename).name
            return f"{name}:{_line(frame.code, frame.position)} in {frame.code.co_name}"
    return ""


@cache
def _is_of_a_library(file: str) -> bool:
    folders = [package_folder(name) for name in LIBRARIES]
    if any(folder and file.startswith(folder) for folder in folders):
        return True
    is_installed = "site-packages" in file or "dist-packages" in file
    return file.startswith(sysconfig.get_paths()["stdlib"]) and not is_installed


@cache
def _line(code: CodeType, position: int) -> int:
    for begin, end, line in code.co_lines():
        if begin <= position < end and line is not None:
            return line
    return code.co_firstlineno
