"""A recorder of training loops, in PyTorch or JAX; two of its traces are compared with NumPy alone.

A recorder draws nothing, touches no gradient and keeps only copies: a loop gives the same bits
with and without it.
"""

import json
import math
import warnings
from array import array as packed
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

import numpy as np
from numpy.typing import NDArray

from lockstep.errors import InputError, RecorderWarning
from lockstep.files.outputs import check_output
from lockstep.own_loops.arrays import (
    Tensor,
    Tree,
    environment_of,
    gradients_of,
    moments_of,
    name_arrays,
    parameters_of,
    perturbed,
    rates_of,
    to_array,
)
from lockstep.own_loops.detail_budget import Detail, note_on_budget
from lockstep.records.tensor_statistics import WATCHED, statistics_of
from lockstep.records.trace import TRACE, Trace
from lockstep.tensor_file import arrays_below

__all__ = ["Recorder"]

Arrays = dict[str, NDArray[Any]]
WITHOUT_WATCH = (
    "of any other loop, as of Keras or JAX, give what there is to record to "
    "Recorder.update(loss=..., gradients=..., lr=..., moments=..., parameters=...)"
)


class Recorder:
    """Writes a trace of a loop.

    There are three levels of detail:

    - Scalars are recorded at every update: loss, learning rate, and the 2-norms, in float64, of the
      gradient and of the change of the parameters.
    - `statistics` adds three numbers of every tensor at every update.
    - Tensors are recorded at every `every`-th update and at the updates in `window`, within
      `budget_mib`. When they outgrow it, every 2nd of these updates is kept, then every 4th, and so
      on, always with the first and the last. The header's `recording` says which were kept.

    The budget does not include the first and the latest parameters and one update's tensors.
    Writing the file takes as much memory again.

    Args:
        path: where to write the trace; its folder must exist.
        backend: the name of the loop in reports: "torch", "jax", ...
        settings: nested dictionaries of plain values; `compare` compares those of two traces
            first. An "optimizer" with the names of a recipe's `[optimizer]` helps to find causes.
        every: the updates between two records of tensors; 0: only the updates in `window`.
        window: more updates, counted from 0, at which to record tensors.
        statistics: whether to record mean, root mean square and largest absolute value of each
            tensor at every update.
        budget_mib: memory for tensors and statistics, in MiB (2^20 bytes).
        perturb: seed by which `start` moves every parameter by one unit in the last place, to
            measure how far rounding carries this loop; None: it leaves them as they are.

    Raises:
        InputError: no such folder, a file there that is no trace, settings that are not plain
            values, or an `every` or `budget_mib` out of range.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        backend: str,
        settings: Mapping[str, Any] | None = None,
        every: int = 1,
        window: Collection[int] = (),
        statistics: bool = False,
        budget_mib: float = 256,
        perturb: int | None = None,
    ) -> None:
        self.path = Path(path)
        self.backend = backend
        self.perturb = perturb
        check_output(self.path, TRACE)
        if every < 0 or not 0 < budget_mib < math.inf:
            raise InputError(
                f"Recorder: every is {every} and budget_mib {budget_mib}; must be at least 0, and "
                "a number above 0"
            )
        self.settings = _plain(settings or {})
        self.every = every
        self.window = window
        self.budget_mib = budget_mib
        self.done = 0
        self._detail = Detail(int(budget_mib * 2**20))
        self._statistics: dict[str, packed[float]] | None = {} if statistics else None
        self._statistics_until: int | None = None
        self._series: dict[str, list[np.generic]] = {}
        self._scalars: dict[str, np.generic] = {}
        self._arrays: Arrays = {}
        self._initial: Arrays = {}
        self._before: Arrays = {}
        self._latest: Arrays = {}
        self._buffers: set[str] = set()
        self._dtypes: Counter[tuple[str, str]] = Counter()
        self._layers: dict[str, None] = {}
        self._source: Any = None
        self._optimizer: Any = None
        self._has_stepped = False
        self._hooks: list[Any] = []
        self._first_due: int | None = None

    @property
    def due(self) -> bool:
        """Whether the tensors of the present update are recorded; if not, a loop can save work."""
        if self.done in self.window:
            return True
        return self.every > 0 and self.done % self.every == 0

    def start(self, parameters: Tree) -> Tree:
        """Record the parameters before training, and return them.

        A loop goes on with the parameters that are returned, which `perturb` may have moved.

        Args:
            parameters: a PyTorch or NNX module, an NNX state, Linen's variables, an Equinox module,
                a tree, or a mapping of names to arrays. Running statistics are recorded with them.

        Raises:
            InputError: no floating-point array in it, or two of one name.
        """
        if self.perturb is not None:
            parameters = perturbed(parameters, self.perturb)
        self._initial = self._latest = self._read_parameters(parameters)
        return parameters

    def watch(self, model: Any, optimizer: Any = None) -> None:
        """Let a PyTorch module and its optimizer record themselves, until `finish`.

        `update` then needs none of these:

        - `forward`: the training outputs of leaf layers, and of layers with parameters of their
          own, such as attention;
        - `gradients`: as accumulated, before they are clipped;
        - `clipped`: as the optimizer was given them;
        - `lr`: as the optimizer applied it;
        - `moments` and `parameters`.

        With a loss scaler, record `gradients` after it has unscaled them.

        Args:
            model: a `torch.nn.Module`.
            optimizer: a `torch.optim.Optimizer`; None: the model records `forward` and `gradients`
                alone, and `update` needs the rest.

        Raises:
            InputError: a model or an optimizer of another kind; nothing is watched then.
        """
        if not hasattr(model, "named_modules"):
            raise InputError(
                f"watch: model must be a torch.nn.Module, got {_kind(model)}; {WITHOUT_WATCH}"
            )
        if optimizer is not None and not hasattr(optimizer, "register_step_post_hook"):
            raise InputError(
                f"watch: optimizer must be a torch.optim.Optimizer, got {_kind(optimizer)}; "
                f"{WITHOUT_WATCH}"
            )
        self._source = model
        self._optimizer = optimizer
        for name, module in model.named_modules():
            is_leaf = not list(module.children())
            if is_leaf or list(module.parameters(recurse=False)):
                layer = name or type(module).__name__.lower()
                self._hooks.append(module.register_forward_hook(self._make_hook(layer)))
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                self._hooks.append(
                    parameter.register_post_accumulate_grad_hook(self._make_gradient_hook(name))
                )
        if optimizer is not None:
            self._hooks.append(optimizer.register_step_post_hook(self._after_step))

    def record(
        self,
        *,
        batch: Tree = None,
        forward: Tree = None,
        loss: Tensor | float | None = None,
        gradients: Tree = None,
        clipped: Tree = None,
        lr: Any = None,
        moments: Any = None,
        parameters: Tree = None,
    ) -> None:
        """Record part of the present update, at the place in the loop where the values exist.

        Batches and outputs of micro-batches, recorded several times in an update, are joined along
        their first axis.

        Args:
            batch: an array, or a tree of arrays: {"x": ..., "y": ...}.
            forward: outputs of layers by name, in the order in which they are computed.
            loss: the mean loss before the update, a number.
            gradients: the gradients after accumulation and before clipping: a PyTorch module, whose
                `.grad` is read, or a tree.
            clipped: the gradients that the optimizer is given, in the same form.
            lr: the learning rate that this update applies: a number, a sequence with one for each
                group, or a PyTorch optimizer.
            moments: the optimizer's slots after the update: a PyTorch optimizer or an Optax state.
            parameters: the parameters after the update, as for `start`.

        Raises:
            InputError: names that differ from those at the start, two arrays of one name, or an
                array that cannot be recorded.
        """
        if batch is not None and self._is_wanted:
            arrays = {"x": batch} if hasattr(batch, "shape") else name_arrays(batch)
            self._append("batch", arrays)
        if forward is not None and self._is_wanted:
            self._append("forward", name_arrays(forward))
        if loss is not None:
            self._scalars["loss"] = _scalar("loss", loss)
        if gradients is not None:
            self._arrays |= self._read("gradients", gradients_of(gradients))
        if clipped is not None and self._is_wanted:
            self._arrays |= self._read("clip", gradients_of(clipped))
        if lr is not None:
            for group, rate in enumerate(rates_of(lr)):
                self._scalars[f"lr{group or ''}"] = _scalar("lr", rate)
        if moments is not None and self._is_wanted:
            module = self._source if parameters is None else parameters
            slots = moments_of(moments, module, list(self._initial))
            self._arrays |= self._read("moments", slots)
            if lr is None and "lr" not in self._scalars and hasattr(moments, "param_groups"):
                self.record(lr=moments)
        if parameters is not None:
            self._record_parameters(parameters)

    def _record_parameters(self, source: Tree) -> None:
        before = self._latest
        after = self._latest = self._read_parameters(source)
        if not before:
            raise InputError("call Recorder.start(parameters) before training")
        if before.keys() != after.keys():
            names = sorted(before.keys() ^ after.keys())
            raise InputError(
                f"update {self.done}: parameters have other names than before: "
                f"{', '.join(names[:5])}"
            )
        self._before = before
        trained = [name for name in before if name not in self._buffers]
        with np.errstate(all="ignore"):
            changes = [after[name].astype(np.float64) - before[name] for name in trained]
        self._scalars["update_norm"] = _norm(changes)

    def update(self, **families: Any) -> None:
        """Record the rest of the update, by the arguments of `record`, and close it.

        Raises:
            InputError: as in `record`; nothing was given; or a loss, rate, gradient or parameters
                were given in this update and not in others, or the other way round.
        """
        if self._source is not None:
            families = {"parameters": self._source, "moments": self._optimizer} | families
        self.record(**families)
        gradients = arrays_below(self._arrays, "gradients/")
        if gradients:
            self._scalars["grad_norm"] = _norm(gradients.values())
        if not self._scalars and not self._arrays:
            raise InputError(f"update {self.done}: nothing was given to record")
        if self.done == 0:
            self._series = {name: [] for name in self._scalars}
        if self._series.keys() != self._scalars.keys():
            names = sorted(self._series.keys() ^ self._scalars.keys())
            raise InputError(
                f"update {self.done}: {', '.join(names)}: given at some updates, not at all"
            )
        for name, value in self._scalars.items():
            self._series[name].append(value)
        if self._statistics is not None:
            self._add_statistics(self._statistics)
        if self.due:
            if "update_norm" in self._scalars:
                self._detail.add(self.done, self._arrays, self._before, self._latest)
            else:
                self._detail.add(self.done, self._arrays, {}, {})
            if self._first_due is None:
                self._first_due = self.done
                self._warn_of_budget()
        self._arrays = {}
        self._scalars = {}
        self._has_stepped = False
        self.done += 1

    def finish(self, stopped: str = "") -> Trace:
        """Write the trace, and return it.

        Args:
            stopped: the reason of an early end, for the header.

        Raises:
            InputError: no update was recorded, or the file cannot be written.
        """
        self._unwatch()
        if not self.done:
            raise InputError(f"{self.path}: no update was recorded: nothing to write")
        arrays = {f"updates/{name}": np.array(values) for name, values in self._series.items()}
        states = {0: self._initial, self.done: self._latest} | self._detail.parameters
        for done, parameters in sorted(states.items()):
            arrays |= {f"parameters/{done}/{name}": array for name, array in parameters.items()}
        for update, detail in self._detail.updates.items():
            arrays |= {f"detail/{update}/{name}": array for name, array in detail.items()}
        for name, values in (self._statistics or {}).items():
            rows = np.array(values).reshape(-1, 3)
            missing = (self._statistics_until or self.done) - len(rows)
            padded = np.pad(rows, ((0, missing), (0, 0)), constant_values=np.nan)
            arrays[f"statistics/{name}"] = padded
        trace = Trace(self._header(stopped), arrays)
        trace.save(self.path)
        self._warn_of_budget()
        return trace

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._unwatch()
        if kind is None:
            self.finish()
        elif self.done:  # the updates that led to an error are worth reading
            self.finish(f"{kind.__name__}: {error}")

    def _header(self, stopped: str) -> dict[str, Any]:
        dtypes = Counter[str]()
        for (family, dtype), count in self._dtypes.items():
            if family == "parameters":
                dtypes[dtype] = count
        return {
            "kind": "loop",
            "backend": self.backend,
            "settings": self.settings,
            "dtype": dtypes.most_common(1)[0][0] if dtypes else "float64",
            "dtypes": sorted({dtype for _, dtype in self._dtypes}),
            "updates": self.done,
            "updates_per_epoch": self.done,
            "first_update": 0,
            "detail": list(self._detail.updates),
            "layers": list(self._layers),
            "buffers": sorted(self._buffers),
            "recording": {
                "every": self.every,
                "window": sorted(self.window),
                "budget_mib": self.budget_mib,
                "offered": self._detail.offered,
                "kept_every": self._detail.stride,
                "bytes": self._detail.bytes + self._statistics_bytes,
                "bytes_of_update": self._detail.largest,
                "statistics_until": self._statistics_until,
                "perturb": self.perturb,
                "stopped": stopped,
            },
            "environment": environment_of(),
        }

    def _warn_of_budget(self) -> None:
        note = note_on_budget(self._detail.largest, self.budget_mib)
        if note and not self._detail.updates:
            warnings.warn(f"{self.path}: {note}", RecorderWarning, stacklevel=3)

    def _unwatch(self) -> None:
        while self._hooks:
            self._hooks.pop().remove()

    @property
    def _is_wanted(self) -> bool:
        return self.due or self._statistics is not None

    @property
    def _statistics_bytes(self) -> int:
        if self._statistics is None:
            return 0
        return sum(len(values) * values.itemsize for values in self._statistics.values())

    def _read(self, family: str, values: Mapping[str, Tensor]) -> Arrays:
        """Copies of tensors in NumPy, named "family/name"."""
        arrays = {}
        for name, value in values.items():
            try:
                arrays[f"{family}/{name}"], dtype = to_array(value)
            except InputError as error:
                raise InputError(f"update {self.done}: {family} {name}: {error}") from None
            if "float" in dtype:
                self._dtypes[family, dtype] += 1
        return arrays

    def _read_parameters(self, source: Tree) -> Arrays:
        parameters, self._buffers = parameters_of(source)
        return arrays_below(self._read("parameters", parameters), "parameters/")

    def _add_statistics(self, statistics: dict[str, "packed[float]"]) -> None:
        if self._statistics_until is not None:
            return
        arrays = self._arrays | {
            f"parameters/{name}": array for name, array in self._latest.items()
        }
        for name, array in arrays.items():
            if name.startswith(WATCHED) and array.size:
                values = statistics.setdefault(name, packed("d"))
                missing = 3 * self.done - len(values)
                values.extend([np.nan] * missing)
                values.extend(statistics_of(array))
        if self._statistics_bytes > self._detail.budget:
            self._statistics_until = self.done + 1
        self._detail.thin(self._statistics_bytes)

    def _append(self, family: str, values: Mapping[str, Tensor]) -> None:
        """Join more rows to those of the update.

        Rows of another shape, as of a layer that is used twice, get a name of their own.
        """
        for name, array in self._read(family, values).items():
            key = name
            rows = self._arrays.get(name)
            if rows is not None and rows.shape[1:] == array.shape[1:] and array.ndim:
                array = np.concatenate([rows, array])
            else:
                prefix = f"{name}#"
                uses = [
                    other for other in self._arrays if other == name or other.startswith(prefix)
                ]
                key = f"{name}#{len(uses) + 1}" if uses else name
            self._arrays[key] = array
            if family == "forward":
                self._layers[key.removeprefix("forward/")] = None

    def _make_hook(self, layer: str) -> Callable[[Any, Any, Any], None]:
        def hook(module: Any, inputs: Any, output: Any) -> None:
            while isinstance(output, tuple | list) and output:
                output = output[0]
            if module.training and self._is_wanted and hasattr(output, "detach"):
                self._append("forward", {layer: output})

        return hook

    def _make_gradient_hook(self, name: str) -> Callable[[Any], None]:
        def hook(parameter: Any) -> None:
            self._arrays |= self._read("gradients", {name: parameter.grad})

        return hook

    def _after_step(self, optimizer: Any, *_: Any) -> None:
        if self._has_stepped:
            raise InputError(
                f"update {self.done}: the optimizer steps twice in it; call update() after each "
                "step"
            )
        self._has_stepped = True
        if any(name.startswith("gradients/") for name in self._arrays):
            self.record(lr=optimizer, clipped=self._source)
        else:
            self.record(lr=optimizer, gradients=self._source)


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    try:
        plain: dict[str, Any] = json.loads(json.dumps(settings, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise InputError(
            f"settings: must be nested dictionaries of plain values: {error}"
        ) from None
    return plain


def _scalar(name: str, value: Tensor) -> np.generic:
    array, _ = to_array(value)
    if array.size != 1:
        raise InputError(f"{name}: shape {array.shape}, expected a number")
    return cast(np.generic, array.reshape(())[()])


def _kind(value: object) -> str:
    kind = type(value)
    return f"{kind.__module__}.{kind.__qualname__}"


def _norm(arrays: Iterable[NDArray[Any]]) -> np.float64:
    """The 2-norm over all arrays, in float64."""
    with np.errstate(all="ignore"):
        squares = sum(np.square(array, dtype=np.float64).sum() for array in arrays)
        return np.float64(np.sqrt(squares))
