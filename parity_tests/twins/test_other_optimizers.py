"""All optimizers but SGD, Adam and their kin: the twins against the oracle at every update, planted
faults, and the libraries' own classes against the oracle where the twins do without them.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import jax_impl.optimizer
import jax_impl.train
import pt_impl.optimizer
import pt_impl.train
from lockstep.diagnose.compare import SEMANTICS, compare
from lockstep.oracle.arithmetic import Exact, Moments, Perturbed
from lockstep.oracle.optimizer import update_parameter
from lockstep.recipe import Optimizer, Recipe
from lockstep.records.run_recorder import Watch
from parity_tests.records.test_checkpoint import assert_goes_on
from parity_tests.shared.optimizers import CASES, KIN, at_defaults, forms, other_knobs
from parity_tests.shared.recipes import exact_trace, oracle_trace, prepared, small_recipe
from parity_tests.shared.sweep import sweep_but
from parity_tests.shared.twins import TWINS, forget_compiled, of_pair, patch_pair, twin_trace
from parity_tests.shared.verdicts import assert_agreement, assert_rounding

Tensors = dict[str, NDArray[Any]]

NAMES = [name for name in CASES if name not in KIN]
VARIANTS: dict[str, dict[str, Any]] = {
    form: dict(knobs) for name in NAMES for form, knobs in forms(name).items()
}
FIRST_FORMS = [next(iter(forms(name))) for name in NAMES]
LAST_FORMS = [list(forms(name))[-1] for name in NAMES]
OPTAX_MUON = VARIANTS["muon, Optax"]
OPTAX_ADAFACTOR = VARIANTS["adafactor, Optax"]


def optimizer_of(variant: str) -> Optimizer:
    return Optimizer(name=variant.partition(",")[0], **VARIANTS[variant])


def recipe_of(variant: str, **values: Any) -> Recipe:
    name = variant.partition(",")[0]
    knobs = {f"optimizer__{knob}": value for knob, value in VARIANTS[variant].items()}
    return small_recipe(
        optimizer__name=name,
        model__activation="tanh",
        schedule__peak=CASES[name].peak,
        **knobs,
        **values,
    )


def test_every_optimizer_is_tested_and_each_of_its_presets() -> None:
    assert CASES.keys() == Optimizer.variants.keys()
    for name, case in CASES.items():
        assert case.libraries.keys() == Optimizer.variants[name].spec.presets.keys()


# --- training


@pytest.mark.parametrize("variant", VARIANTS)
def test_float64_training_follows_the_oracle_at_each_of_200_updates(
    variant: str, backend: str
) -> None:
    recipe = recipe_of(variant, training__dtype="float64", training__epochs=67)
    trace, oracle = twin_trace(backend, recipe), exact_trace(recipe)
    assert trace.recorded_updates == list(range(202)) == oracle.recorded_updates
    assert_agreement(trace, oracle, {})  # without bounds: 1e-12 alone


@pytest.mark.parametrize("variant", sweep_but(FIRST_FORMS, VARIANTS))
def test_float32_training_stays_within_rounding(variant: str, backend: str) -> None:
    recipe = recipe_of(variant)
    trace, oracle = twin_trace(backend, recipe), oracle_trace(recipe)
    assert trace.series("loss").dtype == np.float32
    assert_rounding(trace, oracle)


@pytest.mark.parametrize("variant", sweep_but(LAST_FORMS, VARIANTS))
def test_a_run_goes_on_in_the_other_framework(variant: str) -> None:
    recipe = recipe_of(variant, training__dtype="float64")
    for writer, reader in (("torch", "jax"), ("jax", "torch")):
        assert_goes_on(writer, reader, 5, recipe)


# --- single updates, over the same gradients


def start_of(inputs: int, outputs: int, seed: int) -> Tensors:
    generator = np.random.default_rng(seed)
    return {
        "linear1.weight": generator.normal(size=(inputs, outputs)),
        "linear1.bias": generator.normal(size=outputs),
        "norm1.weight": generator.normal(size=outputs),
    }


def gradients_of(start: Tensors, updates: int, seed: int, zeros: float = 0.0) -> list[Tensors]:
    """Gradients of either sign and many sizes, with a share of them 0."""
    generator = np.random.default_rng([seed, 1])
    return [
        {
            name: generator.normal(size=array.shape)
            * 10.0 ** generator.uniform(-3, 1)
            * (generator.random(array.shape) >= zeros)
            for name, array in start.items()
        }
        for _ in range(updates)
    ]


def drive_oracle(
    optimizer: Optimizer, rates: Sequence[float], start: Tensors, gradients: list[Tensors]
) -> Any:
    """The parameters after each update."""
    moments: dict[str, Moments] = {name: {} for name in start}
    parameters = {name: np.atleast_2d(array) for name, array in start.items()}
    after = []
    for update, (rate, gradient) in enumerate(zip(rates, gradients)):
        for name, array in parameters.items():
            slope, slots = np.atleast_2d(gradient[name]), moments[name]
            parameters[name] = update_parameter(
                name, optimizer, rate, update, array, slope, slots, Exact()
            )
        after.append({name: array.reshape(start[name].shape) for name, array in parameters.items()})
    return after


def drive_torch(
    make: Callable[[dict[str, Any]], Any], start: Tensors, gradients: list[Tensors]
) -> list[Tensors]:
    """The parameters after each update. `make` takes parameters and gives what has to be stepped at
    each update.
    """
    parameters = {
        name: torch.nn.Parameter(torch.from_numpy(array.T.copy())) for name, array in start.items()
    }
    steppers = make(parameters)
    after = []
    for gradient in gradients:
        for name, parameter in parameters.items():
            parameter.grad = torch.from_numpy(gradient[name].T.copy())
        for stepper in steppers:
            stepper.step()
        after.append(
            {name: parameter.detach().numpy().T.copy() for name, parameter in parameters.items()}
        )
    return after


def drive_optax(
    make: Callable[[Any], Any], start: Tensors, gradients: list[Tensors]
) -> list[Tensors]:
    """The parameters after each update. `make` takes parameters and gives a transformation."""

    def tree(tensors: Tensors) -> Any:
        layers: dict[str, dict[str, Any]] = {}
        for name, array in tensors.items():
            layer, _, kind = name.partition(".")
            key = "kernel" if name == "linear1.weight" else kind
            layers.setdefault(layer, {})[key] = jnp.asarray(array)
        return layers

    with jax.enable_x64(True):
        parameters = tree(start)
        transformation = make(parameters)

        def step(carry: Any, gradient: Any) -> Any:
            parameters, state = carry
            change, state = transformation.update(gradient, state, parameters)
            parameters = optax.apply_updates(parameters, change)
            return (parameters, state), parameters

        trees = [tree(gradient) for gradient in gradients]
        stacked = jax.tree.map(lambda *each: jnp.stack(each), *trees)
        scan = jax.jit(lambda carry: jax.lax.scan(step, carry, stacked))
        _, after = scan((parameters, transformation.init(parameters)))
        arrays = {}
        for layer, kinds in after.items():
            for kind, array in kinds.items():
                arrays[f"{layer}.{kind.replace('kernel', 'weight')}"] = np.asarray(array)
        return [
            {name: array[update] for name, array in arrays.items()}
            for update in range(len(gradients))
        ]


def drive_twin(
    backend: str,
    optimizer: Optimizer,
    rates: Sequence[float],
    start: Tensors,
    gradients: list[Tensors],
) -> list[Tensors]:
    """The parameters after each update of a twin's optimizer."""

    def schedule(update: int) -> float:
        return float(rates[min(update, len(rates) - 1)])

    def make_torch(parameters: Any) -> Any:
        return pt_impl.optimizer.make_optimizer(optimizer, {0: schedule}, parameters)

    def make_optax(parameters: Any) -> Any:
        schedules = {0: table_schedule(rates)}
        return jax_impl.optimizer.make_optimizer(optimizer, schedules, parameters)[0]

    if backend == "torch":
        return drive_torch(make_torch, start, gradients)
    return drive_optax(make_optax, start, gradients)


