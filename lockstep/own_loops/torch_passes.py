"""The passes of a PyTorch model through its layers in one update: what each layer is fed, and what
it returns.

A *pass* is one call of a watched model. A model that is never called itself, as Lightning's, passes
from one backward pass to the next. A pass counts where gradients were on and the backward pass
reached it; an evaluation in between counts nowhere. Passes that count, as of micro-batches, are
joined along their rows.
"""

import inspect
import sys
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from lockstep.errors import InputError
from lockstep.own_loops.arrays import Tensor, name_arrays, tensors_of
from lockstep.own_loops.present_update import Part, PresentUpdate
from lockstep.own_loops.tensor_pieces import size_in_bytes
from lockstep.own_loops.torch_names import module_names
from lockstep.records.tensor_summary import Summary

__all__ = ["Passes"]

CannotBeRead = (InputError, RuntimeError, TypeError, NotImplementedError)
"""What a tensor raises that is complex, sparse, quantised, or of a function transformation."""
FORWARD = "forward/"
BATCH = "batch/"
INPUT = ".input"


@dataclass(frozen=True)
class Source:
    """What a layer is fed.

    Attributes:
        name: "forward/<layer>" for a recorded output, "" for anything else.
        part: the copy of anything else.
        tensor: the tensor, as long as it lives.
        version: how often it had been changed in place.
    """

    name: str
    part: Part | None
    tensor: Callable[[], Tensor]
    version: int

    @property
    def name_of_other(self) -> str:
        """The layer that was fed the same before, or ""."""
        is_input = self.name.startswith(FORWARD) and self.name.endswith(INPUT)
        return self.name.removeprefix(FORWARD).removesuffix(INPUT) if is_input else ""

    def is_fed_by(self, tensor: Tensor) -> bool:
        """Whether a tensor is what the layer was fed, unchanged."""
        return self.tensor() is tensor and self.version == _version(tensor)


@dataclass(eq=False)
class Pass:
    """One pass through the layers.

    Attributes:
        is_root: whether the model itself was called.
        outputs: layer -> its output, in call order; a layer's second call is "<layer>#2".
        sources: layer -> what it was fed.
        batch: name -> what the model itself was fed.
        is_reached: whether a backward pass has reached it.
        is_marked: whether its graph has a `Mark`.
    """

    is_root: bool
    outputs: dict[str, Part] = field(default_factory=dict)
    sources: dict[str, Source] = field(default_factory=dict)
    batch: dict[str, Source] = field(default_factory=dict)
    is_reached: bool = False
    is_marked: bool = False
    calls: list[tuple[str, Source | None]] = field(default_factory=list)
    known: dict[int, Source] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    mark: "Callable[[], Mark | None]" = lambda: None

    @property
    def rows(self) -> int | None:
        """The first axis of what the pass was fed; None where that is not known."""
        for source in self.batch.values():
            if source.part is not None and source.part.shape:
                return source.part.shape[0]
        return None

    def part_of_batch(self, name: str) -> Part | None:
        """What the model was fed under a name."""
        source = self.batch.get(name)
        return None if source is None else source.part

    def drop_copies(self) -> None:
        """Forget every array."""
        self.outputs = {name: replace(part, array=None) for name, part in self.outputs.items()}
        for sources in (self.batch, self.sources):
            for name, source in sources.items():
                if source.part is not None:
                    sources[name] = replace(source, part=replace(source.part, array=None))

    @property
    def is_out_of_reach(self) -> bool:
        """Whether no backward pass reached it and none will, since its graph is gone."""
        return self.is_marked and not self.is_reached and self.mark() is None


class Mark:
    """What hangs on the nodes of a pass's graph, and lives as long as they do."""

    def __init__(self, of: Pass) -> None:
        self.of = weakref.ref(of)

    def __call__(self, _: Any) -> None:
        """A backward pass reaches a node."""
        of = self.of()
        if of is not None:
            of.is_reached = True


