"""A call of a loss function in JAX: its operations, its layers, and what they give and take."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lockstep.own_loops.arrays import Tensor
from lockstep.own_loops.jax_arguments import Argument, Opened
from lockstep.own_loops.jaxpr_layers import Layer, layers_of
from lockstep.own_loops.jaxpr_operations import JaxOperations
from lockstep.own_loops.jaxpr_program import Program, evaluate, flatten

__all__ = ["Analysis", "LossCall", "Recording", "analyse", "evaluate_loss"]


@dataclass(frozen=True)
class LossCall:
    """A call of a loss function.

    Attributes:
        function: the loss function.
        has_aux: whether it returns more than the loss.
        arguments: the positional arguments.
        opened: all arguments, taken apart.
        places: the positions of the parameters.
    """

    function: Callable[..., Any]
    has_aux: bool
    arguments: Sequence[Any]
    opened: Opened
    places: Sequence[int]

    def loss(self, values: Sequence[Tensor]) -> Tensor:
        """The loss, from the arrays of `opened`."""
        positional, keywords = self.opened.rebuild(values)
        result = self.function(*positional, **keywords)
        return result[0] if self.has_aux else result

    def parameter_name(self, array: Argument) -> str:
        """The name of an array among the parameters, or ""."""
        if array.argument not in self.places or "float" not in str(array.value.dtype):
            return ""
        if len(self.places) == 1:
            return array.path or "x"
        return ".".join(filter(None, [str(self.places.index(array.argument)), array.path]))


@dataclass(frozen=True)
class Recording:
    """What one evaluation left.

    Attributes:
        outputs: layer, or "<layer>.input" -> array, in call order.
        batch: name -> array.
        inputs: layer -> the recorded array that fed it.
        modules: layer -> settings that its operations show.
    """

    outputs: dict[str, Tensor]
    batch: dict[str, Tensor]
    inputs: dict[str, str]
    modules: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Analysis:
    """A loss function taken apart.

    Attributes:
        program: its operations.
        layers: its layers.
        inputs: the program's arguments, in order.
        arguments: value of the program -> the argument that it is.
    """

    program: Program
    layers: list[Layer]
    inputs: list[Argument]
    arguments: dict[int, Argument]


def analyse(call: LossCall) -> Analysis:
    """The program of a loss function, and its layers.

    A function that asks for the values of its batch, as in `if`, is traced for its parameters
    alone; the batch is then a constant of the program.
    """
    jax = sys.modules["jax"]
    arrays = call.opened.arrays
    traced = arrays
    try:
        jaxpr = _jaxpr(call, traced)
    except (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError):
        traced = [array for array in arrays if call.parameter_name(array)]
        jaxpr = _jaxpr(call, traced)
    names = [call.parameter_name(array) for array in traced]
    program = flatten(jaxpr, [bool(name) for name in names])
    arguments = dict(zip(program.inputs, traced))
    for value, constant in program.constants.items():
        for array in arrays:
            if array.value is constant:
                arguments[value] = array
    parameters = {value: name for value, name in zip(program.inputs, names) if name}
    return Analysis(program, layers_of(program, parameters), traced, arguments)


def _jaxpr(call: LossCall, traced: Sequence[Argument], values: Sequence[Any] | None = None) -> Any:
    """The jaxpr of the loss as a function of some of the arguments.

    Args:
        call: the call.
        traced: these arguments.
        values: arrays, or shapes and dtypes, to trace them with; None: their own.
    """
    jax = sys.modules["jax"]
    places = {id(array): place for place, array in enumerate(traced)}

    def loss(given: Sequence[Any]) -> Any:
        mixed: list[Any] = []
        for array in call.opened.arrays:
            place = places.get(id(array))
            mixed.append(array.value if place is None else given[place])
        return call.loss(mixed)

    with jax.disable_jit(False):
        return jax.make_jaxpr(loss)(values or [array.value for array in traced])


def evaluate_loss(
    analysis: Analysis,
    call: LossCall,
    batch: Mapping[str, Argument],
    operations: JaxOperations | None,
) -> Recording:
    """Evaluate a program, and copy what its layers give and take."""
    jax = sys.modules["jax"]
    program, layers = analysis.program, analysis.layers
    names = {layer.output: f"forward/{layer.name}" for layer in reversed(layers)}
    for value, argument in analysis.arguments.items():
        for name, array in batch.items():
            if argument is array:
                names[value] = f"batch/{name}"
    wanted: dict[int, list[Any]] = {layer.output: [] for layer in layers}
    for layer in layers:
        if layer.source is not None and layer.source not in names:
            wanted[layer.source] = []
    observe = None if operations is None else operations.observe
    with jax.disable_jit(False):
        evaluate(program, [array.value for array in analysis.inputs], wanted, observe)
    axes = _batch_axes(analysis, call, batch)
    outputs: dict[str, Tensor] = {}
    inputs: dict[str, str] = {}
    for layer in layers:
        is_loop = layer.program is not program
        source = layer.source
        if source is not None:
            inputs[layer.name] = names.get(source, f"forward/{layer.name}.input")
            if source not in names:
                outputs[f"{layer.name}.input"] = _joined(wanted[source], is_loop, axes.get(source))
        outputs[layer.name] = _joined(wanted[layer.output], is_loop, axes.get(layer.output))
    copies = {name: np.array(argument.value) for name, argument in batch.items()}
    modules = {layer.name: layer.settings() for layer in layers}
    said = {name: settings for name, settings in modules.items() if settings}
    return Recording(outputs, copies, inputs, said)


def _joined(turns: list[Any], is_loop: bool, axis: int | None) -> Tensor:
    """The array of a value, its batch axis first; of a value in a loop, those of all turns."""
    arrays = [np.moveaxis(np.asarray(array), axis or 0, 0) for array in turns]
    return np.stack(arrays) if is_loop else arrays[0]


# --- the batch axis of what vmap computes


def _batch_axes(
    analysis: Analysis, call: LossCall, batch: Mapping[str, Argument]
) -> dict[int, int]:
    """Value -> the axis that counts the rows of the batch, where `vmap` computed the value.

    `vmap` lays its axis where an operation wants it, which no operation tells. It is the axis that
    grows with the batch.
    """
    program, layers = analysis.program, analysis.layers
    values = {layer.output for layer in layers} | {layer.source for layer in layers}
    mapped = {
        value
        for step in program.steps
        if "vmap(" in str(step.equation.source_info.name_stack)
        for value in step.writes
        if value in values
    }
    sizes = {argument.value.shape[0] for argument in batch.values()}
    if not mapped or len(sizes) != 1:
        return {}
    axes: dict[int, int] = {}
    larger = _with_a_row_more(analysis, call, sizes.pop())
    if larger is None:
        return axes
    for value in mapped:
        old, new = program.types[value].shape, larger.types[value].shape
        grown = [axis for axis, (size, other) in enumerate(zip(old, new)) if size != other]
        if len(grown) == 1:
            axes[value] = grown[0]
    return axes


def _with_a_row_more(analysis: Analysis, call: LossCall, size: int) -> Program | None:
    """The program of a batch with one more row, or None where it is another program."""
    jax = sys.modules["jax"]
    shapes: list[Any] = []
    for array in analysis.inputs:
        shape = tuple(array.value.shape)
        if array.argument not in call.places and shape[:1] == (size,):
            shape = (size + 1, *shape[1:])
        shapes.append(jax.ShapeDtypeStruct(shape, array.value.dtype))
    try:
        jaxpr = _jaxpr(call, analysis.inputs, shapes)
    except Exception:  # a shape that the function does not take
        return None
    larger = flatten(jaxpr, [bool(call.parameter_name(array)) for array in analysis.inputs])
    names = [step.name for step in analysis.program.steps]
    return larger if [step.name for step in larger.steps] == names else None