def table_schedule(rates: Sequence[float]) -> Callable[[Any], Any]:
    return lambda update: jnp.asarray(rates)[update]


def apart(a: list[Tensors], b: list[Tensors]) -> float:
    """The largest difference of any tensor after any update, over its largest value."""
    ratios = [
        np.abs(after_a[name] - after_b[name]).max() / np.abs(after_b[name]).max()
        for after_a, after_b in zip(a, b, strict=True)
        for name in after_b
    ]
    return float(max(ratios))


WITHOUT_GROUPS = [
    form for form in VARIANTS if "groups" not in form and "multipliers" not in VARIANTS[form]
]


@settings(max_examples=20)
@given(
    variant=st.sampled_from(WITHOUT_GROUPS),
    inputs=st.integers(1, 5),
    outputs=st.integers(1, 5),
    seed=st.integers(0, 2**32 - 1),
    zeros=st.sampled_from([0.0, 0.3, 1.0]),
)
def test_both_twins_take_the_oracles_steps_over_any_gradients(
    variant: str, inputs: int, outputs: int, seed: int, zeros: float
) -> None:
    optimizer, updates = optimizer_of(variant), 6
    start = start_of(inputs, outputs, seed)
    gradients = gradients_of(start, updates, seed, zeros)
    rates = list(np.random.default_rng([seed, 2]).uniform(0, 0.1, updates))
    expected = drive_oracle(optimizer, rates, start, gradients)
    for twin in TWINS:
        parameters = drive_twin(twin, optimizer, rates, start, gradients)
        assert apart(parameters, expected) < SEMANTICS, twin


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_exact_member_of_the_perturbed_arithmetic_is_exact(variant: str) -> None:
    members = 3
    optimizer, start = optimizer_of(variant), start_of(4, 3, 0)
    perturbed, gradients = Perturbed(members, 2.0**-24, 0), gradients_of(start, 8, 0)
    for name, array in start.items():
        one: Moments = {}
        many: Moments = {}
        exact = np.atleast_2d(array)
        spread = np.repeat(exact[None], members + 1, axis=0)
        for update, gradient in enumerate(gradients):
            slope = np.atleast_2d(gradient[name])
            exact = update_parameter(name, optimizer, 0.1, update, exact, slope, one, Exact())
            stacked = np.repeat(slope[None], members + 1, axis=0)
            spread = update_parameter(
                name, optimizer, 0.1, update, spread, stacked, many, perturbed
            )
            assert np.abs(spread[0] - exact).max() < 1e-13 * np.abs(exact).max()
        assert many.keys() == one.keys()
        # every slot has its parameter's shape, or that of its rows or columns
        for moment in one.values():
            assert np.broadcast_shapes(moment.shape, exact.shape) == exact.shape
        # Rprop steps by +-1 times a power of its factors: only its sizes are rounded
        assert np.abs(spread - spread[0]).max() > 0


