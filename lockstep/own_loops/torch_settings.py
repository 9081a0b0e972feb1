"""The settings of a PyTorch training as its objects hold them, in plain values.

An optimizer's settings have the names that a recipe's `[optimizer]` has for them.
"""

import functools
import gc
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from lockstep.own_loops.torch_names import module_names
from lockstep.recipe import Optimizer
from lockstep.recipe.presets import PRESETS

__all__ = [
    "module_settings",
    "objects_around",
    "optimizer_settings",
    "scaler_settings",
    "scheduler_settings",
    "tied_parameters",
]

PARTS = {"betas": ("beta1", "beta2")}
"""Settings of several numbers that most optimizers have -> their names."""
HOW = {"params", "foreach", "fused", "capturable", "differentiable", "decoupled_weight_decay"}
"""Settings of a group that do not change what it computes, or that its name says."""
RUNNING = {"optimizer", "last_epoch", "base_lrs", "best", "num_bad_epochs", "cooldown_counter"}
"""What a scheduler keeps while it runs."""


class Kind(NamedTuple):
    """How a class of `torch.optim` is called elsewhere."""

    preset: str
    decoupled: str = ""
    is_exact: bool = True


KINDS = {
    "SGD": Kind("torch.sgd"),
    "Adam": Kind("torch.adam", decoupled="torch.adamw"),
    "AdamW": Kind("torch.adamw", decoupled="torch.adamw"),
    "NAdam": Kind("torch.nadam_full_precision", decoupled="torch.nadamw_full_precision"),
    "RAdam": Kind("torch.radam"),
    "Adamax": Kind("torch.adamax"),
    "Adagrad": Kind("torch.adagrad"),
    "RMSprop": Kind("torch.rmsprop"),
    "Adadelta": Kind("torch.adadelta"),
    "Rprop": Kind("torch.rprop"),
    "Adafactor": Kind("torch.adafactor"),
    # PyTorch iterates in bfloat16, which no recipe says
    "Muon": Kind("torch.muon_full_precision", is_exact=False),
}
"""Class -> the preset that has its knobs, where its weight decay is decoupled too."""


def optimizer_settings(optimizer: Any, names: Mapping[int, str]) -> dict[str, Any]:
    """An optimizer's class, its name in the catalogue ("" for none), and each group's settings.

    Args:
        optimizer: a `torch.optim.Optimizer`.
        names: id of a parameter -> its name.
    """
    kind = type(optimizer)
    groups = []
    found = set()
    for group in optimizer.param_groups:
        name, settings = _group_settings(optimizer, group)
        found.add(name)
        parameters = [names[id(one)] for one in group["params"] if id(one) in names]
        groups.append({"parameters": parameters} | settings)
    name = found.pop() if len(found) == 1 else ""
    return {"class": f"{kind.__module__}.{kind.__qualname__}", "name": name, "groups": groups}