class Passes:
    """Hooks on models and their layers, and what they have recorded of the present update.

    Args:
        present: where `close` puts what counts.
        names_inputs: whether what the model is fed is recorded as the batch, where none is given.

    Attributes:
        inputs: layer -> the array that it is fed: "forward/<layer>", "batch/<name>".
        without_rows: layers whose output does not grow with the rows of a batch.
        unread: layers whose output cannot be recorded.
        modes: layer -> whether it was in training mode in the first pass.
        trains_in_evaluation: dropouts and batch norms that were in training mode while gradients
            were off; None before an evaluation.
        autocast: device and dtype of the first layer under autocast.
        is_used: whether a pass with gradients has begun.
    """

    def __init__(self, present: PresentUpdate, *, names_inputs: bool) -> None:
        self.present = present
        self.names_inputs = names_inputs
        self.inputs: dict[str, str] = {}
        self.without_rows: set[str] = set()
        self.unread: set[str] = set()
        self.modes: dict[str, bool] = {}
        self.trains_in_evaluation: set[str] | None = None
        self.autocast: dict[str, str] = {}
        self.is_used = False
        self._torch: Any = sys.modules["torch"]
        self._graph_task: Callable[[], int] = getattr(
            self._torch._C, "_current_graph_task_id", lambda: -1
        )
        self._unsure: set[str] = set()
        self._passes: list[Pass] = []
        self._open: Pass | None = None
        self._bytes = 0
        self._is_evaluating = False
        self._depth = 0
        self._layer_depth = 0

    # --- hooks

    def hook_model(self, model: Any) -> list[Any]:
        """Register the hooks of a model; returns their handles."""
        before = model.register_forward_pre_hook(self._before_model, with_kwargs=True, prepend=True)
        after = model.register_forward_hook(self._after_model, always_call=True)
        return [before, after]

    def hook_layer(self, layer: str, module: Any, wrap: Callable[[Any], Any]) -> list[Any]:
        """Register the hooks of a layer; returns their handles.

        Args:
            layer: its name.
            module: the layer.
            wrap: what to do with a hook before it is registered.
        """
        is_compiling = self._torch.compiler.is_compiling

        def before(module: Any, args: Any, kwargs: Any) -> None:
            if not is_compiling():
                self._before_layer(layer, module, args, kwargs)

        def after(module: Any, args: Any, output: Any) -> None:
            if not is_compiling():
                self._after_layer(layer, module, output)

        first = module.register_forward_pre_hook(wrap(before), with_kwargs=True)
        return [first, module.register_forward_hook(wrap(after))]

    def _before_model(self, model: Any, args: Any, kwargs: Any) -> None:
        if self._torch.compiler.is_compiling() or self._is_in_backward():
            return
        if self._depth and self._open is not None and not self._torch.is_grad_enabled():
            self._depth += 1  # it calls itself for what it samples
            return
        if self._depth and self._open is not None:  # an error ended that call, not the loop
            self._passes.remove(self._open)
        self._depth = 1
        self._begin(is_root=True)
        if self._open is not None and self.names_inputs:
            self._open.batch = self._read_batch(model, args, kwargs)
            for source in self._open.batch.values():
                self._open.known.setdefault(id(source.tensor()), source)

    def _after_model(self, model: Any, args: Any, output: Any) -> None:
        if self._torch.compiler.is_compiling() or self._is_in_backward() or not self._depth:
            return
        self._depth -= 1
        if self._depth or self._open is None:
            return
        for tensor in tensors_of(output):
            self._mark(self._open, tensor)
        self._open = None

    def _before_layer(self, layer: str, module: Any, args: Any, kwargs: Any) -> None:
        if self._is_in_backward():  # a checkpoint computes it once more
            return
        if not self._depth and not self._layer_depth:
            self._begin_without_model()
        self._layer_depth += 1
        open_pass = self._open
        if open_pass is None:
            if self._is_evaluating:
                self._note_evaluation(layer, module)
            return
        self.modes.setdefault(layer, bool(module.training))
        count = open_pass.counts[layer] = open_pass.counts.get(layer, 0) + 1
        key = layer if count == 1 else f"{layer}#{count}"
        tensor = next(tensors_of((args, kwargs)), None)
        is_traced = tensor is not None and self.present.is_copied()
        source = self._source(open_pass, tensor) if is_traced else None
        if source is not None and source.name == "":
            open_pass.known[id(tensor)] = Source(
                FORWARD + key + INPUT, source.part, source.tensor, source.version
            )
        open_pass.calls.append((key, source))

    def _after_layer(self, layer: str, module: Any, output: Any) -> None:
        if self._is_in_backward() or not self._layer_depth:
            return
        self._layer_depth -= 1
        open_pass = self._open
        tensor = next(tensors_of(output), None)
        if open_pass is None or not open_pass.calls:
            return
        key, source = open_pass.calls.pop()
        part = None if tensor is None else self._part(key, tensor)
        if tensor is None or part is None:
            return
        open_pass.outputs[key] = part
        if source is not None:
            open_pass.sources[key] = source
        open_pass.known[id(tensor)] = Source(
            FORWARD + key, None, weakref.ref(tensor), _version(tensor)
        )
        self._mark(open_pass, tensor)
        self._note_autocast(tensor)

    # --- passes

    def _begin(self, *, is_root: bool) -> None:
        self._layer_depth = 0
        self._open = None
        self._passes = [one for one in self._passes if not one.is_out_of_reach]
        self._is_evaluating = is_root and not self._torch.is_grad_enabled()
        if not self._torch.is_grad_enabled():
            return
        self.is_used = True
        if self.present.is_due():
            self._open = Pass(is_root)
            self._passes.append(self._open)

    def _begin_without_model(self) -> None:
        """Begin a pass where a layer is called outside of any model, unless the latest goes on."""
        latest = self._passes[-1] if self._passes else None
        if (
            latest is None
            or latest.is_root
            or latest.is_reached
            or latest.is_out_of_reach
            or not self._torch.is_grad_enabled()
        ):
            self._begin(is_root=False)
        else:
            self._open = latest

    def _is_in_backward(self) -> bool:
        return self._graph_task() != -1

    def _mark(self, of: Pass, tensor: Tensor) -> None:
        node = getattr(tensor, "grad_fn", None)
        if node is None:
            return
        mark = of.mark() or Mark(of)
        of.mark = weakref.ref(mark)
        of.is_marked = True
        node.register_prehook(mark)

    def _note_evaluation(self, layer: str, module: Any) -> None:
        if self.trains_in_evaluation is None:
            self.trains_in_evaluation = set()
        kind = type(module).__name__.lower()
        if module.training and ("drop" in kind or "batchnorm" in kind):
            self.trains_in_evaluation.add(layer)

    def _note_autocast(self, tensor: Tensor) -> None:
        device = tensor.device.type
        if not self.autocast and self._torch.is_autocast_enabled(device):
            dtype = str(self._torch.get_autocast_dtype(device)).rpartition(".")[2]
            self.autocast = {"device": device, "dtype": dtype}

    # --- the end of an update

    def close(self, given: Mapping[str, Tensor]) -> None:
        """Put the outputs of the passes that count, and their inputs, into the present update.

        Args:
            given: name -> tensor of the batch that the loop gave; where it is empty, the batch is
                what the model was fed.
        """
        passes = [one for one in self._passes if one.is_reached]
        if not passes:
            passes = [one for one in self._passes if not one.is_out_of_reach]
        self._passes = []
        self._open = None
        self._bytes = 0
        if not passes:
            return
        joined = _Joined(passes)
        batch = {} if given else joined.batch()
        for name, part in batch.items():
            self.present.put("batch", name, part)
        for key in joined.keys:
            if self.present.is_copied():
                self._put_input(key, joined, given, batch)
            outputs = [one.outputs.get(key) for one in passes]
            for name, part in joined.named(key, outputs, joined.grows(key)):
                self._put(name, part)
        self.without_rows |= joined.without_rows

    def _put_input(
        self,
        key: str,
        joined: "_Joined",
        given: Mapping[str, Tensor],
        batch: Mapping[str, Part],
    ) -> None:
        """Note what fed a layer, and record it where that is no recorded array."""
        if key in self._unsure:
            return
        names = joined.fed_by(key, given, batch)
        name = names.pop() if len(names) == 1 else None
        if name is None or self.inputs.setdefault(key, name) != name:
            self._unsure.add(key)
            self.inputs.pop(key, None)
        elif name == FORWARD + key + INPUT:
            parts = [one.sources[key].part for one in joined.passes if key in one.sources]
            for name_of_part, part in joined.named(key + INPUT, parts):
                self._put(name_of_part, part)

    def _put(self, name: str, part: Part) -> None:
        self.present.put("forward", name, part)
        self.present.layers[name] = None

    # --- copies

    def _part(self, name: str, tensor: Tensor, family: str = "forward") -> Part | None:
        """A copy of a tensor, while there is room, and its summary; None where it has neither."""
        before = [one.outputs[name].shape for one in self._passes if name in one.outputs]
        first_row = sum(shape[0] for shape in before if shape)
        try:
            part = self.present.part(
                family, tensor, is_copied=self._has_room(tensor), first_row=first_row
            )
        except CannotBeRead:
            self.unread.add(name)
            return None
        self._bytes += part.bytes
        return part

    def _has_room(self, tensor: Tensor) -> bool:
        """Whether a tensor is copied. Where there is no room, earlier copies are dropped."""
        present = self.present
        if not present.is_copied():
            return False
        if present.bytes + self._bytes + size_in_bytes(tensor) <= present.room:
            return True
        for one in self._passes:
            one.drop_copies()
        return False

    def _source(self, of: Pass, tensor: Tensor) -> Source | None:
        known = of.known.get(id(tensor))
        if known is not None and known.is_fed_by(tensor):
            return known
        part = self._part("", tensor, "inputs")
        return None if part is None else Source("", part, weakref.ref(tensor), _version(tensor))

    def _read_batch(self, model: Any, args: Any, kwargs: Any) -> dict[str, Source]:
        try:
            tensors = name_arrays(_arguments(model, args, kwargs))
        except (TypeError, ValueError, InputError):
            return {}
        if len(tensors) == 1:
            tensors = {"x": next(iter(tensors.values()))}
        batch = {}
        for name, tensor in tensors.items():
            part = self._part("", tensor, "batch") if hasattr(tensor, "detach") else None
            if part is not None:
                batch[name] = Source("", part, weakref.ref(tensor), _version(tensor))
        return batch