# --- what makes each what it is


@given(scale=st.floats(1e-3, 1e3), seed=st.integers(0, 1000))
def test_rprop_sees_only_the_signs(scale: float, seed: int) -> None:
    start = start_of(3, 2, seed)
    gradients = gradients_of(start, 8, seed, zeros=0.2)
    scaled = [{name: array * scale for name, array in gradient.items()} for gradient in gradients]
    plain = drive_oracle(Optimizer(name="rprop"), [0.1] * 8, start, gradients)
    assert apart(drive_oracle(Optimizer(name="rprop"), [0.1] * 8, start, scaled), plain) == 0
    other_rates = drive_oracle(Optimizer(name="rprop"), [0.1] + [7.0] * 7, start, gradients)
    assert apart(other_rates, plain) == 0, "only the first learning rate counts"


@given(seed=st.integers(0, 1000), eps_in_root=st.booleans())
def test_adafactor_factors_a_second_moment_of_rank_one_exactly(
    seed: int, eps_in_root: bool
) -> None:
    generator = np.random.default_rng(seed)
    start = start_of(4, 3, seed)
    outer = np.outer(generator.normal(size=4), generator.normal(size=3))
    zeros = {name: np.zeros_like(array) for name, array in start.items()}
    gradients = [zeros | {"linear1.weight": outer}] * 4
    optimizer = Optimizer(name="adafactor", eps=1e-30, eps_in_root=eps_in_root)
    whole = drive_oracle(replace(optimizer, min_factored=128), [0.01] * 4, start, gradients)
    assert apart(drive_oracle(optimizer, [0.01] * 4, start, gradients), whole) < 1e-13


