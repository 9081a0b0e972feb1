"""SGD, Adam and their kin: the library's where it has the knobs, else by hand."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lockstep.recipe import Optimizer

__all__ = ["MAKERS"]

Schedule = Callable[[jax.Array], jax.Array]
Tree = Any

EARLY = 4096


def _sgd(optimizer: Optimizer, schedule: Schedule, mask: Any) -> optax.GradientTransformation:
    made = optax.sgd(schedule, momentum=optimizer.momentum or None, nesterov=optimizer.nesterov, accumulator_dtype=None)
    if not (optimizer.momentum and optimizer.dampening):
        return made
    damp = optax.scale_by_schedule(lambda update: jnp.where(update == 0, 1.0, 1 - optimizer.dampening))
    return optax.chain(damp, made)


def _adam(optimizer: Optimizer, schedule: Schedule, mask: Any) -> optax.GradientTransformation:
    rule = {"b1": optimizer.beta1, "b2": optimizer.beta2, "mu_dtype": None}
    # a root over moment + eps has nothing added to it
    rule |= (
        {"eps": 0.0, "eps_root": optimizer.eps} if optimizer.eps_in_root else {"eps": optimizer.eps, "eps_root": 0.0}
    )
    if optimizer.amsgrad == "raw":
        direction = _by_hand(optimizer, _RawAmsgradState, _raw_amsgrad)
    elif optimizer.amsgrad == "corrected":
        direction = optax.scale_by_amsgrad(**rule, bias_correction_mu=True, bias_correction_nu=True)
    else:
        direction = optax.scale_by_adam(**rule, nesterov=False)
    return _stepped(optimizer, schedule, mask, direction)


def _nadam(optimizer: Optimizer, schedule: Schedule, mask: Any) -> optax.GradientTransformation:
    if optimizer.momentum_ramp:
        return _stepped(optimizer, schedule, mask, _by_hand(optimizer, _NadamState, _ramped_nadam))
    rule = {"b1": optimizer.beta1, "b2": optimizer.beta2, "eps": optimizer.eps, "eps_root": 0.0, "mu_dtype": None}
    return _stepped(optimizer, schedule, mask, optax.scale_by_adam(**rule, nesterov=True))


def _radam(optimizer: Optimizer, schedule: Schedule, mask: Any) -> optax.GradientTransformation:
    return _stepped(optimizer, schedule, mask, _by_hand(optimizer, _RadamState, _rectified))


def _adamax(optimizer: Optimizer, schedule: Schedule, mask: Any) -> optax.GradientTransformation:
    made = optax.scale_by_adamax(b1=optimizer.beta1, b2=optimizer.beta2, eps=optimizer.eps)

    def update(gradients: Tree, state: _AdamaxState, parameters: Tree = None) -> tuple[Tree, _AdamaxState]:
        steps, after = made.update(gradients, optax.ScaleByAdamState(*state), parameters)
        return steps, _AdamaxState(*after)

    # Optax's state calls the infinity norm what it calls a second moment
    direction = optax.GradientTransformation(lambda parameters: _AdamaxState(*made.init(parameters)), update)
    return _stepped(optimizer, schedule, mask, direction)


def _lamb(optimizer: Optimizer, schedule: Schedule, mask: Any) -> optax.GradientTransformation:
    rule = {"b1": optimizer.beta1, "b2": optimizer.beta2, "eps": optimizer.eps, "eps_root": 0.0}
    return optax.lamb(schedule, **rule, weight_decay=optimizer.weight_decay, mask=mask)


def _lion(optimizer: Optimizer, schedule: Schedule, mask: Any) -> optax.GradientTransformation:
    rule = {"b1": optimizer.beta1, "b2": optimizer.beta2, "mu_dtype": None}
    return optax.lion(schedule, **rule, weight_decay=optimizer.weight_decay, mask=mask)


def _stepped(optimizer: Optimizer, schedule: Schedule, mask: Any, direction: Any) -> optax.GradientTransformation:
    """parameter <- parameter - lr direction, and decayed where the decay is decoupled."""
    links = [direction, optax.scale_by_learning_rate(schedule)]
    if optimizer.name in ("adamw", "nadamw") and optimizer.weight_decay:
        if optimizer.decay_form == "step":
            links.insert(1, optax.add_decayed_weights(optimizer.weight_decay, mask=mask))
        else:
            factor = _decay_by_factor(optimizer, schedule)
            links.append(factor if mask is None else optax.masked(factor, mask))
    return optax.chain(*links)


class _FactorState(NamedTuple):
    """Of the decay by a factor: updates done."""

    updates: jax.Array


def _decay_by_factor(optimizer: Optimizer, schedule: Schedule) -> optax.GradientTransformation:
    """Add to the steps what the factor 1 - lr weight_decay, rounded to the dtype, takes from the parameters."""

    def update(steps: Tree, state: _FactorState, parameters: Tree) -> tuple[Tree, _FactorState]:
        factor = 1 - schedule(state.updates) * optimizer.weight_decay
        return jax.tree.map(lambda s, p: s + (p * factor - p), steps, parameters), _FactorState(state.updates + 1)

    return optax.GradientTransformation(lambda parameters: _FactorState(jnp.zeros((), jnp.int32)), update)


class _AdamaxState(NamedTuple):
    """Updates done, the first moment and the infinity norm."""

    updates: jax.Array
    first: Tree
    infinity: Tree


class _RawAmsgradState(NamedTuple):
    """Updates done, both moments, and the largest second one."""

    updates: jax.Array
    first: Tree
    second: Tree
    largest_second: Tree


class _NadamState(NamedTuple):
    """Updates done, both moments, and the product of the momenta."""

    updates: jax.Array
    first: Tree
    second: Tree
    momentum_product: Tree


class _RadamState(NamedTuple):
    """Updates done and both moments."""

    updates: jax.Array
    first: Tree
    second: Tree


def _by_hand(optimizer: Optimizer, kind: Any, direction: Callable[..., Any]) -> optax.GradientTransformation:
    """A transformation that keeps both moments, and whatever else of its state `direction` gives back by name."""

    def init(parameters: Tree) -> Any:
        slots = {name: optax.tree.zeros_like(parameters) for name in kind._fields[1:]}
        if "momentum_product" in slots:
            slots["momentum_product"] = jax.tree.map(lambda parameter: jnp.ones((), parameter.dtype), parameters)
        return kind(jnp.zeros((), jnp.int32), **slots)

    def update(gradients: Tree, state: Any, parameters: Tree = None) -> tuple[Tree, Any]:
        first = optax.tree.update_moment(gradients, state.first, optimizer.beta1, 1)
        second = optax.tree.update_moment(gradients, state.second, optimizer.beta2, 2)
        state = state._replace(updates=state.updates + 1, first=first, second=second)
        steps, more = direction(optimizer, state, gradients)
        return steps, state._replace(**more)

    return optax.GradientTransformation(init, update)


def _raw_amsgrad(rule: Optimizer, state: _RawAmsgradState, gradients: Tree) -> tuple[Tree, dict[str, Tree]]:
    bias1, bias2 = _bias(rule.beta1, state.updates), _bias(rule.beta2, state.updates)

    def root(second: jax.Array) -> jax.Array:
        return jnp.sqrt(second / bias2 + rule.eps) if rule.eps_in_root else jnp.sqrt(second / bias2) + rule.eps

    largest = jax.tree.map(jnp.maximum, state.largest_second, state.second)
    return jax.tree.map(lambda m, v: m / bias1 / root(v), state.first, largest), {"largest_second": largest}


def _ramped_nadam(rule: Optimizer, state: _NadamState, gradients: Tree) -> tuple[Tree, dict[str, Tree]]:
    times = (state.updates, state.updates + 1)
    now, following = (rule.beta1 * (1 - 0.5 * 0.96 ** (t * rule.momentum_decay)) for t in times)
    bias2 = _bias(rule.beta2, state.updates)

    def step(g: jax.Array, m: jax.Array, v: jax.Array, product: jax.Array) -> jax.Array:
        ahead = following / (1 - product * following) * m + (1 - now) / (1 - product) * g
        return ahead / (jnp.sqrt(v / bias2) + rule.eps)

    products = jax.tree.map(lambda product: product * now, state.momentum_product)
    return jax.tree.map(step, gradients, state.first, state.second, products), {"momentum_product": products}


def _rectified(rule: Optimizer, state: _RadamState, gradients: Tree) -> tuple[Tree, dict[str, Tree]]:
    bias1, bias2 = _bias(rule.beta1, state.updates), _bias(rule.beta2, state.updates)
    longest = 2 / (1 - rule.beta2) - 1

    def length(t: Any, bias2: Any) -> Any:
        return longest - 2 * t * (1 - bias2) / bias2

    def shrink(rho: Any) -> Any:
        return ((rho - 4) * (rho - 2) * longest / ((longest - 4) * (longest - 2) * rho)) ** 0.5

    def early(t: int) -> float:
        rho = length(t, 1 - rule.beta2**t)
        return float(shrink(rho)) if rho > 5 else 0.0

    rho = length(state.updates, bias2)
    shrunk = _early(early, state.updates, jnp.where(rho > 5, shrink(rho), 0.0))

    def step(m: jax.Array, v: jax.Array) -> jax.Array:
        root = jnp.sqrt(v / bias2) + rule.eps if rule.eps_corrected else (jnp.sqrt(v) + rule.eps) / jnp.sqrt(bias2)
        return m / bias1 * jnp.where(shrunk > 0, shrunk / root, 1.0)

    return jax.tree.map(step, state.first, state.second), {}


def _bias(beta: float, t: jax.Array) -> jax.Array:
    """1 - beta^t, to the last bits: in float32 the plain form has lost 1e-5 of itself at beta 0.999 and t 1."""
    return _early(lambda early: 1 - beta**early, t, -jnp.expm1(t * math.log(beta)) if beta else jnp.ones(()))


def _early(exact: Callable[[int], float], t: jax.Array, later: jax.Array) -> jax.Array:
    """`exact` at update t, counted from 1, from a table made in float64; past its end `later`, which cancels less."""
    table_T = jnp.asarray([exact(early) for early in range(1, EARLY + 1)])
    return jnp.where(t <= EARLY, table_T.at[t - 1].get(mode="clip"), later)


MAKERS: dict[str, Callable[..., Any]] = {
    "sgd": _sgd,
    "adam": _adam,
    "adamw": _adam,
    "nadam": _nadam,
    "nadamw": _nadam,
    "radam": _radam,
    "adamax": _adamax,
    "lamb": _lamb,
    "lion": _lion,
}
