"""What two traces say of their settings, and where they do not say the same.

A recipe and a loop declare settings. Of a loop more is read: the optimizer's settings for each
parameter, the hyperparameters of its layers, and the dtypes that it computes in.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from lockstep.diagnose.units import unit_of_dtype
from lockstep.records.trace import Trace

__all__ = ["Unequal", "unequal_settings"]

NAMED = 3  # parameters or layers of a setting; more are counted
CLOSE = 1e-6
"""A relative difference of numbers that one side kept in float32."""
JUDGED_ELSEWHERE = {"lr", "parameters", "varies"}
"""What is read of a group and is no setting, or is compared at every update."""
ONLY_ROUNDING = {"decay_form"}
"""Knobs whose choices are one formula, computed in another order."""
OF_ANY_FRAMEWORK = {"training", "eps", "p", "approximate"}
"""Hyperparameters of layers that mean the same in all frameworks, where they have this name."""
WITHOUT_EFFECT = {"inplace", "sparse", "gradient_checkpointing", "name_or_path", "layer_idx"}
"""Hyperparameters of modules that leave their numbers alone."""

Settings = Mapping[str, Any]
"""Name -> value, as a trace's header states it; values may nest."""


class Unequal(NamedTuple):
    """A setting that the two sides do not share; None where a side does not state it."""

    name: str
    a: Any
    b: Any


def unequal_settings(a: Trace, b: Trace) -> tuple[Unequal, ...]:
    """The settings and parts of the environment that differ.

    What is read counts where both sides state it, as an environment does, and a declared setting
    where one does. Of an optimizer, what is read is held against what is read or declared.
    """
    environment_a, environment_b = (
        _flat(trace.header.get("environment") or {}) for trace in (a, b)
    )
    settings_a, settings_b = (_flat(trace.header.get("settings") or {}) for trace in (a, b))
    stated_by_both = environment_a.keys() & environment_b.keys()
    knobs = _Knobs(a, b)
    declared = (settings_a.keys() | settings_b.keys()) - knobs.read
    return (
        *_unequal(environment_a, environment_b, sorted(stated_by_both)),
        *_unequal(settings_a, settings_b, sorted(declared)),
        *knobs.unequal(),
        *_unequal_schedulers(a, b),
        *_unequal_dtypes(a, b),
        *_unequal_modules(a, b),
        *_unequal_events(a, b),
    )


def _unequal(a: Settings, b: Settings, names: Sequence[str]) -> Iterator[Unequal]:
    for name in names:
        if a.get(name) != b.get(name):
            yield Unequal(name, a.get(name), b.get(name))


