"""The fast engine climbs the ladder: it does the mathematics of plain, and faults planted in it
are caught.
"""

import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from click.testing import CliRunner

import jax_impl.fast.network
import jax_impl.fast.train
import jax_impl.train
import pt_impl.fast.network
import pt_impl.fast.optimizers.adam
import pt_impl.fast.train
import pt_impl.train
from lockstep.commands.options import keep_compiled, trainer
from lockstep.commands.train import record
from lockstep.diagnose.compare import compare
from lockstep.errors import InputError
from lockstep.recipe import Recipe
from lockstep.records.checkpoint import Checkpoint, Checkpoints
from lockstep.records.run_recorder import Watch
from lockstep.records.trace import Trace
from lockstep.run.engine import choose_engine
from parity_tests.shared.optimizers import CASES, forms
from parity_tests.shared.recipes import oracle_trace, prepared, small_recipe
from parity_tests.shared.verdicts import assert_agreement, assert_rounding, first_place

FAST: dict[str, Any] = {"torch": pt_impl.fast.train, "jax": jax_impl.fast.train}
PLAIN: dict[str, Any] = {"torch": pt_impl.train, "jax": jax_impl.train}
SHORT = {"training__epochs": 2, "schedule__warmup": 1}


def optimizer(name: str, **knobs: Any) -> dict[str, Any]:
    return {f"optimizer__{knob}": value for knob, value in ({"name": name} | knobs).items()}


BCE = {"loss__name": "binary_cross_entropy", "data__classes": 2, "loss__positive_weight": 1.7}
LAYERS = {"optimizer__multipliers": (1.0, 0.5, 2.0), "optimizer__decay_on": "weights"}
RMSPROP = optimizer("rmsprop", momentum=0.9, centered=True)
OPTAX_ADAFACTOR = optimizer("adafactor", eps=1e-30, eps_in_root=True, rate_cap=False)
OPTAX_MUON = optimizer("muon", momentum_correction=True, nesterov_rest=True, eps_norm_added=True)

