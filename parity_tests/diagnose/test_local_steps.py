"""An optimizer's settings are measured from its own steps: those that it was given, within their
standard errors, and none where no rule explains the steps.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from lockstep.diagnose.local.measurement import Measurement
from lockstep.diagnose.local.step_differences import compare_steps
from lockstep.diagnose.local.steps import measure_steps
from lockstep.own_loops.arrays import moments_of, to_array
from lockstep.records.trace import Trace

Arrays = dict[str, NDArray[Any]]
SHAPES = {
    "hidden.weight": (24, 40),
    "hidden.bias": (24,),
    "norm.weight": (24,),
    "out.weight": (9, 24),
}
UPDATES = 4
RATE = 2e-3


def start_of(seed: int, dtype: Any = np.float32) -> Arrays:
    """Parameters as models begin with: small weights, biases of 0, normalisations of 1."""
    draw = np.random.Generator(np.random.PCG64(seed))
    start = {name: draw.normal(0, 0.2, shape).astype(dtype) for name, shape in SHAPES.items()}
    start["hidden.bias"][:] = 0
    start["norm.weight"][:] = 1
    return start


def gradient_of(seed: int, update: int, dtype: Any = np.float32) -> Arrays:
    """Gradients of many sizes, as of a model whose units are not all awake."""
    draw = np.random.Generator(np.random.PCG64([seed, update]))
    return {
        name: (draw.normal(size=shape) * 10 ** draw.uniform(-6, 0, shape)).astype(dtype)
        for name, shape in SHAPES.items()
    }


def trace_of(states: list[Arrays], details: list[Arrays], rates: list[float] | None) -> Trace:
    arrays: Arrays = {} if rates is None else {"updates/lr": np.array(rates)}
    for update, state in enumerate(states):
        arrays |= {f"parameters/{update}/{name}": array for name, array in state.items()}
    for update, detail in enumerate(details):
        arrays |= {f"detail/{update}/{name}": array for name, array in detail.items()}
    return Trace({"kind": "loop", "detail": list(range(len(details)))}, arrays)


class Parameters(torch.nn.Module):
    """The parameters alone; the gradients are drawn."""

    def __init__(self, start: Arrays) -> None:
        super().__init__()
        for name, array in start.items():
            parameter = torch.nn.Parameter(torch.from_numpy(array.copy()))
            self.register_parameter(name.replace(".", "_"), parameter)


def torch_steps(
    make: Callable[[Any], Any],
    *,
    seed: int = 0,
    dtype: Any = np.float32,
    factor: float = 1.0,
    reports: bool = True,
    noise: float = 0.0,
    records_after: bool = False,
) -> Trace:
    """Updates of an optimizer of PyTorch; `factor` multiplies the rate that it reports, `noise` is
    added to its gradients in proportion. `records_after` reads the gradients after the step.
    """
    model = Parameters(start_of(seed, dtype))
    optimizer = make(model)
    draw = np.random.Generator(np.random.PCG64(seed + 1))
    states = [arrays_of(dict(model.named_parameters()))]
    details: list[Arrays] = []
    rates: list[float] = []
    for update in range(UPDATES):
        gradients = gradient_of(seed, update, dtype)
        for name, array in gradients.items():
            array *= (1 + noise * draw.normal(size=array.shape)).astype(dtype)
            model.get_parameter(name.replace(".", "_")).grad = torch.from_numpy(array.copy())
        rates.append(optimizer.param_groups[0]["lr"])
        for group in optimizer.param_groups:
            group["lr"] *= factor
        optimizer.step()
        for group in optimizer.param_groups:
            group["lr"] /= factor
        states.append(arrays_of(dict(model.named_parameters())))
        if records_after:
            gradients = arrays_of({n: p.grad for n, p in model.named_parameters()})
        slots = moments_of(optimizer, model, [])
        detail = {f"clip/{name}": array for name, array in gradients.items()}
        detail |= {f"gradients/{name}": array for name, array in gradients.items()}
        details.append(detail | {f"moments/{n}": a for n, a in arrays_of(slots).items()})
    return trace_of(states, details, rates if reports else None)


def optax_steps(
    optimizer: Any, *, seed: int = 0, rate: float | None = RATE, jitted: bool = True
) -> Trace:
    """Updates of a transformation of Optax in float32."""
    with jax.enable_x64(False):
        parameters = {name: jnp.asarray(array) for name, array in start_of(seed).items()}
        state = optimizer.init(parameters)
        step = jax.jit(optimizer.update) if jitted else optimizer.update
        states = [arrays_of(parameters)]
        details: list[Arrays] = []
        for update in range(UPDATES):
            gradients = gradient_of(seed, update)
            changes, state = step(jax.tree.map(jnp.asarray, gradients), state, parameters)
            parameters = optax.apply_updates(parameters, changes)
            states.append(arrays_of(parameters))
            slots = moments_of(state, None, list(parameters))
            detail = {f"gradients/{name}": array for name, array in gradients.items()}
            details.append(detail | {f"moments/{n}": a for n, a in arrays_of(slots).items()})
    return trace_of(states, details, None if rate is None else [rate] * UPDATES)


def arrays_of(tensors: Mapping[str, Any]) -> Arrays:
    """Copies in NumPy, by the names of SHAPES."""
    arrays = {}
    for path, tensor in tensors.items():
        slot, _, name = path.rpartition("/")
        prefix = f"{slot}/" if slot else ""
        arrays[prefix + name.replace("_", ".")], _ = to_array(tensor)
    return arrays


def quantities(measurements: list[Measurement]) -> dict[str, Measurement]:
    return {f"{m.quantity} {m.tensor}".strip(): m for m in measurements}


def assert_measured(trace: Trace, expected: Mapping[str, float], update: int = 1) -> None:
    measured = quantities(measure_steps(trace, update))
    for name, value in expected.items():
        assert name in measured, (name, measured)
        entry = measured[name]
        assert abs(entry.value - value) <= 5 * entry.error, entry
        # an error so large that it says nothing would pass too
        assert entry.error <= max(1e-3 * abs(value), 1e-4), entry


def adamw(**knobs: Any) -> Callable[[Any], Any]:
    return lambda model: torch.optim.AdamW(model.parameters(), **{"lr": RATE} | knobs)


def adam(**knobs: Any) -> Callable[[Any], Any]:
    return lambda model: torch.optim.Adam(model.parameters(), **{"lr": RATE} | knobs)


def sgd(**knobs: Any) -> Callable[[Any], Any]:
    return lambda model: torch.optim.SGD(model.parameters(), **{"lr": RATE} | knobs)


SHARES = st.floats(0.5, 0.99)
SECONDS = st.floats(0.9, 0.9999)
RATES = st.floats(1e-3, 1e-1)
DECAYS = st.floats(1e-3, 0.3)


@settings(max_examples=6, deadline=None)
@given(
    lr=RATES,
    beta1=SHARES,
    beta2=SECONDS,
    eps=st.sampled_from([1e-8, 1e-6, 1e-4]),
    decay=DECAYS,
    foreach=st.booleans(),
    seed=st.integers(0, 99),
)
def test_the_knobs_of_adamw_are_measured_within_their_errors(
    lr: float, beta1: float, beta2: float, eps: float, decay: float, foreach: bool, seed: int
) -> None:
    make = adamw(lr=lr, betas=(beta1, beta2), eps=eps, weight_decay=decay, foreach=foreach)
    expected = {
        "learning rate": lr,
        "beta1": beta1,
        "beta2": beta2,
        "eps": eps,
        "weight decay": decay,
        "bias correction": 1.0,
    }
    trace = torch_steps(make, seed=seed)
    for update in (0, 1):
        assert_measured(trace, expected, update)


@settings(max_examples=5, deadline=None)
@given(lr=RATES, beta1=SHARES, beta2=SECONDS, decay=DECAYS, seed=st.integers(0, 99))
def test_a_decay_in_the_gradient_is_measured_in_it(
    lr: float, beta1: float, beta2: float, decay: float, seed: int
) -> None:
    trace = torch_steps(adam(lr=lr, betas=(beta1, beta2), weight_decay=decay), seed=seed)
    expected = {"learning rate": lr, "weight decay in the gradient": decay, "weight decay": 0.0}
    assert_measured(trace, expected)


@settings(max_examples=5, deadline=None)
@given(
    lr=RATES,
    beta1=SHARES,
    beta2=SECONDS,
    eps=st.sampled_from([1e-8, 1e-6]),
    decay=DECAYS,
    seed=st.integers(0, 99),
)
def test_the_knobs_of_optax_are_measured_too(
    lr: float, beta1: float, beta2: float, eps: float, decay: float, seed: int
) -> None:
    optimizer = optax.adamw(lr, beta1, beta2, eps, weight_decay=decay)
    expected = {
        "learning rate": lr,
        "beta1": beta1,
        "beta2": beta2,
        "eps": eps,
        "weight decay": decay,
    }
    assert_measured(optax_steps(optimizer, seed=seed, rate=lr, jitted=False), expected)


@settings(max_examples=5, deadline=None)
@given(
    lr=RATES,
    momentum=SHARES,
    decay=DECAYS,
    nesterov=st.booleans(),
    seed=st.integers(0, 99),
)
def test_the_knobs_of_sgd_are_measured_within_their_errors(
    lr: float, momentum: float, decay: float, nesterov: bool, seed: int
) -> None:
    make = sgd(lr=lr, momentum=momentum, weight_decay=decay, nesterov=nesterov)
    expected = {
        "learning rate": lr,
        "weight decay in the gradient": decay,
        "nesterov": float(nesterov),
    }
    trace = torch_steps(make, seed=seed)
    assert_measured(trace, expected, 0)
    assert_measured(trace, expected | {"momentum": momentum}, 1)


def test_plain_sgd_needs_no_moments() -> None:
    trace = torch_steps(sgd(weight_decay=0.1))
    expected = {"learning rate": RATE, "weight decay in the gradient": 0.1}
    for update in range(UPDATES):
        assert_measured(trace, expected, update)


def of(name: str, **knobs: Any) -> Callable[[Any], Any]:
    """An optimizer of PyTorch with the rate of these tests."""
    return lambda model: getattr(torch.optim, name)(model.parameters(), **{"lr": RATE} | knobs)


L2, OUTER = "weight decay in the gradient", "weight decay"
TORCH: dict[str, tuple[Callable[[Any], Any], dict[str, float]]] = {
    "rmsprop": (of("RMSprop", alpha=0.95, eps=1e-6), {"decay": 0.95, "eps": 1e-6, OUTER: 0.0}),
    "decayed": (of("RMSprop", weight_decay=0.1), {"decay": 0.99, L2: 0.1}),
    "centered": (of("RMSprop", centered=True), {"eps": 1e-8}),
    "adagrad": (of("Adagrad", weight_decay=0.1), {L2: 0.1}),
    "adamax": (of("Adamax", weight_decay=0.1), {"beta1": 0.9, L2: 0.1, "bias correction": 1.0}),
    "nadam": (of("NAdam", weight_decay=0.1), {"beta1": 0.9, "beta2": 0.999, L2: 0.1, OUTER: 0.0}),
    "nadamw": (of("NAdam", weight_decay=0.1, decoupled_weight_decay=True), {OUTER: 0.1}),
    "radam": (of("RAdam", weight_decay=0.1), {"beta1": 0.9, L2: 0.1}),
    "rectified": (of("RAdam", betas=(0.9, 0.9999), weight_decay=0.1), {L2: 0.1}),
}  # fmt: skip
"""An optimizer of PyTorch -> what is measured of it, beside its learning rate."""
OPTAX: dict[str, tuple[Any, dict[str, float]]] = {
    "rmsprop": (optax.rmsprop(RATE), {"decay": 0.9, "eps": 1e-8, "eps in the root": 1.0}),
    "corrected": (optax.rmsprop(RATE, bias_correction=True), {"eps": 1e-8, "bias correction": 1.0}),
    "centered": (optax.rmsprop(RATE, centered=True), {"eps": 1e-8}),
    "adagrad": (optax.adagrad(RATE), {}),
    "adamaxw": (optax.adamaxw(RATE, weight_decay=0.1), {OUTER: 0.1}),
    "nadamw": (optax.nadamw(RATE, weight_decay=0.1), {"eps": 1e-8, OUTER: 0.1}),
    "radam": (optax.radam(RATE), {"beta1": 0.9}),
    "adabelief": (optax.adabelief(RATE), {"beta1": 0.9, "beta2": 0.999}),
    "lion": (optax.lion(RATE, weight_decay=0.1), {"beta2": 0.99, OUTER: 0.1}),
    "signum": (optax.signum(RATE, 0.8), {"momentum": 0.8}),
}
"""As TORCH, of Optax."""


@pytest.mark.parametrize("name", TORCH)
def test_other_optimizers_of_pytorch_are_known(name: str) -> None:
    make, expected = TORCH[name]
    trace = torch_steps(make)
    for update in range(1, UPDATES):
        assert_measured(trace, expected | {"learning rate": RATE}, update)


@pytest.mark.parametrize("name", OPTAX)
def test_other_optimizers_of_optax_are_known(name: str) -> None:
    optimizer, expected = OPTAX[name]
    trace = optax_steps(optimizer)
    for update in range(1, UPDATES):
        assert_measured(trace, expected | {"learning rate": RATE}, update)


def test_a_trust_ratio_is_no_learning_rate() -> None:
    trace = optax_steps(optax.lamb(RATE, weight_decay=0.1))
    measured = quantities(measure_steps(trace, 1))
    assert not any(name.startswith("learning rate") for name in measured)
    assert abs(measured["weight decay"].value - 0.1) < 5 * measured["weight decay"].error
    assert compare_steps(trace, optax_steps(optax.lamb(RATE, weight_decay=0.1), seed=1)) == []


def test_the_norm_of_clipping_is_measured_through_the_moments() -> None:
    def clipped(bound: float) -> Any:
        return optax.chain(optax.clip_by_global_norm(bound), optax.adam(RATE))

    (difference,) = compare_steps(optax_steps(clipped(0.5)), optax_steps(clipped(0.25)))
    assert "a clips its gradient to the norm 0.5, b to 0.25" in difference.text
    (difference,) = compare_steps(optax_steps(clipped(0.5)), torch_steps(adam()))
    assert "b does not clip" in difference.text
    assert compare_steps(optax_steps(clipped(0.5)), optax_steps(clipped(0.5), seed=1)) == []


def test_a_gradient_with_the_other_sign_is_named() -> None:
    (difference,) = compare_steps(torch_steps(adam()), torch_steps(adam(maximize=True)))
    assert "b gives its optimizer the gradient with the other sign" in difference.text


def test_the_direction_of_nesterov_that_foreach_writes_over_the_gradient_is_known() -> None:
    make = sgd(momentum=0.9, nesterov=True)
    b = torch_steps(sgd(momentum=0.9, nesterov=True, foreach=True), records_after=True)
    assert compare_steps(torch_steps(make), b) == []


def without_decay_of_vectors(model: Any) -> Any:
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=RATE, weight_decay=0.1)


PAIRS: dict[str, tuple[Callable[[Any], Any], tuple[str, ...], str]] = {
    "weight decay": (adamw(weight_decay=1e-4), ("weight decay", "0.1", "0.0001"),
                     "adamw-default-weight-decay"),
    "rate": (adamw(weight_decay=0.1, lr=RATE * 1.05), ("learning rate", "1.05 times"), ""),
    "beta1": (adamw(weight_decay=0.1, betas=(0.95, 0.999)), ("beta1", "0.9 ", "0.95"), ""),
    "beta2": (adamw(weight_decay=0.1, betas=(0.9, 0.95)), ("beta2", "0.999", "0.95"), ""),
    "eps": (adamw(weight_decay=0.1, eps=1e-6), ("eps", "1e-08", "1e-06"), ""),
    "L2": (adam(weight_decay=0.1), ("L2", "decoupled"), "l2-is-not-decoupled-decay"),
    "mask": (without_decay_of_vectors, ("a decays biases and norms as well by 0.1",),
             "decay-mask-forgotten"),
    "amsgrad": (adamw(weight_decay=0.1, amsgrad=True), ("amsgrad",), ""),
    "other": (sgd(momentum=0.9), ("adam", "sgd"), ""),
}  # fmt: skip
"""Name -> an optimizer, the words of its difference from AdamW with a decay of 0.1, the page."""


@pytest.mark.parametrize("name", PAIRS)
def test_one_setting_that_differs_is_named_alone(name: str) -> None:
    make, words, page = PAIRS[name]
    a = torch_steps(adamw(weight_decay=0.1))
    b = torch_steps(make, noise=1e-2)
    (difference,) = compare_steps(a, b)
    assert all(word in difference.text for word in words), difference.text
    assert difference.page == page
    assert difference.updates[0] == 0
    assert difference.persists
    # the same with the sides exchanged
    (other,) = compare_steps(b, a)
    assert other.page == page
    assert np.isclose(other.a.value, difference.b.value, rtol=1e-9, atol=0)


@pytest.mark.parametrize(
    ("knobs", "words", "update"),
    [
        ({"momentum": 0.95}, ("momentum 0.9 in a and 0.95 in b",), 1),
        ({"momentum": 0.0}, ("momentum 0.9 in a and 0 in b",), 1),
        ({"momentum": 0.9, "dampening": 0.3}, ("dampening 0 in a and 0.3 in b",), 1),
        ({"momentum": 0.9, "nesterov": True}, ("b takes Nesterov's step",), 0),
        ({"momentum": 0.9, "weight_decay": 0.1}, ("in the gradient 0 in a and 0.1 in b",), 0),
    ],
)
def test_a_knob_of_sgd_that_differs_is_named_alone(
    knobs: dict[str, Any], words: tuple[str, ...], update: int
) -> None:
    (difference,) = compare_steps(torch_steps(sgd(momentum=0.9)), torch_steps(sgd(**knobs)))
    assert all(word in difference.text for word in words), difference.text
    assert difference.updates[0] == update


def test_a_rate_that_is_applied_and_not_reported_is_measured() -> None:
    a = torch_steps(adamw(weight_decay=0.1))
    b = torch_steps(adamw(weight_decay=0.1), factor=1.05)
    (difference,) = compare_steps(a, b)
    assert "1.05 times a's, though both report 0.002" in difference.text
    assert abs(difference.b.value - 1.05 * RATE) < 5 * difference.b.error


def test_one_recorded_update_tells_a_rate_that_is_not_applied() -> None:
    traces = []
    for factor in (1.0, 1.05):
        trace = torch_steps(adamw(weight_decay=0.1), factor=factor)
        trace.header["detail"] = [0]
        traces.append(trace)
    (difference,) = compare_steps(*traces)
    assert "1.05 times" in difference.text


def uncorrected(model: Any) -> Any:
    """AdamW whose step is that of moments without correction."""

    class Uncorrected(torch.optim.AdamW):
        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            before = [p.detach().clone() for p in model.parameters()]
            super().step(closure)
            group = self.param_groups[0]
            with torch.no_grad():
                for parameter, old in zip(model.parameters(), before):
                    state = self.state[parameter]
                    root = state["exp_avg_sq"].sqrt() + group["eps"]
                    decayed = old * (1 - group["lr"] * group["weight_decay"])
                    parameter.copy_(decayed - group["lr"] * state["exp_avg"] / root)

    return Uncorrected(model.parameters(), lr=RATE, weight_decay=0.1)


@pytest.mark.parametrize("reports", [True, False])
def test_moments_that_are_not_corrected_are_named(reports: bool) -> None:
    a = torch_steps(adamw(weight_decay=0.1), reports=reports)
    b = torch_steps(uncorrected, noise=1e-2, reports=reports)
    difference = compare_steps(a, b)[0]
    assert "b does not correct" in difference.text
    assert difference.page == "adam-without-its-correction"


RIGHT: dict[str, tuple[Callable[[Any], Any], Any]] = {
    "adamw": (adamw(weight_decay=0.1), optax.adamw(RATE, weight_decay=0.1)),
    "adam": (adam(), optax.adam(RATE)),
    "sgd": (sgd(), optax.sgd(RATE)),
    "momentum": (sgd(momentum=0.9), optax.sgd(RATE, 0.9)),
    "nesterov": (sgd(momentum=0.9, nesterov=True), optax.sgd(RATE, 0.9, nesterov=True)),
    "L2": (sgd(momentum=0.9, weight_decay=0.1),
           optax.chain(optax.add_decayed_weights(0.1), optax.sgd(RATE, 0.9))),
}  # fmt: skip
"""An optimizer of PyTorch, and its right port."""


@pytest.mark.parametrize("name", RIGHT)
@pytest.mark.parametrize("jitted", [True, False])
def test_nothing_is_said_of_a_right_port(name: str, jitted: bool) -> None:
    make, optimizer = RIGHT[name]
    a = torch_steps(make, noise=1e-2)
    assert compare_steps(a, optax_steps(optimizer, jitted=jitted)) == []


def test_amsgrad_is_told_by_the_moment_that_it_keeps() -> None:
    (difference,) = compare_steps(torch_steps(adam(amsgrad=True)), optax_steps(optax.amsgrad(RATE)))
    assert "b the largest corrected one" in difference.text
    assert difference.page == "amsgrad-of-which-moment"


def test_nothing_is_said_of_an_optimizer_that_nobody_knows() -> None:
    def cubed(model: Any) -> Any:
        optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
        hook = optimizer.register_step_post_hook

        def after(*_: Any) -> None:
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(parameter.grad**3)

        hook(after)
        return optimizer

    trace = torch_steps(cubed)
    assert measure_steps(trace, 1) == []
    assert compare_steps(torch_steps(adamw()), trace) == []