@given(seed=st.integers(0, 1000))
def test_rmsprop_with_a_constant_rate_may_take_it_into_the_momentum(seed: int) -> None:
    start = start_of(3, 2, seed)
    gradients, optimizer = gradients_of(start, 8, seed), Optimizer(name="rmsprop", momentum=0.9)
    inside = replace(optimizer, rate_in_momentum=True)

    def difference(rates: list[float]) -> float:
        taken_in = drive_oracle(inside, rates, start, gradients)
        return apart(taken_in, drive_oracle(optimizer, rates, start, gradients))

    assert difference([0.01] * 8) < 1e-13
    assert difference(list(np.linspace(0.001, 0.01, 8))) > 1e-5


@given(
    seed=st.integers(0, 1000),
    shape=st.sampled_from([(3, 3), (5, 3), (3, 5)]),
    singular=st.lists(st.floats(0.1, 1.0), min_size=3, max_size=3),
)
def test_muon_drives_the_singular_values_towards_1(
    seed: int, shape: tuple[int, int], singular: list[float]
) -> None:
    generator = np.random.default_rng(seed)
    left, right = (np.linalg.qr(generator.normal(size=(size, 3)))[0] for size in shape)
    gradient = left * singular @ right.T
    optimizer = Optimizer(name="muon", adjust="original", weight_decay=0.0)
    zero = np.zeros(shape)
    step = -update_parameter("linear1.weight", optimizer, 1.0, 0, zero, gradient, {}, Exact())
    turned = left.T @ step @ right / np.sqrt(max(1.0, shape[1] / shape[0]))
    np.testing.assert_allclose(turned, np.diag(np.diag(turned)), atol=1e-12)
    assert (np.diag(turned) > 0.6).all()
    assert (np.diag(turned) < 1.3).all()


# --- the libraries' own classes, where a twin does without them


START = start_of(6, 4, 7)
GRADIENTS = gradients_of(START, 200, 7)
RATE = 0.01


def expected(optimizer: Optimizer) -> list[Tensors]:
    return list(drive_oracle(optimizer, [RATE] * len(GRADIENTS), START, GRADIENTS))


def torch_muon(parameters: dict[str, Any]) -> list[Any]:
    rest = [parameter for name, parameter in parameters.items() if name != "linear1.weight"]
    muon = torch.optim.Muon([parameters["linear1.weight"]], lr=RATE, weight_decay=0.1)
    return [muon, torch.optim.AdamW(rest, lr=RATE, weight_decay=0.1)]


def test_torch_muon_differs_by_its_bfloat16_and_by_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    truth = expected(Optimizer(name="muon"))
    assert 1e-4 < apart(drive_torch(torch_muon, START, GRADIENTS), truth) < 2e-2
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.clone)
    assert apart(drive_torch(torch_muon, START, GRADIENTS), truth) < SEMANTICS


def test_optax_muon_is_the_recipes() -> None:
    truth = expected(Optimizer(name="muon", **OPTAX_MUON))
    muon = optax.contrib.muon(RATE, weight_decay=0.1)
    assert apart(drive_optax(lambda _: muon, START, GRADIENTS), truth) < SEMANTICS


def test_torch_adafactor_is_the_recipes_with_its_eps_of_the_dtype() -> None:
    truth = expected(Optimizer(name="adafactor", eps=2.0**-52))
    after = drive_torch(whole(torch.optim.Adafactor), START, GRADIENTS)
    assert apart(after, truth) < SEMANTICS


