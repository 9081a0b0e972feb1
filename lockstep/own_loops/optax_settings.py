"""The settings of an Optax transformation, read off its functions and its state.

A transformation is two functions; its settings are what they enclose. The functions of Optax are
known by their names and by the names of what they enclose. Whatever is not known so is left unsaid.
"""

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from lockstep.own_loops.arrays import Tree

__all__ = ["Reading", "hyperparameters_of", "is_transformation", "read_transformation"]

CORES = {
    "scale_by_adam": {"b1": "beta1", "b2": "beta2", "eps": "eps", "eps_root": "", "nesterov": ""},
    "scale_by_amsgrad": {"b1": "beta1", "b2": "beta2", "eps": "eps", "eps_root": ""},
    "scale_by_adamax": {"b1": "beta1", "b2": "beta2", "eps": "eps"},
    "scale_by_belief": {
        "b1": "beta1",
        "b2": "beta2",
        "eps": "eps",
        "eps_root": "eps_root",
        "nesterov": "nesterov",
    },
    "scale_by_lion": {"b1": "beta1", "b2": "beta2"},
    "scale_by_rms": {"decay": "decay", "eps": "eps", "eps_in_sqrt": "eps_in_root"},
    "scale_by_stddev": {"decay": "decay", "eps": "eps", "eps_in_sqrt": "eps_in_root"},
    "trace": {"decay": "momentum", "nesterov": "nesterov"},
}
"""Function of Optax that makes a step of a gradient -> what it encloses -> the knob's name; "" for
a setting that decides which optimizer it is.
"""
OTHER_PIECES = {
    "add_decayed_weights": "weight_decay",
    "clip_by_global_norm": "max_norm",
    "clip": "max_delta",
    "scale": "step_size",
    "scale_by_schedule": "step_size_fn",
    "scale_by_trust_ratio": "trust_coefficient",
}
"""Function of Optax -> the setting that it encloses."""
WRAPPERS = {"with_extra_args_support": "tx", "apply_if_finite": "inner"}
"""Function of Optax that leaves a transformation as it is -> what holds it."""
HYPERPARAMETERS = {
    "learning_rate": "lr",
    "b1": "beta1",
    "b2": "beta2",
    "eps": "eps",
    "weight_decay": "weight_decay",
    "momentum": "momentum",
    "decay": "decay",
}
"""Argument of an optimizer of Optax -> the knob's name."""
UNSAID = "?"


@dataclass(frozen=True)
class Piece:
    """One transformation of a chain.

    Attributes:
        kind: the function of Optax that made it, or `UNSAID`.
        settings: what it encloses, by its own names.
        count: how many steps a schedule has taken; None where that is not known.
        maker: the function of Optax, whether its settings are known or not.
    """

    kind: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    count: int | None = None
    maker: str = ""


@dataclass(frozen=True)
class Reading:
    """What was read of an optimizer.

    Attributes:
        settings: class, name in the catalogue ("" for none) and groups, in plain values.
        schedulers: the functions of the learning rate.
        rate: the rate that the last step applied, in the dtype in which it was computed; None where
            it is not known, or where groups have different ones.
    """

    settings: dict[str, Any]
    schedulers: list[dict[str, Any]]
    rate: Any


def is_transformation(value: Any) -> bool:
    """Whether a value is an Optax transformation, `optax.MultiSteps`, or an `nnx.Optimizer`."""
    inner = getattr(value, "tx", value)
    return callable(getattr(inner, "init", None)) and callable(getattr(inner, "update", None))


