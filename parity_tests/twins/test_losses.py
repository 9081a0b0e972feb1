"""Every loss and its knobs: the twins against the oracle at every update, the oracle against finite
differences and the frameworks' own classes, planted faults, and how targets are prepared.
"""

import io
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

import jax_impl.loss
import jax_impl.train
import pt_impl.loss
import pt_impl.train
from lockstep.data_prep import IGNORED, load_table, prepare
from lockstep.diagnose.compare import compare
from lockstep.diagnose.verdict import Verdict
from lockstep.errors import InputError
from lockstep.oracle.arithmetic import Exact
from lockstep.oracle.loss import loss_and_slope
from lockstep.recipe import Loss, Recipe, load_recipe
from lockstep.records.run_recorder import Watch
from lockstep.records.trace import Trace
from lockstep.report.run.html import render_html
from lockstep.report.run.story import Story, build_story
from lockstep.report.run.summary import summarise
from lockstep.report.run.terminal import print_story
from parity_tests.shared.recipes import exact_trace, oracle_trace, prepared, small_recipe
from parity_tests.shared.sweep import sweep_but
from parity_tests.shared.twins import TWINS, forget_compiled, of_pair, patch_pair, twin_trace
from parity_tests.shared.verdicts import assert_agreement, assert_rounding, first_place

BINARY = {"data__classes": 2, "loss__name": "binary_cross_entropy"}
WEIGHTS: dict[str, Any] = {"loss__class_weights": (0.5, 1.0, 3.0)}
# at a peak of 0.05, plain SGD on errors beyond every delta would stand still
LOSSES: dict[str, dict[str, Any]] = {
    "smoothing": {"loss__label_smoothing": 0.1},
    "weights": WEIGHTS,
    "a weight of 0": {"loss__class_weights": (0.0, 1.0, 0.7)},
    "weights, smoothing": WEIGHTS | {"loss__label_smoothing": 0.2},
    "ignored": {"loss__ignored_class": "1"},
    "ignored, weights, smoothing": {
        "data__classes": 4,
        "loss__ignored_class": "0",
        "loss__label_smoothing": 0.3,
        **WEIGHTS,
    },
    "binary": BINARY,
    "binary, positive weight": BINARY | {"loss__positive_weight": 2.5},
    "mse": {"loss__name": "mse"},
    "huber": {"loss__name": "huber"},
    "huber, delta 0.3": {"loss__name": "huber", "loss__delta": 0.3},
    "huber, adamw": {
        "loss__name": "huber",
        "loss__delta": 0.7,
        "optimizer__name": "adamw",
        "schedule__peak": 0.01,
    },
}
IN_FLOAT32 = (
    "smoothing",
    "ignored, weights, smoothing",
    "binary, positive weight",
    "mse",
    "huber, adamw",
)


def refusal(recipe: Recipe) -> str:
    with pytest.raises(InputError) as caught:
        prepare(recipe)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


# --- the twins against the oracle


@pytest.mark.parametrize("variant", LOSSES)
def test_float64_training_follows_the_oracle_at_every_update(variant: str, backend: str) -> None:
    recipe = small_recipe(training__dtype="float64", **LOSSES[variant])
    trace, oracle = twin_trace(backend, recipe), exact_trace(recipe)
    assert trace.recorded_updates == list(range(13)) == oracle.recorded_updates
    assert_agreement(trace, oracle, {})  # without bounds: 1e-12 alone
    assert trace.prediction.keys() == oracle.prediction.keys()
    for name, values in oracle.prediction.items():
        allowed = 1e-12 * np.abs(values).max()
        np.testing.assert_allclose(trace.prediction[name], values, rtol=0, atol=allowed)


@pytest.mark.parametrize("variant", sweep_but(IN_FLOAT32, LOSSES))
def test_float32_training_stays_within_rounding(variant: str, backend: str) -> None:
    recipe = small_recipe(**LOSSES[variant])
    trace, oracle = twin_trace(backend, recipe), oracle_trace(recipe)
    assert trace.series("loss").dtype == np.float32
    assert_rounding(trace, oracle)


# --- the oracle against finite differences, and all three on hard values