def _arguments(model: Any, args: Any, kwargs: Any) -> dict[str, Any]:
    """What a model is called with, by the names of its parameters.

    Raises:
        TypeError, ValueError: its signature is not known, or does not fit.
    """
    names = module_names(model)
    inner = next(
        module for path, module in reversed(list(model.named_modules())) if not names[path]
    )
    bound = inspect.signature(inner.forward).bind(*args, **kwargs)
    return dict(bound.arguments)


def _version(tensor: Tensor) -> int:
    """How often a tensor was changed in place; 0 where that is not counted."""
    try:
        return int(tensor._version)
    except RuntimeError:  # made in inference mode
        return 0


class _Joined:
    """Passes of one update, joined along their rows.

    Attributes:
        passes: the passes that count.
        keys: the layers, in call order.
        without_rows: layers of which equal outputs were kept once.
    """

    def __init__(self, passes: list[Pass]) -> None:
        self.passes = passes
        self.keys = list(dict.fromkeys(key for one in passes for key in one.outputs))
        self.without_rows: set[str] = set()
        self._is_same_data = bool(passes[0].batch) and all(
            _are_equal(
                [source.part for one in passes for source in [one.batch.get(name)] if source]
            )
            for name in passes[0].batch
        )

    def batch(self) -> dict[str, Part]:
        """What the model was fed in all passes."""
        names = list(self.passes[0].batch)
        if any(list(one.batch) != names for one in self.passes):
            return {}
        batch: dict[str, Part] = {}
        for name in names:
            batch |= self.named(name, [one.part_of_batch(name) for one in self.passes])
        return batch

    def grows(self, key: str) -> bool:
        """Whether what feeds a layer is known to grow with the rows."""
        sources = [one.sources.get(key) for one in self.passes]
        first = sources[0]
        if first is None:
            return False
        if first.name:
            fed_by = first.name.removeprefix(FORWARD)
            return fed_by not in self.without_rows
        return not _are_equal([source.part if source else None for source in sources])

    def named(
        self, key: str, parts: Sequence[Part | None], grows: bool = False
    ) -> list[tuple[str, Part]]:
        """The join of a layer's outputs under its name; outputs of several shapes, each under a
        name of its own.

        Args:
            key: the layer.
            parts: its output in each pass, None where there is none.
            grows: whether it is known to grow with the rows.
        """
        pairs = [(part, one.rows) for part, one in zip(parts, self.passes) if part is not None]
        present = [part for part, _ in pairs]
        if len(present) == 1:
            return [(key, present[0])]
        if all(not part.shape for part in present):
            return [(key, _joined(present, None))]
        axis = _axis_of_rows(pairs)
        is_one_row = pairs[0][1] == 1 and not self._is_same_data and not grows
        if (axis != 0 or is_one_row) and _are_equal(present):
            self.without_rows.add(key)
            return [(key, present[0])]
        axis = axis or 0
        if len({part.shape[:axis] + part.shape[axis + 1 :] for part in present}) == 1:
            return [(key, _joined(present, axis))]
        names = [key, *(f"{key}#{number}" for number in range(2, len(present) + 1))]
        return [(name, replace(part, summary=None)) for name, part in zip(names, present)]

    def fed_by(
        self, key: str, given: Mapping[str, Tensor], batch: Mapping[str, Part]
    ) -> set[str | None]:
        """What feeds a layer, in each pass: a name in the trace; None where it is not known."""
        return {
            self._name_of_source(one, key, given, batch)
            for one in self.passes
            if key in one.outputs
        }

    def _name_of_source(
        self, one: Pass, key: str, given: Mapping[str, Tensor], batch: Mapping[str, Part]
    ) -> str | None:
        source = one.sources.get(key)
        if source is not None and source.name_of_other:
            key = source.name_of_other
            source = one.sources.get(key)
        if source is None:
            return None
        if source.name:
            return source.name
        for name, tensor in given.items():
            if source.is_fed_by(tensor):
                return BATCH + name
        for name in batch:
            if one.batch[name] is source:
                return BATCH + name
        return FORWARD + key + INPUT


