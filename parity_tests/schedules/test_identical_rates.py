"""The float32 learning rate, as reported and as applied to a parameter, has the same bits in both
frameworks however they run. They are those of the float64 closed form rounded once.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR

import jax_impl.optimizer
import jax_impl.schedule
import pt_impl.optimizer
import pt_impl.schedule
from lockstep.recipe import Optimizer
from lockstep.schedules.formulas import learning_rates
from parity_tests.shared.schedules import WARMUPS, recipe_of, schedules_over

# with a gradient of 1 it takes the learning rate from a parameter at 0
PLAIN = Optimizer(name="sgd", momentum=0.0)
SHORT, MILLION = 200, 1_000_000


def torch_eager(table_T: Any) -> dict[str, Any]:
    """The twin's optimizer and scheduler, update by update."""
    parameter = torch.nn.Parameter(torch.zeros(()))
    schedules = {0: pt_impl.schedule.make_schedule(table_T)}
    named = {"linear1.weight": parameter}
    optimizer, scheduler = pt_impl.optimizer.make_optimizer(PLAIN, schedules, named)
    return _torch_run(len(table_T), parameter, optimizer, scheduler, optimizer.step)


COMPILED: list[Any] = []


def torch_compiled(table_T: Any) -> dict[str, Any]:
    """The twin's optimizer with its step compiled.

    A Python number would be compiled anew for each value, so the rate is a tensor, which the
    scheduler fills.
    """
    if not COMPILED:
        parameter = torch.nn.Parameter(torch.zeros(()))
        schedules, named = {0: lambda update: 1.0}, {"linear1.weight": parameter}
        optimizer, _ = pt_impl.optimizer.make_optimizer(PLAIN, schedules, named)
        COMPILED[:] = [parameter, optimizer, torch.compile(optimizer.step, fullgraph=False)]
    parameter, optimizer, step = COMPILED
    group = optimizer.param_groups[0]
    group["lr"], group["initial_lr"] = torch.tensor(1.0), 1.0
    schedule = pt_impl.schedule.make_schedule(table_T)
    return _torch_run(len(table_T), parameter, optimizer, LambdaLR(optimizer, schedule), step)


def _torch_run(
    updates: int, parameter: Any, optimizer: Any, scheduler: Any, step: Any
) -> dict[str, Any]:
    reported, applied = np.empty(updates, np.float32), np.empty(updates, np.float32)
    parameter.grad = torch.ones_like(parameter)
    value = parameter.detach().numpy()  # the parameter's own memory
    for t in range(updates):
        value[...] = 0
        reported[t] = optimizer.param_groups[0]["lr"]
        step()
        scheduler.step()
        applied[t] = 0 - value
    return {"reported": reported, "applied": applied}


def jax_parts(schedule: Any) -> tuple[Any, Any]:
    """The start state of the twin's optimizer around the schedule, and a function that does one
    update: state -> state, (reported rate, parameter).
    """
    zero = jnp.zeros((), jnp.float32)
    transformation, state = jax_impl.optimizer.make_optimizer(PLAIN, {0: schedule}, zero)

    def update(carried: Any, _: Any = None) -> Any:
        state, count = carried
        lr = schedule(count)
        change, state = transformation.update(jnp.ones_like(zero), state, zero)
        return (state, count + 1), (lr, optax.apply_updates(zero, change))

    return (state, jnp.zeros((), jnp.int32)), update


def rates_of(reported: Any, parameters: Any) -> dict[str, Any]:
    return {"reported": np.asarray(reported), "applied": 0 - np.asarray(parameters)}


def in_python(state: Any, update: Any, updates: int) -> dict[str, Any]:
    rates = []
    for _ in range(updates):
        state, pair = update(state)
        rates.append(pair)
    return rates_of(*np.array(rates, dtype=np.float32).T)


def jax_eager(schedule: Any, updates: int) -> dict[str, Any]:
    state, update = jax_parts(schedule)
    return in_python(state, update, updates)


def jax_jit(schedule: Any, updates: int) -> dict[str, Any]:
    state, update = jax_parts(schedule)
    return in_python(state, jax.jit(update), updates)


def jax_scan(schedule: Any, updates: int) -> dict[str, Any]:
    state, update = jax_parts(schedule)
    scan = jax.jit(lambda state: jax.lax.scan(update, state, None, length=updates))
    _, rates = scan(state)
    return rates_of(*rates)


def jax_vmap(schedule: Any, updates: int) -> dict[str, Any]:
    """All updates at once, from the states of as many runs, each at another update."""
    state, update = jax_parts(schedule)
    states = jax.tree.map(lambda count: jnp.arange(updates, dtype=count.dtype), state)
    _, rates = jax.vmap(update)(states)
    return rates_of(*rates)


def same_bits(rates: dict[str, Any], expected: Any) -> None:
    for rates_T in rates.values():
        assert rates_T.dtype == np.float32
        np.testing.assert_array_equal(rates_T.view(np.int32), expected.view(np.int32))


def table_of(knobs: dict[str, Any], T: int, warmup: int) -> Any:
    return learning_rates(recipe_of(knobs, T, warmup=warmup), 1).astype(np.float32)


FAMILIES = list({knobs["name"]: name for name, knobs in schedules_over(MILLION).items()}.values())
TORCH = {"eager": torch_eager, "torch.compile": torch_compiled}
JAX = {"eager": jax_eager, "jit": jax_jit, "scan": jax_scan, "vmap": jax_vmap}


