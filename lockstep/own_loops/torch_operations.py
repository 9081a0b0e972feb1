"""Lists the operations of an update's forward pass and loss, by a dispatch mode of PyTorch.

The mode sits under autograd and sees each ATen operation with its result. It is entered when the
first module of an update is called, and listens until the backward pass begins, so that the loss is
listed too. It computes norms, and keeps no tensor: results are told apart by the addresses of their
storages, to which weak references are held, so that no other storage takes an address meanwhile.

The mode is semi-private in PyTorch. Where anything of it is missing or fails, nothing is listed, a
`RecorderWarning` says so, and the training goes on.
"""

import os
import sys
import sysconfig
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

from lockstep.errors import RecorderWarning
from lockstep.own_loops.operations import CHUNK, LIMIT, MASKED, OUTSIDE, Operations
from lockstep.own_loops.torch_hooks import Hook
from lockstep.own_loops.torch_names import module_names

__all__ = ["TorchOperations"]

Key = tuple[Any, ...]
"""What tells a view of a storage from its others: offset, shape and strides."""

UNWRITTEN = ("empty", "new_empty", "resize", "set_")
"""Begin of the names of operations whose results hold nothing yet."""
SAME_VALUES = (
    "alias",
    "detach",
    "expand",
    "permute",
    "squeeze",
    "t",
    "transpose",
    "unsqueeze",
    "view",
    "_reshape_alias",
    "_unsafe_view",
)
"""Operations that give the values of their input; they are not listed."""


class TorchOperations:
    """Hooks on every module of a model, and the mode that lists what they compute.

    Args:
        model: a `torch.nn.Module`.
        is_wanted: whether the operations of the present update are listed.
    """

    def __init__(self, model: Any, is_wanted: Callable[[], bool]) -> None:
        self._is_wanted = is_wanted
        self._layers: list[str] = []
        self._hooks: list[Any] = []
        self._mode: Any = None
        self._is_done = False
        self._listing = _Listing()
        fault = _fault_of(model)
        if fault:
            _warn(fault)
            return
        names = module_names(model)
        for path, module in model.named_modules():
            enter, leave = self._make_hooks(names[path] or type(module).__name__.lower())
            self._hooks.append(module.register_forward_pre_hook(Hook(enter), prepend=True))
            self._hooks.append(module.register_forward_hook(Hook(leave), always_call=True))

    def take(self) -> Operations | None:
        """End the update; its listing, or None where none was wanted or possible."""
        self._is_done = False
        listing = self._listing
        self._listing = _Listing()
        self._layers.clear()
        self._leave_mode()
        return listing.operations if listing.operations.entries else None

    def close(self) -> None:
        """Remove every hook, and leave the mode."""
        while self._hooks:
            self._hooks.pop().remove()
        self._stop()
        self._leave_mode()

    def _make_hooks(self, layer: str) -> tuple[Callable[..., None], Callable[..., None]]:
        def enter(module: Any, inputs: Any) -> None:
            if self._mode is None and self._may_begin():
                self._enter_mode()
            self._layers.append(layer)

        def leave(module: Any, inputs: Any, output: Any) -> None:
            while self._layers and self._layers.pop() != layer:
                pass  # a module that was left by an exception stands above

        return enter, leave

    def _may_begin(self) -> bool:
        torch = sys.modules["torch"]
        is_training = torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
        return is_training and not self._is_done and self._is_wanted()

    def _enter_mode(self) -> None:
        if _top_mode() is not None:
            self._is_done = True
            _warn("another mode of torch listens already")
            return
        try:
            mode = _make_mode(self._hear)
            mode.__enter__()
        except Exception as error:  # whatever a later torch may raise
            self._is_done = True
            _warn(f"{type(error).__name__}: {error}")
            return
        self._mode = mode

    def _leave_mode(self) -> None:
        """Leave the mode; one that lies under another stays, deaf, until that is left."""
        if self._mode is not None and _top_mode() is self._mode:
            self._mode.__exit__(None, None, None)
            self._mode = None

    def _stop(self) -> None:
        self._is_done = True
        self._listing.forget()

    def _hear(self, function: Any, inputs: list[Any], result: Any) -> None:
        """List an operation; called by the mode, after the operation has run."""
        if self._is_done or self._mode is None:
            return
        if _is_in_backward():
            self._stop()
            return
        try:
            line = _line_of(sys._getframe(1))
            if line is None:
                return
            layer = self._layers[-1] if self._layers else ""
            self._listing.add(function, inputs, result, layer, line)
        except Exception as error:  # a listing must not stop a training
            self._stop()
            _warn(f"{type(error).__name__}: {error}")
        if len(self._listing.operations.entries) > LIMIT:
            self._stop()
            _warn(f"only the first {LIMIT} are listed")