EACH: dict[str, dict[str, Any]] = {
    "sgd": {"optimizer__momentum": 0.0},
    "momentum": {},
    "nesterov": {"optimizer__nesterov": True},
    "dampening, decay": {"optimizer__dampening": 0.3, "optimizer__weight_decay": 0.01},
    "adam, decay": optimizer("adam", weight_decay=0.01),
    "adamw": optimizer("adamw", weight_decay=0.05),
    "adamw by step, eps in the root": optimizer(
        "adamw", weight_decay=0.05, decay_form="step", eps_in_root=True
    ),
    "amsgrad, raw": optimizer("adam", amsgrad="raw"),
    "amsgrad, corrected": optimizer("adam", amsgrad="corrected"),
    "nadam": optimizer("nadam"),
    "nadamw without a ramp": optimizer("nadamw", momentum_ramp=False, decay_form="step"),
    "radam": optimizer("radam"),
    "radam, eps corrected": optimizer("radam", eps_corrected=True, beta2=0.9),
    "adamax": optimizer("adamax"),
    "lion": optimizer("lion", weight_decay=0.1),
    "adagrad": optimizer("adagrad", eps_in_root=True, lr_decay=0.1, initial_accumulator=0.1),
    "rmsprop": optimizer("rmsprop"),
    "rmsprop, momentum": RMSPROP,
    "rmsprop, rate in the momentum": RMSPROP
    | {"optimizer__rate_in_momentum": True, "optimizer__eps_in_root": True},
    "adadelta": optimizer("adadelta"),
    "rprop": optimizer("rprop"),
    "lamb": optimizer("lamb", weight_decay=0.1, decay_on="weights"),
    "lamb, rates by layer": optimizer("lamb", weight_decay=0.0, multipliers=(1.0, 0.5, 2.0)),
    "adafactor": optimizer("adafactor", weight_decay=0.1),
    "adafactor as in optax": OPTAX_ADAFACTOR | {"optimizer__min_factored": 6},
    "adafactor, rates by layer": optimizer(
        "adafactor", clip_threshold=0.3, multipliers=(1.0, 0.5, 2.0)
    ),
    "muon": optimizer("muon"),
    "muon as in optax": OPTAX_MUON | {"optimizer__adjust": "match_rms_adamw"},
    "muon, rates by layer": optimizer(
        "muon", nesterov=False, multipliers=(1.0, 0.5, 2.0), decay_on="weights"
    ),
    **{
        name: {"model__activation": name}
        for name in ("leaky_relu", "tanh", "sigmoid", "silu", "gelu", "gelu_tanh")
    },
    **{name: {"model__activation": name} for name in ("elu", "softplus", "mish", "softsign")},
    "clipped": {"gradient__clip": "norm", "gradient__clip_at": 0.3, "gradient__clip_eps": 1e-6},
    "clipped by value": {"gradient__clip": "value", "gradient__clip_at": 0.02},
    "accumulated": {"gradient__accumulate": 2},
    "accumulated by rows": {"gradient__accumulate": 3, "gradient__accumulate_mean": "rows"},
    "average": {"average__decay": 0.9},
    "average from zero": {"average__decay": 0.9, "average__start": "zero", "average__debias": True},
    "layer norm": {"model__norm": "layer"},
    "batch norm": {"model__norm": "batch", "model__bias": False},
    "batch norm, biased": {"model__norm": "batch", "model__norm_variance": "biased"},
    "dropout": {"model__dropout": 0.3},
    "dropout after layer norm": {
        "model__dropout": 0.3,
        "model__norm": "layer",
        "model__activation": "tanh",
    },
    "no bias": {"model__bias": False},
    "no hidden layer": {"model__hidden": ()},
    "eleven layers": {
        "model__hidden": (6,) * 10,
        "schedule__peak": 0.005,
    },  # linear10 sorts before linear2
    "smoothing": {"loss__label_smoothing": 0.1, "loss__class_weights": (1.0, 2.0, 0.5)},
    "ignored": {"loss__ignored_class": "1", "loss__class_weights": (1.0, 2.0)},
    "one logit": BCE,
    "squares": {"loss__name": "mse"},
    "huber": {"loss__name": "huber", "loss__delta": 0.5},
    "rates by layer": LAYERS | {"optimizer__weight_decay": 0.1},
    "rates by layer, adamw": LAYERS | optimizer("adamw", weight_decay=0.1),
    "decay on weights, by step": optimizer(
        "adamw", weight_decay=0.1, decay_form="step", decay_on="weights"
    ),
    "cosine by update": {
        "schedule__name": "cosine",
        "schedule__unit": "update",
        "schedule__ramp": "t/W",
    },
    "one batch": {"training__batch": 90},
}

LISTED = {values.get("optimizer__name", "sgd") for values in EACH.values()}
# an optimizer that no line names trains in its forms
EACH |= {
    form: optimizer(name, **knobs)
    for name in CASES
    if name not in LISTED
    for form, knobs in forms(name).items()
}

# every choice of the table once, in few recipes: a compilation takes seconds
TOGETHER: dict[str, dict[str, Any]] = {
    "sgd": EACH["dampening, decay"]
    | EACH["clipped"]
    | EACH["smoothing"]
    | EACH["dropout after layer norm"],
    "adamw": EACH["rates by layer, adamw"]
    | EACH["clipped by value"]
    | EACH["huber"]
    | EACH["silu"],
    "adam": EACH["amsgrad, raw"]
    | EACH["accumulated by rows"]
    | EACH["average from zero"]
    | EACH["batch norm"],
    "nadam": EACH["nadam"],  # it remembers a number for each tensor
    "rprop": EACH["rprop"],  # it remembers two arrays of each tensor by name
    "muon": EACH["muon"] | EACH["one logit"] | EACH["elu"] | EACH["cosine by update"],
}
CASES = [pytest.param("torch", values, id=f"torch-{name}") for name, values in EACH.items()]
CASES += [
    pytest.param("jax", values, id=f"jax-together-{name}") for name, values in TOGETHER.items()
]
CASES += [
    pytest.param("jax", values, id=f"jax-{name}", marks=pytest.mark.sweep)
    for name, values in EACH.items()
]


@cache
def fast_trace(backend: str, recipe: Recipe, every: int = 1) -> Trace:
    watch = Watch(parameters_every=every)
    trace: Trace = FAST[backend].train(recipe, prepared(recipe), watch=watch)
    return trace


