"""Which operations of a program make a layer, and which value is the layer's output.

A layer is named by the path of its parameters: the operations that read `l1.kernel` and `l1.bias`
are the layer `l1`. Where its own code ends is known in three ways:

1. The parameters are read in a module's `__call__` that reads those of no other layer: the layer is
   that call, and its output the value that leaves it.
2. They are read in other code: the layer reaches from the first operation that reads one of them to
   the last; its output is that operation's result. A kernel that follows another kernel of the same
   path begins a layer of its own, called by the path of the kernel; so does a scale or a bias on
   the path of a block that holds other layers. A scale that follows a normalisation is one layer
   with it. A table that is added, as of positions, is no layer.
3. Calls without parameters: the functions of `jax.nn` (`gelu`, `softmax`, ...) and modules such as
   `Dropout` are layers by their names in lower case, if they give floats and no layer holds them.

A layer that is called twice is `l1`, then `l1#2`.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import CodeType
from typing import Any

import numpy as np

from lockstep.own_loops.jaxpr_program import (
    LIBRARY_FUNCTIONS,
    Frame,
    Program,
    Step,
    loops_of,
    package_folder,
)

__all__ = ["Layer", "layers_of"]

MODULE_CALL = re.compile(r"(?:^|\.)([A-Z]\w*)\.__call__$")
CONTRACTIONS = {"dot_general", "conv_general_dilated", "gather", "ragged_dot", "scan", "while"}
"""Operations by which a kernel, and not a bias or a scale, meets the data."""
ELEMENTWISE = {"add", "add_any", "sub", "mul", "div", "select_n", "pow", "max", "min"}
"""Operations by which a bias or a scale meets the data."""
LAYOUTS = {"broadcast_in_dim", "reshape", "convert_element_type", "squeeze", "expand_dims"}
LAYOUTS |= {"transpose", "stop_gradient", "copy"}
"""Operations that lay elements out otherwise."""
NORMALISING = {"sqrt", "rsqrt", "pow", "integer_pow"}
MOST_STEPS = 60
"""Steps that a normalisation takes at most before its scale."""
NO_LAYERS = {"one_hot", "logsumexp", "standardize"}
"""Functions of `jax.nn` that prepare data or are parts of a layer."""


@dataclass(frozen=True)
class Layer:
    """A layer of a program.

    Attributes:
        name: the path of its parameters, or the name of its function.
        output: the value that leaves it.
        source: the first floating-point array that it takes, or other array; None: there is none.
        steps: its operations.
        program: the program that holds them: the whole, or the body of a loop.
    """

    name: str
    output: int
    source: int | None
    steps: tuple[int, ...]
    program: Program

    def settings(self) -> dict[str, Any]:
        """What the operations show of the layer's settings, by PyTorch's names.

        `eps` is the number that is added under a root, `approximate` the form of a GELU, and `p`
        the share that dropout drops.
        """
        steps = [self.program.steps[index] for index in self.steps]
        kind = self.name.partition("#")[0]
        if kind == "gelu":
            is_tanh = any(step.name == "tanh" for step in steps)
            return {"approximate": "tanh" if is_tanh else "none"}
        if kind == "dropout":
            kept = self._numbers(step for step in steps if step.name == "div")
            return {"p": round(1 - kept.pop(), 7)} if len(kept) == 1 else {}
        under_roots = {step.reads[0] for step in steps if step.name in ("sqrt", "rsqrt")}
        sums = (step for step in steps if step.name == "add" and under_roots & set(step.writes))
        added = self._numbers(sums)
        return {"eps": added.pop()} if len(added) == 1 else {}

    def _numbers(self, steps: Iterable[Step]) -> set[float]:
        """The numbers between 0 and 1 that stand in some steps."""
        values = [value for step in steps for value in step.reads]
        numbers = [self.program.constants.get(value) for value in values]
        return {_shortest(number) for number in numbers if _is_number(number)}


def layers_of(program: Program, parameters: Mapping[int, str]) -> list[Layer]:
    """The layers of a program in the order in which their outputs are computed.

    Args:
        program: the program.
        parameters: input -> name of the parameter; every other input is data.
    """
    layers = _Analysis(program, parameters, ()).layers()
    calls = Counter[str]()
    named: list[Layer] = []
    for layer in layers:
        calls[layer.name] += 1
        count = calls[layer.name]
        name = layer.name if count == 1 else f"{layer.name}#{count}"
        named.append(Layer(name, layer.output, layer.source, layer.steps, layer.program))
    return named


# --- the tree of calls


@dataclass
class _Call:
    """A call of a Python function: the steps within it, those of its own calls included."""

    code: CodeType
    parent: "_Call | None"
    steps: list[int] = field(default_factory=list)
    readers: set[tuple[str, tuple[Frame, ...]]] = field(default_factory=set)
    """Name and place of each step that reads a parameter itself."""

    @property
    def module(self) -> str:
        """The class whose `__call__` this is, or ""."""
        match = MODULE_CALL.search(self.code.co_qualname)
        return match[1] if match else ""

    @property
    def function(self) -> str:
        """The function of `jax.nn` that this is, or ""."""
        name = self.code.co_name.strip("_")
        return name if self.code.co_filename.endswith(LIBRARY_FUNCTIONS) else ""

    def callers(self) -> "Iterator[_Call]":
        """This call, its caller, its caller's caller, ..."""
        call: _Call | None = self
        while call is not None:
            yield call
            call = call.parent


