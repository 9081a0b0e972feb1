"""Listen to a loss function in JAX: outputs of layers, loss and gradients of a training step.

The loop trains with JAX's own `value_and_grad`, on the very arguments that it is given. What is
recorded comes of a second evaluation from the same arguments, operation by operation, as outside
`jit`. So the training gives the same bits with and without a recorder.
"""

import functools
import sys
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from lockstep.errors import InputError, RecorderWarning
from lockstep.own_loops.arrays import Tree, gradients_of
from lockstep.own_loops.jax_arguments import batch_of, has_tracer, is_a_module, open_arguments
from lockstep.own_loops.jax_loss import LossCall, Recording, analyse, evaluate_loss
from lockstep.own_loops.jax_replay import JaxReplay, ReplayError
from lockstep.own_loops.jaxpr_operations import JaxOperations
from lockstep.own_loops.operations import Operations
from lockstep.own_loops.present_update import PresentUpdate

__all__ = ["JaxListener", "Transform"]

Transform = Callable[..., Callable[..., Any]]
"""`jax.value_and_grad`, or a function of another library with its arguments."""


class JaxListener:
    """Records what a loss function computes, into the present update.

    Args:
        present: the present update.
        known: the names of parameters and running statistics, once they are known.
        is_listed: whether the operations of the present update are listed.
        hears_all: whether every update is recorded with its tensors.

    Attributes:
        inputs: layer -> the recorded array that fed it.
        modules: layer -> settings that its operations show, such as eps.
        is_replayed: whether loss and gradients come of a second evaluation too, at updates whose
            tensors are recorded.
    """

    def __init__(
        self,
        present: PresentUpdate,
        known: Callable[[], Collection[str]],
        is_listed: Callable[[], bool],
        *,
        hears_all: bool,
    ) -> None:
        self.inputs: dict[str, str] = {}
        self.modules: dict[str, dict[str, Any]] = {}
        self.is_replayed = False
        self._present = present
        self._known = known
        self._is_listed = is_listed
        self._hears_all = hears_all
        self._losses: list[NDArray[Any]] = []
        self._passes: list[Recording] = []
        self._operations: Operations | None = None
        self._replay = JaxReplay()
        self._is_replaying = False
        self._has_listened_step = False
        self._steps = 0
        self._has_warned = False

    # --- what the loop calls

    def value_and_grad(
        self,
        loss_of: Callable[..., Any],
        argnums: Any,
        has_aux: bool,
        transform: Transform | None,
        settings: Mapping[str, Any],
    ) -> Callable[..., Any]:
        """The function that trains, which records as well.

        Raises:
            InputError: `loss_of` is no function, or JAX is not there.
        """
        _check("value_and_grad", loss_of)
        several = argnums if isinstance(argnums, Sequence) else [argnums]
        places = tuple(_place(one) for one in several)
        trainers: dict[Transform, Callable[..., Any]] = {}

        def trainer_for(arguments: Sequence[Any]) -> Callable[..., Any]:
            chosen = transform or _transform_for(arguments, places)
            if chosen not in trainers:
                options = {"argnums": argnums, "has_aux": has_aux, **settings}
                if chosen.__module__.startswith("equinox"):  # which takes the first argument
                    del options["argnums"]
                trainers[chosen] = chosen(loss_of, **options)
            return trainers[chosen]

        @functools.wraps(loss_of)
        def value_and_grad(*arguments: Any, **keywords: Any) -> Any:
            trainer = trainer_for(arguments)
            is_traced = has_tracer((arguments, keywords))
            if is_traced or self._present.is_due():
                opened = open_arguments(arguments, keywords)
                call = LossCall(loss_of, has_aux, arguments, opened, places)
                if is_traced or has_tracer([array.value for array in opened.arrays]):
                    self._replay.remember(call, trainer)
                else:
                    self._listen(call)
            if self._is_replaying:  # outside jit, but for what the loss itself compiles
                with sys.modules["jax"].disable_jit(False):
                    results = trainer(*arguments, **keywords)
            else:
                results = trainer(*arguments, **keywords)
            if not has_tracer(results):
                self._add_results(results, has_aux)
            return results

        return value_and_grad

    def listen(self, step: Callable[..., Any]) -> Callable[..., Any]:
        """A compiled step, which is evaluated once more outside `jit` to be recorded.

        Raises:
            InputError: `step` is no function, or JAX is not there.
        """
        _check("listen", step)
        self.is_replayed = True
        self._has_listened_step = True
        jax = sys.modules["jax"]

        @functools.wraps(step)
        def listened(*arguments: Any, **keywords: Any) -> Any:
            if self._present.is_due():
                opened = open_arguments(arguments, keywords)
                copies, named = opened.rebuild([array.value for array in opened.arrays])
                self._is_replaying = True
                self._steps += 1
                try:
                    with jax.disable_jit():
                        step(*copies, **named)
                except Exception as error:
                    self._warn(f"listen: the step does not run outside jit: {_first_line(error)}")
                finally:
                    self._is_replaying = False
            return step(*arguments, **keywords)

        return listened

    # --- the second evaluation

    def _listen(self, call: LossCall) -> None:
        try:
            analysis = analyse(call)
            batch = batch_of(call.function, call.arguments, call.opened, call.places, self._known())
            operations = None
            if self._is_listed():
                operations = JaxOperations(analysis.program, analysis.layers)
            heard = evaluate_loss(analysis, call, batch, operations)
        except Exception as error:  # a recording must not stop a training
            self._warn(f"outputs of layers are not recorded: {_first_line(error)}")
            return
        self._passes.append(heard)
        self.inputs |= heard.inputs
        self.modules |= heard.modules
        if operations is not None and self._operations is None:
            self._operations = operations.listing

    def _add_results(self, results: Any, has_aux: bool) -> None:
        value, gradients = results
        self._losses.append(np.array(value[0] if has_aux else value))
        if len(self._losses) > 1:  # whether the loop adds or averages them, only the loop knows
            self._present.drop_gradients()
            return
        named = gradients_of(gradients)
        self._present.add("gradients", named)
        if not self._has_scalars:
            for name in named:
                self._present.squares.pop(name, None)

    @property
    def _has_scalars(self) -> bool:
        """Whether loss and norm of the gradient are there at every update, as series must be."""
        return self._hears_all or not self.is_replayed

    def keep(self, parameters: Tree) -> None:
        """Keep hold of the parameters before the next update, should the loss run within `jit`."""
        is_needed = self._present.number == 0 or self._replay.calls
        if is_needed and not self._has_listened_step and self._present.is_due():
            self._replay.keep(parameters)

    def close(self, given: Mapping[str, Any]) -> None:
        """Record what the update's calls left, but for the families that the loop gives itself.

        Args:
            given: family -> what the loop gives of it.

        Raises:
            InputError: the loss function ran within `jit` alone, and its values are not known; or
                a step under `listen` has none.
        """
        present = self._present
        if self._steps and not self._losses and not self._has_warned:
            self._refuse_silent_step()
        is_deaf = self._replay.calls and not self._losses and not self._has_listened_step
        if is_deaf and present.is_due() and "forward" not in given:
            self._call_again(given.get("batch"))
        self._replay.forget()
        for family in ("batch", "forward"):
            has_it = family in given or any(name.startswith(f"{family}/") for name in present.names)
            for heard in () if has_it else self._passes:
                present.append(family, heard.batch if family == "batch" else heard.outputs)
        has_loss = "loss" in given or "loss" in present.scalars
        if self._losses and self._has_scalars and not has_loss:
            present.set_scalar("loss", _mean(self._losses))
        if self._operations is not None:
            present.operations = self._operations
        self._losses, self._passes, self._operations = [], [], None
        self._steps = 0

    def _refuse_silent_step(self) -> None:
        update = self._present.number
        if self._replay.is_recent:
            raise InputError(
                f"update {update}: the step under listen calls value_and_grad within pmap, "
                "shard_map or vmap, where no value can be read: record it without these, on one "
                "device"
            )
        raise InputError(
            f"update {update}: the step under listen calls no value_and_grad of this recorder: "
            "write recorder.value_and_grad(loss_of) for jax.value_and_grad(loss_of)"
        )

    def _call_again(self, batch: Tree) -> None:
        self.is_replayed = True
        try:
            call, trainer = self._replay.call_again(batch, list(self._known()))
            positional, keywords = call.opened.rebuild([a.value for a in call.opened.arrays])
            results = trainer(*positional, **keywords)
        except Exception as error:
            name = getattr(self._replay.calls[0][0].function, "__name__", "the loss")
            reason = str(error) if isinstance(error, ReplayError) else _first_line(error)
            raise InputError(
                f"update {self._present.number}: value_and_grad({name}) runs within jit, and "
                f"cannot be called again: {reason}; give update the batch, or wrap the compiled "
                "step: step = recorder.listen(step)"
            ) from None
        self._listen(call)
        self._add_results(results, call.has_aux)

    def _warn(self, note: str) -> None:
        if not self._has_warned:
            self._has_warned = True
            warnings.warn(f"update {self._present.number}: {note}", RecorderWarning, stacklevel=4)


