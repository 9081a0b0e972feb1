"""The optimizer of one side as its settings or its own steps give it, and its step made again."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lockstep.diagnose.between.pair import Arrays, LoopSide
from lockstep.diagnose.causes.tensors import residual
from lockstep.diagnose.local.samples import ALIASES, unit_of_array
from lockstep.errors import InputError
from lockstep.oracle.arithmetic import Array, Exact, Moments
from lockstep.oracle.optimizers import RULES, WEIGHT_RULES
from lockstep.recipe import Optimizer

__all__ = [
    "Remade",
    "StepInputs",
    "StepRule",
    "follows",
    "inputs_of",
    "noise_of",
    "remake",
]

ROUNDINGS = 4
"""Roundings of a parameter that its change may hold: of the decay, the step, and both values."""
SAME_SLOTS = {
    "infinity": ("exp_inf", "second"),
    "exp_inf": ("infinity",),
    "difference": ("exp_avg_diff",),
    "previous": ("prev", "pre_grad"),
}
"""Slot of a rule -> what loops call it as well."""


@dataclass(frozen=True)
class StepRule:
    """What makes a step of a gradient, parameter by parameter.

    Attributes:
        optimizers: parameter -> its optimizer, with a weight decay of its own.
        rates: parameter -> learning rate of the update.
        clip_norm: the norm that gradients are clipped to within the optimizer; None for none.
        is_stated: whether the loop's settings say so; False where its own steps do.
        has_float32_product: whether the product of NAdam's momenta is kept in float32.
    """

    optimizers: Mapping[str, Optimizer]
    rates: Mapping[str, float]
    clip_norm: float | None = None
    is_stated: bool = True
    has_float32_product: bool = False

    @property
    def name(self) -> str:
        """The optimizer's name in the catalogue; of several, joined by "and"."""
        return " and ".join(dict.fromkeys(one.name for one in self.optimizers.values()))

    def changed(self, **knobs: Any) -> "StepRule | None":
        """The same with other knobs for all parameters; None where they do not go together."""
        try:
            optimizers = {name: one.with_knobs(**knobs) for name, one in self.optimizers.items()}
        except (ValueError, TypeError):
            return None
        return replace(self, optimizers=optimizers)


@dataclass(frozen=True)
class StepInputs:
    """What a side recorded of an update before its step.

    Attributes:
        parameters: before the update.
        gradients: as they were given to the optimizer, as far as that was recorded.
        memory: "slot/parameter" -> what the optimizer remembered before.
        count: updates that it had counted before.
        is_given: whether they were recorded as they were given.
        is_fresh: whether the memory begins with this update.
        product_count: the updates whose momenta NAdam has multiplied; None for `count`.
    """

    parameters: Arrays
    gradients: Arrays
    memory: Arrays
    count: int
    is_given: bool = True
    product_count: int | None = None
    is_fresh: bool = False


@dataclass(frozen=True)
class Remade:
    """A step made again: the change of each parameter, and the memory after it."""

    changes: Arrays
    memory: Arrays


def inputs_of(side: LoopSide, update: int, memory: Arrays | None = None) -> StepInputs | None:
    """The inputs of an update; None where gradients, parameters or memory were not recorded.

    Args:
        side: the side that steps.
        update: counted from 0.
        memory: what the optimizer remembers; None: what the side recorded after the update before.
    """
    clipped = side.tensors("clip", update)
    gradients = clipped or side.tensors("gradients", update)
    parameters = side.parameters(update)
    known = [
        name
        for name, array in gradients.items()
        if name in parameters and parameters[name].shape == array.shape and name not in side.buffers
    ]
    if memory is None:
        memory = side.tensors("moments", update - 1) if update else {}
    if not known or (update and side.tensors("moments", update) and not memory):
        return None
    return StepInputs(
        {name: parameters[name] for name in known},
        {name: gradients[name] for name in known},
        memory,
        update,
        bool(clipped),
        is_fresh=update == 0,
    )


def remake(rule: StepRule, inputs: StepInputs, exact: Exact | None = None) -> Remade | None:
    """The step of a rule; None where the memory is not that of the rule."""
    exact = exact or Exact()
    changes: Arrays = {}
    memory: Arrays = {}
    scale = _clip_scale(rule, inputs)
    slots_of = _slots_of_each(inputs.memory, inputs.parameters)
    for name, optimizer in rule.optimizers.items():
        if name not in inputs.gradients:
            continue
        before = inputs.parameters[name]
        product = _product(rule, optimizer, inputs)
        own = slots_of.get(name, {})
        slots = _for_rule(own, optimizer, before, product, inputs.is_fresh)
        if slots is None:
            return None
        try:
            after, remembered = _stepped(
                optimizer,
                rule.rates[name],
                inputs.count,
                _rows(before),
                _rows(scale * inputs.gradients[name]),
                {slot: _rows(array) for slot, array in slots.items()},
                exact,
            )
        except (KeyError, ValueError, InputError):
            return None
        changes[name] = _back(after, before.shape) - before
        for slot, array in remembered.items():
            memory[f"{slot}/{name}"] = _back(np.asarray(array), before.shape)
    return Remade(changes, memory) if changes else None


