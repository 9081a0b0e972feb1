"""A jaxpr as a flat list of operations, and an evaluation that takes one after another.

Calls of compiled, checkpointed and custom-derivative functions are opened, so that the operations
within them stand in the list. A `scan` whose slices hold parameters, as one over stacked layers, is
a step with a body of its own. Every other loop or branch is one operation.
"""

import dis
import functools
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from types import CodeType
from typing import Any, NamedTuple

__all__ = ["Frame", "Program", "Step", "evaluate", "flatten", "loops_of", "package_folder"]

CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "custom_vjp_call_jaxpr": "fun_jaxpr",
    "checkpoint": "jaxpr",
    "remat": "jaxpr",
    "remat2": "jaxpr",
}
"""Operation that calls a function -> the parameter that holds the function's jaxpr."""
LIBRARY_FUNCTIONS = os.path.join("jax", "_src", "nn", "functions.py")
OWN_FOLDER = os.path.dirname(__file__) + os.sep
VMAP_EXITS = ("matchaxis", "from_elt")
"""Functions by which `vmap` moves the batch axis of a result where the caller wants it."""


class Frame(NamedTuple):
    """A place in a Python function.

    Attributes:
        code: the function.
        position: the offset in bytes of the instruction that runs.
    """

    code: CodeType
    position: int


@dataclass(frozen=True)
class Step:
    """An operation of a program.

    Attributes:
        equation: the operation as JAX has it.
        reads: the values that it takes.
        writes: the values that it gives.
        chain: the Python calls that lead to it, outermost first, without those inside JAX; the
            functions of `jax.nn` count as outside.
        is_vmap_exit: whether `vmap` itself asked for it, to move the batch axis of a result.
        body: the program of one turn, of a scan over stacked parameters.
    """

    equation: Any
    reads: tuple[int, ...]
    writes: tuple[int, ...]
    chain: tuple[Frame, ...]
    is_vmap_exit: bool
    body: "Program | None" = None

    @property
    def name(self) -> str:
        """The name of the operation."""
        return str(self.equation.primitive.name)


@dataclass
class Program:
    """Operations in order, over numbered values; bodies of loops share the numbers.

    Attributes:
        inputs: the values that an evaluation is given.
        steps: the operations.
        outputs: the values that it returns.
        constants: values that are known.
        types: value -> its shape and dtype, as `ShapedArray`.
    """

    inputs: list[int] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)
    constants: dict[int, Any] = field(default_factory=dict)
    types: dict[int, Any] = field(default_factory=dict)

    def readers(self) -> dict[int, list[int]]:
        """Value -> the steps that read it; -1 stands for the program's end."""
        readers: dict[int, list[int]] = {}
        for index, step in enumerate(self.steps):
            for value in set(step.reads):
                readers.setdefault(value, []).append(index)
        for value in self.outputs:
            readers.setdefault(value, []).append(-1)
        return readers


def flatten(closed_jaxpr: Any, parameters: Sequence[bool]) -> Program:
    """A program of a jaxpr.

    Args:
        closed_jaxpr: what `jax.make_jaxpr` returns.
        parameters: whether each input is a parameter.
    """
    flattener = _Flattener()
    program = flattener.new_program(closed_jaxpr.jaxpr.invars)
    flattener.are_parameters = {
        value for value, is_parameter in zip(program.inputs, parameters) if is_parameter
    }
    program.outputs = flattener.inline(program, closed_jaxpr, program.inputs, ())
    return program


