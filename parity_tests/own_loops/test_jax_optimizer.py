"""Of an optimizer in JAX, what is read is what it does; the rest is left unsaid."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import lockstep
from lockstep.records.trace import Trace

Tree = Any
PARAMETERS = {"l1": {"bias": jnp.ones(2), "kernel": jnp.full((3, 2), 2.0)}}
BIAS, KERNEL = "l1.bias", "l1.kernel"
UPDATES = 5


def gradient_at(update: int) -> Tree:
    return jax.tree.map(lambda leaf: leaf * (0.1 + update), PARAMETERS)


def of_matrices(parameters: Tree) -> Tree:
    """A mask: kernels, and not biases."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, parameters)


def trace_of(path: Path, transformation: Any, watched: bool = True) -> tuple[Trace, list[Tree]]:
    """The trace of some updates, and the change of the parameters at each."""
    parameters = PARAMETERS
    state = transformation.init(parameters)
    changes = []
    with lockstep.Recorder(path, backend="jax") as recorder:
        recorder.start(parameters)
        if watched:
            recorder.watch(parameters, transformation)
        for update in range(UPDATES):
            change, state = transformation.update(gradient_at(update), state, parameters)
            parameters = optax.apply_updates(parameters, change)
            changes.append(change)
            recorder.update(parameters=parameters, moments=state)
    return Trace.load(path), changes


def read(trace: Trace) -> dict[str, Any]:
    [optimizer] = trace.header["read"]["optimizers"]
    return optimizer