ROWS = st.lists(
    st.tuples(*[st.floats(-30, 30).map(lambda value: round(value, 6))] * 3, st.integers(-1, 2)),
    min_size=1,
    max_size=6,
)
KNOBS = st.sampled_from(
    [
        Loss(),
        Loss(label_smoothing=0.1),
        Loss(class_weights=(0.5, 1.0, 3.0)),
        Loss(label_smoothing=0.4, class_weights=(2.0, 0.25, 1.0)),
        Loss(name="binary_cross_entropy"),
        Loss(name="binary_cross_entropy", positive_weight=4.0),
        Loss(name="mse"),
        Loss(name="huber"),
        Loss(name="huber", delta=0.125),
    ]
)


def targets(loss: Loss, rows: list[tuple[float, float, float, int]]) -> tuple[Any, Any]:
    """Outputs (B, K) and targets (B,) of a loss from rows of three numbers and a label."""
    outputs_BK = np.array([row[:3] for row in rows])
    labels_B = np.array([row[3] for row in rows])
    if loss.name == "cross_entropy":
        labels_B[0] = max(labels_B[0], 0)  # a batch has a row that counts
        return outputs_BK, labels_B
    if loss.predicts_number:
        return outputs_BK[:, :1], outputs_BK[:, 1].copy()
    return outputs_BK[:, :1], (labels_B > 0).astype(np.int64)


@partial(jax.jit, static_argnums=0)
def jax_value_and_slope(loss: Loss, outputs: Any, y: Any, count: Any) -> Any:
    def mean_loss(outputs: Any) -> Any:
        return jax_impl.loss.mean_loss(loss, outputs, y, count)

    return jax.value_and_grad(mean_loss)(outputs)


@given(KNOBS, ROWS)
@settings(max_examples=150, deadline=None)
def test_all_three_agree_on_any_outputs(
    loss: Loss, rows: list[tuple[float, float, float, int]]
) -> None:
    outputs_BK, y_B = targets(loss, rows)
    mean, slope_BK = loss_and_slope(loss, outputs_BK, y_B, Exact())
    tensor = torch.tensor(outputs_BK, requires_grad=True)
    torch_mean = pt_impl.loss.mean_loss(loss, tensor, torch.from_numpy(y_B), len(y_B))
    torch_mean.backward()
    assert tensor.grad is not None
    with jax.enable_x64(True):
        # padded to 7 rows: enormous outputs that must not count
        padded_BK = np.full((7, outputs_BK.shape[1]), 1e6)
        padded_BK[: len(y_B)] = outputs_BK
        padded_B = np.append(y_B, np.zeros(7 - len(y_B), y_B.dtype))
        value, gradient = jax_value_and_slope(loss, padded_BK, padded_B, len(y_B))
    assert (np.asarray(gradient)[len(y_B) :] == 0).all()
    in_torch = (torch_mean.item(), tensor.grad.numpy())
    in_jax = (float(value), np.asarray(gradient)[: len(y_B)])
    least = 0 if loss.predicts_number else 1 / len(y_B)
    scale = max(np.abs(slope_BK).max(), least)
    for other, slopes in (in_torch, in_jax):
        # a framework's loss may err by roundings of the largest output
        assert abs(other - mean) <= 1e-14 * (abs(mean) + np.abs(outputs_BK).max())
        np.testing.assert_allclose(slopes, slope_BK, rtol=0, atol=1e-13 * scale)


@given(KNOBS, ROWS)
@settings(max_examples=100, deadline=None)
def test_slopes_against_finite_differences(
    loss: Loss, rows: list[tuple[float, float, float, int]]
) -> None:
    outputs_BK, y_B = targets(loss, [(a / 6, b / 6, c / 6, y) for a, b, c, y in rows])
    _, slope_BK = loss_and_slope(loss, outputs_BK, y_B, Exact())
    h = 1e-5
    # the second derivative of Huber jumps; across its knee the difference errs by up to h / 2
    allowed = h if loss.name == "huber" else 1e-8
    for index in np.ndindex(outputs_BK.shape):
        up, down = outputs_BK.copy(), outputs_BK.copy()
        up[index] += h
        down[index] -= h
        at_up = float(loss_and_slope(loss, up, y_B, Exact())[0])
        at_down = float(loss_and_slope(loss, down, y_B, Exact())[0])
        assert abs((at_up - at_down) / (2 * h) - slope_BK[index]) < allowed