@pytest.fixture(params=["torch", pytest.param("jax", marks=pytest.mark.sweep)])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize(("backend", "values"), CASES)
def test_float64_training_follows_the_oracle_at_every_update(
    backend: str, values: dict[str, Any]
) -> None:
    recipe = small_recipe(training__dtype="float64", **(SHORT | values))
    trace, oracle = fast_trace(backend, recipe), oracle_trace(recipe)
    judged = {name for name in oracle.arrays if not name.startswith("bounds/")}
    assert trace.arrays.keys() == judged
    assert trace.header["layers"] == oracle.header["layers"]
    assert_agreement(trace, oracle, {})  # without bounds: 1e-12, and the bits of the learning rate
    assert_same_prediction(trace, oracle)


def assert_same_prediction(trace: Trace, oracle: Trace) -> None:
    for name, array in oracle.prediction.items():
        allowed = 1e-12 * max(np.abs(array).max(), 1)
        np.testing.assert_allclose(trace.prediction[name], array, rtol=0, atol=allowed)


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_wide_layers_in_jax_follow_the_oracle_too(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = small_recipe(training__dtype="float64", **(SHORT | TOGETHER[name]))
    monkeypatch.setattr("jax_impl.fast.network.WIDE", 6)
    assert jax_impl.fast.network.Network(recipe).by_rows
    clear_compiled()
    try:
        trace = jax_impl.fast.train.train(recipe, prepared(recipe), watch=Watch(parameters_every=1))
    finally:
        clear_compiled()
    assert_rounding(trace, oracle_trace(recipe), {})
    assert_same_prediction(trace, oracle_trace(recipe))


def clear_compiled() -> None:
    jax_impl.fast.train.make_segment.cache_clear()
    jax_impl.fast.train.make_evaluation.cache_clear()


FLOAT32 = ("momentum", "adamw", "batch norm", "one logit", "squares", "accumulated")


@pytest.mark.parametrize("name", FLOAT32)
def test_float32_training_stays_within_rounding_and_has_the_rates_of_plain(
    backend: str, name: str
) -> None:
    recipe = small_recipe(**(SHORT | EACH[name]))
    trace, oracle = fast_trace(backend, recipe), oracle_trace(recipe)
    assert_rounding(trace, oracle)
    plain = PLAIN[backend].train(recipe, prepared(recipe))
    rates_T, plain_rates_T = trace.series("lr"), plain.series("lr")
    assert rates_T.dtype == plain_rates_T.dtype == np.float32
    np.testing.assert_array_equal(rates_T.view(np.uint32), plain_rates_T.view(np.uint32))


def test_more_updates_than_a_stretch_has_room_for() -> None:
    recipe = small_recipe(training__dtype="float64", training__epochs=70, gradient__accumulate=2)
    data = prepared(recipe)
    trace = pt_impl.fast.train.train(recipe, data, watch=Watch(parameters_every=7))
    assert data.updates > pt_impl.fast.network.SLOTS
    assert compare(trace, oracle_trace(recipe, 7), {}).verdict == "rounding"


def test_what_is_loaded_at_once_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = small_recipe(model__dropout=0.2, **SHORT)
    whole = fast_trace("torch", recipe, 0)
    monkeypatch.setattr("pt_impl.fast.train.ROOM", 1)  # a batch at a time
    assert_same_bits(pt_impl.fast.train.train(recipe, prepared(recipe)), whole)


def test_a_large_network_keeps_no_updates_and_trains_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe = small_recipe(model__dropout=0.2, training__epochs=50)
    whole = fast_trace("torch", recipe, 0)
    assert prepared(recipe).updates > pt_impl.fast.network.SLOTS
    monkeypatch.setattr("pt_impl.fast.network.ROOM", 1)
    trace = pt_impl.fast.train.train(recipe, prepared(recipe))
    for name, array in whole.arrays.items():
        # a sum of n squares is taken in two ways, each with an error below n eps / 2 of the sum
        rtol = 500 * np.finfo(np.float32).eps if name.endswith("_norm") else 0
        np.testing.assert_allclose(trace.arrays[name], array, rtol=rtol, err_msg=name)


@pytest.mark.parametrize("backend", FAST)  # in JAX too: of one batch XLA would make another program
def test_recording_more_changes_no_bit(backend: str) -> None:
    recipe = small_recipe(**SHORT)
    assert_same_bits(fast_trace(backend, recipe, 0), fast_trace(backend, recipe, 1))


def assert_same_bits(trace: Trace, more: Trace) -> None:
    for name, array in trace.arrays.items():
        np.testing.assert_array_equal(array, more.arrays[name], err_msg=name)


@pytest.mark.parametrize("name", ["momentum", "adamw", "nadam", "accumulated", "average"])
def test_jax_compiles_an_update_once(name: str, caplog: pytest.LogCaptureFixture) -> None:
    recipe = small_recipe(**EACH[name])
    jax_impl.fast.train.make_segment.cache_clear()
    with jax.log_compiles():
        jax_impl.fast.train.train(recipe, prepared(recipe))
    records = [record for record in caplog.records if record.args and "Compiling" in record.msg]
    compiled = [str(record.args[0]) for record in records if record.args]
    assert compiled.count("jit(segment)") == 1


RESUMED: dict[str, dict[str, Any]] = {
    "nadam": EACH["average"] | EACH["accumulated"] | EACH["nadam"] | EACH["batch norm"],
    # of some tensors these two remember less, or arrays of other shapes
    "adafactor": EACH["adafactor as in optax"] | EACH["accumulated"],
    "muon": EACH["muon"] | EACH["accumulated"],
}


@pytest.mark.parametrize("first", ["fast", "plain"])
@pytest.mark.parametrize("name", RESUMED)
def test_one_engine_goes_on_where_the_other_stopped(name: str, first: str, backend: str) -> None:
    recipe = small_recipe(training__dtype="float64", **(SHORT | RESUMED[name]))
    data = prepared(recipe)
    written: list[Checkpoint] = []
    watch = Watch(checkpoints=Checkpoints(1, "batch", written.append))
    engines = {"fast": FAST[backend], "plain": PLAIN[backend]}
    engines.pop(first).train(recipe, data, watch=watch)
    (other,) = engines.values()
    # in the midst of an accumulation, and between two updates
    for checkpoint in (written[0], written[2]):
        trace = other.train(recipe, data, watch=Watch(resume=checkpoint, parameters_every=1))
        assert_rounding(trace, oracle_trace(recipe), {})


# --- faults in the fast path are caught


def wrong_slope(monkeypatch: pytest.MonkeyPatch) -> None:
    activate, bend = pt_impl.fast.network.ACTIVATIONS["tanh"]

    def wrong(slope: Any, z: Any, h: Any) -> Any:
        return lambda: bend(slope, z, h)().mul_(1 + 1e-9)

    monkeypatch.setitem(pt_impl.fast.network.ACTIVATIONS, "tanh", (activate, wrong))


def wrong_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_projection(network: Any, i: int, slope: Any, before: Any, after: Any) -> None:
        backward(network, i, slope, before, after)
        slope.mul_(1 + 1e-9)

    backward = pt_impl.fast.network._normalise_backward
    monkeypatch.setattr(pt_impl.fast.network, "_normalise_backward", without_projection)


def wrong_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    def eager(optimizer: Any, rate: float, decay: float, counter: Any, *rest: Any) -> Any:
        return rule(optimizer, rate, decay, counter + 1, *rest)

    rule = pt_impl.fast.optimizers.adam.fused
    monkeypatch.setattr(pt_impl.fast.optimizers.adam, "fused", eager)


def late_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    def late(*arguments: Any) -> Any:
        state = start(*arguments)
        return state._replace(rates=[state.rates[0], *state.rates[:-1]])

    start = pt_impl.fast.train.initial_state
    monkeypatch.setattr(pt_impl.fast.train, "initial_state", late)


FAULTS = {
    "slope of an activation": (wrong_slope, {"model__activation": "tanh"}, "gradients", 0),
    "slope of a normalisation": (wrong_norm, {"model__norm": "layer"}, "gradients", 0),
    "bias correction a step ahead": (wrong_rule, optimizer("adamw"), "update", 0),
    "rate applied late, reported right": (late_rate, {}, "update", 3),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_in_torch_is_caught_at_its_place(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant, values, stage, update = FAULTS[name]
    recipe = small_recipe(training__dtype="float64", **values)
    right = pt_impl.fast.train.train(recipe, prepared(recipe))
    assert_rounding(right, oracle_trace(recipe), {})
    plant(monkeypatch)
    wrong = pt_impl.fast.train.train(recipe, prepared(recipe))
    assert first_place(wrong, oracle_trace(recipe), {}) == (stage, update)


def test_a_fault_in_jax_is_caught_at_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = small_recipe(training__dtype="float64", model__activation="tanh", **SHORT)
    monkeypatch.setitem(
        jax_impl.fast.network.ACTIVATIONS, "tanh", lambda z: jnp.tanh(z * (1 + 1e-9))
    )
    clear_compiled()
    try:
        trace = jax_impl.fast.train.train(recipe, prepared(recipe))
    finally:
        clear_compiled()
    assert first_place(trace, oracle_trace(recipe), {}) == ("loss", 0)


# --- which engine


@pytest.mark.parametrize(
    ("asked", "values", "detail", "chosen", "why"),
    [
        ("auto", {}, (), "fast", ""),
        ("fast", {}, (), "fast", ""),
        ("plain", {}, (), "plain", ""),
        ("auto", {}, (0,), "plain", "updates in detail are recorded"),
        ("auto", optimizer("muon"), (), "fast", ""),
        ("auto", {"training__compute": "bfloat16"}, (), "fast", ""),
    ],
)
def test_the_engine_is_chosen_and_said(
    asked: str, values: Any, detail: Any, chosen: str, why: str
) -> None:
    recipe = small_recipe(**(SHORT | values))
    name, reason = choose_engine(asked, Watch(detail=detail))
    assert (name, bool(reason)) == (chosen, bool(why))
    assert why in reason
    trace = trainer("torch", asked)(recipe, prepared(recipe), watch=Watch(detail=detail))
    environment = trace.header["environment"]
    assert environment["engine"] == chosen
    assert environment.get("engine_reason", "") == reason


def test_fast_is_refused_where_it_has_no_form() -> None:
    with pytest.raises(InputError, match="--engine fast: updates in detail are recorded"):
        choose_engine("fast", Watch(detail=(3,)))
    line = "--engine fast: every update begins from a state that is given"
    with pytest.raises(InputError, match=line):
        choose_engine("fast", Watch(synchronise=iter(())))


def test_the_command_says_which_engine_and_why(tmp_path: Path) -> None:
    small = ["data.rows=64", "training.epochs=1", "schedule.warmup=0"]
    options = ["--out", str(tmp_path / "t"), *(f"--set={value}" for value in small)]

    def run(*arguments: str) -> str:
        result = CliRunner().invoke(record, [*options, *arguments], standalone_mode=False)
        if result.exception:
            raise result.exception
        return result.output

    assert "torch, engine fast, 2 updates" in run("--backend", "torch")
    assert "torch, engine plain, 2 updates" in run("--backend", "torch", "--engine", "plain")
    said = run("--backend", "torch", "--detail", "0:1")
    assert "torch, engine plain (updates in detail are recorded), 2 updates" in said
    with pytest.raises(InputError, match="--engine fast: the oracle"):
        run("--backend", "oracle", "--engine", "fast")


def test_what_the_user_set_of_the_cache_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    keep_compiled()
    assert os.environ["JAX_COMPILATION_CACHE_DIR"].startswith(str(tmp_path / "lockstep"))
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "mine")
    keep_compiled()
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == "mine"
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))  # no folder can be made there
    keep_compiled()


@pytest.mark.parametrize(("backend", "slow"), [("torch", "torch._dynamo"), ("jax", "flax")])
def test_the_fast_engine_loads_no_more_than_it_needs(
    backend: str, slow: str, tmp_path: Path
) -> None:
    code = f"""
import sys
from lockstep.cli import main
try:
    main(["record", "--backend", "{backend}", "--out", "t", "--set", "training.epochs=1", "--set", "schedule.warmup=0"])
except SystemExit as end:
    print(end.code, "{backend}" in sys.modules, "{slow}" in sys.modules)
"""  # noqa: E501
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    process = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.stdout.splitlines()[-1] == "0 True False", process.stderr
    # what JAX compiled is kept for the next process
    assert bool([*tmp_path.glob("lockstep/xla/*/*")]) == (backend == "jax")