class _Listing:
    """Operations, and which of them gave what lies in a storage.

    Attributes:
        operations: the listing.
        views: storage -> view -> index of the entry that gave it.
        writes: storage -> index of the entry that wrote to it last; None: nothing was written.
        held: storage -> weak reference to it, which keeps its address, and not its memory.
    """

    def __init__(self) -> None:
        self.held: dict[int, Any] = {}
        self.operations = Operations()
        self.views: dict[int, dict[Key, int]] = {}
        self.writes: dict[int, int | None] = {}

    def forget(self) -> None:
        """Forget the storages."""
        self.views.clear()
        self.writes.clear()
        self.held.clear()

    def add(self, function: Any, inputs: list[Any], result: Any, layer: str, line: str) -> None:
        """List the results of an operation, unless they hold the values of its input.

        Args:
            function: a `torch._ops.OpOverload`.
            inputs: its tensors.
            result: a tensor, or a sequence or tuple with tensors.
            layer: the innermost module.
            line: the person's line.
        """
        namespace, _, name = function._schema.name.partition("::")
        sources = list(self._sources(inputs))
        storages = {_storage(tensor) for tensor in inputs}
        for tensor in _tensors(result):
            storage = _storage(tensor)
            if storage not in storages:
                self.held[storage] = _weak_reference(tensor)
                self.views[storage] = {}
                self.writes[storage] = None
            if name.startswith(UNWRITTEN) or not tensor.numel():
                continue
            views = self.views.setdefault(storage, {})
            if name in SAME_VALUES and tensor.numel() == inputs[0].numel():
                if sources and sources[0] != OUTSIDE:
                    views[_view(tensor)] = sources[0]
                continue
            index = self.operations.add(
                f"{namespace}.{name}",
                layer=layer,
                line=line,
                shape=tensor.shape,
                dtype=str(tensor.dtype).rpartition(".")[2],
                inputs=sources,
                norms=_norms(tensor),
            )
            if function._schema.is_mutable:
                views.clear()
                self.writes[storage] = index
            elif storage not in storages:
                self.writes[storage] = index
            views[_view(tensor)] = index

    def _sources(self, inputs: list[Any]) -> Iterator[int]:
        """The entries that gave the inputs; none for an input in which nothing was written."""
        for tensor in inputs:
            storage = _storage(tensor)
            if storage not in self.writes and storage not in self.views:
                yield OUTSIDE
                continue
            source = self.views.get(storage, {}).get(_view(tensor), self.writes.get(storage))
            if source is not None:
                yield source
            elif storage not in self.writes:
                yield OUTSIDE


