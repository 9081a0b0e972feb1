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
from collections.abc import Callable, Mapping
from typing import Any

from lockstep.errors import InputError
from lockstep.own_loops.arrays import Tensor, name_arrays, tensors_of
from lockstep.own_loops.layer_passes import FORWARD, INPUT, Joined, Mark, Pass, Source, version_of
from lockstep.own_loops.present_update import Part, PresentUpdate
from lockstep.own_loops.tensor_pieces import size_in_bytes
from lockstep.own_loops.torch_hooks import Hook
from lockstep.own_loops.torch_names import module_names

__all__ = ["Passes"]

CannotBeRead = (InputError, RuntimeError, TypeError, NotImplementedError)
"""What a tensor raises that is complex, sparse, quantised, or of a function transformation."""
DEVICES_OF_AUTOCAST = ("cpu", "cuda", "mps", "xpu")


class Passes:
    """Hooks on models and their layers, and what they have recorded of the present update.

    Args:
        present: where `close` puts what counts.
        before: called before each pass with gradients.
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

    def __init__(
        self, present: PresentUpdate, before: Callable[[], None], *, names_inputs: bool
    ) -> None:
        self.present = present
        self.before = before
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
        self._is_first_update = True
        self._depth = 0
        self._layer_depth = 0

    # --- hooks

    def hook_model(self, model: Any) -> list[Any]:
        """Register the hooks of a model; returns their handles."""
        begin = Hook(self._before_model)
        before = model.register_forward_pre_hook(begin, with_kwargs=True, prepend=True)
        after = model.register_forward_hook(Hook(self._after_model))
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

        first = module.register_forward_pre_hook(Hook(wrap(before)), with_kwargs=True)
        return [first, module.register_forward_hook(Hook(wrap(after)))]

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
        if self._is_evaluating:
            self._note_evaluation(layer, module)
        elif self._is_first_update and self._torch.is_grad_enabled():
            self.modes.setdefault(layer, bool(module.training))
        if open_pass is None:
            return
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
        if self._is_first_update and not self._is_evaluating and tensor is not None:
            self._note_autocast(tensor)
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
            FORWARD + key, None, weakref.ref(tensor), version_of(tensor)
        )
        self._mark(open_pass, tensor)

    # --- passes

    def _begin(self, *, is_root: bool) -> None:
        self._layer_depth = 0
        self._open = None
        self._passes = [one for one in self._passes if not one.is_out_of_reach]
        self._is_evaluating = is_root and not self._torch.is_grad_enabled()
        if not self._torch.is_grad_enabled():
            return
        self.is_used = True
        self.before()
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
        if self.autocast or device not in DEVICES_OF_AUTOCAST:
            return
        if self._torch.is_autocast_enabled(device):
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
        self._is_first_update = self._is_first_update and not self.is_used
        if not passes:
            return
        joined = Joined(passes)
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
        joined: "Joined",
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
            self.unread |= {name} - {""}
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
        return None if part is None else Source("", part, weakref.ref(tensor), version_of(tensor))

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
                batch[name] = Source("", part, weakref.ref(tensor), version_of(tensor))
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