def _check(name: str, function: Any) -> None:
    if not callable(function):
        raise InputError(f"{name}: needs a function, got {type(function).__name__}")
    if "jax" not in sys.modules:
        raise InputError(f"{name}: is for JAX, which this program has not imported")


def _place(argnum: Any) -> int:
    """The position of an argument, which `nnx.DiffState` keeps with a filter."""
    return int(getattr(argnum, "argnum", argnum))


def _transform_for(arguments: Sequence[Any], places: Sequence[int]) -> Transform:
    """The function that libraries ask for: by the kind of the parameters."""
    trained = [arguments[place] for place in places if place < len(arguments)]
    if any(is_a_module(value, "flax.nnx") for value in trained):
        return cast(Transform, sys.modules["flax.nnx"].value_and_grad)
    if places == (0,) and trained and is_a_module(trained[0], "equinox"):
        return cast(Transform, sys.modules["equinox"].filter_value_and_grad)
    return cast(Transform, sys.modules["jax"].value_and_grad)


def _mean(losses: Sequence[NDArray[Any]]) -> Any:
    """The mean of numbers in their own dtype, as a loop has it that adds them up."""
    return (
        losses[0] if len(losses) == 1 else np.add.reduce(losses) / losses[0].dtype.type(len(losses))
    )


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else ''}".rstrip(": ")