def read_transformation(
    transformation: Any, state: Any, parameters: Tree, names: Sequence[str]
) -> Reading:
    """Read an optimizer's settings.

    Args:
        transformation: what Optax made, or an `nnx.Optimizer`.
        state: its state after a step, or None.
        parameters: the parameters as Optax is given them, or their shapes and dtypes.
        names: the names of their leaves, in order.
    """
    inner = getattr(transformation, "tx", transformation)
    reader = _Reader(parameters, len(names))
    pieces = reader.pieces(inner, getattr(state, "opt_state", state))
    members: dict[int, list[str]] = {}
    groups: list[list[Piece]] = []
    for name, chain in zip(names, pieces):
        place = next((i for i, group in enumerate(groups) if _is_same(group, chain)), len(groups))
        groups[place:] = groups[place:] or [chain]
        members.setdefault(place, []).append(name)
    optimizers = [_assembled(group) for group in groups]
    trained = [place for place, optimizer in enumerate(optimizers) if optimizer.name != "frozen"]
    rates = [optimizers[place].rate for place in trained]
    is_one = bool(rates) and None not in rates and len({float(rate) for rate in rates}) == 1
    return Reading(
        {
            "class": _class_of(inner, groups),
            "name": _common_name([optimizers[place] for place in trained]),
            "groups": [
                {"parameters": members[place]} | optimizers[place].knobs for place in trained
            ],
        },
        reader.schedulers,
        rates[0] if is_one else None,
    )


def hyperparameters_of(state: Any) -> dict[str, float]:
    """The knobs that `optax.inject_hyperparams` keeps in a state, if one part of it does."""
    parts = list(_parts_with(getattr(state, "opt_state", state), "hyperparams"))
    if len(parts) != 1:
        return {}
    knobs: dict[str, float] = {}
    for name, value in parts[0].hyperparams.items():
        number = _number(value)
        if name in HYPERPARAMETERS and number is not None:
            knobs[HYPERPARAMETERS[name]] = number
    return knobs


def _parts_with(state: Any, name: str) -> list[Any]:
    """The parts of a state that have an attribute."""
    if isinstance(getattr(state, name, None), Mapping):
        return [state]
    found: list[Any] = []
    if isinstance(state, Mapping):
        children = list(state.values())
    else:
        children = list(state) if isinstance(state, tuple | list) else []
    for child in children:
        found += _parts_with(child, name)
    return found


# --- taking a transformation apart


