"""A recorder of training loops, in PyTorch or JAX; two of its traces are compared with NumPy alone.

A recorder draws nothing, touches no gradient and keeps only copies: a loop gives the same bits
with and without it.
"""

import json
import math
import warnings
from array import array as packed
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

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
)
from lockstep.own_loops.detail_budget import Detail, note_on_budget
from lockstep.own_loops.operations import Operations
from lockstep.own_loops.present_update import Arrays, PresentUpdate
from lockstep.own_loops.torch_operations import TorchOperations
from lockstep.own_loops.torch_watch import TorchWatch
from lockstep.records.tensor_statistics import WATCHED, statistics_of
from lockstep.records.trace import TRACE, Trace
from lockstep.tensor_file import arrays_below

__all__ = ["Recorder"]


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
        operations: the update, or updates, of which to list every operation of the forward pass and
            the loss, with its line of source; their tensors are recorded as well.
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
        operations: int | Collection[int] = (),
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
        self.operations = _updates(operations)
        self.window = {*window, *self.operations}
        self.budget_mib = budget_mib
        self._detail = Detail(int(budget_mib * 2**20))
        self._statistics: dict[str, packed[float]] | None = {} if statistics else None
        self._statistics_until: int | None = None
        self._series: dict[str, list[np.generic]] = {}
        self._present = PresentUpdate(self._is_wanted)
        self._initial: Arrays = {}
        self._before: Arrays = {}
        self._latest: Arrays = {}
        self._buffers: set[str] = set()
        self._watch: TorchWatch | None = None
        self._torch_operations: TorchOperations | None = None
        self._listings: dict[int, Operations] = {}
        self._first_due: int | None = None

    @property
    def done(self) -> int:
        """The number of updates that were closed."""
        return self._present.number

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
        self._watch = TorchWatch(model, optimizer, self._present)
        if self.operations:
            self._torch_operations = TorchOperations(model, self._is_listed)

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
        present = self._present
        is_wanted = self._is_wanted()
        if batch is not None and is_wanted:
            arrays = {"x": batch} if hasattr(batch, "shape") else name_arrays(batch)
            present.append("batch", arrays)
        if forward is not None and is_wanted:
            present.append("forward", name_arrays(forward))
        if loss is not None:
            present.set_scalar("loss", loss)
        if gradients is not None:
            present.add("gradients", gradients_of(gradients))
        if clipped is not None and is_wanted:
            present.add("clip", gradients_of(clipped))
        if lr is not None:
            present.set_rates(rates_of(lr))
        if moments is not None and is_wanted:
            model = None if self._watch is None else self._watch.model
            module = model if parameters is None else parameters
            present.add("moments", moments_of(moments, module, list(self._initial)))
            if "lr" not in present.scalars and hasattr(moments, "param_groups"):
                present.set_rates(rates_of(moments))
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
        self._present.scalars["update_norm"] = _norm(changes)

    def update(self, **families: Any) -> None:
        """Record the rest of the update, by the arguments of `record`, and close it.

        Raises:
            InputError: as in `record`; nothing was given; or a loss, rate, gradient or parameters
                were given in this update and not in others, or the other way round.
        """
        watch = self._watch
        if watch is not None:
            families = {"parameters": watch.model, "moments": watch.optimizer} | families
        present = self._present
        if self._torch_operations is not None:
            present.operations = self._torch_operations.take()
        self.record(**families)
        gradients = arrays_below(present.arrays, "gradients/")
        if gradients:
            present.scalars["grad_norm"] = _norm(gradients.values())
        if not present.scalars and not present.arrays:
            raise InputError(f"update {self.done}: nothing was given to record")
        if self.done == 0:
            self._series = {name: [] for name in present.scalars}
        if self._series.keys() != present.scalars.keys():
            names = sorted(self._series.keys() ^ present.scalars.keys())
            raise InputError(
                f"update {self.done}: {', '.join(names)}: given at some updates, not at all"
            )
        for name, value in present.scalars.items():
            self._series[name].append(value)
        if self._statistics is not None:
            self._add_statistics(self._statistics)
        if present.operations is not None:
            self._listings[self.done] = present.operations
        if self.due:
            if "update_norm" in present.scalars:
                self._detail.add(self.done, present.arrays, self._before, self._latest)
            else:
                self._detail.add(self.done, present.arrays, {}, {})
            if self._first_due is None:
                self._first_due = self.done
                self._warn_of_budget()
        present.close()

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
        states = {0: self._initial}
        if "update_norm" in self._series:  # else nobody said what became of the parameters
            states |= {self.done: self._latest} | self._detail.parameters
        for done, parameters in sorted(states.items()):
            arrays |= {f"parameters/{done}/{name}": array for name, array in parameters.items()}
        for update, detail in self._detail.updates.items():
            arrays |= {f"detail/{update}/{name}": array for name, array in detail.items()}
        for name, values in (self._statistics or {}).items():
            rows = np.array(values).reshape(-1, 3)
            missing = (self._statistics_until or self.done) - len(rows)
            padded = np.pad(rows, ((0, missing), (0, 0)), constant_values=np.nan)
            arrays[f"statistics/{name}"] = padded
        for update, listing in self._listings.items():
            arrays[f"operations/{update}"] = listing.array()
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
        for (family, dtype), count in self._present.dtypes.items():
            if family == "parameters":
                dtypes[dtype] = count
        return {
            "kind": "loop",
            "backend": self.backend,
            "settings": self.settings,
            "dtype": dtypes.most_common(1)[0][0] if dtypes else "float64",
            "dtypes": sorted({dtype for _, dtype in self._present.dtypes}),
            "updates": self.done,
            "updates_per_epoch": self.done,
            "first_update": 0,
            "detail": list(self._detail.updates),
            "layers": list(self._present.layers),
            "buffers": sorted(self._buffers),
            "parameter_order": list(self._initial),
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
            "operations": {str(u): listing.entries for u, listing in self._listings.items()},
        }

    def _warn_of_budget(self) -> None:
        note = note_on_budget(self._detail.largest, self.budget_mib)
        if note and not self._detail.updates:
            warnings.warn(f"{self.path}: {note}", RecorderWarning, stacklevel=3)

    def _unwatch(self) -> None:
        if self._watch is not None:
            self._watch.close()
        if self._torch_operations is not None:
            self._torch_operations.close()

    def _is_listed(self) -> bool:
        return self.done in self.operations

    def _is_wanted(self) -> bool:
        return self.due or self._statistics is not None

    @property
    def _statistics_bytes(self) -> int:
        if self._statistics is None:
            return 0
        return sum(len(values) * values.itemsize for values in self._statistics.values())

    def _read_parameters(self, source: Tree) -> Arrays:
        parameters, self._buffers = parameters_of(source)
        return arrays_below(self._present.read("parameters", parameters), "parameters/")

    def _add_statistics(self, statistics: dict[str, "packed[float]"]) -> None:
        if self._statistics_until is not None:
            return
        arrays = self._present.arrays | {
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


def _updates(operations: int | Collection[int]) -> set[int]:
    updates = operations if isinstance(operations, Collection) else [operations]
    if not all(isinstance(update, int) and update >= 0 for update in updates):
        raise InputError("Recorder: operations must be an update, counted from 0, or several")
    return set(updates)


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    try:
        plain: dict[str, Any] = json.loads(json.dumps(settings, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise InputError(
            f"settings: must be nested dictionaries of plain values: {error}"
        ) from None
    return plain


def _norm(arrays: Iterable[NDArray[Any]]) -> np.float64:
    """The 2-norm over all arrays, in float64."""
    with np.errstate(all="ignore"):
        squares = sum(np.square(array, dtype=np.float64).sum() for array in arrays)
        return np.float64(np.sqrt(squares))