B = {"b1": 0.8, "b2": 0.95}
BETAS = {"beta1": 0.8, "beta2": 0.95}
OPTIMIZERS: dict[str, tuple[Callable[..., Any], dict[str, Any], str, dict[str, Any]]] = {
    "sgd": (optax.sgd, {}, "sgd", {"momentum": 0.0, "weight_decay": 0.0}),
    "momentum": (
        optax.sgd,
        {"momentum": 0.7, "nesterov": True},
        "sgd",
        {"momentum": 0.7, "nesterov": True, "dampening": 0.0},
    ),
    "adam": (optax.adam, {**B, "eps": 1e-6}, "adam", {**BETAS, "eps": 1e-6, "weight_decay": 0.0}),
    "adamw": (
        optax.adamw,
        {**B, "weight_decay": 0.3},
        "adamw",
        {**BETAS, "eps": 1e-8, "weight_decay": 0.3},
    ),
    "nadamw": (optax.nadamw, {**B, "weight_decay": 0.3}, "nadamw", {**BETAS, "weight_decay": 0.3}),
    "amsgrad": (optax.amsgrad, B, "adam", {**BETAS, "amsgrad": "corrected"}),
    "adamax": (optax.adamax, B, "adamax", BETAS),
    "lion": (optax.lion, {**B, "weight_decay": 0.3}, "lion", {**BETAS, "weight_decay": 0.3}),
    "rmsprop": (optax.rmsprop, {"decay": 0.7}, "rmsprop", {"decay": 0.7, "eps_in_root": True}),
    "lamb": (optax.lamb, {**B, "weight_decay": 0.3}, "lamb", {**BETAS, "weight_decay": 0.3}),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_settings_are_those_that_the_optimizer_was_made_with(name: str, tmp_path: Path) -> None:
    make, given, catalogue_name, expected = OPTIMIZERS[name]
    trace, _ = trace_of(tmp_path / "trace", make(0.01, **given))
    assert read(trace)["name"] == catalogue_name
    assert read(trace)["class"].startswith("optax.chain(")
    [group] = read(trace)["groups"]
    assert group["parameters"] == [BIAS, KERNEL]
    assert group.items() >= {"lr": 0.01, **expected}.items()
    np.testing.assert_array_equal(trace.series("lr"), np.full(UPDATES, 0.01))


def rate_of_the_step(change: Tree, gradient: Tree) -> float:
    """The rate of plain gradient descent, from its step."""
    return -float(change["l1"]["kernel"][0, 0] / gradient["l1"]["kernel"][0, 0])


SCHEDULE = optax.warmup_cosine_decay_schedule(0.1, 1.0, 2, UPDATES)
OF_A_SCHEDULE = {
    "schedule": optax.sgd(SCHEDULE),
    "a chain": optax.chain(optax.clip_by_global_norm(100.0), optax.sgd(SCHEDULE)),
    "by hand": optax.chain(optax.scale_by_schedule(SCHEDULE), optax.scale(-0.5), optax.scale(2)),
    "injected": optax.inject_hyperparams(optax.sgd)(SCHEDULE),
    "masked": optax.masked(optax.sgd(SCHEDULE), {"l1": {"bias": True, "kernel": True}}),
    "if finite": optax.apply_if_finite(optax.sgd(SCHEDULE), 3),
}


@pytest.mark.parametrize("name", OF_A_SCHEDULE)
def test_the_rate_is_the_one_that_the_step_has(name: str, tmp_path: Path) -> None:
    trace, changes = trace_of(tmp_path / "trace", OF_A_SCHEDULE[name])
    expected = [
        rate_of_the_step(change, gradient_at(update)) for update, change in enumerate(changes)
    ]
    assert len(set(expected)) == UPDATES
    np.testing.assert_allclose(trace.series("lr"), expected, rtol=1e-6)
    assert trace.series("lr").dtype == np.float32
    if name == "schedule":
        [schedule] = trace.header["read"]["schedulers"]
        assert schedule["class"] == "optax.join_schedules"
        assert [part["class"] for part in schedule["schedules"]] == [
            "optax.polynomial_schedule",
            "optax.cosine_decay_schedule",
        ]


def test_micro_steps_have_the_rate_of_their_step(tmp_path: Path) -> None:
    steps = optax.MultiSteps(optax.sgd(SCHEDULE), every_k_schedule=2)
    trace, _ = trace_of(tmp_path / "trace", steps)
    expected = [float(SCHEDULE(update // 2)) for update in range(UPDATES)]
    np.testing.assert_allclose(trace.series("lr"), expected, rtol=1e-6)


def test_injected_hyperparameters_are_read_of_the_state_alone(tmp_path: Path) -> None:
    injected = optax.inject_hyperparams(optax.adamw)(SCHEDULE, weight_decay=0.3)
    trace, _ = trace_of(tmp_path / "trace", injected, watched=False)
    expected = [float(SCHEDULE(update)) for update in range(UPDATES)]
    np.testing.assert_allclose(trace.series("lr"), expected, rtol=1e-6)
    [group] = read(trace)["groups"]
    assert group.items() >= {"beta1": 0.9, "beta2": 0.999, "weight_decay": 0.3}.items()
    watched, _ = trace_of(tmp_path / "watched", injected)
    assert read(watched)["name"] == "adamw"


def test_groups_are_those_of_masks_and_labels(tmp_path: Path) -> None:
    masked = optax.adamw(0.01, weight_decay=0.3, mask=of_matrices)
    trace, _ = trace_of(tmp_path / "mask", masked)
    assert read(trace)["name"] == "adamw"
    decays = {group["parameters"][0]: group["weight_decay"] for group in read(trace)["groups"]}
    assert decays == {BIAS: 0.0, KERNEL: 0.3}
    labels = {"l1": {"bias": "slow", "kernel": "fast"}}
    parts = {"slow": optax.sgd(0.01), "fast": optax.sgd(0.1)}
    trace, _ = trace_of(tmp_path / "labels", optax.transforms.partition(parts, labels))
    rates = {group["parameters"][0]: group["lr"] for group in read(trace)["groups"]}
    assert rates == {BIAS: 0.01, KERNEL: 0.1}
    assert "updates/lr" not in trace.arrays
    frozen = {"slow": optax.set_to_zero(), "fast": optax.sgd(0.1)}
    trace, _ = trace_of(tmp_path / "frozen", optax.transforms.partition(frozen, labels))
    assert [group["parameters"] for group in read(trace)["groups"]] == [[KERNEL]]
    assert (trace.series("lr") == 0.1).all()


def halve(updates: Tree, state: Any, parameters: Tree = None) -> tuple[Tree, Any]:
    return jax.tree.map(lambda leaf: leaf / 2, updates), state


HALVED = optax.GradientTransformation(lambda parameters: (), halve)
UNKNOWN = {
    "after": optax.chain(optax.adam(0.01), HALVED),
    "alone": HALVED,
    "renamed": optax.chain(optax.scale_by_factored_rms(), optax.scale(-0.1)),
    "eps_root": optax.adam(0.01, eps_root=1e-8),
    "two": optax.chain(optax.adam(0.01), optax.trace(0.9)),
    "decay after the rate": optax.chain(optax.sgd(0.01), optax.add_decayed_weights(0.1)),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_is_not_certain_has_no_name_and_no_rate(name: str, tmp_path: Path) -> None:
    trace, _ = trace_of(tmp_path / "trace", UNKNOWN[name])
    assert read(trace)["name"] == ""
    has_rate = name in ("eps_root", "two", "decay after the rate")
    assert ("updates/lr" in trace.arrays) == has_rate


def test_nothing_is_read_of_a_bare_state(tmp_path: Path) -> None:
    trace, _ = trace_of(tmp_path / "trace", optax.adam(0.01), watched=False)
    assert trace.header["read"] == {}
    assert "updates/lr" not in trace.arrays


def test_an_optimizer_of_nnx_needs_no_watch(tmp_path: Path) -> None:
    model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.adamw(SCHEDULE, mask=of_matrices), wrt=nnx.Param)
    with lockstep.Recorder(tmp_path / "trace", backend="jax") as recorder:
        recorder.start(model)
        gradient_of = recorder.value_and_grad(lambda model, x: model(x).sum())
        for _ in range(2):
            _, gradients = gradient_of(model, jnp.ones((4, 3)))
            optimizer.update(model, gradients)
            recorder.update(parameters=model, moments=optimizer)
    trace = Trace.load(tmp_path / "trace")
    assert read(trace)["name"] == "adamw"
    members = [group["parameters"] for group in read(trace)["groups"]]
    assert members == [["bias"], ["kernel"]]
    np.testing.assert_allclose(trace.series("lr"), [0.1, 0.55], rtol=1e-6)


def test_a_rate_that_the_loop_gives_counts(tmp_path: Path) -> None:
    optimizer = optax.sgd(0.01)
    state = optimizer.init(PARAMETERS)
    with lockstep.Recorder(tmp_path / "given", backend="jax") as recorder:
        recorder.start(PARAMETERS)
        recorder.watch(PARAMETERS, optimizer)
        recorder.update(parameters=PARAMETERS, moments=state, lr=0.5)
    assert Trace.load(tmp_path / "given").series("lr").tolist() == [0.5]
    with lockstep.Recorder(tmp_path / "partly", backend="jax") as recorder:
        recorder.start(PARAMETERS)
        recorder.watch(PARAMETERS, optimizer)
        recorder.update(parameters=PARAMETERS, moments=state)
        recorder.update(parameters=PARAMETERS)
    assert "updates/lr" not in Trace.load(tmp_path / "partly").arrays


def test_watch_starts_where_the_loop_does_not(tmp_path: Path) -> None:
    transformation = optax.sgd(0.5)
    traces = []
    for perturb in (None, 1):
        path = tmp_path / f"{perturb}.trace"
        with lockstep.Recorder(path, backend="jax", perturb=perturb) as recorder:
            parameters = recorder.watch(PARAMETERS, transformation)
            state = transformation.init(parameters)
            changes, state = transformation.update(gradient_at(0), state, parameters)
            recorder.update(parameters=optax.apply_updates(parameters, changes), moments=state)
        traces.append(Trace.load(path))
        recorded = traces[-1].parameters(0)[KERNEL]
        assert np.array_equal(recorded, parameters["l1"]["kernel"])
    first, moved = (trace.parameters(0)[KERNEL] for trace in traces)
    assert np.array_equal(first, PARAMETERS["l1"]["kernel"])
    assert (moved != first).all()
    assert np.allclose(moved, first)