def test_optax_adafactor_differs_by_its_float32_decay_rate_and_by_nothing_else() -> None:
    knobs = OPTAX_ADAFACTOR | {"min_factored": 2, "weight_decay": 0.0}
    truth = expected(Optimizer(name="adafactor", **knobs))
    after = drive_optax(lambda _: optax.adafactor(RATE, min_dim_size_to_factor=2), START, GRADIENTS)
    assert 1e-10 < apart(after, truth) < 1e-6

    def exact(_: Any) -> Any:
        return optax.chain(
            optax.scale_by_factored_rms(
                min_dim_size_to_factor=2,
                decay_rate_fn=lambda count, power: 1 - (count + 1.0) ** -power,
            ),
            optax.clip_by_block_rms(1.0),
            optax.scale_by_learning_rate(RATE, flip_sign=False),
            optax.scale_by_param_block_rms(),
            optax.scale(-1),
        )

    assert apart(drive_optax(exact, START, GRADIENTS), truth) < SEMANTICS


def test_optax_rprop_takes_each_step_one_update_late() -> None:
    truth = expected(Optimizer(name="rprop"))
    after = drive_optax(lambda _: optax.rprop(RATE), START, GRADIENTS)
    for name, array in START.items():
        np.testing.assert_array_equal(after[0][name], array)
    assert apart(after, truth) > 1e-3
    # every step is late, and a step that is due when the gradient turns is not taken at all
    repeated = [{name: GRADIENTS[0][name] for name in START}] * 20
    prompt = drive_oracle(Optimizer(name="rprop"), [RATE] * 20, START, repeated)
    late = drive_optax(lambda _: optax.rprop(RATE), START, repeated)
    assert apart(late[1:], prompt[:-1]) < SEMANTICS


def test_optax_rmsprop_has_the_rate_in_its_momentum() -> None:
    optimizer = Optimizer(
        name="rmsprop", decay=0.9, momentum=0.8, centered=True, rate_in_momentum=True
    )
    rates = list(np.linspace(0.001, 0.01, len(GRADIENTS)))
    truth = drive_oracle(optimizer, rates, START, GRADIENTS)

    def make(_: Any) -> Any:
        return optax.rmsprop(
            table_schedule(rates), decay=0.9, momentum=0.8, centered=True, eps_in_sqrt=False
        )

    assert apart(drive_optax(make, START, GRADIENTS), truth) < SEMANTICS


# --- presets


def whole(kind: Any, **knobs: Any) -> Callable[[dict[str, Any]], list[Any]]:
    """One optimizer of PyTorch for all parameters."""
    return lambda parameters: [kind(list(parameters.values()), lr=RATE, **knobs)]


PRESETS = [preset for name in NAMES for preset in CASES[name].libraries]


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_is_the_library_at_its_defaults(
    preset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.clone)  # of Muon
    optimizer = Recipe.from_dict({"optimizer": {"preset": preset}}).optimizer
    drive = drive_torch if preset.startswith("torch.") else drive_optax
    after = drive(at_defaults(preset, RATE), START, GRADIENTS)
    # Optax computes Adafactor's decay rate in float32
    allowed = 1e-6 if preset == "optax.adafactor_full_precision" else SEMANTICS
    assert apart(after, expected(optimizer)) < allowed


def test_a_preset_takes_the_librarys_own_arguments() -> None:
    def optimizer(preset: str, **knobs: Any) -> Optimizer:
        return Recipe.from_dict({"optimizer": {"preset": preset, **knobs}}).optimizer

    muon = optimizer(
        "optax.muon", nesterov=False, eps=1e-4, adjust="match_rms_adamw", weight_decay=0.2
    )
    assert (muon.nesterov_rest, muon.eps_norm) == (False, 1e-4)
    library = optax.contrib.muon(
        RATE, nesterov=False, eps=1e-4, consistent_rms=0.2, weight_decay=0.2
    )
    assert apart(drive_optax(lambda _: library, START, GRADIENTS), expected(muon)) < SEMANTICS
    centered = {"centered": True, "momentum": 0.8, "decay": 0.8, "eps": 1e-3}
    for eps_in_root in (True, False):
        rmsprop = optax.rmsprop(RATE, eps_in_sqrt=eps_in_root, **centered)
        truth = expected(optimizer("optax.rmsprop", eps_in_root=eps_in_root, **centered))
        after = drive_optax(lambda _, rmsprop=rmsprop: rmsprop, START, GRADIENTS)
        assert apart(after, truth) < SEMANTICS
    adagrad = whole(
        torch.optim.Adagrad, lr_decay=0.1, initial_accumulator_value=0.3, weight_decay=0.1
    )
    truth = expected(
        optimizer("torch.adagrad", lr_decay=0.1, initial_accumulator=0.3, weight_decay=0.1)
    )
    assert apart(drive_torch(adagrad, START, GRADIENTS), truth) < SEMANTICS
    adafactor = whole(
        torch.optim.Adafactor, beta2_decay=-0.6, d=2.0, weight_decay=0.1, eps=(1e-4, 1e-2)
    )
    knobs = {
        "decay_power": 0.6,
        "clip_threshold": 2.0,
        "weight_decay": 0.1,
        "eps": 1e-4,
        "eps_scale": 1e-2,
    }
    truth = expected(optimizer("torch.adafactor", **knobs))
    assert apart(drive_torch(adafactor, START, GRADIENTS), truth) < SEMANTICS


