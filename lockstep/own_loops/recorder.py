"""Record a training loop, in PyTorch or JAX, with a few lines. Two such traces are then compared
with NumPy alone.

A recorder draws nothing, touches no gradient and keeps only copies: a loop gives the same bits
with and without it.
"""

import json
import math
import warnings
from array import array as packed
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from lockstep.errors import InputError, RecorderWarning
from lockstep.files.outputs import check_output
from lockstep.own_loops.arrays import (
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

__all__ = ["Recorder"]

Arrays = dict[str, NDArray[Any]]
WITHOUT_WATCH = (
    "of any other loop, as of Keras or JAX, give what there is to record to "
    "Recorder.update(loss=..., gradients=..., lr=..., moments=..., parameters=...)"
)


class Recorder:
    """Writes a trace of a loop.

    There are three levels of detail. Scalars are recorded at every update: loss, learning rate,
    and the 2-norms, in float64, of the gradient and of the change of the parameters. `statistics`
    adds three numbers of every tensor at every update. Tensors are recorded at every `every`-th
    update and at those in `window`, within `budget_mib`. When they outgrow it, every 2nd of these
    updates is kept, then every 4th, and so on, always with the first and the last; the header's
    `recording` says which were kept. The budget does not include the first and the latest
    parameters and one update's tensors; writing the file takes as much again.

    Args:
        path: where to write the trace; its folder must exist.
        backend: whose loop it is, as reports name it: "torch", "jax", ...
        settings: nested dictionaries of plain values; `compare` compares those of two traces
            first. An "optimizer" with the names of a recipe's `[optimizer]` helps to find causes.
        every: record tensors at every `every`-th update; 0: only at those in `window`.
        window: more updates, counted from 0, at which to record tensors.
        statistics: whether to record mean, root mean square and largest absolute value of each
        tensor at every
            update.
        budget_mib: memory for tensors and statistics, in MiB (2^20 bytes).
        perturb: seed by which `start` moves every parameter by one unit in the last place, to
        measure how far
            rounding carries this loop; None: leaves them as they are.

    Raises:
        InputError: no such folder, a file there that is no trace, or settings that are not plain
        values.
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
        self.path, self.backend, self.perturb = Path(path), backend, perturb
        check_output(self.path, TRACE)
        if every < 0 or not 0 < budget_mib < math.inf:
            raise InputError(
                f"Recorder: every is {every} and budget_mib {budget_mib}; must be at least "
                "0, and a number above 0"
            )
        self.settings = _plain(settings or {})
        self.every, self.window, self.budget_mib = every, window, budget_mib
        self.done = 0
        self._detail = Detail(int(budget_mib * 2**20))
        self._statistics: dict[str, packed[float]] | None = {} if statistics else None
        self._statistics_until: int | None = None
        self._series: dict[str, list[Any]] = {}
        self._scalars: dict[str, Any] = {}
        self._arrays: Arrays = {}
        self._initial: Arrays = {}
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
        """Whether the tensors of the present update are recorded, so that a loop can skip costly
        work if not."""
        return self.done in self.window or bool(self.every and self.done % self.every == 0)

    def start(self, parameters: Any) -> Any:
        """Record the parameters before training, and return them. `perturb` moves them: go on with
        those returned.

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

        `update` then needs less: no `forward` (the training outputs of leaf layers and of layers
        with parameters of their own, such as attention), no `gradients` (as accumulated, before
        anybody clips them), no `clipped` (those that the optimizer was given), no `lr` (as the
        optimizer applied it), no `moments` and no `parameters`. With a loss scaler, record
        `gradients` after it has unscaled them.

        Args:
            model: a `torch.nn.Module`.
            optimizer: a `torch.optim.Optimizer`; None: record `gradients` alone; give the rest to
                `update`.

        Raises:
            InputError: anything else; nothing is watched then.
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
        self._source, self._optimizer = model, optimizer
        for name, module in model.named_modules():
            is_leaf = not any(True for _ in module.children())
            if is_leaf or any(True for _ in module.parameters(recurse=False)):
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
        batch: Any = None,
        forward: Any = None,
        loss: Any = None,
        gradients: Any = None,
        clipped: Any = None,
        lr: Any = None,
        moments: Any = None,
        parameters: Any = None,
    ) -> None:
        """Record part of the present update, at the place in the loop where the values exist.

        Batches and outputs of micro-batches, recorded several times in an update, are joined along
        their first axis.

        Args:
            batch: an array, or a tree of arrays: {"x": ..., "y": ...}.
            forward: outputs of layers by name, in the order in which they are computed.
            loss: the mean loss before the update, a number.
            gradients: after accumulation and before clipping: a PyTorch module, of which `.grad` is
            read, or a tree. clipped: the gradients that the optimizer is given, in the same form.
            lr: the learning rate that this update applies: a number, one for each group, or a
            PyTorch optimizer. moments: the optimizer's slots after the update: a PyTorch optimizer,
            or an Optax state.
            parameters: after the update, as for `start`.

        Raises:
            InputError: names that differ from those at the start, two arrays of one name, or an
                array that cannot be recorded.
        """
        if batch is not None and self._is_wanted:
            self._append("batch", {"x": batch} if hasattr(batch, "shape") else name_arrays(batch))
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
            self._arrays |= self._read("moments", moments_of(moments, module, list(self._initial)))
            if lr is None and "lr" not in self._scalars and hasattr(moments, "param_groups"):
                self.record(lr=moments)
        if parameters is not None:
            before, self._latest = self._latest, self._read_parameters(parameters)
            if not before:
                raise InputError("call Recorder.start(parameters) before training")
            if before.keys() != self._latest.keys():
                names = sorted(before.keys() ^ self._latest.keys())
                raise InputError(
                    f"update {self.done}: parameters have other names than before: "
                    f"{', '.join(names[:5])}"
                )
            self._before = before
            with np.errstate(all="ignore"):
                changes = [
                    self._latest[name].astype(np.float64) - before[name]
                    for name in before
                    if name not in self._buffers
                ]
            self._scalars["update_norm"] = _norm(changes)

    def update(self, **families: Any) -> None:
        """Record the rest of the update, by the arguments of `record`, and close it.

        Raises:
            InputError: as `record`; nothing given; or no loss, rate, gradients or parameters in
            this update and some
                in others, or the other way round.
        """
        if self._source is not None:
            families = {"parameters": self._source, "moments": self._optimizer} | families
        self.record(**families)
        gradients = [array for name, array in self._arrays.items() if name.startswith("gradients/")]
        if gradients:
            self._scalars["grad_norm"] = _norm(gradients)
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
            self._first_due = self.done if self._first_due is None else self._first_due
            before, after = (
                (self._before, self._latest) if "update_norm" in self._scalars else ({}, {})
            )
            self._detail.add(self.done, self._arrays, before, after)
            if self.done == self._first_due:
                self._warn_of_budget()
        self._arrays, self._scalars, self._has_stepped = {}, {}, False
        self.done += 1

    def finish(self, stopped: str = "") -> Trace:
        """Write the trace, and return it.

        Args:
            stopped: why the loop came to an early end, for the header.

        Raises:
            InputError: no update was recorded, or the file cannot be written.
        """
        self._unwatch()
        if not self.done:
            raise InputError(f"{self.path}: no update was recorded: nothing to write")
        arrays = {f"updates/{name}": np.array(values) for name, values in self._series.items()}
        parameters = {0: self._initial, self.done: self._latest} | self._detail.parameters
        for done, found in sorted(parameters.items()):
            arrays |= {f"parameters/{done}/{name}": array for name, array in found.items()}
        for update, found in self._detail.updates.items():
            arrays |= {f"detail/{update}/{name}": array for name, array in found.items()}
        for name, values in (self._statistics or {}).items():
            rows = np.array(values).reshape(-1, 3)
            missing = (self._statistics_until or self.done) - len(rows)
            arrays[f"statistics/{name}"] = np.pad(
                rows, ((0, missing), (0, 0)), constant_values=np.nan
            )
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
        if kind is None or self.done:  # what led to an error is worth reading
            self.finish(f"{kind.__name__}: {error}" if kind else "")

    def _header(self, stopped: str) -> dict[str, Any]:
        dtypes = Counter(
            {
                dtype: count
                for (family, dtype), count in self._dtypes.items()
                if family == "parameters"
            }
        )
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
        return sum(len(values) * values.itemsize for values in (self._statistics or {}).values())

    def _read(self, family: str, found: Mapping[str, Any]) -> Arrays:
        arrays = {}
        for name, value in found.items():
            try:
                arrays[f"{family}/{name}"], dtype = to_array(value)
            except InputError as error:
                raise InputError(f"update {self.done}: {family} {name}: {error}") from None
            if "float" in dtype:
                self._dtypes[family, dtype] += 1
        return arrays

    def _read_parameters(self, source: Any) -> Arrays:
        found, self._buffers = parameters_of(source)
        arrays = self._read("parameters", found)
        return {name.removeprefix("parameters/"): array for name, array in arrays.items()}

    def _add_statistics(self, statistics: dict[str, "packed[float]"]) -> None:
        if self._statistics_until is not None:
            return
        arrays = self._arrays | {
            f"parameters/{name}": array for name, array in self._latest.items()
        }
        for name, array in arrays.items():
            if name.startswith(WATCHED) and array.size:
                values = statistics.setdefault(name, packed("d"))
                values.extend([np.nan] * (3 * self.done - len(values)))  # where it was not given
                values.extend(statistics_of(array))
        if self._statistics_bytes > self._detail.budget:
            self._statistics_until = self.done + 1
        self._detail.thin(self._statistics_bytes)

    def _append(self, family: str, found: Mapping[str, Any]) -> None:
        """Join more rows of an update. Rows of another shape, as of a layer that is used twice, get
        a name of their own."""
        for key, array in self._read(family, found).items():
            known = self._arrays.get(key)
            if known is None or known.shape[1:] != array.shape[1:] or not array.ndim:
                again = sum(name == key or name.startswith(f"{key}#") for name in self._arrays)
                key = f"{key}#{again + 1}" if again else key
                self._arrays[key] = array
            else:
                self._arrays[key] = np.concatenate([known, array])
            if family == "forward":
                self._layers[key.removeprefix("forward/")] = None

    def _make_hook(self, layer: str) -> Any:
        def hook(module: Any, inputs: Any, output: Any) -> None:
            while isinstance(output, tuple | list) and output:
                output = output[0]
            if module.training and self._is_wanted and hasattr(output, "detach"):
                self._append("forward", {layer: output})

        return hook

    def _make_gradient_hook(self, name: str) -> Any:
        def hook(parameter: Any) -> None:
            self._arrays |= self._read("gradients", {name: parameter.grad})

        return hook

    def _after_step(self, optimizer: Any, *_: Any) -> None:
        if self._has_stepped:
            raise InputError(
                f"update {self.done}: the optimizer steps twice in it; call update() after "
                "each step"
            )
        self._has_stepped = True
        is_known = any(name.startswith("gradients/") for name in self._arrays)
        self.record(lr=optimizer, **{"clipped" if is_known else "gradients": self._source})


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(json.dumps(settings, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise InputError(
            f"settings: must be nested dictionaries of plain values: {error}"
        ) from None
    return found


def _scalar(name: str, value: Any) -> Any:
    array = to_array(value)[0]
    if array.size != 1:
        raise InputError(f"{name}: shape {array.shape}, expected a number")
    return array.reshape(())[()]


def _kind(value: Any) -> str:
    kind = type(value)
    return f"{kind.__module__}.{kind.__qualname__}"


def _norm(arrays: Any) -> np.float64:
    """The 2-norm over all arrays, in float64."""
    with np.errstate(all="ignore"):
        return np.float64(
            np.sqrt(sum(np.square(array, dtype=np.float64).sum() for array in arrays))
        )