def run_jax(mode: str, table_T: Any) -> dict[str, Any]:
    return JAX[mode](jax_impl.schedule.make_schedule(jnp.asarray(table_T)), len(table_T))


CASES = [
    pytest.param({"name": "constant"} | knobs, id=f"constant, {name}")
    for name, knobs in WARMUPS.items()
] + [
    pytest.param(knobs | WARMUPS[ramp], id=f"{name}, {ramp}")
    for name, knobs in schedules_over(SHORT).items()
    for ramp in "ABC"
    if ramp == "A" or name in ("linear", "cosine", "inverse_sqrt", "wsd, 1-sqrt")
]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what torch.compile imports
@pytest.mark.parametrize("knobs", CASES)
@pytest.mark.parametrize("mode", TORCH)
def test_torch_has_the_bits_of_the_closed_form(mode: str, knobs: dict[str, Any]) -> None:
    table_T = table_of(knobs, SHORT, 13)
    same_bits(TORCH[mode](table_T), table_T)


@pytest.mark.parametrize("knobs", CASES)
@pytest.mark.parametrize("mode", [mode for mode in JAX if mode != "eager"])
def test_jax_has_the_bits_of_the_closed_form(mode: str, knobs: dict[str, Any]) -> None:
    table_T = table_of(knobs, SHORT, 13)
    same_bits(run_jax(mode, table_T), table_T)


@pytest.mark.parametrize("name", schedules_over(SHORT))
def test_eager_jax_has_the_bits_of_the_closed_form(name: str) -> None:
    table_T = table_of(schedules_over(SHORT)[name], SHORT, 13)[:30]
    same_bits(run_jax("eager", table_T), table_T)


@pytest.mark.sweep
@pytest.mark.parametrize("ramp", "ABC")
@pytest.mark.parametrize("name", schedules_over(MILLION))
def test_jax_has_the_bits_of_the_closed_form_over_a_million_updates(name: str, ramp: str) -> None:
    table_T = table_of(schedules_over(MILLION)[name] | WARMUPS[ramp], MILLION, 3_000)
    for mode in ("scan", "vmap"):
        same_bits(run_jax(mode, table_T), table_T)


@pytest.mark.sweep
@pytest.mark.parametrize(
    ("name", "ramp"), [("constant", "B"), ("constant", "C"), *zip(FAMILIES, "ABC" * len(FAMILIES))]
)
def test_torch_has_the_bits_of_the_closed_form_over_a_million_updates(name: str, ramp: str) -> None:
    table_T = table_of(schedules_over(MILLION)[name] | WARMUPS[ramp], MILLION, 3_000)
    same_bits(torch_eager(table_T), table_T)


@pytest.mark.sweep
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what torch.compile imports
@pytest.mark.parametrize("mode", ["torch.compile", "jit"])
def test_compiled_updates_have_the_bits_of_the_closed_form_over_a_million_updates(
    mode: str,
) -> None:
    # one call an update; only the table differs between the schedules, and what is compiled does
    # not depend on it
    table_T = table_of(schedules_over(MILLION)["cosine"], MILLION, 3_000)
    same_bits(torch_compiled(table_T) if mode in TORCH else run_jax(mode, table_T), table_T)


# ---- what the libraries do themselves must fail these tests


@pytest.mark.parametrize("mode", ["jit", "scan", "vmap"])
def test_native_optax_cosine_is_caught(mode: str) -> None:
    knobs = {"name": "cosine", "ramp": "t/W"}
    table_T = table_of(knobs, SHORT, 13)
    native = JAX[mode](optax.warmup_cosine_decay_schedule(0.0, 0.01, 13, SHORT), SHORT)
    # it is the same curve
    np.testing.assert_allclose(native["applied"], table_T, atol=3e-7 * 0.01, rtol=0)
    with pytest.raises(AssertionError, match="Mismatched elements"):
        same_bits(native, table_T)


def test_a_native_optax_constant_is_caught_by_its_ramp() -> None:
    table_T = table_of({"name": "constant", "ramp": "t/W"}, SHORT, 13)
    with pytest.raises(AssertionError, match="Mismatched elements"):
        same_bits(jax_scan(optax.warmup_constant_schedule(0.0, 0.01, 13), SHORT), table_T)


def test_a_recursive_torch_schedule_of_a_tensor_rate_is_caught() -> None:
    table_T = table_of({"name": "cosine"}, SHORT, 0)
    parameter = torch.nn.Parameter(torch.zeros(()))
    optimizer = torch.optim.SGD([parameter], lr=torch.tensor(0.01), foreach=False)
    scheduler = CosineAnnealingLR(optimizer, SHORT)
    rates = _torch_run(SHORT, parameter, optimizer, scheduler, optimizer.step)
    np.testing.assert_allclose(rates["applied"], table_T, atol=3e-6 * 0.01, rtol=0)
    with pytest.raises(AssertionError, match="Mismatched elements"):
        same_bits(rates, table_T)


def test_a_rate_applied_late_is_caught() -> None:
    table_T = table_of({"name": "cosine"}, SHORT, 13)
    late = jax_impl.schedule.make_schedule(jnp.asarray(np.concatenate([table_T[:1], table_T[:-1]])))
    with pytest.raises(AssertionError, match="Mismatched elements"):
        same_bits(jax_scan(late, SHORT), table_T)