class _Flattener:
    """Numbers values, and puts operations into programs."""

    def __init__(self) -> None:
        self.count = 0
        self.are_parameters: set[int] = set()
        """Values that are parameters, or views and slices of them."""

    def new_program(self, variables: Sequence[Any]) -> Program:
        program = Program()
        program.inputs = [self.new_value(program, variable.aval) for variable in variables]
        return program

    def new_value(self, program: Program, shape_and_dtype: Any) -> int:
        self.count += 1
        program.types[self.count] = shape_and_dtype
        return self.count

    def constant(self, program: Program, value: Any, shape_and_dtype: Any) -> int:
        number = self.new_value(program, shape_and_dtype)
        program.constants[number] = value
        return number

    def inline(
        self, program: Program, jaxpr: Any, arguments: Sequence[int], chain: tuple[Frame, ...]
    ) -> list[int]:
        """Put a jaxpr's operations into a program, and return its results."""
        inner = getattr(jaxpr, "jaxpr", jaxpr)
        numbers: dict[Any, int] = dict(zip(inner.invars, arguments))
        for variable, value in zip(inner.constvars, getattr(jaxpr, "consts", ())):
            numbers[variable] = self.constant(program, value, variable.aval)

        def number(atom: Any) -> int:
            if hasattr(atom, "val"):
                return self.constant(program, atom.val, atom.aval)
            return numbers[atom]

        for equation in inner.eqns:
            reads = tuple(number(atom) for atom in equation.invars)
            frames, is_vmap_exit = frames_of(equation)
            whole = chain + _without_callers(frames, chain)
            if not equation.outvars:  # prints and checks: the training has them, and once is enough
                continue
            called = _called(equation)
            if called is not None:
                results = self.inline(program, called, reads, whole)
            else:
                results = [self.new_value(program, out.aval) for out in equation.outvars]
                body = self.body_of_scan(equation, reads, whole)
                step = Step(equation, reads, tuple(results), whole, is_vmap_exit, body)
                program.steps.append(step)
                if equation.primitive.name in VIEWS and reads[0] in self.are_parameters:
                    self.are_parameters.add(results[0])
            numbers.update(zip(equation.outvars, results))
        return [number(atom) for atom in inner.outvars]

    def body_of_scan(
        self, equation: Any, reads: tuple[int, ...], chain: tuple[Frame, ...]
    ) -> Program | None:
        """The program of one turn, if parameters are among what the scan slices."""
        settings = equation.params
        names = {"jaxpr", "num_consts", "num_carry", "length", "reverse"}
        if equation.primitive.name != "scan" or not names <= settings.keys():
            return None
        first_slice = settings["num_consts"] + settings["num_carry"]
        if not self.are_parameters & set(reads[first_slice:]):
            return None
        body = self.new_program(settings["jaxpr"].jaxpr.invars)
        sliced = [value for value, read in zip(body.inputs, reads) if read in self.are_parameters]
        self.are_parameters |= set(sliced)
        body.outputs = self.inline(body, settings["jaxpr"], body.inputs, chain)
        return body


VIEWS = {"convert_element_type", "reshape", "broadcast_in_dim", "transpose", "squeeze"}
VIEWS |= {"slice", "copy", "rev", "expand_dims", "reduce_precision", "stop_gradient"}
"""Operations that give the elements that they take, in another order, shape or dtype."""


def _called(equation: Any) -> Any:
    """The jaxpr of the function that an operation calls, or None."""
    key = CALLS.get(equation.primitive.name)
    called = equation.params.get(key) if key else None
    inner = getattr(called, "jaxpr", called)
    if inner is None or len(getattr(inner, "invars", ())) != len(equation.invars):
        return None
    return called


# --- where an operation stands


@functools.cache
def package_folder(name: str) -> str:
    """The folder of a package that the caller has loaded, or "" if it has not."""
    file = getattr(sys.modules.get(name), "__file__", None)
    return os.path.dirname(file) + os.sep if file else ""


def frames_of(equation: Any) -> tuple[tuple[Frame, ...], bool]:
    """The Python calls that lead to an operation, and whether `vmap` itself asked for it."""
    traceback = getattr(equation.source_info, "traceback", None)
    if traceback is None or not hasattr(traceback, "raw_frames"):
        return (), False
    jax_folder = package_folder("jax")
    codes, positions = traceback.raw_frames()
    frames: list[Frame] = []
    is_vmap_exit = False
    for code, position in zip(codes, positions):
        file = code.co_filename
        if file.startswith(OWN_FOLDER):  # what stands further out is the loop, and not the loss
            break
        if file.endswith(LIBRARY_FUNCTIONS) or not file.startswith(jax_folder):
            frames.append(Frame(code, position))
        elif code.co_name in VMAP_EXITS and not frames:
            is_vmap_exit = True
    return tuple(reversed(frames)), is_vmap_exit