def _group_settings(optimizer: Any, group: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The optimizer's name in the catalogue, and a group's settings by the names of knobs."""
    given = {key: group[key] for key in optimizer.defaults if key in group and key not in HOW}
    parents = (one.__name__ for one in type(optimizer).__mro__ if _is_of_torch(one))
    parent = next((name for name in parents if name in KINDS), None)
    is_decoupled = bool(group.get("decoupled_weight_decay"))
    if not given.get("maximize"):
        given.pop("maximize", None)
    if parent is None or (is_decoupled and not KINDS[parent].decoupled):
        return "", _knobs(given, PARTS)
    kind = KINDS[parent]
    preset = PRESETS["optimizer"][kind.decoupled if is_decoupled else kind.preset]
    name = str(preset.fixed["name"])
    variant = Optimizer.variants[name]
    fixed = {knob: value for knob, value in preset.fixed.items() if knob != "name"}
    knobs = fixed | _knobs(given, {**PARTS, **variant.spec.torch_names})
    if "amsgrad" in knobs:
        knobs["amsgrad"] = "raw" if given["amsgrad"] else "off"
    if knobs.get("adjust", "") is None:
        knobs["adjust"] = "original"
    if knobs.get("eps", 0) is None:  # the machine epsilon of the parameters
        knobs["eps"] = _machine_epsilon(group["params"])
    is_known = knobs.keys() <= {"lr", *variant.knobs(), *variant.options()}
    is_exact = _is_of_torch(type(optimizer)) and kind.is_exact and is_known
    return (name if is_exact else ""), knobs


def _knobs(given: Mapping[str, Any], names: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by other names; one of several numbers has several names, and "-" negates."""
    knobs: dict[str, Any] = {}
    for key, value in given.items():
        name = names.get(key, key)
        value = plain(value)
        if isinstance(name, tuple) and isinstance(value, list) and len(name) == len(value):
            knobs |= dict(zip(name, value))
        elif isinstance(name, str) and name.startswith("-") and isinstance(value, float | int):
            knobs[name.removeprefix("-")] = -value
        elif isinstance(name, str) and value is not UNSAYABLE:
            knobs[name] = value
    return knobs


def _is_of_torch(kind: type) -> bool:
    return f"{kind.__module__}.".startswith("torch.optim.")


def _machine_epsilon(parameters: Iterable[Any]) -> float | None:
    digits = {"float64": 52, "float32": 23, "bfloat16": 7, "float16": 10}
    dtypes = {str(parameter.dtype).rpartition(".")[2] for parameter in parameters}
    dtype = dtypes.pop() if len(dtypes) == 1 else ""
    return 2.0 ** -digits[dtype] if dtype in digits else None


# --- schedulers and scalers


def objects_around(optimizers: Iterable[Any], torch: Any) -> tuple[list[Any], list[Any]]:
    """The schedulers that change these optimizers' rates, and every gradient scaler in use.

    A scheduler holds its optimizer, and nothing holds a scaler but the loop. So these are looked
    for among all objects of the process, once.

    Args:
        optimizers: the optimizers.
        torch: the module.
    """
    schedules = _subclasses(torch.optim.lr_scheduler.LRScheduler)
    scalers = _subclasses(torch.amp.GradScaler)
    owned = {id(optimizer) for optimizer in optimizers}
    found_schedules = []
    found_scalers = []
    for candidate in gc.get_objects():
        kind = type(candidate)
        if kind in schedules and id(getattr(candidate, "optimizer", None)) in owned:
            found_schedules.append(candidate)
        elif kind in scalers and candidate.is_enabled():
            found_scalers.append(candidate)
    inner = {id(part) for one in found_schedules for part in _parts(one)}
    return [one for one in found_schedules if id(one) not in inner], found_scalers


def _subclasses(kind: type) -> set[type]:
    kinds = {kind}
    children: list[type] = type.__subclasses__(kind)
    for child in children:
        kinds |= _subclasses(child)
    return kinds


def _parts(scheduler: Any) -> Iterator[Any]:
    """The schedulers that a scheduler calls."""
    parts = getattr(scheduler, "_schedulers", ())
    for part in parts if isinstance(parts, list | tuple) else ():
        yield part
        yield from _parts(part)


def scheduler_settings(scheduler: Any) -> dict[str, Any]:
    """A scheduler's class and plain settings, with those of its functions and parts."""
    settings: dict[str, Any] = {"class": type(scheduler).__name__}
    for key, value in vars(scheduler).items():
        if key.startswith("_") or key in RUNNING:
            continue
        said = plain(value)
        if said is not UNSAYABLE:
            settings[key] = said
    milestones = plain(getattr(scheduler, "_milestones", None) or UNSAYABLE)
    if milestones is not UNSAYABLE:
        settings["milestones"] = milestones
    parts = getattr(scheduler, "_schedulers", ())
    if isinstance(parts, list | tuple) and parts:
        settings["schedulers"] = [scheduler_settings(part) for part in parts]
    return settings


def scaler_settings(scaler: Any) -> dict[str, Any]:
    """A gradient scaler's class, present scale and settings."""
    settings: dict[str, Any] = {"class": type(scaler).__name__}
    for name in ("scale", "growth_factor", "backoff_factor", "growth_interval"):
        value = plain(getattr(scaler, f"get_{name}", _nothing)())
        if value is not UNSAYABLE:
            settings[name] = value
    return settings


def _nothing() -> Any:
    return UNSAYABLE


# --- modules


def module_settings(model: Any, layers: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Layer -> its class and plain hyperparameters, of each module that has any.

    Args:
        model: a `torch.nn.Module`.
        layers: path of a module in PyTorch -> the name of the layer.
    """
    names = module_names(model)
    settings: dict[str, dict[str, Any]] = {}
    for path, module in model.named_modules():
        values = {}
        for key, value in vars(module).items():
            said = UNSAYABLE if key.startswith("_") or key == "training" else plain(value)
            if said is not UNSAYABLE:
                values[key] = said
        name = layers.get(path) or names[path]
        if name and (values or path in layers):
            settings[name] = {"class": type(module).__name__} | values
    return settings


def tied_parameters(model: Any, names: Mapping[int, str]) -> list[list[str]]:
    """The names of each parameter that has several, the recorded one first."""
    paths = module_names(model)
    places: dict[int, list[str]] = {}
    for path, module in model.named_modules():
        for key, parameter in module._parameters.items():
            if parameter is not None:
                name = f"{paths[path]}.{key}" if paths[path] else key
                places.setdefault(id(parameter), []).append(name)
    return [
        [names[key], *(name for name in several if name != names[key])]
        for key, several in places.items()
        if len(several) > 1 and key in names
    ]


# --- plain values

UNSAYABLE: Any = object()
"""What stands for a value that is not plain."""
LONG = 200  # characters or items; what is longer is no setting


def plain(value: Any) -> Any:
    """A value as JSON has it, or `UNSAYABLE`: a function is its name, a tensor of one element a
    number.
    """
    if hasattr(value, "detach"):
        value = value.item() if value.numel() == 1 else UNSAYABLE
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, str):
        return value if len(value) <= LONG else UNSAYABLE
    if isinstance(value, Counter):
        value = sorted(value.elements())
    if isinstance(value, list | tuple):
        return _plain_items(value)
    return _plain_function(value)


def _plain_items(values: list[Any] | tuple[Any, ...]) -> Any:
    items = [plain(item) for item in values[: LONG + 1]]
    is_plain = len(items) <= LONG and all(item is not UNSAYABLE for item in items)
    return items if is_plain else UNSAYABLE


def _plain_function(value: Any) -> Any:
    """A function's name; of a partial one with what is bound, as far as that is plain."""
    if isinstance(value, functools.partial):
        bound = {key: plain(argument) for key, argument in value.keywords.items()}
        said = {key: argument for key, argument in bound.items() if argument is not UNSAYABLE}
        return {"function": plain(value.func)} | said
    is_function = isinstance(value, Callable) and not isinstance(value, type)  # type: ignore[arg-type]  # mypy has no type for it
    name = getattr(value, "__name__", None)
    return name if is_function and isinstance(name, str) else UNSAYABLE