def test_numbers_by_hand() -> None:
    x_B1, y_B = np.array([[1.0], [4.0]]), np.array([0.5, 1.0])
    assert float(loss_and_slope(Loss(name="mse"), x_B1, y_B, Exact())[0]) == (0.25 + 9) / 2
    mean, slope = loss_and_slope(Loss(name="huber", delta=2.0), x_B1, y_B, Exact())
    assert float(mean) == (0.125 + 2 * (3 - 1)) / 2
    assert slope.ravel().tolist() == [0.25, 1.0]
    logits, labels = np.log([[1.0, 3.0], [1.0, 1.0], [5.0, 5.0]]), np.array([1, 0, IGNORED])
    mean, _ = loss_and_slope(Loss(class_weights=(2.0, 1.0)), logits, labels, Exact())
    np.testing.assert_allclose(float(mean), (np.log(4 / 3) + 2 * np.log(2)) / 3, rtol=1e-15)
    mean, _ = loss_and_slope(Loss(label_smoothing=0.5), logits, labels, Exact())
    smooth = 0.75 * np.log(4 / 3) + 0.25 * np.log(4)
    np.testing.assert_allclose(float(mean), (smooth + np.log(2)) / 2, rtol=1e-15)


# --- planted faults


def instead(other: Loss) -> Callable[[Any], Any]:
    """Put another loss in place of the recipe's."""

    def put(module: Any) -> Any:
        original = of_pair(module, "mean_loss")
        return lambda _, *rest: original(other, *rest)

    return put


def half(module: Any) -> Any:
    """`optax.l2_loss` for the squared error."""

    def torch_loss(loss: Any, outputs: Any, y: Any, count: Any) -> Any:
        return (0.5 * (outputs[:count, 0] - y[:count]).square()).mean()

    def jax_loss(loss: Any, outputs: Any, y: Any, count: Any) -> Any:
        losses_B = optax.l2_loss(outputs[:, 0], y)
        return jnp.sum(jnp.where(jnp.arange(len(y)) < count, losses_B, 0.0)) / count

    return torch_loss if module is pt_impl.train else jax_loss


def by_count(module: Any) -> Any:
    """Divide the weighted losses by their number."""
    original = of_pair(module, "mean_loss")
    library: Any = torch if module is pt_impl.train else jnp

    def fault(loss: Any, outputs: Any, y: Any, count: Any) -> Any:
        right = original(loss, outputs, y, count)
        weights = library.asarray(loss.class_weights)
        counts = library.arange(len(y)) < count
        return right * (weights[y] * counts).sum() / count

    return fault


def ignored_counts(module: Any) -> Any:
    """Take a label of -1 for the last class, as Optax does."""
    original = of_pair(module, "mean_loss")
    where: Any = torch.where if module is pt_impl.train else jnp.where

    def fault(loss: Any, outputs: Any, y: Any, count: Any) -> Any:
        labels = where(y < 0, outputs.shape[-1] - 1, y)
        return original(loss, outputs, labels, count)

    return fault


def with_padding(module: Any) -> Any:
    original = of_pair(module, "mean_loss")
    return lambda loss, outputs, y, count: original(loss, outputs, y, len(y))


FAULTS: dict[str, tuple[str, Callable[[Any], Any], int]] = {
    "half the squared error": ("mse", half, 0),
    "weighted mean by count": ("weights", by_count, 0),
    "weights left out": ("weights", instead(Loss()), 0),
    "smoothing left out": ("smoothing", instead(Loss()), 0),
    "smoothing 0.11": ("smoothing", instead(Loss(label_smoothing=0.11)), 0),
    "ignored class counted": ("ignored", ignored_counts, 0),
    "positive weight left out": (
        "binary, positive weight",
        instead(Loss(name="binary_cross_entropy")),
        0,
    ),
    "delta 1 for 0.3": ("huber, delta 0.3", instead(Loss(name="huber")), 0),
    "delta 0.301": ("huber, delta 0.3", instead(Loss(name="huber", delta=0.301)), 0),
    "squared for huber": ("huber", instead(Loss(name="mse")), 0),
    "padding counted": ("mse", with_padding, 2),
}
# PyTorch pads nothing: its batches are cut to the rows that count
CASES = [
    pytest.param(name, twin, id=f"{name}-{twin}")
    for name in FAULTS
    for twin in TWINS
    if (name, twin) != ("padding counted", "torch")
]