def _stepped(
    optimizer: Optimizer,
    rate: float,
    count: int,
    parameter: Array,
    gradient: Array,
    moments: Moments,
    exact: Exact,
) -> tuple[Array, Moments]:
    decay = optimizer.decay_rate
    if decay and not optimizer.spec.decoupled:
        gradient = gradient + decay * parameter
    rule = RULES[optimizer.name]
    if min(parameter.shape) > 1:
        rule = WEIGHT_RULES.get(optimizer.name, rule)
    with np.errstate(all="ignore"):
        return rule(optimizer, rate, count, parameter, gradient, moments, exact)


def _rows(array: Array) -> Array:
    """An array as rules take it: a weight as (in, out), all else as a row."""
    array = np.asarray(array, dtype=np.float64)
    if array.ndim < 2:
        return np.atleast_2d(array)
    return array.reshape(len(array), -1).T


def _back(array: Array, shape: tuple[int, ...]) -> Array:
    """The opposite of `_rows`; of an array of another size the array itself."""
    if array.size != math.prod(shape):
        return array
    return array.reshape(shape) if len(shape) < 2 else np.ascontiguousarray(array.T).reshape(shape)


def _clip_scale(rule: StepRule, inputs: StepInputs) -> float:
    """What an optimizer that clips multiplies its gradients by."""
    if rule.clip_norm is None or inputs.is_given:
        return 1.0
    norm = math.sqrt(sum(float(np.square(array).sum()) for array in inputs.gradients.values()))
    return min(1.0, rule.clip_norm / norm) if norm else 1.0


def _slots_of_each(memory: Arrays, parameters: Arrays) -> dict[str, dict[str, Array]]:
    """Parameter -> slot -> array."""
    slots: dict[str, dict[str, Array]] = {}
    for path, array in memory.items():
        slot, _, name = path.partition("/")
        if name in parameters:
            slots.setdefault(name, {})[ALIASES.get(slot, slot)] = array
    return slots


def _for_rule(
    slots: dict[str, Array], optimizer: Optimizer, parameter: Array, product: float, is_fresh: bool
) -> dict[str, Array] | None:
    """A parameter's slots by the rule's names; None where one is missing."""
    needed = optimizer.slots(_rows(parameter).shape if parameter.ndim > 1 else parameter.shape)
    own: dict[str, Array] = {}
    if "momentum_product" in needed:
        own["momentum_product"] = slots.pop("momentum_product", np.array(product))
    if not slots and (is_fresh or needed.keys() <= own.keys()):
        return own
    for slot in needed:
        names = (slot, *SAME_SLOTS.get(slot, ()))
        name = next((one for one in names if one in slots), None)
        if name is not None:
            own[slot] = slots[name]
        elif slot not in own:
            return None
    return own


def _product(rule: StepRule, optimizer: Optimizer, inputs: StepInputs) -> float:
    """The product of NAdam's momenta before an update, which grow there.

    PyTorch keeps it in float32: then it is what gives that product after the update.
    """
    pace, beta1 = optimizer.get("momentum_decay"), optimizer.get("beta1")
    if pace is None or not optimizer.get("momentum_ramp"):
        return 1.0
    count = inputs.count if inputs.product_count is None else inputs.product_count
    momenta = [beta1 * (1 - 0.5 * 0.96 ** (t * pace)) for t in range(1, count + 2)]
    if not rule.has_float32_product:
        return float(math.prod(momenta[:-1]))
    product = np.float32(1)
    for momentum in momenta[:-1]:
        product *= np.float32(momentum)
    now = beta1 * (1 - 0.5 * 0.96 ** ((inputs.count + 1) * pace))
    return float(float(product * np.float32(now)) / now)


def follows(
    side: LoopSide,
    update: int,
    rule: StepRule,
    inputs: StepInputs,
    near: float,
    exact: Exact | None = None,
) -> bool:
    """Whether a rule gives what a side recorded, up to an error of `near` and its rounding."""
    remade = remake(rule, inputs, exact)
    if remade is None:
        return False
    changes = side.tensors("update", update)
    if not changes.keys() >= remade.changes.keys():
        return False
    noise = noise_of(side, update)
    if not residual(remade.changes, {n: changes[n] for n in remade.changes}, noise) <= near:
        return False
    recorded = side.tensors("moments", update)
    common = {
        name: array
        for name, array in remade.memory.items()
        if name in recorded and recorded[name].shape == array.shape
    }
    return not common or residual(common, {n: recorded[n] for n in common}) <= near


def noise_of(side: LoopSide, update: int) -> dict[str, float]:
    """Parameter -> the 2-norm of what storing it may have done to its change."""
    noise: dict[str, float] = {}
    for name, array in side.parameters(update + 1).items():
        unit = unit_of_array(side.trace, f"parameters/{name}", _raw(side, update + 1, name))
        noise[name] = ROUNDINGS * unit * float(np.linalg.norm(array))
    return noise


def _raw(side: LoopSide, updates: int, name: str) -> Any:
    return side.trace.arrays[f"parameters/{updates}/{name}"]
