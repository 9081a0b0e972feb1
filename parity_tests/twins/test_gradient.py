"""Between loss and optimizer: accumulation over batches, clipping by norm and by value."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import jax_impl.gradient
import jax_impl.train
import pt_impl.gradient
import pt_impl.train
from lockstep.data_prep import prepare
from lockstep.oracle.arithmetic import Exact
from lockstep.oracle.gradient import accumulate, clip, norm
from lockstep.recipe import Gradient
from lockstep.records.run_recorder import Watch
from lockstep.schedules.formulas import learning_rates
from parity_tests.shared.recipes import exact_trace, oracle_trace, prepared, small_recipe
from parity_tests.shared.sweep import sweep_but
from parity_tests.shared.twins import TWINS, forget_compiled, of_pair, patch_pair, twin_trace
from parity_tests.shared.verdicts import assert_agreement, assert_rounding, first_place

# 90 rows in 6 batches, the last of 10 rows; updates of 4 and 2 batches
ACCUMULATE = {"training__batch": 16, "gradient__accumulate": 4}
ADAMW = {"optimizer__name": "adamw", "optimizer__eps": 1e-3}
VARIANTS: dict[str, dict[str, Any]] = {
    "norm": {"gradient__clip": "norm", "gradient__clip_at": 0.2},
    "norm, eps of PyTorch": {
        "gradient__clip": "norm",
        "gradient__clip_at": 0.2,
        "gradient__clip_eps": 1e-6,
    },
    "norm, large eps": {
        "gradient__clip": "norm",
        "gradient__clip_at": 0.2,
        "gradient__clip_eps": 0.01,
    }
    | ADAMW,
    "norm, seldom": {"gradient__clip": "norm", "gradient__clip_at": 0.25},
    "value": {"gradient__clip": "value", "gradient__clip_at": 0.03},
    "accumulate": ACCUMULATE,
    "accumulate, by rows": ACCUMULATE | {"gradient__accumulate_mean": "rows"} | ADAMW,
    "accumulate, all": {"training__batch": 16, "gradient__accumulate": 100},
    "accumulate, clip": ACCUMULATE
    | {"gradient__clip": "norm", "gradient__clip_at": 0.2, "schedule__unit": "update"},
}
IN_FLOAT32 = ("norm, large eps", "value", "accumulate, by rows", "accumulate, clip")


# --- both twins follow the oracle


@pytest.mark.parametrize("variant", VARIANTS)
def test_float64_follows_the_oracle_at_every_update(variant: str, backend: str) -> None:
    recipe = small_recipe(training__dtype="float64", **VARIANTS[variant])
    trace, oracle = twin_trace(backend, recipe), exact_trace(recipe)
    updates = list(range(trace.header["updates"] + 1))
    assert trace.recorded_updates == updates == oracle.recorded_updates
    assert_agreement(trace, oracle, {})


@pytest.mark.parametrize("variant", sweep_but(IN_FLOAT32, VARIANTS))
def test_float32_stays_within_rounding(variant: str, backend: str) -> None:
    recipe = small_recipe(**VARIANTS[variant])
    trace, oracle = twin_trace(backend, recipe), oracle_trace(recipe)
    assert_rounding(trace, oracle)


def test_two_hundred_updates(backend: str) -> None:
    values = ACCUMULATE | {
        "gradient__clip": "norm",
        "gradient__clip_at": 0.2,
        "gradient__clip_eps": 1e-6,
    }
    recipe = small_recipe(
        training__dtype="float64", training__epochs=100, average__decay=0.9, **values
    )
    trace = TWINS[backend].train(recipe, prepared(recipe), watch=Watch(parameters_every=20))
    assert trace.header["updates"] == 200
    assert_rounding(trace, oracle_trace(recipe, parameters_every=20), {})


def test_clipping_is_at_work_where_it_is_tested() -> None:
    for variant in ("norm", "norm, seldom", "value"):
        recipe = small_recipe(training__dtype="float64", **VARIANTS[variant])
        free = small_recipe(training__dtype="float64")
        clipped = oracle_trace(recipe).series("update_norm")
        plain = oracle_trace(free).series("update_norm")
        assert (clipped != plain).any(), variant
    seldom = small_recipe(training__dtype="float64", **VARIANTS["norm, seldom"])
    norms = oracle_trace(seldom).series("grad_norm")
    assert (norms > 0.25).any()
    assert (norms < 0.25).any()


# --- what accumulation means


@given(
    rows=st.integers(8, 60),
    batch=st.integers(1, 8),
    many=st.integers(1, 9),
    mean=st.sampled_from(["batches", "rows"]),
    drop_last=st.booleans(),
)
@settings(deadline=None, max_examples=40)
def test_shares_of_an_update_add_up_to_one(
    rows: int, batch: int, many: int, mean: str, drop_last: bool
) -> None:
    recipe = small_recipe(
        data__rows=rows, data__classes=2, training__batch=batch, training__epochs=2
    )
    data = prepare(recipe)
    data = replace(data, accumulate=many, accumulate_mean=mean, drop_last=drop_last)
    batches = data.batches(0)
    assert batches.last_T[-1]
    assert batches.last_T.sum() == data.updates_per_epoch == -(-data.batches_per_epoch // many)
    starts = np.flatnonzero(np.concatenate([[True], batches.last_T[:-1]]))
    np.testing.assert_allclose(np.add.reduceat(batches.share_T, starts), 1.0, rtol=1e-15)
    assert (batches.share_T[batches.last_T][:-1] > 0).all()
    for begin, end in zip(starts, [*starts[1:], len(batches.last_T)]):
        assert end - begin <= many
        share = batches.share_T[begin:end]
        expected = batches.count_T[begin:end] if mean == "rows" else np.ones(end - begin)
        np.testing.assert_allclose(share, expected / expected.sum(), rtol=1e-15)


def test_accumulating_by_rows_is_a_larger_batch(backend: str) -> None:
    small = small_recipe(training__dtype="float64", gradient__accumulate_mean="rows", **ACCUMULATE)
    large = small_recipe(training__dtype="float64", training__batch=64)
    accumulated, whole = twin_trace(backend, small), twin_trace(backend, large)
    for name, values in accumulated.arrays.items():
        np.testing.assert_allclose(values, whole.arrays[name], rtol=1e-10, atol=1e-13, err_msg=name)


def test_the_rate_counts_updates_not_batches(backend: str) -> None:
    recipe = small_recipe(schedule__unit="update", schedule__warmup=5, **ACCUMULATE)
    trace = TWINS[backend].train(recipe, prepared(recipe))
    assert trace.header["updates"] == 8
    np.testing.assert_array_equal(trace.series("lr"), learning_rates(recipe, 2).astype(np.float32))
    # 5 updates of warmup, though 22 batches
    assert trace.series("lr")[3] < trace.series("lr")[4] == np.float32(0.05)


# --- clipping, by itself


def clipped_by(backend: str, gradient: Gradient, arrays: dict[str, Any]) -> dict[str, Any]:
    if backend == "jax":
        import jax

        with jax.enable_x64(True):
            gradients = {name: jnp.asarray(array) for name, array in arrays.items()}
            clipped = jax_impl.gradient.clip(gradient, gradients)
            return {name: np.asarray(array) for name, array in clipped.items()}
    parameters = {
        name: torch.nn.Parameter(torch.zeros(array.shape, dtype=torch.float64))
        for name, array in arrays.items()
    }
    for name, parameter in parameters.items():
        parameter.grad = torch.tensor(arrays[name])
    pt_impl.gradient.clip(gradient, list(parameters.values()))
    return {
        name: parameter.grad.numpy()
        for name, parameter in parameters.items()
        if parameter.grad is not None
    }


@given(
    values=st.lists(st.floats(-3, 3, allow_subnormal=False), min_size=6, max_size=6),
    at=st.floats(0.01, 9),
    eps=st.sampled_from([0.0, 1e-6, 0.1]),
    kind=st.sampled_from(["none", "norm", "value"]),
    backend=st.sampled_from(["torch", "jax"]),
)
@settings(deadline=None, max_examples=150)
def test_clip_is_the_formula(
    values: list[float], at: float, eps: float, kind: Any, backend: str
) -> None:
    arrays = {"a": np.array(values[:4]).reshape(2, 2), "b": np.array(values[4:]).reshape(1, 2)}
    gradient = Gradient(clip=kind, clip_at=at, clip_eps=eps)
    flat = np.array(values)
    size = float(np.sqrt((flat**2).sum()))
    expected = {
        "none": flat,
        "norm": flat * (min(1.0, at / (size + eps)) if size + eps > 0 else 1.0),
        "value": np.minimum(np.maximum(flat, -at), at),
    }[kind]
    with np.errstate(divide="ignore"):  # a norm of 0 without eps
        by_hand = clip(gradient, arrays, Exact())
    for clipped in (clipped_by(backend, gradient, arrays), by_hand):
        joined = np.concatenate([clipped[name].ravel() for name in "ab"])
        np.testing.assert_allclose(joined, expected, rtol=1e-14, atol=1e-300)
        if kind == "norm":
            assert np.sqrt((joined**2).sum()) <= at * (1 + 1e-14)


def test_the_oracle_accumulates_shares() -> None:
    first, second = {"w": np.ones((2, 2))}, {"w": np.full((2, 2), 3.0)}
    total = accumulate(accumulate({}, first, 0.25, Exact()), second, 0.75, Exact())
    np.testing.assert_array_equal(total["w"], 2.5)
    assert accumulate({}, first, 1.0, Exact()) is first
    assert norm(first, Exact()) == 2.0


# --- planted faults


@dataclass(frozen=True)
class Fault:
    """Names of a twin's `train` module, what to put in their place, and the stage and the update,
    one of 8, at which that shows.
    """

    put: dict[str, Callable[[Any], Any]]
    stage: str
    update: int
    recipe: dict[str, Any]


CLIPPED = {"gradient__clip": "norm", "gradient__clip_at": 0.2}


def other_clip(**values: Any) -> dict[str, Callable[[Any], Any]]:
    def put(module: Any) -> Any:
        original = of_pair(module, "clip")
        return lambda gradient, parameters: original(replace(gradient, **values), parameters)

    return {"clip": put}


def not_clipped(module: Any) -> Any:
    return lambda gradient, parameters: parameters


def clip_after(module: Any) -> Any:
    """Clip the change that the optimizer makes, in place of the gradient."""
    if module is jax_impl.train:

        def make_jax(optimizer: Any, schedules: Any, parameters: Any) -> Any:
            import optax

            transformation, state = jax_impl.optimizer.make_optimizer(
                optimizer, schedules, parameters
            )

            def update(gradients: Any, state: Any, parameters: Any) -> Any:
                steps, state = transformation.update(gradients, state, parameters)
                return jax_impl.gradient.clip(Gradient(clip="norm", clip_at=0.01), steps), state

            return optax.GradientTransformation(transformation.init, update), state

        return make_jax

    def make_torch(optimizer: Any, schedules: Any, parameters: Any) -> Any:
        torch_optimizer, scheduler = pt_impl.optimizer.make_optimizer(
            optimizer, schedules, parameters
        )
        before: list[Any] = []

        def keep(*_: Any) -> None:
            before[:] = [parameter.detach().clone() for parameter in parameters.values()]

        def clip_changes(*_: Any) -> None:
            with torch.no_grad():
                changes = [new - old for new, old in zip(parameters.values(), before)]
                norm = torch.cat([change.ravel() for change in changes]).norm()
                factor = (0.01 / norm).clamp(max=1.0)
                for parameter, old, change in zip(parameters.values(), before, changes):
                    parameter.copy_(old + factor * change)

        torch_optimizer.register_step_pre_hook(keep)
        torch_optimizer.register_step_post_hook(clip_changes)
        return torch_optimizer, scheduler

    return make_torch


def summed(module: Any) -> Any:
    original = module.load_batches

    def load(data: Any, epoch: int, device: Any) -> Any:
        batches = original(data, epoch, device)
        if module is pt_impl.train:
            return [batch._replace(share=1.0) for batch in batches]
        return batches._replace(share=jnp.ones_like(batches.share))

    return load


def by_rows(module: Any) -> Any:
    original = module.load_batches

    def load(data: Any, epoch: int, device: Any) -> Any:
        return original(replace(data, accumulate_mean="rows"), epoch, device)

    return load


def counted_in_batches(module: Any) -> Any:
    original = of_pair(module, "rate_tables")
    return lambda recipe, length: original(recipe, 6)


FAULTS = {
    "clip eps of PyTorch": Fault(other_clip(clip_eps=1e-6), "update", 0, CLIPPED),
    "clip eps of Optax": Fault(
        other_clip(clip_eps=0.0), "update", 0, CLIPPED | {"gradient__clip_eps": 1e-6}
    ),
    "not clipped": Fault({"clip": not_clipped}, "update", 0, CLIPPED),
    "value for norm": Fault(other_clip(clip="value"), "update", 0, CLIPPED),
    "clip after the optimizer": Fault(
        {"clip": not_clipped, "make_optimizer": clip_after}, "update", 0, CLIPPED
    ),
    "accumulation summed": Fault({"load_batches": summed}, "loss", 0, {}),
    "rows for batches": Fault({"load_batches": by_rows}, "loss", 1, {}),
    "W counted in batches": Fault(
        {"rate_tables": counted_in_batches}, "lr", 2, {"schedule__warmup": 2}
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_fault_is_caught_at_its_place(
    name: str, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault, module = FAULTS[name], TWINS[backend]
    recipe = small_recipe(training__dtype="float64", **ACCUMULATE, **fault.recipe)
    for attribute, put in fault.put.items():
        patch_pair(monkeypatch, module, attribute, put(module))
    forget_compiled()
    trace = module.train(recipe, prepared(recipe), watch=Watch(parameters_every=1))
    forget_compiled()
    assert first_place(trace, oracle_trace(recipe), {}) == (fault.stage, fault.update)