# --- planted faults


# variant, the knob at another value, and the first update at which that must show, or None
FAULTS: list[tuple[str, dict[str, Any], int | None]] = [
    ("adagrad", {"initial_accumulator": 0.1}, 0),
    ("adagrad", {"eps": 1e-7}, 0),
    ("adagrad", {"lr_decay": 1e-6}, 1),
    ("rmsprop", {"eps_in_root": True}, 0),
    ("rmsprop", {"decay": 0.9}, 0),
    ("rmsprop", {"centered": True}, 0),
    ("rmsprop, Optax", {"rate_in_momentum": False}, 3),  # in the second epoch the rate is another
    ("adadelta", {"eps": 1e-7}, 0),
    ("adadelta", {"weight_decay": 0.0}, 0),
    ("rprop", {"grow": 1.21}, 1),
    ("rprop", {"step_max": 0.009}, 4),  # 0.005 1.2^4 is the first step beyond it
    ("adafactor", {"min_factored": 6}, 0),
    ("adafactor", {"eps_in_root": True}, 0),
    ("adafactor", {"decay_power": 0.81}, 1),
    ("adafactor", {"decay_on": "weights"}, 0),
    ("muon", {"nesterov": False}, 1),
    ("muon", {"momentum_correction": True}, 1),
    ("muon", {"eps_norm_added": True}, 0),
    ("muon", {"adjust": "match_rms_adamw"}, 0),
    ("muon", {"eps": 1e-7}, 0),
]
# where the forms follow from the spec, one knob after another is as if it had not been set
FAULTS += [
    (f"{name}, all knobs", {knob: Optimizer.variants[name].knobs()[knob]}, None)
    for name in NAMES
    if CASES[name].forms is None
    for knob in other_knobs(name)
]
# one fault of each in JAX, where every fault is compiled anew
IN_JAX = [next(fault for fault in FAULTS if fault[0].split(",")[0] == name) for name in NAMES]


@pytest.mark.parametrize(
    ("backend", "variant", "fault", "update"),
    [("torch", *fault) for fault in FAULTS] + [("jax", *fault) for fault in IN_JAX],
)
def test_fault_is_caught(
    backend: str,
    variant: str,
    fault: dict[str, Any],
    update: int | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe = recipe_of(variant, training__dtype="float64")
    module = TWINS[backend]
    original = of_pair(module, "make_optimizer")

    def make_optimizer(optimizer: Any, *rest: Any) -> Any:
        return original(replace(optimizer, **fault), *rest)

    patch_pair(monkeypatch, module, "make_optimizer", make_optimizer)
    forget_compiled()
    trace = module.train(recipe, prepared(recipe), watch=Watch(parameters_every=1))
    comparison = compare(trace, oracle_trace(recipe), {})
    forget_compiled()
    assert comparison.verdict == "diverged"
    assert comparison.first is not None
    if update is None:  # another sign leaves the norm of an update as it is
        assert comparison.first.stage in ("update", "parameters")
    else:
        assert (comparison.first.stage, comparison.first.update) == ("update", update)