def _calls_of(program: Program, reads_parameter: Iterable[bool]) -> list[list[_Call]]:
    """The open calls at each step, outermost first.

    Args:
        program: the program.
        reads_parameter: whether each step reads a parameter itself.
    """
    open_calls: list[_Call] = []
    chain: tuple[Frame, ...] = ()
    calls: list[list[_Call]] = []
    for index, (step, reads) in enumerate(zip(program.steps, reads_parameter)):
        depth = _depth_that_goes_on(chain, step.chain)
        if reads:
            depth = _above_a_repeated_module(open_calls[:depth], step)
        open_calls = open_calls[:depth]
        for frame in step.chain[depth:]:
            open_calls = [*open_calls, _Call(frame.code, open_calls[-1] if open_calls else None)]
        for call in open_calls:
            call.steps.append(index)
            if reads:
                call.readers.add((step.name, step.chain))
        calls.append(open_calls)
        chain = step.chain
    return calls


def _depth_that_goes_on(old_chain: Sequence[Frame], new_chain: Sequence[Frame]) -> int:
    """The number of outer calls in which two steps in succession stand both.

    A call goes on where its caller has not moved and where it has not jumped back to an earlier
    instruction, unless a loop of the function holds both.
    """
    depth = 0
    for old, new in zip(old_chain, new_chain):
        if old.code is not new.code:
            break
        if new.position < old.position and not _in_a_loop(old, new):
            break
        depth += 1
        if old.position != new.position:
            break
    return depth


def _above_a_repeated_module(open_calls: Sequence[_Call], step: Step) -> int:
    """The depth of the last open module that has read a parameter at the same place before.

    Its `__call__` stands there a second time, unless a loop within it does. Without such a module,
    it is the number of open calls.
    """
    for outer in reversed(range(len(open_calls))):
        frame = step.chain[outer]
        if _in_a_loop(frame, frame):
            break
        if open_calls[outer].module:
            is_repeated = (step.name, step.chain) in open_calls[outer].readers
            return outer if is_repeated else len(open_calls)
    return len(open_calls)


def _in_a_loop(old: Frame, new: Frame) -> bool:
    return any(
        first <= new.position <= last and first <= old.position <= last
        for first, last in loops_of(new.code)
    )


# --- layers