@pytest.fixture
def nothing_compiled_is_shared() -> Any:
    forget_compiled()
    yield
    forget_compiled()


@pytest.mark.usefixtures("nothing_compiled_is_shared")
@pytest.mark.parametrize(("name", "twin"), CASES)
def test_fault_is_caught_at_its_place(
    name: str, twin: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    variant, put, update = FAULTS[name]
    recipe = small_recipe(
        training__dtype="float64", training__epochs=1, schedule__warmup=1, **LOSSES[variant]
    )
    module = TWINS[twin]
    patch_pair(monkeypatch, module, "mean_loss", put(module))
    trace = module.train(recipe, prepared(recipe), watch=Watch(parameters_every=1))
    assert first_place(trace, oracle_trace(recipe), {}) == ("loss", update)


@pytest.mark.usefixtures("nothing_compiled_is_shared")
@pytest.mark.parametrize("twin", TWINS)
def test_wrong_metrics_are_caught(twin: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """R^2 about 0 in place of the mean; ignored rows among those that accuracy counts."""
    module = TWINS[twin]
    original = of_pair(module, "sums")

    def fault(loss: Loss, outputs: Any, y: Any) -> Any:
        metrics = dict(original(loss, outputs, y))
        if loss.predicts_number:
            return metrics | {"variation": (y**2).sum()}
        return metrics | {"rows": len(y)}

    for variant, stage in (("mse", "held_out_r2"), ("ignored", "train_accuracy")):
        recipe = small_recipe(
            training__dtype="float64", training__epochs=1, schedule__warmup=1, **LOSSES[variant]
        )
        patch_pair(monkeypatch, module, "sums", fault)
        forget_compiled()
        trace = module.train(recipe, prepared(recipe), watch=Watch(parameters_every=1))
        comparison = compare(trace, oracle_trace(recipe), {})
        assert comparison.first is not None
        assert (comparison.first.stage, comparison.first.update) == ("metrics", 2)
        worst = comparison.worst["metrics"].tensor
        assert worst == stage or (stage == "train_accuracy" and worst.endswith("accuracy"))


# --- targets and metrics


def _outputs(trace: Trace, h_NH: Any) -> Any:
    """The one output of the trained small network, whose activation is ReLU."""
    last = trace.parameters(trace.header["updates"])
    for layer in (1, 2, 3):
        h_NH = h_NH @ last[f"linear{layer}.weight"] + last[f"linear{layer}.bias"]
        h_NH = np.maximum(h_NH, 0) if layer < 3 else h_NH
    return h_NH[:, 0]


def test_metrics_of_a_number_by_hand() -> None:
    from sklearn.metrics import mean_absolute_error, r2_score

    recipe = small_recipe(training__dtype="float64", **LOSSES["huber, delta 0.3"])
    data, trace = prepared(recipe), oracle_trace(recipe)
    predicted_N = _outputs(trace, data.held_out_x_ND)
    r2 = r2_score(data.held_out_y_N, predicted_N)
    mae = mean_absolute_error(data.held_out_y_N, predicted_N)
    np.testing.assert_allclose(trace.metric("held_out_r2")[-1], r2, rtol=1e-12)
    np.testing.assert_allclose(trace.metric("held_out_mae")[-1], mae, rtol=1e-12)
    assert "held_out_accuracy" not in {name.partition("/")[2] for name in trace.arrays}


def test_binary_answers_are_those_of_the_sign_of_the_logit(backend: str) -> None:
    recipe = small_recipe(training__dtype="float64", **LOSSES["binary"])
    trace, data = twin_trace(backend, recipe), prepared(recipe)
    right = (_outputs(trace, data.held_out_x_ND) > 0) == data.held_out_y_N
    assert trace.metric("held_out_accuracy")[-1] == right.mean()
    sigmoid, logit = trace.prediction["sigmoid"], trace.prediction["linear3"]
    np.testing.assert_allclose(sigmoid, 1 / (1 + np.exp(-logit)), rtol=1e-14)


def test_two_softmax_outputs_and_one_logit_have_the_same_loss() -> None:
    """Binary cross entropy of x is cross entropy of the logits (0, x). A positive weight is a class
    weight, but the means have other divisors.
    """
    x_B1, y_B = np.linspace(-3, 4, 8)[:, None], np.arange(8) % 2
    logits_BK = np.hstack([np.zeros((8, 1)), x_B1])
    one = loss_and_slope(Loss(name="binary_cross_entropy", positive_weight=3.0), x_B1, y_B, Exact())
    two = loss_and_slope(Loss(class_weights=(1.0, 3.0)), logits_BK, y_B, Exact())
    np.testing.assert_allclose(one[0] * 8, two[0] * 16, rtol=1e-14)
    np.testing.assert_allclose(one[1][:, 0] * 8, two[1][:, 1] * 16, rtol=1e-14)


@pytest.mark.parametrize("source", ["synthetic", "diabetes"])
def test_targets_are_standardised_by_the_training_rows(source: str) -> None:
    data = prepare(Recipe().with_values({"data.source": source, "loss.name": "mse"}))
    assert data.classes == ()
    assert data.outputs == 1
    np.testing.assert_allclose([data.train_y_N.mean(), data.train_y_N.std()], [0, 1], atol=1e-12)
    assert abs(data.held_out_y_N.mean()) > 1e-6  # scaled alike, not by its own
    if source == "diabetes":
        assert data.target == "progression"
        scaled_N = np.concatenate([data.train_y_N, data.held_out_y_N])
        y_N = scaled_N * data.target_scale + data.target_mean
        np.testing.assert_allclose([y_N.min(), y_N.max(), len(y_N)], [25, 346, 442], rtol=1e-12)
        assert data.cast("float32").train_y_N.dtype == np.float32


def test_the_noise_of_a_drawn_number_has_its_share_and_its_own_stream() -> None:
    rows = {"data.rows": 4000, "loss.name": "mse"}
    quiet = prepare(Recipe().with_values(rows | {"data.noise": 0.0}))
    loud = prepare(Recipe().with_values(rows | {"data.noise": 0.5}))
    np.testing.assert_array_equal(quiet.train_x_ND, loud.train_x_ND)
    y_N = quiet.train_y_N * quiet.target_scale
    noise_N = loud.train_y_N * loud.target_scale - y_N
    np.testing.assert_allclose(noise_N.std() / y_N.std(), 0.5, rtol=0.05)
    assert abs(np.corrcoef(noise_N, y_N)[0, 1]) < 0.05


def test_another_loss_of_classes_leaves_the_rows_as_they_are() -> None:
    plain = prepare(Recipe().with_values({"loss.name": "cross_entropy"}))
    binary = prepare(Recipe().with_values({"loss.name": "binary_cross_entropy"}))
    np.testing.assert_array_equal(plain.train_y_N, binary.train_y_N)
    np.testing.assert_array_equal(plain.train_x_ND, binary.train_x_ND)


def test_an_ignored_class_has_a_label_but_no_output() -> None:
    plain, data = prepared(small_recipe()), prepared(small_recipe(**LOSSES["ignored"]))
    assert data.classes == ("0", "2")
    assert data.outputs == 2
    np.testing.assert_array_equal(np.array([0, IGNORED, 1])[plain.train_y_N], data.train_y_N)


@pytest.mark.parametrize(
    ("values", "line"),
    [
        (
            {"loss__name": "binary_cross_entropy"},
            "loss.name: binary_cross_entropy needs 2 classes, but the data has 3",
        ),
        ({"loss__class_weights": (1.0, 2.0)}, "loss.class_weights: 2 weights for 3 classes"),
        (
            {"loss__class_weights": (0.0, 0.0, 0.0)},
            "loss.class_weights: all are 0, so no row counts",
        ),
        ({"loss__ignored_class": "3"}, "loss.ignored_class: no class '3'; classes: '0', '1', '2'"),
        (
            {"data__classes": 2, "loss__ignored_class": "1"},
            "loss.ignored_class: without '1' a single class is left",
        ),
        (
            {"training__batch": 1, "loss__ignored_class": "1"},
            "loss.ignored_class: no row counts in batch 1 of epoch 1, update 0; a larger "
            "training.batch would help",
        ),
        (
            {
                "training__batch": 1,
                "training__seed": 3,
                "loss__class_weights": (1.0, 0.0, 1.0),
                "gradient__accumulate": 2,
            },
            "loss.class_weights: no row counts in batch 3 of epoch 1, update 1; a larger "
            "training.batch would help",
        ),
        (
            {"loss__name": "mse", "data__source": "digits"},
            'loss.name: mse predicts a number, but data.source "digits" has classes',
        ),
        (
            {"data__source": "diabetes"},
            'loss.name: cross_entropy needs classes, but data.source "diabetes" has a number to '
            "predict (loss.name = mse or huber)",
        ),
        (
            {
                "loss__name": "mse",
                "data__held_out": 0.9,
                "data__source": "diabetes",
                "training__batch": 45,
            },
            "training.batch: 45 rows are more than the 44 training rows",
        ),
    ],
)
def test_a_loss_that_does_not_fit_the_data_is_one_line(values: dict[str, Any], line: str) -> None:
    assert refusal(small_recipe(**values)) == line


@pytest.mark.parametrize(
    ("cells", "line"),
    [
        (["1.5", "x", "3", "4"], "row 2, target column 'y' holds 'x', text where a number is due"),
        (["1.5", "", "3", "4"], "row 2, target column 'y' is empty"),
        (["1.5", "2", "inf", "4"], "row 3, target column 'y' holds inf"),
        (["7", "7", "7", "7"], "data.target: 'y' is 7 in all 2 training rows"),
        (["1e200", "2", "3", "4"], "target 'y': must be finite and at most 1e+100 in size"),
    ],
)  # fmt: skip
def test_a_bad_target_is_named(cells: list[str], line: str, tmp_path: Any) -> None:
    path = tmp_path / "t.csv"
    path.write_text("a,y\n" + "".join(f"{i},{cell}\n" for i, cell in enumerate(cells)))
    values = {"data.source": "file", "data.path": str(path), "data.target": "y", "loss.name": "mse"}
    recipe = Recipe().with_values(values | {"data.held_out": 0.5, "training.batch": 2})
    message = refusal(recipe).removeprefix(f"{path}: ")
    start, _, advice = message.partition("; must be a finite number")
    assert start == line
    assert ("data.missing = drop" in advice) == ("empty" in line)


def test_a_number_in_a_file_is_trained_on(tmp_path: Any) -> None:
    path = tmp_path / "t.csv"
    path.write_text("a,y\n" + "".join(f"{i},{0.5 * i}\n" for i in range(40)))
    values = {
        "data.source": "file",
        "data.path": str(path),
        "data.target": "y",
        "loss.name": "huber",
    }
    data = prepare(Recipe().with_values(values | {"training.batch": 8}))
    assert (data.target, data.classes, data.columns) == ("y", (), ("a",))
    largest = np.append(data.train_y_N, data.held_out_y_N).max() * data.target_scale
    np.testing.assert_allclose(2 * largest, 39 - 2 * data.target_mean)


def test_save_and_load_keep_the_target(tmp_path: Any) -> None:
    data = prepare(Recipe().with_values({"data.source": "diabetes", "loss.name": "mse"}))
    data.save(tmp_path / "data")
    loaded = type(data).load(tmp_path / "data")
    assert loaded.target == data.target
    assert (loaded.target_mean, loaded.target_scale) == (data.target_mean, data.target_scale)
    assert loaded.hash == data.hash
    np.testing.assert_array_equal(loaded.train_y_N, data.train_y_N)


# --- the report


def story_of(**values: Any) -> tuple[Story, dict[str, Trace]]:
    recipe = small_recipe(**values)
    traces = {
        "torch": twin_trace("torch", recipe),
        "jax": twin_trace("jax", recipe),
        "oracle": oracle_trace(recipe),
    }
    verdict = Verdict("rounding", (), {"lr": 0.0, "loss": 0.0, "parameters": 0.0})
    return build_story(prepared(recipe), load_table(recipe), traces, traces, verdict), traces


def text_of(story: Story, width: int) -> str:
    file = io.StringIO()
    print_story(story, Console(file=file, width=width))
    text = file.getvalue()
    assert max(map(len, text.splitlines())) <= width
    return str(" ".join(text.split()))


@pytest.mark.parametrize("width", [80, 120])
def test_a_number_is_told_in_its_unit(width: int) -> None:
    story, traces = story_of(**LOSSES["mse"])
    data = prepared(small_recipe(**LOSSES["mse"]))
    text = text_of(story, width)
    mae = float(traces["torch"].metric("held_out_mae")[-1]) * data.target_scale
    assert f"{mae:.4g} (torch)" in text
    assert "R²" in text
    assert "target y;" in text
    assert "classes" not in text.partition("Quiz")[0]
    assert "right answers" not in text
    (predicted,) = re.findall(r"Predicted by torch: ([^;]+);", text)
    output = float(traces["torch"].prediction["linear3"][0])
    assert predicted == f"{output * data.target_scale + data.target_mean:.4g}"
    scores = [traces[key].metric("held_out_r2")[-1] for key in ("torch", "jax")]
    assert story.training[-1].held_out_score == tuple(scores)
    page = render_html(story)
    assert "train R²" in page
    assert "R² per epoch" in page
    assert f"{mae:.4g} (torch)" in page
    assert summarise(traces, story.verdict)["torch"]["held_out_mae"] == pytest.approx(mae)
    metrics = ["loss", "r2", "mae", "held_out_loss", "held_out_r2", "held_out_mae"]
    assert list(summarise(traces, story.verdict)["jax"]) == metrics


def test_one_logit_is_told_as_two_classes() -> None:
    story, traces = story_of(**LOSSES["binary"])
    share = float(traces["torch"].prediction["sigmoid"][0])
    text = text_of(story, 80)
    assert f"Predicted by torch: {int(share > 0.5)} ({100 * max(share, 1 - share):.2f} %)" in text
    assert "loss binary cross entropy optimizer" in text
    assert "2 classes 0, 1" in text


def test_ignored_rows_are_told() -> None:
    text = text_of(story_of(**LOSSES["ignored, weights, smoothing"])[0], 80)
    assert "3 classes 1, 2, 3 training rows by class" in text
    data = prepared(small_recipe(**LOSSES["ignored, weights, smoothing"]))
    assert f"training rows ignored {int((data.train_y_N == IGNORED).sum())}" in text
    assert "(label smoothing 0.3; class weights 0.5, 1, 3; ignores class 0)" in text


def test_a_number_that_blows_up_still_fits_the_page() -> None:
    for width in (80, 120):
        text = text_of(story_of(loss__name="mse", schedule__peak=1e4, schedule__warmup=0)[0], width)
        assert "nan" in text or "inf" in text


def test_the_diabetes_recipe_converges_alike() -> None:
    recipe = load_recipe("diabetes")
    for trace in (twin_trace(backend, recipe) for backend in TWINS):
        assert trace.metric("train_r2")[-1] > 0.5
        # the mean of the training rows would score 0; a linear least squares fit scores 0.33
        assert trace.metric("held_out_r2")[-1] > 0.3
        assert trace.metric("held_out_loss")[-1] < 0.7 * trace.metric("held_out_loss")[0]


def test_a_class_whose_name_is_a_number_may_be_written_as_one() -> None:
    assert Recipe().with_overrides(["loss.ignored_class=9"]).loss.ignored_class == "9"
    with pytest.raises(InputError, match="valid string, got True"):
        Recipe().with_overrides(["loss.ignored_class=true"])
