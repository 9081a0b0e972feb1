"""A loss function that ran within `jit` alone, called once more with the values of the update.

Within `jit` a function is called when it is compiled, with shapes in place of values. The values
are those before the step: the parameters as the recorder was last given them, and the batch that
`update` is given.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from lockstep.own_loops.arrays import Tensor, Tree, name_arrays
from lockstep.own_loops.jax_arguments import Argument, batch_of, open_arguments
from lockstep.own_loops.jax_loss import LossCall

__all__ = ["JaxReplay", "ReplayError"]


class ReplayError(Exception):
    """The values of a call are not known; the message says which."""


class JaxReplay:
    """Calls of loss functions within `jit`, and the parameters before the present update.

    Attributes:
        calls: the calls that were compiled last, each with what differentiates it.
        is_recent: whether they were compiled in the present update.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[LossCall, Callable[..., Any]]] = []
        self._parameters: dict[str, Tensor] = {}
        self.is_recent = False

    def remember(self, call: LossCall, trainer: Callable[..., Any]) -> None:
        """Take note of a call within `jit`; it takes the place of those of earlier updates."""
        if not self.is_recent:
            self.calls = []
        self.is_recent = True
        self.calls.append((call, trainer))

    def keep(self, parameters: Tree) -> None:
        """Keep hold of the parameters after an update, or at the start."""
        if parameters is None or hasattr(parameters, "named_parameters"):
            return
        opened = open_arguments((parameters,), {})
        self._parameters = {array.path: array.value for array in opened.arrays}

    def forget(self) -> None:
        """Let go of the parameters, and begin the next update."""
        self._parameters = {}
        self.is_recent = False

    def call_again(self, batch: Tree, known: Sequence[str]) -> tuple[LossCall, Callable[..., Any]]:
        """The call with values, and what differentiates it.

        Args:
            batch: as `Recorder.update` is given it.
            known: names of parameters and running statistics.

        Raises:
            ReplayError: the values of an argument are not known.
        """
        if len(self.calls) != 1:
            raise ReplayError(f"it is called {len(self.calls)} times")
        traced, trainer = self.calls[0]
        named = batch_of(traced.function, traced.arguments, traced.opened, traced.places, known)
        names = {id(array): name for name, array in named.items()}
        values = _values_of_batch(named, batch)
        arrays: list[Argument] = []
        for array in traced.opened.arrays:
            value = values.get(id(array), self._parameters.get(array.path))
            is_same = value is not None and tuple(value.shape) == tuple(array.value.shape)
            if not is_same or _is_deleted(value):
                what = names.get(id(array)) or array.path or f"argument {array.argument}"
                raise ReplayError(f"the values of {what} are not known")
            arrays.append(replace(array, value=value))
        opened = replace(traced.opened, arrays=arrays)
        arguments, _ = opened.rebuild([array.value for array in arrays])
        return replace(traced, opened=opened, arguments=arguments), trainer


def _values_of_batch(named: Mapping[str, Argument], batch: Tree) -> dict[int, Tensor]:
    """Identity of an array of the batch among the arguments -> its values, by name or in order."""
    if batch is None:
        return {}
    given = {"x": batch} if hasattr(batch, "shape") else name_arrays(batch)
    if not given.keys() & named.keys() and len(given) == len(named):
        given = dict(zip(named, given.values()))
    return {id(array): given[name] for name, array in named.items() if name in given}


def _is_deleted(value: Tensor) -> bool:
    """Whether an array was donated to a compiled function, and is gone."""
    is_deleted = getattr(value, "is_deleted", None)
    return bool(is_deleted is not None and is_deleted())