class _Analysis:
    """The layers of one program.

    Args:
        program: the program, or the body of a loop.
        parameters: value -> name of the parameter.
        outer: the calls that hold the loop.
    """

    def __init__(
        self, program: Program, parameters: Mapping[int, str], outer: Iterable[_Call]
    ) -> None:
        self.program = program
        self.readers = program.readers()
        self.writer = {
            value: index for index, step in enumerate(program.steps) for value in step.writes
        }
        self.owners: dict[int, frozenset[str]] = {}
        """Value that comes of parameters alone -> their names."""
        self.data = set(program.inputs) - parameters.keys()
        self.data |= {value for value in program.constants if program.types[value].shape}
        for value, name in parameters.items():
            self.owners[value] = frozenset([name])
        self.parameters = dict(parameters)
        self.containers = set(_paths_above(parameters.values()))
        """Paths that hold other paths, as a block holds its layers."""
        self._trace_origins({})
        self.calls = _calls_of(program, (bool(self._read_directly(step)) for step in program.steps))
        self.taken: set[int] = set()

    def layers(self) -> list[Layer]:
        """All layers in the order of their outputs; those of a loop's body at the loop's place."""
        found = list(self._module_layers())
        self._trace_origins({layer.output: layer for layer in found})
        found += self._code_layers()
        found += self._layers_without_parameters()
        ordered = [(self._place(layer), 0, layer) for layer in found]
        for index, step in enumerate(self.program.steps):
            if step.body is not None:
                inner = self._layers_of_body(step, step.body)
                ordered += [(index, place, layer) for place, layer in enumerate(inner)]
        return [layer for *_, layer in sorted(ordered, key=lambda entry: entry[:2])]

    def _place(self, layer: Layer) -> int:
        return max(self.writer.get(layer.output, -1), layer.steps[0])

    def _layers_of_body(self, step: Step, body: Program) -> list[Layer]:
        carried = step.equation.params["num_carry"]
        constants = step.equation.params["num_consts"]
        parameters: dict[int, str] = {}
        for place, (value, read) in enumerate(zip(body.inputs, step.reads)):
            owners = self.owners.get(read, ())
            is_carry = constants <= place < constants + carried
            if len(owners) == 1 and not is_carry:
                parameters[value] = next(iter(owners))
        return _Analysis(body, parameters, ()).layers()

    def _trace_origins(self, outputs: Mapping[int, Layer]) -> None:
        """Say of each value whether it holds data, or comes of parameters alone.

        A number that sums up a parameter, as a norm does, counts as neither.
        """
        self.data = {value for value in self.data if value not in self.writer}
        for value in [value for value in self.owners if value in self.writer]:
            del self.owners[value]
        for step in self.program.steps:
            names = self._owned(step)
            has_data = any(value in self.data for value in step.reads)
            for value in step.writes:
                is_scalar = not self.program.types[value].shape
                if has_data or value in outputs:
                    self.data.add(value)
                elif names and not (is_scalar and self._shapes_read(step)):
                    self.owners[value] = names

    def _owned(self, step: Step) -> frozenset[str]:
        names: frozenset[str] = frozenset()
        return names.union(*(self.owners.get(value, ()) for value in step.reads))

    def _shapes_read(self, step: Step) -> bool:
        return any(self.program.types[value].shape for value in step.reads)

    # --- 1. modules

    def _module_layers(self) -> Iterator[Layer]:
        calls: dict[int, _Call] = {}
        for index, step in enumerate(self.program.steps):
            if self._owned(step) and step.body is None:
                modules = [call for call in self.calls[index] if call.module]
                if modules:
                    calls.setdefault(id(modules[-1]), modules[-1])
        for call in calls.values():
            steps = [self.program.steps[index] for index in call.steps]
            names = frozenset[str]().union(*(self._read_directly(step) for step in steps))
            if any(step.body for step in steps):
                continue
            if len({_path(name) for name in names}) == 1 or self._has_one_reader(steps, names):
                yield self._layer(_common_path(names) or call.module.lower(), call.steps)

    def _has_one_reader(self, steps: list[Step], names: frozenset[str]) -> bool:
        """Whether a single step, as the scan of a recurrent layer, brings the data together with
        all of these parameters.
        """
        readers = [self._owned(step) for step in steps if self._meets_data(step)]
        return len(names) > 1 and readers == [names]

    def _meets_data(self, step: Step) -> bool:
        """Whether a step takes both data and what comes of parameters."""
        return bool(self._owned(step)) and any(value in self.data for value in step.reads)

    def _read_directly(self, step: Step) -> frozenset[str]:
        return frozenset(self.parameters[v] for v in step.reads if v in self.parameters)

    def _layer(self, name: str, steps: list[int]) -> Layer:
        self.taken |= set(steps)
        output = self._after_vmap(self._leaving(steps))
        return Layer(name, output, self._source(steps), tuple(steps), self.program)

    def _leaving(self, steps: list[int]) -> int:
        """The largest value that leaves some steps, the last of several; data before others."""
        inside = set(steps)
        leaving: list[tuple[bool, int, int]] = []
        for index in steps:
            for value in self.program.steps[index].writes:
                if not inside.issuperset(self.readers.get(value, ())):
                    size = math.prod(self.program.types[value].shape)
                    leaving.append((value in self.data, size, value))
        if not leaving:
            return self.program.steps[steps[-1]].writes[-1]
        return max(leaving)[2]

    def _after_vmap(self, value: int) -> int:
        """The value once `vmap` has moved its axes to where the caller wants them."""
        while True:
            readers = self.readers.get(value, [])
            step = self.program.steps[readers[0]] if len(readers) == 1 else None
            if step is None or readers[0] < 0 or not step.is_vmap_exit:
                return value
            value = step.writes[0]

    def _source(self, steps: list[int]) -> int | None:
        written = {value for index in steps for value in self.program.steps[index].writes}
        others: list[int] = []
        for index in steps:
            for value in self.program.steps[index].reads:
                if value in written or value not in self.data:
                    continue
                if _is_float(self.program.types[value]):
                    return self._before_cast(value)
                if self.program.types[value].shape and not _is_key(self.program.types[value]):
                    others.append(value)
        return others[0] if others else None

    # --- 2. other code that reads parameters

    def _code_layers(self) -> Iterator[Layer]:
        spans: list[_Span] = []
        for index, step in enumerate(self.program.steps):
            if index in self.taken:
                if spans and self._is_of_a_layer(index):
                    spans[-1].is_open = False
                continue
            if step.body is not None or not self._begins_or_extends_a_layer(step):
                continue
            span = _Span(self._owned(step), step.name in CONTRACTIONS)
            if spans and spans[-1].takes(span):
                spans[-1].extend(span)
            else:
                spans.append(span)
            spans[-1].steps += self._same_place(index)
        for span, is_alone in zip(spans, _have_one_kernel(spans)):
            yield self._layer_of_span(span, is_alone and span.path not in self.containers)

    def _begins_or_extends_a_layer(self, step: Step) -> bool:
        """Whether a step brings data together with a kernel, or with a bias or a scale.

        A table that is added, as of positions, and tokens that are joined make no layer.
        """
        if not self._meets_data(step):
            return False
        if step.name in CONTRACTIONS:
            return True
        owned = [value for value in step.reads if value in self.owners]
        return step.name in ELEMENTWISE and not any(self._is_a_table(value) for value in owned)

    def _is_a_table(self, value: int) -> bool:
        """Whether a value has several long axes of its own, and is no bias laid out as the data."""
        while value in self.writer and self.program.steps[self.writer[value]].name in LAYOUTS:
            value = self.program.steps[self.writer[value]].reads[0]
        shape: tuple[int, ...] = self.program.types[value].shape
        return len([size for size in shape if size > 1]) > 1

    def _is_of_a_layer(self, index: int) -> bool:
        return bool(self._owned(self.program.steps[index]))

    def _same_place(self, index: int) -> list[int]:
        """The steps around one that a single instruction of the person's code asked for."""
        steps = self.program.steps
        chain = steps[index].chain
        if not chain:
            return [index]
        first = last = index
        while first > 0 and steps[first - 1].chain == chain and first - 1 not in self.taken:
            first -= 1
        while (
            last + 1 < len(steps) and steps[last + 1].chain == chain and last + 1 not in self.taken
        ):
            last += 1
        return list(range(first, last + 1))

    def _layer_of_span(self, span: "_Span", is_alone: bool) -> Layer:
        steps = sorted(set(span.steps))
        function = None if span.is_contraction else self._function_of(steps, span.names)
        name = span.name(is_alone)
        if function is not None:
            return self._layer(name, function.steps)
        if not span.is_contraction:
            steps = self._with_normalisation(steps)
        layer = self._layer(name, steps)
        output = self._after_cast(layer.output)
        return Layer(name, output, layer.source, layer.steps, self.program)

    def _with_normalisation(self, steps: list[int]) -> list[int]:
        """A scale's steps, with those before it that normalise what it scales, if some do.

        A normalisation is of one value, and holds a sum and a root.
        """
        inside = set(steps)
        written = {value for index in steps for value in self.program.steps[index].writes}
        open_values = {
            value
            for index in steps
            for value in self.program.steps[index].reads
            if value in self.data and value not in written
        }
        before: set[int] = set()
        while len(before) < MOST_STEPS:
            last = max((self.writer.get(value, -1) for value in open_values), default=-1)
            if last < 0 or last in self.taken or self._owned(self.program.steps[last]):
                return steps
            step = self.program.steps[last]
            if step.name in CONTRACTIONS or step.body is not None:
                return steps
            before.add(last)
            open_values -= set(step.writes)
            open_values |= {value for value in step.reads if value in self.data}
            names = {self.program.steps[index].name for index in before}
            if len(open_values) == 1 and "reduce_sum" in names and names & NORMALISING:
                return sorted(before | inside)
        return steps

    def _function_of(self, steps: list[int], names: frozenset[str]) -> _Call | None:
        """The innermost function that holds some steps, if it reads no other layer's parameters.

        It is None for the outermost function, which is the loss, and for one that contracts data.
        """
        for call in reversed(self.calls[steps[0]][1:]):
            if set(steps) <= set(call.steps):
                break
        else:
            return None
        for index in call.steps:
            step = self.program.steps[index]
            if index in self.taken or step.body is not None or step.name in CONTRACTIONS:
                return None
            if not self._owned(step) <= names:
                return None
        return None if call.function else call

    def _before_cast(self, value: int) -> int:
        """What a value was before it was cast from one float to another."""
        step = self.program.steps[self.writer[value]] if value in self.writer else None
        if step is None or step.name != "convert_element_type":
            return value
        return step.reads[0] if _is_float(self.program.types[step.reads[0]]) else value

    def _after_cast(self, value: int) -> int:
        readers = self.readers.get(value, [])
        if len(readers) == 1 and readers[0] >= 0:
            step = self.program.steps[readers[0]]
            if step.name == "convert_element_type" and _is_float(
                self.program.types[step.writes[0]]
            ):
                return step.writes[0]
        return value

    # --- 3. calls without parameters

    def _layers_without_parameters(self) -> Iterator[Layer]:
        folder = package_folder("optax")
        seen: set[int] = set()
        for index in range(len(self.program.steps)):
            for call in self.calls[index]:
                name = call.function or call.module.lower()
                if not name or self._has_parameters(call):
                    continue
                if id(call) in seen:
                    break
                seen.add(id(call))
                loses = folder and any(
                    c.code.co_filename.startswith(folder) for c in call.callers()
                )
                if name not in NO_LAYERS and not loses and self._gives_floats(call):
                    yield self._layer(name, call.steps)
                break

    def _has_parameters(self, call: _Call) -> bool:
        for index in call.steps:
            step = self.program.steps[index]
            if index in self.taken or step.body is not None or self._owned(step):
                return True
        return False

    def _gives_floats(self, call: _Call) -> bool:
        value = self._leaving(call.steps)
        kind = self.program.types[value]
        return value in self.data and _is_float(kind) and math.prod(kind.shape) > 1