class _Reader:
    """Takes transformations apart.

    Args:
        parameters: a tree of parameters.
        size: the number of its leaves.

    Attributes:
        schedulers: the schedules met, in plain values.
    """

    def __init__(self, parameters: Tree, size: int) -> None:
        self.parameters = parameters
        self.size = size
        self.schedulers: list[dict[str, Any]] = []

    def pieces(self, transformation: Any, state: Any) -> list[list[Piece]]:
        """The chain of each parameter."""
        if type(transformation).__name__ == "MultiSteps":
            return self._of_multi_steps(transformation, state)
        return self._of_function(transformation.update, state)

    def _of_function(self, function: Any, state: Any) -> list[list[Piece]]:
        kind, cells = _enclosed(function)
        if kind == "chain" and isinstance(cells.get("update_fns"), tuple):
            return self._of_chain(cells["update_fns"], state)
        if kind in WRAPPERS and hasattr(cells.get(WRAPPERS[kind]), "update"):
            inner = cells[WRAPPERS[kind]]
            return self.pieces(inner, getattr(state, "inner_state", state))
        if kind == "masked" and {"mask", "inner"} <= cells.keys():
            inner = self.pieces(cells["inner"], getattr(state, "inner_state", None))
            marks = self._of_each_parameter(cells["mask"])
            return [chain if mark is True else [] for chain, mark in zip(inner, marks)]
        if kind == "partition" and {"param_labels", "transforms"} <= cells.keys():
            return self._of_partition(cells, state)
        if kind == "inject_hyperparams" and hasattr(state, "hyperparams"):
            return self._of_injected(cells, state)
        return [self._simple(kind, cells, state)] * self.size

    def _unsaid(self, maker: str) -> list[list[Piece]]:
        return [[Piece(UNSAID, maker=maker)]] * self.size

    def _of_chain(self, functions: Sequence[Any], state: Any) -> list[list[Piece]]:
        chains: list[list[Piece]] = [[] for _ in range(self.size)]
        states = state if isinstance(state, tuple) and len(state) == len(functions) else None
        for place, function in enumerate(functions):
            inner = self._of_function(function, states[place] if states else None)
            chains = [chain + more for chain, more in zip(chains, inner)]
        return chains

    def _of_partition(self, cells: Mapping[str, Any], state: Any) -> list[list[Piece]]:
        labels = self._of_each_parameter(cells["param_labels"])
        states = getattr(state, "inner_states", {})
        chains: dict[Any, list[list[Piece]]] = {}
        for label, inner in cells["transforms"].items():
            inner_state = getattr(states.get(label), "inner_state", None)
            chains[label] = self.pieces(inner, inner_state)
        unknown = self._unsaid("partition")
        return [chains.get(label, unknown)[place] for place, label in enumerate(labels)]

    def _of_injected(self, cells: Mapping[str, Any], state: Any) -> list[list[Piece]]:
        """The optimizer that `inject_hyperparams` makes anew at each step, as the state has it."""
        numbers = {name: _scalar(value) for name, value in state.hyperparams.items()}
        factory, others = cells.get("inner_factory"), cells.get("other_hps")
        if not callable(factory) or not isinstance(others, Mapping) or None in numbers.values():
            return self._unsaid("inject_hyperparams")
        return self.pieces(factory(**others, **numbers), getattr(state, "inner_state", None))

    def _of_multi_steps(self, steps: Any, state: Any) -> list[list[Piece]]:
        inner = getattr(steps, "_opt", None)
        if not hasattr(inner, "update"):
            return self._unsaid("MultiSteps")
        chains = self.pieces(inner, getattr(state, "inner_opt_state", None))
        if _number(getattr(state, "mini_step", None)) == 0:
            return chains
        # in the midst of micro-steps, it is the rate that waits to be applied
        return [[_one_later(piece) for piece in chain] for chain in chains]

    def _of_each_parameter(self, marks: Any) -> list[Any]:
        """What a mask or a tree of labels says of each parameter."""
        jax = sys.modules["jax"]
        if callable(marks):
            marks = marks(self.parameters)
        whole = jax.tree.map(
            lambda mark, part: jax.tree.map(lambda _: mark, part),
            marks,
            self.parameters,
            is_leaf=lambda mark: isinstance(mark, str | bool),
        )
        leaves = jax.tree.leaves(whole)
        return [bool(leaf) if not isinstance(leaf, str) else leaf for leaf in leaves]

    def _simple(self, kind: str, cells: Mapping[str, Any], state: Any) -> list[Piece]:
        if kind in ("identity", "stateless"):
            return []
        if kind in ("set_to_zero", "scale_by_sign"):
            return [Piece(kind, maker=kind)]
        other = [OTHER_PIECES[kind]] if kind in OTHER_PIECES else []
        wanted = list(CORES.get(kind, other))
        if not wanted or not set(wanted) <= cells.keys():
            return [Piece(UNSAID, maker=kind)]
        settings = {name: cells[name] for name in wanted}
        if kind == "scale_by_schedule":
            count = _number(getattr(state, "count", None))
            scheduler = _scheduler(settings["step_size_fn"])
            if scheduler not in self.schedulers:
                self.schedulers.append(scheduler)
            return [Piece(kind, settings, None if count is None else int(count), kind)]
        if kind == "scale":
            known = _number(settings["step_size"]) is not None
        else:
            settings = {name: _plain(value) for name, value in settings.items()}
            known = UNSAID not in settings.values()
        return [Piece(kind if known else UNSAID, settings, maker=kind)]