def _flat(values: Settings, prefix: str = "") -> dict[str, Any]:
    """Nested values by their dotted names."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _reading(trace: Trace) -> Settings:
    return trace.header.get("read") or {}


# --- optimizers


class _Knobs:
    """The knobs of the optimizers that train each parameter, of two traces.

    Attributes:
        read: the names of declared settings that are compared here, since a side states what its
            optimizer really has.
    """

    def __init__(self, a: Trace, b: Trace) -> None:
        sides = _knobs_of(a), _knobs_of(b)
        self._a, self._b = sides
        self.read: set[str] = set()
        self._pairs: list[tuple[str, Settings, Settings]] = []
        if not any(sides):
            return
        declared = [
            {} if side else dict((trace.header.get("settings") or {}).get("optimizer") or {})
            for trace, side in zip((a, b), sides)
        ]
        for one in declared:
            if one.get("decay_on", "all") != "all":  # which ones that are cannot be told by names
                one.pop("weight_decay", None)
                self.read |= {"optimizer.decay_on", "optimizer.weight_decay"}
        for name in self._a or self._b:
            knobs_a, knobs_b = (
                side.get(name) if side else one for side, one in zip(sides, declared)
            )
            if knobs_a and knobs_b:
                self._pairs.append((name, knobs_a, knobs_b))
        for _, knobs_a, knobs_b in self._pairs:
            common = (knobs_a.keys() & knobs_b.keys()) - JUDGED_ELSEWHERE
            self.read |= {f"optimizer.{knob}" for knob in common}
        stated = [(trace.header.get("settings") or {}).get("optimizer") or {} for trace in (a, b)]
        for knob in JUDGED_ELSEWHERE | ONLY_ROUNDING:
            if not all(knob in one for one in stated):
                self.read.add(f"optimizer.{knob}")

    def unequal(self) -> Iterator[Unequal]:
        """The knobs that differ, each with the parameters whose it is."""
        places: dict[tuple[str, str], tuple[Any, Any, list[str]]] = {}
        for parameter, knobs_a, knobs_b in self._pairs:
            for knob, (one, other) in _differing(knobs_a, knobs_b).items():
                place = places.setdefault((knob, f"{one!r} {other!r}"), (one, other, []))
                place[2].append(parameter)
        for (knob, _), (one, other, parameters) in sorted(places.items()):
            of_all = len(parameters) == len(self._pairs)
            where = "" if of_all else f" of {_listed(parameters)}"
            yield Unequal(f"optimizer.{knob}{where}", one, other)


def _knobs_of(trace: Trace) -> dict[str, Settings]:
    """Parameter -> the settings of its group as they were read, "name" among them."""
    knobs: dict[str, Settings] = {}
    for optimizer in _reading(trace).get("optimizers") or []:
        name = {"name": optimizer["name"]} if optimizer["name"] else {}
        for group in optimizer["groups"]:
            unsure = JUDGED_ELSEWHERE | ONLY_ROUNDING | set(group.get("varies", []))
            settings = {key: value for key, value in group.items() if key not in unsure}
            knobs |= dict.fromkeys(group["parameters"], name | settings)
    return knobs


def _differing(a: Settings, b: Settings) -> dict[str, tuple[Any, Any]]:
    common = (key for key in a if key in b and key not in JUDGED_ELSEWHERE | ONLY_ROUNDING)
    return {key: (_short(a[key]), _short(b[key])) for key in common if not _is_same(a[key], b[key])}


def _is_same(one: Any, other: Any) -> bool:
    numbers = [isinstance(value, int | float) for value in (one, other)]
    if not all(numbers):
        return bool(one == other)
    return bool(abs(one - other) <= CLOSE * max(abs(one), abs(other)))


def _short(value: Any) -> Any:
    """A number without the digits that float32 adds to it."""
    return float(f"{value:.7g}") if isinstance(value, float) else value


def _unequal_schedulers(a: Trace, b: Trace) -> Iterator[Unequal]:
    """The schedulers of two loops of one framework that differ, or their settings."""
    if not _framework(a) == _framework(b) != "":
        return
    schedulers_a, schedulers_b = (_reading(trace).get("schedulers") or [] for trace in (a, b))
    kinds_a, kinds_b = (
        [str(one.get("class", "")) for one in side] for side in (schedulers_a, schedulers_b)
    )
    if sorted(kinds_a) != sorted(kinds_b):
        yield Unequal("schedulers", kinds_a, kinds_b)
    elif len(set(kinds_a)) == len(kinds_a):
        settings_a, settings_b = (
            _flat({str(one.get("class", "")): one for one in side})
            for side in (schedulers_a, schedulers_b)
        )
        yield from _unequal(settings_a, settings_b, sorted(settings_a.keys() & settings_b.keys()))


# --- dtypes


def _unequal_dtypes(a: Trace, b: Trace) -> Iterator[Unequal]:
    if a.header.get("kind") != "loop" or b.header.get("kind") != "loop":
        return
    kept = a.header["dtype"], b.header["dtype"]
    computed = _compute_dtype(a), _compute_dtype(b)
    if kept[0] != kept[1]:
        yield Unequal("dtype of the parameters", *kept)
    if None not in computed and computed[0] != computed[1] and computed != kept:
        yield Unequal("compute dtype", *computed)


def _compute_dtype(trace: Trace) -> str | None:
    """The coarsest dtype that layers are known to return or to be cast to; None where no layer was
    recorded.
    """
    header = trace.header
    autocast = (_reading(trace).get("autocast") or {}).get("dtype")
    if autocast:
        return str(autocast)
    kept = str(header["dtype"])
    dtypes = [kept]
    widened = header.get("array_dtypes")
    for name, array in trace.arrays.items():
        kind, _, rest = name.partition("/")
        _, _, tensor = rest.partition("/")
        if kind != "detail" or not tensor.startswith("forward/") or array.dtype.kind != "f":
            continue
        own = array.dtype.name
        dtypes.append(own if widened is None else str(widened.get(tensor, own)))
    if widened is None:  # an older trace says only that there was one
        dtypes += [dtype for dtype in header["dtypes"] if dtype.startswith(("bfloat", "float8"))]
    has_layers = len(dtypes) > 1 or "modules" in _reading(trace)
    low = [dtype for dtype in dtypes if unit_of_dtype(dtype) > unit_of_dtype("float32")]
    if not has_layers:
        return None
    return max(low, key=unit_of_dtype) if low else kept


# --- layers


def _unequal_modules(a: Trace, b: Trace) -> Iterator[Unequal]:
    """The hyperparameters of layers of one name that differ."""
    modules_a, modules_b = (_reading(trace).get("modules") or {} for trace in (a, b))
    is_one_framework = _framework(a) == _framework(b) != ""
    places: dict[tuple[str, str], tuple[Any, Any, list[str]]] = {}
    for layer in modules_a:
        one, other = modules_a[layer], modules_b.get(layer, {})
        is_one_class = is_one_framework and one.get("class") == other.get("class")
        for key, (value, against) in _differing(one, other).items():
            is_known = is_one_class and key not in WITHOUT_EFFECT
            if key == "training" and not (_has_modes(one) or _has_modes(other)):
                continue
            if is_known or key in OF_ANY_FRAMEWORK:
                place = places.setdefault((key, f"{value!r} {against!r}"), (value, against, []))
                place[2].append(layer)
    for (key, _), (value, against, layers) in sorted(places.items()):
        noun = "layer" if len(layers) == 1 else "layers"
        name = "training mode" if key == "training" else key
        yield Unequal(f"{name} of {noun} {_listed(layers)}", value, against)


def _has_modes(module: Settings) -> bool:
    """Whether a layer computes something else in evaluation mode."""
    kind = str(module.get("class", "")).lower()
    drops = [value for key, value in module.items() if "drop" in key]
    return "drop" in kind or bool(module.get("track_running_stats")) or any(drops)


def _framework(trace: Trace) -> str:
    """The package of the optimizers' classes; "" where none was read."""
    optimizers = _reading(trace).get("optimizers") or []
    packages = {str(one.get("class", "")).partition(".")[0] for one in optimizers}
    return packages.pop() if len(packages) == 1 else ""


def _unequal_events(a: Trace, b: Trace) -> Iterator[Unequal]:
    """What a gradient scaler skipped, and what was not in evaluation mode in an evaluation."""
    skipped = [(_reading(trace).get("grad_scaler") or {}).get("skipped", []) for trace in (a, b)]
    if skipped[0] != skipped[1]:
        yield Unequal("updates that the gradient scaler skipped", *skipped)
    modes = [_reading(trace).get("trains_in_evaluation") for trace in (a, b)]
    if None not in modes and modes[0] != modes[1]:
        yield Unequal("layers in training mode in an evaluation", *modes)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