def _axis_of_rows(pairs: Sequence[tuple[Part, int | None]]) -> int | None:
    """The first of two axes that is as long as the rows are many, in each pass; None for none."""
    for axis in (0, 1):
        if all(
            rows is not None and len(part.shape) > axis and part.shape[axis] == rows
            for part, rows in pairs
        ):
            return axis
    return None


def _joined(parts: Sequence[Part], axis: int | None) -> Part:
    """Tensors along an axis; numbers in a new one. Their dtype is that of the first."""
    arrays = [part.array for part in parts if part.array is not None]
    array = None
    if len(arrays) == len(parts):
        array = np.stack(arrays) if axis is None else np.concatenate(arrays, axis)
    if axis is None:
        shape: tuple[int, ...] = (len(parts),)
    else:
        length = sum(part.shape[axis] for part in parts)
        shape = (*parts[0].shape[:axis], length, *parts[0].shape[axis + 1 :])
    return replace(
        parts[0],
        array=array,
        shape=shape,
        bytes=sum(part.bytes for part in parts),
        summary=_joined_summary(parts) if axis == 0 else None,
    )


def _joined_summary(parts: Sequence[Part]) -> Summary | None:
    """The summary of rows that follow one another; None unless each was made of its place."""
    rows = 0
    joined: Summary | None = None
    for part in parts:
        if part.summary is None or part.first_row != rows:
            return None
        rows += part.shape[0]
        joined = part.summary if joined is None else joined.followed_by(part.summary)
    return joined


def _are_equal(parts: Sequence[Part | None]) -> bool:
    """Whether all tensors hold the same bits, as far as their copies or summaries tell."""
    first = parts[0]
    return all(_is_equal(first, part) for part in parts)


def _is_equal(one: Part | None, other: Part | None) -> bool:
    if one is None or other is None or one.shape != other.shape:
        return False
    if one.array is not None and other.array is not None:
        bits = f"u{one.array.itemsize}"
        return np.array_equal(one.array.view(bits), other.array.view(bits))
    if one.summary is None or other.summary is None:
        return False
    return one.summary.statistics == other.summary.statistics