class _Span:
    """Steps in succession that read one layer's parameters."""

    def __init__(self, names: frozenset[str], is_contraction: bool) -> None:
        self.names = names
        self.is_contraction = is_contraction
        self.path = _common_path(names)
        self.first_names = sorted(names)
        self.is_open = True
        self.steps: list[int] = []

    def takes(self, later: "_Span") -> bool:
        """Whether a later span goes on with this one: of the same path, and no kernel read anew."""
        if not self.is_open or later.path != self.path or later.is_contraction:
            return False
        return not later.names & self.names

    def extend(self, later: "_Span") -> None:
        """Take over a later span's parameters."""
        self.names |= later.names

    def name(self, is_alone: bool) -> str:
        """The layer's path if the layer is alone on it; else the name of its first parameter."""
        return self.path if self.path and is_alone else self.first_names[0]


def _have_one_kernel(spans: list[_Span]) -> list[bool]:
    """Whether each span begins with the parameters with which all spans of its path begin."""
    first_names: dict[str, set[tuple[str, ...]]] = {}
    for span in spans:
        first_names.setdefault(span.path, set()).add(tuple(span.first_names))
    return [len(first_names[span.path]) == 1 for span in spans]


def _path(name: str) -> str:
    return name.rpartition(".")[0]


def _paths_above(names: Iterable[str]) -> Iterator[str]:
    """Every path that holds the path of a parameter."""
    for name in names:
        path = _path(_path(name))
        while path:
            yield path
            path = _path(path)


def _common_path(names: Iterable[str]) -> str:
    """The path that all parameters share."""
    paths = [_path(name).split(".") for name in names]
    shared: list[str] = []
    for parts in zip(*paths):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return ".".join(shared)


def _shortest(number: Any) -> float:
    """The shortest number that rounds to a number of its dtype."""
    return float(str(np.asarray(number)[()]))


def _is_number(value: Any) -> bool:
    return value is not None and np.ndim(value) == 0 and 0 < float(value) < 1


def _is_float(kind: Any) -> bool:
    return "float" in str(kind.dtype)


def _is_key(kind: Any) -> bool:
    return "key" in str(kind.dtype) or (str(kind.dtype) == "uint32" and kind.shape == (2,))
