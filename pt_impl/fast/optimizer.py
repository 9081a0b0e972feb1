"""One update of the fast engine: from a gradient to the next state."""

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from math import prod
from typing import Any

import torch

from lockstep.errors import InputError
from lockstep.recipe import Gradient, Optimizer, Recipe
from pt_impl.fast.network import Slot
from pt_impl.fast.optimizers.plain_rule import plain_rule
from pt_impl.fast.optimizers.step import Moments, Rate, Room, Rule, add_decay
from pt_impl.optimizer import MAKERS
from pt_impl.optimizers.from_rule import FromRule

__all__ = ["make_step", "start_moments"]

Tensor = torch.Tensor


def start_moments(recipe: Recipe, parameters: Tensor) -> Moments:
    """The optimizer's moments before the first update: vectors (n,), or one number for all.

    The first update adds the moments of a weight's rows and columns, by slot and name.
    """
    optimizer = recipe.optimizer
    file = _file(optimizer)
    if file is None:
        return _plain(optimizer).start(optimizer, parameters)
    moments: Moments = {}
    for shape in ((len(parameters),), (len(parameters), len(parameters))):
        slots = optimizer.slots(shape)
        moments |= {slot: torch.zeros_like(parameters) for slot in slots if slots[slot] == shape}
    if hasattr(file, "start"):
        file.start(optimizer, moments)
    return moments


def _file(optimizer: Optimizer) -> Any:
    """The module of this engine that has its rule; None if there is none."""
    name = f"pt_impl.fast.optimizers.{optimizer.file_name()}"
    return import_module(name) if find_spec(name) else None


def _plain(optimizer: Optimizer) -> FromRule:
    """The optimizer of the plain engine, whose rule is applied to the vectors.

    Raises:
        InputError: the rule treats each tensor as a whole.
    """
    if optimizer.spec.by_tensor:
        raise InputError(
            f"--engine fast: {optimizer.name} treats each tensor as a whole, and has no "
            "rule for this engine; plain trains it"
        )
    parameter = torch.nn.Parameter(torch.zeros(1))
    plain = MAKERS[optimizer.name](optimizer, [{"params": [parameter]}])
    assert isinstance(plain, FromRule)
    return plain


def make_step(recipe: Recipe) -> Callable[[Any, Slot], None]:
    """(state, slot): write the parameters after the update of the slot, and the moments."""
    optimizer = recipe.optimizer
    gradients = recipe.gradient
    file = _file(optimizer)
    decay = optimizer.decay_rate
    rule: Rule = plain_rule(_plain(optimizer).rule) if file is None else file.rule
    is_l2 = bool(decay) and not optimizer.spec.decoupled
    is_decoupled = bool(decay) and optimizer.spec.decoupled
    # PyTorch makes some updates in one pass over the vectors
    is_fused = hasattr(file, "fuses") and file.fuses(optimizer)
    move_fused = _make_fused(file, optimizer, decay if is_decoupled else 0.0)

    def move(state: Any, lr: Rate, before: Tensor, after: Tensor, gradient: Tensor) -> None:
        work = state.work
        room = Room(work[1], state.decayed, state.network)
        step, root, scale, has_rate, form = rule(
            optimizer, lr, state.updates[0], before, gradient, state.moments, room
        )
        if is_decoupled and form == "factor":
            before = torch.mul(before, _factor(lr, decay, state.decayed, before), out=work[2])
        elif is_decoupled and form == "step":
            step = step if root is None else torch.div(step, root, out=work[1])
            step = add_decay(step, before, decay / scale, state.decayed, work[2])
            root = None
        lr = 1.0 if has_rate else lr
        if not isinstance(lr, float):
            step = step if root is None else torch.div(step, root, out=work[1])
            torch.addcmul(before, step, lr, value=-scale, out=after)
        elif root is None:
            torch.add(before, step, alpha=-lr * scale, out=after)
        else:
            torch.addcdiv(before, step, root, value=-lr * scale, out=after)

    def apply(state: Any, slot: Slot) -> None:
        network = state.network
        update = state.updates[0]
        work = state.work
        before = network.rows[slot.before]
        after = network.rows[slot.after]
        gradient = network.gradient_rows[slot.gradient]
        lr = state.rates[update] if state.layers is None else state.rates[update][state.layers]
        if gradients.clip == "norm":
            gradient = _clip_norm(gradients, network, gradient, work[0])
        elif gradients.clip == "value":
            gradient = torch.clamp(gradient, -gradients.clip_at, gradients.clip_at, out=work[0])
        if is_l2:
            gradient = add_decay(gradient, before, decay, state.decayed, work[0])
        if is_fused and state.layers is None:
            move_fused(state, lr, before, after, gradient)
        else:
            move(state, lr, before, after, gradient)
        if state.average is not None:
            state.average.lerp_(after, 1 - recipe.average.decay)
        state.updates[0] = update + 1

    return apply


def _make_fused(file: Any, optimizer: Optimizer, decay: float) -> Callable[..., None]:
    """(state, lr, before, after, gradient): an update in one pass; `decay` is decoupled."""

    def move(state: Any, lr: float, before: Tensor, after: Tensor, gradient: Tensor) -> None:
        counter = state.counter.fill_(state.updates[0] + 1)
        decay_left = decay
        if decay and state.decayed is not None:
            torch.mul(before, _factor(lr, decay, state.decayed, before), out=after)
            decay_left = 0.0
        else:
            after.copy_(before)
        file.fused(optimizer, lr, decay_left, counter, after, gradient, state.moments)

    return move


def _clip_norm(gradients: Gradient, network: Any, gradient: Tensor, out: Tensor) -> Tensor:
    """The gradient with a norm of at most `clip_at`; each member is clipped by its own norm."""
    parts = [(gradient[None], out[None])]
    if network.lead:
        # each layer's gradients by member (S, parameters)
        parts = []
        for begin, shape in network.places.values():
            place = slice(begin, begin + prod((*network.lead, *shape)))
            of_layer = gradient[place].view(*network.lead, -1)
            parts.append((of_layer, out[place].view(*network.lead, -1)))
    norms = [torch.linalg.vector_norm(part, dim=1, keepdim=True) for part, _ in parts]
    norm_S1 = norms[0] if len(norms) == 1 else torch.stack(norms).norm(dim=0)
    factor_S1 = (gradients.clip_at / (norm_S1 + gradients.clip_eps)).clamp_(max=1.0)
    for part, clipped in parts:
        torch.mul(part, factor_S1, out=clipped)
    return out


def _factor(rate: Rate, decay: float, decayed: Tensor | None, like: Tensor) -> Any:
    """1 - rate decay, computed in float64 and rounded once."""
    if decayed is None and isinstance(rate, float):
        return 1 - rate * decay
    which = torch.ones_like(like) if decayed is None else decayed
    return (1 - torch.as_tensor(rate, dtype=torch.float64) * decay * which.double()).to(like.dtype)