def _enclosed(function: Any) -> tuple[str, dict[str, Any]]:
    """The function of Optax that made a function, or "", and what it encloses."""
    code = getattr(function, "__code__", None)
    module = getattr(function, "__module__", None) or ""
    if code is None or module.partition(".")[0] != "optax":
        return "", {}
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    return function.__qualname__.partition(".")[0], dict(zip(code.co_freevars, cells))


def _one_later(piece: Piece) -> Piece:
    return piece if piece.count is None else replace(piece, count=piece.count + 1)


def _is_same(one: Sequence[Piece], other: Sequence[Piece]) -> bool:
    return list(one) == list(other)


# --- what the pieces make


@dataclass(frozen=True)
class _Optimizer:
    """An optimizer by its name in the catalogue, its knobs, and the rate that it applied last."""

    name: str
    knobs: dict[str, Any]
    rate: Any


def _assembled(chain: Sequence[Piece]) -> _Optimizer:
    """What a chain is, as far as that is certain."""
    kinds = [piece.kind for piece in chain]
    if "set_to_zero" in kinds:
        return _Optimizer("frozen", {"lr": 0.0}, 0.0)
    cores = [place for place, kind in enumerate(kinds) if kind in CORES or kind == "scale_by_sign"]
    core = cores[0] if cores else -1
    knobs: dict[str, Any] = {}
    if core >= 0:
        for name, value in chain[core].settings.items():
            if CORES[kinds[core]][name]:
                knobs[CORES[kinds[core]][name]] = value
    decays = [place for place, kind in enumerate(kinds) if kind == "add_decayed_weights"]
    knobs["weight_decay"] = sum(
        (chain[place].settings["weight_decay"] for place in decays), start=0.0
    )
    clips = [piece.settings["max_norm"] for piece in chain if piece.kind == "clip_by_global_norm"]
    if clips:
        knobs["clip_norm"] = min(clips)
    scales = [place for place, kind in enumerate(kinds) if kind in ("scale", "scale_by_schedule")]
    rate, start = _rates(chain, max(core, 0))
    if start is not None:
        knobs = {"lr": _number(start)} | knobs
    is_plain = len(cores) <= 1 and UNSAID not in kinds and "clip" not in kinds
    is_in_order = len(decays) <= 1 and all(place > core for place in scales)
    is_in_order = is_in_order and all(place < min(scales, default=0) for place in decays)
    name = ""
    if is_plain and is_in_order and scales:
        is_decoupled = bool(decays) and decays[0] > core >= 0
        name, more = _name(chain[core] if core >= 0 else None, bool(decays), is_decoupled)
        knobs |= more
    if "scale_by_trust_ratio" in kinds:
        name = "lamb" if name == "adamw" else ""
        knobs.pop("amsgrad", None)
    return _Optimizer(name, knobs, rate)


def _common_name(optimizers: Sequence[_Optimizer]) -> str:
    """The name of all groups; a group without decay is one of a decoupled optimizer, too."""
    names = {optimizer.name for optimizer in optimizers}
    for plain, decoupled in (("adam", "adamw"), ("nadam", "nadamw")):
        decays = [one.knobs["weight_decay"] for one in optimizers if one.name == plain]
        if names == {plain, decoupled} and not any(decays):
            return decoupled
    return names.pop() if len(names) == 1 else ""


def _name(core: Piece | None, decays: bool, decoupled: bool) -> tuple[str, dict[str, Any]]:
    """The name in the catalogue, or "", and knobs that go without saying in Optax."""
    if core is None:
        return "sgd", {"momentum": 0.0, "dampening": 0.0, "nesterov": False}
    settings = core.settings
    no_root = not settings.get("eps_root")
    if core.kind == "scale_by_adam" and no_root and not settings["nesterov"]:
        return ("adamw" if decoupled else "adam"), {"amsgrad": "off"}
    if core.kind == "scale_by_adam" and no_root:
        return ("nadamw" if decoupled else "nadam"), {"momentum_ramp": False}
    if core.kind == "scale_by_amsgrad" and no_root:
        return ("adamw" if decoupled else "adam"), {"amsgrad": "corrected"}
    if core.kind == "trace" and not decoupled:
        return "sgd", {"dampening": 0.0}
    if core.kind == "scale_by_lion" and (decoupled or not decays):
        return "lion", {}
    if core.kind in ("scale_by_rms", "scale_by_stddev") and not decoupled:
        return "rmsprop", {"momentum": 0.0, "centered": core.kind == "scale_by_stddev"}
    if core.kind == "scale_by_adamax" and not decoupled:
        return "adamax", {}
    return "", {}


