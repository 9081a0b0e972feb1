"""A recorder of training loops, in PyTorch or JAX; two of its traces are compared with NumPy alone.

A recorder draws nothing, touches no gradient and keeps only copies: a loop gives the same bits
with and without it.
"""

import json
import math
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

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
from lockstep.own_loops.jax_listener import JaxListener, Transform
from lockstep.own_loops.jax_optimizer import JaxOptimizer
from lockstep.own_loops.latest_parameters import LatestParameters
from lockstep.own_loops.operations import Operations
from lockstep.own_loops.optax_settings import is_transformation
from lockstep.own_loops.present_update import Arrays, PresentUpdate
from lockstep.own_loops.summary_tables import SummaryTables
from lockstep.own_loops.torch_operations import TorchOperations
from lockstep.own_loops.torch_watch import TorchWatch
from lockstep.records.tensor_summary import Summary, flat_of, summarise
from lockstep.records.trace import TRACE, Trace

__all__ = ["Recorder"]

SMALL = 2**21
"""Bytes that the first and the last parameters may always take in a file, together."""


class Recorder:
    """Writes a trace of a loop.

    There are three levels of detail:

    - Scalars are recorded at every update: loss, learning rate, and the 2-norms, in float64, of the
      gradient and of the change of the parameters.
    - `statistics` adds three numbers of every tensor at every update, and `sketches` eight more:
      fixed random projections, which tell tensors apart whose statistics are alike.
    - Tensors are recorded at every `every`-th update and at the updates in `window`, within
      `budget_mib`. When they outgrow it, every 2nd of these updates is kept, then every 4th, and so
      on, always with the first and the last. The header's `recording` says which were kept.

    Beside them a recorder keeps one copy of the parameters. Where tensors are recorded, the file
    holds the first and the last parameters as well. With `every=0` and no window, or where the
    budget holds no update, it holds their statistics, sketches and hashes, unless both take less
    than 2 MiB. Writing the file takes as much memory as the file.

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
        sketches: whether to record the sketches of each tensor as well (see
            `lockstep.records.tensor_summary`); this includes its statistics.
        budget_mib: memory for tensors, statistics and sketches, in MiB (2^20 bytes).
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
        sketches: bool = False,
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
        self._is_too_large = False
        self._tables = SummaryTables(sketches=sketches)
        self._series: dict[str, list[np.generic]] = {}
        self._present = PresentUpdate(self._is_wanted, self._is_copied)
        self._present.with_statistics = statistics or sketches
        self._present.with_sketches = sketches
        self._present.room = self._detail.budget
        self._initial: Arrays = {}
        self._initial_summaries: dict[str, Summary] = {}
        self._states: tuple[Arrays, Arrays] = ({}, {})
        self._latest: LatestParameters | None = None
        self._buffers: set[str] = set()
        self._watch: TorchWatch | None = None
        self._has_started = False
        self._torch_operations: TorchOperations | None = None
        self._jax: JaxListener | None = None
        self._started_with: Tree = None
        self._jax_optimizer = JaxOptimizer()
        self._reads_rate = True
        self._listings: dict[int, Operations] = {}
        self._first_due: int | None = None

    @property
    def done(self) -> int:
        """The number of updates that were closed."""
        return self._present.number

    @property
    def due(self) -> bool:
        """Whether the tensors of the present update are recorded; if not, a loop can save work."""
        if self._is_too_large:
            return False
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
        self._has_started = True
        if self.perturb is not None:
            parameters = perturbed(parameters, self.perturb)
        self._begin(parameters)
        if self._jax is not None:
            self._jax.keep(parameters)
        elif not hasattr(parameters, "named_parameters"):
            self._started_with = parameters  # for a listener that is still to come
        return parameters

    def _begin(self, parameters: Tree) -> None:
        """Record the parameters before training."""
        values, self._buffers = parameters_of(parameters)
        for name, value in values.items():
            self._present.note_dtype("parameters", f"parameters/{name}", value)
        self._latest = LatestParameters(values)
        self._present.room = self._room
        if self._stores_ends:
            self._initial = self._latest.lend()
        else:
            self._initial_summaries = self._latest.summaries()

    def watch(
        self, model: Any, optimizer: Any = None, *, scheduler: Any = None, scaler: Any = None
    ) -> Any:
        """Let a PyTorch module and its optimizers record themselves, until `finish`.

        Unless `start` was called, this starts: the initial parameters are recorded, and `perturb`
        moves them in place. In the loop, `update(loss=loss)` then records all of these:

        - `batch`: what the model was called with, where no batch is given;
        - `forward`: the outputs of leaf layers, and of layers with parameters of their own, such as
          attention, in each call of the model that the backward pass reaches. What else is computed
          between two updates, as an evaluation, is left out. Outputs of micro-batches are joined
          along their rows;
        - `gradients`: as accumulated, before they are clipped, without a gradient scaler's factor;
        - `clipped`: as the optimizer was given them;
        - `lr`: as the optimizer applied it;
        - `moments` and `parameters`;
        - the settings of optimizers, schedulers, gradient scaler, autocast and modules, in the
          header.

        With several optimizers, each steps at most once in an update, and their groups follow one
        another: `lr`, `lr1`, ... Call `watch` once for each model, or with a `torch.nn.ModuleDict`
        of them.

        Of an optimizer in JAX, its settings are read: class, rate and knobs of each group of
        parameters, and the schedule; and at each update the rate, from the state that `update` is
        given as `moments`. The rest is recorded by `value_and_grad` and `update`.

        Args:
            model: a `torch.nn.Module`, also in `torch.compile` or DistributedDataParallel, whose
                prefixes are left out of the names; in JAX the parameters.
            optimizer: a `torch.optim.Optimizer`, or a list; None: the model records `forward` and
                `gradients` alone, and `update` needs the rest. In JAX an Optax transformation, or
                an `nnx.Optimizer`, which is read without `watch` if `update` is given it as
                `moments`.
            scheduler: a scheduler, or a list, where it is not one of `torch.optim.lr_scheduler`,
                which are found by themselves.
            scaler: a gradient scaler, where it is not a `torch.amp.GradScaler`, likewise.

        Returns:
            The model; in JAX the parameters to go on with, which `perturb` may have moved.

        Raises:
            InputError: a model or an optimizer of another kind, one that is watched already, or an
                optimizer of another model's parameters; nothing is watched then.
        """
        if is_transformation(optimizer) and not hasattr(model, "named_modules"):
            self._jax_optimizer.watch(optimizer, model)
            return model if self._has_started else self.start(model)
        watch = self._watch or TorchWatch(self._present)
        watch.add(model, _listed(optimizer), _listed(scheduler), scaler)
        self._watch = watch
        if not self._has_started:
            if self.perturb is not None:
                perturbed(model, self.perturb)
            self._begin(watch.models)
        if self.operations and self._torch_operations is None:
            self._torch_operations = TorchOperations(model, self._is_listed)
        return model

    def value_and_grad(
        self,
        loss_of: Callable[..., Any],
        argnums: Any = 0,
        has_aux: bool = False,
        *,
        transform: Transform | None = None,
        **settings: Any,
    ) -> Callable[..., Any]:
        """As `jax.value_and_grad`, with the same results to the bit, and recorded.

        `update` then needs none of these:

        - `forward`: outputs of layers in call order, of a second evaluation outside `jit`;
        - `batch`: the arrays that `loss_of` takes besides parameters, without random keys;
        - `loss` and `gradients`. Of several calls in one update, `loss` is the mean, and
          `gradients` have to be given.

        NNX modules are differentiated by `nnx.value_and_grad`, Equinox modules by
        `eqx.filter_value_and_grad`, all else by `jax.value_and_grad`.

        No value can be read within `jit`. Wrap a step that is compiled as a whole in `listen`; or
        give `update` the batch, and `loss_of` is called again from the parameters before the
        update, if it takes nothing but these, running statistics and the batch.

        Args:
            loss_of: a function of parameters, batch and whatever else, that returns the loss.
            argnums: the position of the parameters, or several; for NNX, `nnx.DiffState` as well.
            has_aux: whether `loss_of` returns a pair, of the loss and of anything else.
            transform: what differentiates, called with `loss_of`, `argnums` and `has_aux`; None:
                the function of the library, as above.
            settings: further arguments of it, such as `allow_int`.

        Raises:
            InputError: `loss_of` is no function, or JAX is not imported.
        """
        return self._listener().value_and_grad(loss_of, argnums, has_aux, transform, settings)

    def listen(self, step: Callable[..., Any]) -> Callable[..., Any]:
        """A compiled training step that calls `value_and_grad` of this recorder, to be recorded.

        The step trains as it is, with its own results. At updates whose tensors are recorded, it is
        called a second time before, from copies of the same arguments and outside `jit`, and what
        `value_and_grad` computes there is recorded: outputs, gradients and, if every update is
        recorded and `update` is given none, the loss.

        Args:
            step: a function under `jax.jit`, `nnx.jit` or `eqx.filter_jit`.

        Raises:
            InputError: `step` is no function, or JAX is not imported.
        """
        return self._listener().listen(step)

    def _listener(self) -> JaxListener:
        if self._jax is None:
            self._jax = JaxListener(
                self._present, lambda: self._names, self._is_listed, hears_all=self.every == 1
            )
            self._jax.keep(self._started_with)
        return self._jax

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
            if self._watch is not None:
                self._watch.note_batch(arrays)
        if forward is not None and is_wanted:
            present.append("forward", name_arrays(forward))
        if loss is not None:
            present.set_scalar("loss", loss)
        if gradients is not None:
            named = gradients_of(gradients)
            present.add("gradients", named)
            if self._watch is not None:
                self._watch.note_gradients(named)
        if clipped is not None and is_wanted:
            present.add("clip", gradients_of(clipped))
        if lr is not None:
            present.set_rates(rates_of(lr))
        if moments is not None and is_wanted:
            model = None if self._watch is None else self._watch.models
            module = model if parameters is None else parameters
            present.add("moments", moments_of(moments, module, self._names))
            if "lr" not in present.scalars and hasattr(moments, "param_groups"):
                present.set_rates(rates_of(moments))
        if parameters is not None:
            self._record_parameters(parameters)

    def _record_parameters(self, source: Tree) -> None:
        latest = self._latest
        if latest is None:
            raise InputError("call Recorder.start(parameters) before training")
        values, self._buffers = parameters_of(source)
        present = self._present
        is_copied = self._is_copied() and present.bytes <= present.room
        before = latest.lend() if is_copied else {}
        try:
            squares = latest.replace(values, values.keys() - self._buffers)
        except InputError as error:
            raise InputError(f"update {self.done}: {error}") from None
        self._states = (before, latest.lend() if is_copied else {})
        present.summarise("parameters", values)
        present.scalars["update_norm"] = np.float64(math.sqrt(squares))

    def update(self, **families: Any) -> None:
        """Record the rest of the update, by the arguments of `record`, and close it.

        Raises:
            InputError: as in `record`; nothing was given; or a loss, rate, gradient or parameters
                were given in this update and not in others, or the other way round.
        """
        watch = self._watch
        if watch is not None:
            optimizers = watch.optimizers if watch.optimizers.optimizers else None
            families = {"parameters": watch.models, "moments": optimizers} | families
        present = self._present
        if self._torch_operations is not None:
            present.operations = self._torch_operations.take()
        if self._jax is not None:
            self._jax.close({name: value for name, value in families.items() if value is not None})
        self.record(**families)
        if watch is not None:
            watch.close_update()
        elif "lr" in present.scalars:
            self._reads_rate = False
        elif self._reads_rate:
            self._read_rate(families)
        if present.squares:
            present.scalars["grad_norm"] = np.float64(math.sqrt(sum(present.squares.values())))
        if not present.scalars and not present.names:
            raise InputError(f"update {self.done}: nothing was given to record")
        if self._jax is not None:
            self._drop_incomplete(families)
        if self.done == 0:
            self._series = {name: [] for name in present.scalars}
        if self._series.keys() != present.scalars.keys():
            names = sorted(self._series.keys() ^ present.scalars.keys())
            raise InputError(
                f"update {self.done}: {', '.join(names)}: given at some updates, not at all"
            )
        for name, value in present.scalars.items():
            self._series[name].append(value)
        if present.operations is not None:
            self._listings[self.done] = present.operations
        if present.with_statistics:
            self._tables.add(self.done, present.summaries)
            if self._tables.bytes > self._detail.budget:
                self._tables.until = self.done + 1
                present.with_statistics = False
            self._detail.thin(self._tables.bytes)
        if self.due:
            self._add_detail()
        self._states = ({}, {})
        present.close()
        present.room = self._room
        self._started_with = None
        if self._jax is not None:
            self._jax.keep(families.get("parameters"))

    def _drop_incomplete(self, given: Mapping[str, Any]) -> None:
        """Leave out what was heard at some updates only, and what the loop does not give itself."""
        for name, family in (("loss", "loss"), ("grad_norm", "gradients")):
            is_heard = name in self._present.scalars
            if self.done and family not in given and is_heard != (name in self._series):
                self._series.pop(name, None)
                self._present.scalars.pop(name, None)

    def _read_in_jax(self) -> dict[str, Any]:
        modules = {} if self._jax is None else self._jax.modules
        return self._jax_optimizer.read | ({"modules": modules} if modules else {})

    def _read_rate(self, families: Mapping[str, Any]) -> None:
        """Record the rate that an optimizer in JAX applied, if it can be read at every update."""
        rate = self._jax_optimizer.rate(families.get("moments"), families.get("parameters"))
        if rate is not None:
            self._present.set_scalar("lr", rate)
        else:
            self._reads_rate = False
            self._series.pop("lr", None)

    def _add_detail(self) -> None:
        """Keep the copies of the update's tensors, if the budget holds them."""
        present = self._present
        if present.bytes <= present.room:
            self._detail.add(self.done, present.arrays, *self._states)
        else:
            self._detail.refuse(present.bytes + self._bytes_of_states)
        if self._first_due is None:
            self._first_due = self.done
            self._is_too_large = not self._detail.updates
            self._warn_of_budget()
            if self._initial and not self._stores_ends:
                self._initial_summaries = {
                    name: summarise(array.shape, flat_of(array), sketches=True, hashed=True)
                    for name, array in self._initial.items()
                    if array.size
                }
                self._initial = {}

    def finish(self, stopped: str = "") -> Trace:
        """Write the trace, and return it.

        Args:
            stopped: the reason of an early end, for the header.

        Raises:
            InputError: no update was recorded, or the file cannot be written.
        """
        self._unwatch()
        if not self.done:
            hint = self._watch.hint if self._watch is not None else ""
            raise InputError(f"{self.path}: no update was recorded: nothing to write{hint}")
        if not stopped and self._watch is not None and self._watch.has_unclosed_step:
            warnings.warn(
                f"{self.path}: the last step is left out: no update() came after it",
                RecorderWarning,
                stacklevel=2,
            )
        arrays = {f"updates/{name}": np.array(values) for name, values in self._series.items()}
        arrays |= self._ends()
        for done, parameters in sorted(self._detail.parameters.items()):
            arrays |= {f"parameters/{done}/{name}": array for name, array in parameters.items()}
        for update, detail in self._detail.updates.items():
            arrays |= {f"detail/{update}/{name}": array for name, array in detail.items()}
        for update, listing in self._listings.items():
            arrays[f"operations/{update}"] = listing.array()
        arrays |= self._tables.arrays(self.done)
        trace = Trace(self._header(stopped), arrays)
        trace.save(self.path)
        self._warn_of_budget()
        return trace

    def _ends(self) -> Arrays:
        """The first and the last parameters, or their summaries, as a trace names them."""
        latest = self._latest
        if latest is None:
            return {}
        # where no update was given parameters, nobody said what became of them
        is_known = "update_norm" in self._series
        if not self._stores_ends:
            arrays = _summarised(0, self._initial_summaries)
            return arrays | (_summarised(self.done, latest.summaries()) if is_known else {})
        states = {0: self._initial} | ({self.done: latest.lend()} if is_known else {})
        arrays = {}
        for done, parameters in states.items():
            arrays |= {f"parameters/{done}/{name}": array for name, array in parameters.items()}
        return arrays

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
        header = {
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
            "parameter_order": self._names,
            "shapes": self._shapes,
            "recording": {
                "every": self.every,
                "window": sorted(self.window),
                "budget_mib": self.budget_mib,
                "offered": self._detail.offered,
                "kept_every": self._detail.stride,
                "bytes": self._detail.bytes + self._tables.bytes,
                "bytes_of_update": self._detail.largest,
                "statistics_until": self._tables.until,
                "perturb": self.perturb,
                "stopped": stopped,
            },
            "environment": environment_of(),
            "inputs": {} if self._jax is None else dict(self._jax.inputs),
            "read": self._read_in_jax(),
            "operations": {str(u): listing.entries for u, listing in self._listings.items()},
            "array_dtypes": self._present.array_dtypes,
        }
        return header if self._watch is None else header | self._watch.header()

    def _warn_of_budget(self) -> None:
        note = note_on_budget(self._detail.largest, self.budget_mib)
        is_first = self.done == self._first_due
        if note and (is_first or not self._detail.updates):
            warnings.warn(f"{self.path}: {note}", RecorderWarning, stacklevel=3)

    def _unwatch(self) -> None:
        if self._watch is not None:
            self._watch.close()
        if self._torch_operations is not None:
            self._torch_operations.close()

    def _is_listed(self) -> bool:
        return self.done in self.operations

    def _is_wanted(self) -> bool:
        return self.due or self._present.with_statistics

    def _is_copied(self) -> bool:
        return self.due

    @property
    def _names(self) -> list[str]:
        """The names of the parameters."""
        return list(self._latest.shapes) if self._latest is not None else []

    @property
    def _shapes(self) -> dict[str, list[int]]:
        """The shapes of the parameters and of all tensors that are summarised."""
        shapes = dict(self._tables.shapes)
        if self._latest is not None:
            shapes |= {f"parameters/{name}": shape for name, shape in self._latest.shapes.items()}
        return {name: list(shape) for name, shape in shapes.items()}

    @property
    def _room(self) -> int:
        """The bytes that an update's tensors may take beside the parameters before and after it."""
        return self._detail.budget - self._tables.bytes - self._bytes_of_states

    @property
    def _bytes_of_states(self) -> int:
        """The bytes of the parameters before and after an update."""
        return 0 if self._latest is None else 2 * self._latest.bytes

    @property
    def _stores_ends(self) -> bool:
        """Whether the first and the last parameters are stored, or summaries of them alone."""
        size = self._bytes_of_states
        if size <= SMALL:
            return True
        has_detail = bool(self.every or len(self.window)) and not self._is_too_large
        return has_detail and size <= self._detail.budget


def _listed(value: Any) -> list[Any]:
    """The items of a list; any other value is the only one, and None is none."""
    if value is None:
        return []
    return list(value) if type(value) in (list, tuple) else [value]  # Optax's are named tuples


def _summarised(done: int, summaries: Mapping[str, Summary]) -> Arrays:
    """The arrays in which a trace holds the summaries of parameters after so many updates."""
    arrays: Arrays = {}
    for name, summary in summaries.items():
        numbers = [*summary.statistics, *summary.sketches]
        arrays[f"summaries/{done}/{name}"] = np.array(numbers)
        arrays[f"hashes/{done}/{name}"] = np.frombuffer(summary.digest, np.uint8)
    return arrays


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