def _without_callers(frames: tuple[Frame, ...], chain: tuple[Frame, ...]) -> tuple[Frame, ...]:
    """The frames within a function, without those of its callers, which JAX before 0.9 lists too:
    those of the call that was the first to compile it.
    """
    for place in reversed(range(len(frames))):
        if chain and frames[place].code is chain[-1].code:
            return frames[place + 1 :]
    return frames


@functools.cache
def loops_of(code: CodeType) -> tuple[tuple[int, int], ...]:
    """The loops of a function: offsets of the first and the last instruction of each."""
    return tuple(
        (int(instruction.argval), instruction.offset)
        for instruction in dis.get_instructions(code)
        if "JUMP_BACKWARD" in instruction.opname
    )


# --- evaluation

Observer = Callable[[Step, Sequence[Any]], None]


def evaluate(
    program: Program,
    arguments: Sequence[Any],
    wanted: Mapping[int, list[Any]],
    observe: Observer | None = None,
) -> list[Any]:
    """Evaluate a program operation by operation, as JAX does outside `jit`.

    Args:
        program: what to evaluate.
        arguments: one array for each input.
        wanted: value -> the list to which it is appended whenever it is computed.
        observe: called with each operation and its results.

    Returns:
        The program's outputs.
    """
    values: dict[int, Any] = program.constants | dict(zip(program.inputs, arguments))
    uses = Counter(value for step in program.steps for value in step.reads)
    uses.update(program.outputs)
    for value, array in values.items():
        if value in wanted:
            wanted[value].append(array)
    for step in program.steps:
        results = _apply(step, [values[value] for value in step.reads], wanted, observe)
        if observe is not None and step.body is None:
            observe(step, results)
        for value, array in zip(step.writes, results):
            if value in wanted:
                wanted[value].append(array)
            if uses[value]:
                values[value] = array
        for value in step.reads:
            uses[value] -= 1
            if not uses[value]:
                values.pop(value, None)
    return [values[value] for value in program.outputs]


def _apply(
    step: Step,
    arrays: list[Any],
    wanted: Mapping[int, list[Any]],
    observe: Observer | None,
) -> Sequence[Any]:
    equation = step.equation
    if step.body is not None:
        return _scan(step, step.body, arrays, wanted, observe)
    primitive = equation.primitive
    bound = primitive.get_bind_params(equation.params)
    functions, settings = bound if isinstance(bound, tuple) else ((), bound)  # JAX before 0.9.2
    context = getattr(getattr(equation, "ctx", None), "manager", None) or nullcontext()
    with context:
        results = primitive.bind(*functions, *arrays, **settings)
    return results if primitive.multiple_results else [results]


def _scan(
    step: Step,
    body: Program,
    arrays: list[Any],
    wanted: Mapping[int, list[Any]],
    observe: Observer | None,
) -> list[Any]:
    """The results of a scan: the last carry, and the outputs of all turns, stacked."""
    settings = step.equation.params
    carried = settings["num_carry"]
    first_slice = settings["num_consts"] + carried
    constants, carry = (
        arrays[: settings["num_consts"]],
        arrays[settings["num_consts"] : first_slice],
    )
    turns: list[list[Any]] = [[] for _ in body.outputs[carried:]]
    backwards = settings["reverse"]
    for turn in _turns(settings["length"], backwards):
        slices = [array[turn] for array in arrays[first_slice:]]
        results = evaluate(body, [*constants, *carry, *slices], wanted, observe)
        carry = results[:carried]
        for rows, array in zip(turns, results[carried:]):
            rows.append(array)
    numpy = sys.modules["jax"].numpy
    stacked = [numpy.stack(rows[::-1] if backwards else rows) for rows in turns]
    return [*carry, *stacked]


def _turns(length: int, backwards: bool) -> Iterable[int]:
    return reversed(range(length)) if backwards else range(length)