def _rates(chain: Sequence[Piece], core: int) -> tuple[Any, Any]:
    """The rate that the last step applied, and that of the first step; None: not known."""
    scales = [piece for piece in chain if piece.kind in ("scale", "scale_by_schedule")]
    if not scales or any(piece.kind == UNSAID for piece in chain[core:]):
        return None, None
    applied: Any = -1.0
    first: Any = -1.0
    for piece in scales:
        if piece.kind == "scale":
            applied = _times(applied, piece.settings["step_size"])
            first = _times(first, piece.settings["step_size"])
            continue
        schedule = piece.settings["step_size_fn"]
        applied = _times(applied, _at(schedule, None if piece.count is None else piece.count - 1))
        first = _times(first, _at(schedule, 0))
    return applied, first


def _times(rate: Any, factor: Any) -> Any:
    return None if rate is None or factor is None else rate * _scalar(factor)


def _at(schedule: Callable[[Any], Any], count: int | None) -> Any:
    if count is None or count < 0:
        return None
    numpy = sys.modules["jax"].numpy
    return schedule(numpy.asarray(count, numpy.int32))


def _class_of(transformation: Any, groups: Sequence[Sequence[Piece]]) -> str:
    """The pieces by name, those of the longest chain."""
    longest = max(groups, key=len, default=[])
    words = ", ".join(piece.maker or "a function" for piece in longest)
    is_of_steps = type(transformation).__name__ == "MultiSteps"
    return f"optax.MultiSteps(chain({words}))" if is_of_steps else f"optax.chain({words})"


def _scheduler(function: Any) -> dict[str, Any]:
    """A schedule by the function of Optax that made it, with its plain settings."""
    kind, cells = _enclosed(function)
    if kind == "scale_by_learning_rate" and callable(cells.get("learning_rate")):
        return _scheduler(cells["learning_rate"])
    name = f"optax.{kind}" if kind else getattr(function, "__qualname__", "function")
    settings = {"class": name}
    for key, value in cells.items():
        parts = value if isinstance(value, tuple | list) else [value]
        if all(callable(part) for part in parts) and parts:
            settings[key] = [_scheduler(part) for part in parts]
        elif _plain(value) is not UNSAID:
            settings[key] = _plain(value)
    return settings


def _plain(value: Any) -> Any:
    """A number, a flag, a word, or a sequence of these; `UNSAID` for anything else."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, tuple | list):
        items = [_plain(item) for item in value]
        return UNSAID if UNSAID in items else items
    number = _number(value)
    return UNSAID if number is None else number


def _scalar(value: Any) -> Any:
    """A finite number of Python or NumPy, in its own dtype; None for anything else."""
    if hasattr(value, "get_value"):
        value = value.get_value()
    if isinstance(value, bool | int | float):
        return value if math.isfinite(value) else None
    if not hasattr(value, "dtype") or getattr(value, "size", 0) != 1:
        return None
    number = np.asarray(value).reshape(())[()]
    return number if np.isfinite(number.astype(np.float64)) else None


def _number(value: Any) -> float | None:
    """A finite number; of a float32, the shortest that rounds to it. None for anything else."""
    number = _scalar(value)
    if number is None or isinstance(number, bool | int | float):
        return None if number is None else float(number)
    return float(str(number))