def _make_mode(hear: Callable[[Any, list[Any], Any], None]) -> Any:
    """A mode that hands each operation with its inputs and result to `hear`."""
    base: Any = sys.modules["torch"].utils._python_dispatch.TorchDispatchMode

    class Mode(base):  # type: ignore[misc]  # known when it runs
        """Runs each operation as it is, then hands it on."""

        @classmethod
        def ignore_compile_internals(cls) -> bool:
            """Leave compiled functions compiled; otherwise they would run eagerly, with other
            bits.
            """
            return True

        def __torch_dispatch__(
            self, function: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            """As `TorchDispatchMode` has it."""
            kwargs = kwargs or {}
            result = function(*args, **kwargs)
            inputs = list(_tensors(args)) + list(_tensors(list(kwargs.values())))
            hear(function, inputs, result)
            return result

    return Mode()


def _fault_of(model: Any) -> str:
    """Why nothing can be listed of a model, or ""."""
    torch = sys.modules["torch"]
    dispatch = getattr(torch.utils, "_python_dispatch", None)
    if not hasattr(dispatch, "TorchDispatchMode") or not hasattr(
        torch._C, "_current_graph_task_id"
    ):
        return f"torch {torch.__version__} has no dispatch mode of the form that is known"
    for module in model.modules():
        is_compiled = getattr(module, "_compiled_call_impl", None) is not None
        if is_compiled or hasattr(module, "_orig_mod"):
            return "torch.compile hides them; record the model without it"
    return ""


def _warn(reason: str) -> None:
    warnings.warn(f"operations are not listed: {reason}", RecorderWarning, stacklevel=2)


def _top_mode() -> Any:
    """The innermost dispatch mode that is entered, or None."""
    torch = sys.modules["torch"]
    return torch.utils._python_dispatch._get_current_dispatch_mode()


def _is_in_backward() -> bool:
    torch = sys.modules["torch"]
    return bool(torch._C._current_graph_task_id() != -1)


def _tensors(value: Any) -> Iterator[Any]:
    """The tensors in nested sequences."""
    if isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)
    elif hasattr(value, "untyped_storage"):
        yield value


def _storage(tensor: Any) -> int:
    """The address of a tensor's storage object."""
    return int(tensor.untyped_storage()._cdata)


def _weak_reference(tensor: Any) -> Any:
    """A weak reference to a tensor's storage."""
    reductions = sys.modules["torch.multiprocessing.reductions"]
    return reductions.StorageWeakRef(tensor.untyped_storage())


def _view(tensor: Any) -> Key:
    return tensor.storage_offset(), tuple(tensor.shape), tensor.stride(), tensor.dtype


def _norms(tensor: Any) -> tuple[float, float, float, float]:
    """As `result_norms`, where the tensor lies."""
    torch = sys.modules["torch"]
    with torch.no_grad():
        part = torch.view_as_real(tensor) if tensor.is_complex() else tensor
        part = part.cpu() if part.device.type == "mps" else part  # which has no float64
        totals = torch.zeros(3, dtype=torch.float64, device=part.device)
        largest = torch.zeros((), dtype=torch.float64, device=part.device)
        for chunk in part.reshape(-1).split(CHUNK):
            wide = chunk.to(torch.float64)
            size = wide.abs()
            is_masked = ~(size < MASKED)
            if is_masked.any():
                wide = wide.masked_fill(is_masked, 0.0)
                size = size.masked_fill(is_masked, 0.0)
            totals += torch.stack([torch.dot(wide, wide), wide.sum(), size.sum()])
            largest = torch.maximum(largest, size.max())
        values = torch.cat([totals, largest.reshape(1)])
        values[0] = values[0].sqrt()
        norm, total, sizes, most = values.tolist()
    return norm, total, sizes, most


def _line_of(frame: FrameType | None) -> str | None:
    """The innermost line outside PyTorch, lockstep and Python's own library; "" where there is
    none, None for what a recorder computes itself.
    """
    while frame is not None:
        file = frame.f_code.co_filename
        owner = _owner_of(file)
        if owner == "recorder":
            return None
        if owner == "person":
            return f"{Path(file).name}:{frame.f_lineno} in {frame.f_code.co_name}"
        frame = frame.f_back
    return ""


@cache
def _owner_of(file: str) -> str:
    """Whose a file of source is: "recorder" for lockstep's others, "library" or "person"."""
    own = Path(__file__)
    if file == str(own) or file.startswith(("<frozen", "<eval_with_key")):
        return "library"
    if file.startswith(f"{own.parents[1]}{os.sep}"):
        return "recorder"
    packages = (sys.modules["torch"], sys.modules.get("einops"))
    for package in filter(None, packages):
        if file.startswith(f"{Path(str(package.__file__)).parent}{os.sep}"):
            return "library"
    library = sysconfig.get_paths()["stdlib"]
    is_installed = "site-packages" in file or "dist-packages" in file
    return "library" if file.startswith(library) and not is_installed else "person"
