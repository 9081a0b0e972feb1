"""What the report shows is what the traces hold, whatever the recipe, and nothing in the data can
break out of it.
"""

import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from lockstep.data_prep import PreparedData, Table, load_table, prepare
from lockstep.diagnose.verdict import Check, Verdict
from lockstep.errors import InputError
from lockstep.numbers import difference, percent, short
from lockstep.recipe import Recipe
from lockstep.records.run_recorder import RunRecorder, Watch
from lockstep.records.trace import Metrics, Trace
from lockstep.report.run.charts import thin
from lockstep.report.run.epochs import select_rows
from lockstep.report.run.html import render_html
from lockstep.report.run.story import Story, build_story
from lockstep.report.run.summary import summarise
from lockstep.report.run.terminal import print_story
from lockstep.run.everywhere import contrast_schedule
from lockstep.schedules.formulas import learning_rates
from parity_tests.shared.views import GivenView

HOSTILE = "</script><img src=x onerror=alert(1)>"
SMALL = {"data.rows": 200, "model.hidden": [8]}

RECIPES: dict[str, dict[str, Any]] = {
    "seed": {},
    "no warmup": {"schedule.warmup": 0},
    "no warmup, one epoch": {"schedule.warmup": 0, "training.epochs": 1},
    "cosine, no warmup": {"schedule.name": "cosine", "schedule.warmup": 0},
    "cosine by update from 0": {
        "schedule.name": "cosine",
        "schedule.unit": "update",
        "schedule.warmup": 11,
        "schedule.ramp": "t/W",
    },
    "one epoch": {"training.epochs": 1, "schedule.warmup": 1},
    "one cycle": {"schedule.name": "one_cycle"},
    "exponential warmup": {"schedule.name": "inverse_sqrt", "schedule.warmup_shape": "exponential"},
    "logarithmic warmup": {"schedule.preset": "deepspeed.warmup", "schedule.warmup": 4},
    "constant warmup": {"schedule.preset": "torch.constant_lr", "schedule.warmup": 4},
    "1-sqrt warmup, by t/(W-1)": {
        "schedule.ramp": "t/W",
        "schedule.warmup_curve": "1-sqrt",
        "schedule.warmup_top": "W-1",
    },
    "untuned warmup": {
        "optimizer.name": "adamw",
        "optimizer.beta2": 0.9,
        "schedule.name": "wsd",
        "schedule.unit": "update",
        "schedule.warmup": 0,
        "schedule.warmup_shape": "untuned_linear",
    },
    "blows up": {"schedule.peak": 1e30},
    "no hidden layer": {"model.hidden": []},
    "200 classes": {
        "data.classes": 200,
        "data.rows": 400,
        "data.features": 9,
        "training.epochs": 5,
    },
    "100 epochs": {"training.epochs": 100, "training.batch": 200},
    "20 layers": {"model.hidden": [4] * 20, "training.epochs": 2, "schedule.warmup": 2},
}


def forward(recipe: Recipe, parameters: dict[str, Any], x: Any) -> dict[str, Any]:
    act = (lambda z: np.maximum(z, 0)) if recipe.model.activation == "relu" else np.tanh
    layers, last = {"input": x}, len(recipe.model.hidden) + 1
    for i in range(1, last + 1):
        layers[f"linear{i}"] = x = (
            x @ parameters[f"linear{i}.weight"] + parameters[f"linear{i}.bias"]
        )
        if i < last:
            layers[f"{recipe.model.activation}{i}"] = x = act(x)
    shifted = np.exp(x - x.max(axis=-1, keepdims=True))
    return layers | {"softmax": shifted / shifted.sum(axis=-1, keepdims=True)}


def train(recipe: Recipe, data: PreparedData, backend: str) -> Trace:
    """Momentum SGD on the last layer alone: enough for a trace whose numbers mean something."""
    dtype = np.dtype("float64" if backend == "oracle" else recipe.training.dtype)
    environment = {backend: "1.2.3", "device": "cpu"} if backend != "oracle" else {}
    recorder = RunRecorder(recipe, data, Watch(), backend=backend, environment=environment)
    recorder.header["recipe"] = json.loads(json.dumps(recorder.header["recipe"]))
    rates = learning_rates(recipe, data.updates_per_epoch).astype(dtype)
    parameters = {name: array.astype(dtype) for name, array in data.parameters.items()}
    last = f"linear{len(recipe.model.hidden) + 1}"
    momentum = 0.0
    recorder.begin(GivenView(parameters))

    def metrics(x: Any, y: Any) -> Metrics:
        share = forward(recipe, parameters, x)["softmax"]
        picked = share[np.arange(len(y)), y]
        return {
            "loss": -np.log(picked).mean(),
            "accuracy": float((share.argmax(axis=1) == y).mean()),
        }

    with np.errstate(all="ignore"):
        for segment in recorder.segments():
            batches, scalars = (
                data.batches(segment.epoch),
                {name: [] for name in ("loss", "grad_norm", "update_norm")},
            )
            for i in range(segment.start, segment.stop):
                rows = batches.rows_TB[i][: batches.count_T[i]]
                x, y = data.train_x_ND[rows].astype(dtype), data.train_y_N[rows]
                layers = forward(recipe, parameters, x)
                share = layers["softmax"]
                scalars["loss"].append(-np.log(share[np.arange(len(y)), y]).mean())
                inputs = list(layers.values())[-3]
                gradient = inputs.T @ (share - np.eye(len(data.classes), dtype=dtype)[y]) / len(y)
                momentum = getattr(recipe.optimizer, "momentum", 0.0) * momentum + gradient
                step = rates[segment.epoch * data.updates_per_epoch + i] * momentum
                parameters[f"{last}.weight"] = parameters[f"{last}.weight"] - step.astype(dtype)
                scalars["grad_norm"].append(np.linalg.norm(gradient))
                scalars["update_norm"].append(np.linalg.norm(step))
            if backend == "jax":
                parameters[f"{last}.weight"] = parameters[f"{last}.weight"] * dtype.type(1 + 2e-7)
            start = segment.epoch * data.updates_per_epoch
            train = metrics(data.train_x_ND.astype(dtype), data.train_y_N)
            held_out = metrics(data.held_out_x_ND.astype(dtype), data.held_out_y_N)
            sample = forward(recipe, parameters, data.held_out_x_ND[0].astype(dtype))
            view = GivenView(parameters, (train, held_out), sample)
            recorder.record(
                scalars | {"lr": rates[start + segment.start : start + segment.stop]}, view
            )
    return recorder.finish(view)


VERDICT = Verdict(
    "rounding",
    (
        Check("learning rate", True, "the same bits at every update"),
        Check("parameters", True, "0.31 of the bound"),
    ),
    {"lr": 0.0, "loss": 1.2e-7, "parameters": float("nan")},
)


@cache
def story_of(kind: str) -> tuple[Story, dict[str, Trace], dict[str, Trace], PreparedData, Table]:
    recipe = Recipe().with_values(SMALL | RECIPES[kind])
    table = load_table(recipe)
    data = prepare(recipe, table)
    schedule = contrast_schedule(recipe, data.updates_per_epoch)
    other = replace(recipe, schedule=schedule)
    backends = ("torch", "jax", "oracle")
    traces = {backend: train(recipe, data, backend) for backend in backends}
    contrast = {backend: train(other, data, backend) for backend in backends}
    return build_story(data, table, traces, contrast, VERDICT), traces, contrast, data, table


@cache
def hostile() -> Story:
    _, traces, contrast, data, table = story_of("seed")
    classes = (HOSTILE, "[red]b[/]\x1b[31m")
    columns = (HOSTILE, *table.columns[1:])
    data = replace(data, classes=classes, columns=columns)
    table = replace(table, classes=classes, columns=columns)
    return build_story(data, table, traces, contrast, VERDICT)


def printed(story: Story, width: int, **options: Any) -> str:
    file = io.StringIO()
    print_story(story, Console(file=file, width=width, **options))
    return file.getvalue()


every_recipe = pytest.mark.parametrize("kind", RECIPES)


@every_recipe
def test_story_numbers_are_those_of_the_traces(kind: str) -> None:
    story, traces, _, data, _ = story_of(kind)
    assert len(story.training) == data.epochs
    for i, row in enumerate(story.training):
        assert row.lr == traces["torch"].series("lr")[(i + 1) * data.updates_per_epoch - 1]
        for name in ("train_loss", "held_out_loss", "train_accuracy", "held_out_accuracy"):
            values = getattr(row, name.replace("accuracy", "score"))
            expected = tuple(traces[backend].metric(name)[i] for backend in ("torch", "jax"))
            np.testing.assert_equal(values, expected)
        assert len(row.observation) <= 13
    softmax = traces["jax"].prediction["softmax"]
    np.testing.assert_array_equal(story.prediction.layers[-1].jax, softmax)
    assert [row.layer for row in story.prediction.layers] == traces["torch"].header["layers"]


@every_recipe
def test_quiz_has_one_right_answer_among_distinct_choices(kind: str) -> None:
    story, traces, _, _, _ = story_of(kind)
    for question in story.quiz:
        assert 3 <= len(set(question.choices)) == len(question.choices) <= 4
        assert 0 <= question.right < len(question.choices)
    rate = float(story.quiz[1].choices[story.quiz[1].right])
    assert np.isclose(traces["torch"].series("lr"), rate, rtol=1e-3).any()


@every_recipe
@pytest.mark.parametrize("width", [80, 120])
def test_piped_output_fits_and_has_no_escape_codes(kind: str, width: int) -> None:
    text = printed(story_of(kind)[0], width)
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= width
    parts = ("Pipeline", "Training trace", "Prediction trace", "Warmup against none")
    for part in (*parts, "Quiz", "Key insight"):
        assert part in text


@every_recipe
def test_html_holds_every_chart_as_strict_json(kind: str) -> None:
    charts = charts_of(render_html(story_of(kind)[0]))
    assert len(charts) == 8
    for chart in charts.values():
        for curve in chart["curves"]:
            assert len(curve["x"]) == len(curve["y"]) > 0


@every_recipe
def test_summary_is_strict_json(kind: str) -> None:
    _, traces, _, _, _ = story_of(kind)
    summary = json.loads(json.dumps(summarise(traces, VERDICT), allow_nan=False))
    assert summary["verdict"] == "rounding"
    assert summary["max_difference"] == {"lr": 0.0, "loss": 1.2e-7, "parameters": None}
    final = float(traces["jax"].metric("held_out_loss")[-1])
    assert summary["jax"]["held_out_loss"] == (final if np.isfinite(final) else None)
    assert summary["versions"].keys() == {"lockstep", "python", "numpy", "torch", "jax"}


def charts_of(page: str) -> dict[str, Any]:
    pattern = r'<script type="application/json" id="charts">(.*?)</script>'
    (text,) = re.findall(pattern, page, flags=re.DOTALL)

    def refuse(word: str) -> None:
        raise AssertionError(word)

    return json.loads(text, parse_constant=refuse)


def test_warmup_is_seen_in_rates_and_observations() -> None:
    story = story_of("seed")[0]
    assert [row.observation for row in story.training[:5]] == ["warming up"] * 4 + ["peak reached"]
    facts = {fact.label: fact.value for fact in story.pipeline[3].facts}
    assert facts["in each epoch"] == (
        "0.002 (epoch 1), 0.004 (2), 0.006 (3), 0.008 (4), 0.01 (5 to 10)"
    )
    assert story.quiz[1].choices[story.quiz[1].right] == "0.006"


def test_layers_and_parameters_are_counted() -> None:
    facts = {fact.label: fact.value for fact in story_of("seed")[0].pipeline[2].facts}
    assert facts["layers"] == "Linear(10\u21928), ReLU, Linear(8\u21922)"
    assert facts["parameters in all"] == str(10 * 8 + 8 + 8 * 2 + 2)
    assert facts["same bits in both"] == "yes"


def test_without_warmup_the_texts_turn_round() -> None:
    story, traces, contrast, _, _ = story_of("no warmup")
    assert "The recipe has no warmup" in story.warmup.note
    assert story.warmup.rows[0].without[0] == traces["torch"].series("update_norm")[0]
    assert story.warmup.rows[0].with_warmup[0] == contrast["torch"].series("update_norm")[0]
    assert "has no warmup" in story.quiz[2].text
    assert "no warmup" in story.pipeline[3].what


def test_equal_rates_are_said_to_change_nothing() -> None:
    story = story_of("no warmup, one epoch")[0]
    assert "changes nothing" in story.warmup.sentence
    assert story.quiz[2].choices[story.quiz[2].right].startswith("It is about the same")


def test_a_run_that_blows_up_says_so() -> None:
    story = story_of("blows up")[0]
    assert story.training[-1].observation in ("not a number", "infinite")
    assert story.quiz[2].choices[story.quiz[2].right].startswith("It is no finite number")
    assert "nan" in printed(story, 80) or "inf" in printed(story, 80)


@pytest.mark.parametrize(
    ("end", "right"),
    [
        (0.5, "It is lower"),
        (2.0, "It is higher"),
        (1.001, "It is about the same"),
        (np.nan, "It is no"),
    ],
)
def test_the_answer_on_leaving_out_warmup_is_measured(end: float, right: str) -> None:
    _, traces, contrast, data, table = story_of("seed")
    changed = {}
    for backend, trace in contrast.items():
        loss = traces[backend].metric("held_out_loss") * end
        changed[backend] = Trace(trace.header, trace.arrays | {"epochs/held_out_loss": loss})
    question = build_story(data, table, traces, changed, VERDICT).quiz[2]
    assert question.choices[question.right].startswith(right)


@pytest.mark.parametrize(
    ("held_out", "observation"), [([1, 0.5, 0.6], "overfitting"), ([1, 0.5, 0.5], "converging")]
)
def test_observations_follow_from_the_numbers(held_out: list[float], observation: str) -> None:
    _, traces, contrast, data, table = story_of("no warmup")
    changed = {}
    for backend, trace in traces.items():
        epochs = {
            "epochs/train_loss": np.linspace(1, 0.1, 10),
            "epochs/held_out_loss": np.array([*held_out, *[1.0] * 7]),
        }
        changed[backend] = Trace(trace.header, trace.arrays | epochs)
    story = build_story(data, table, changed, contrast, VERDICT)
    assert story.training[2].observation == observation


def test_a_hostile_name_stays_text() -> None:
    page = render_html(hostile())
    assert HOSTILE not in page
    assert "&lt;/script&gt;&lt;img src=x" in page
    assert charts_of(page)
    text = printed(hostile(), 80)
    assert "\x1b" not in text
    assert "[red]b[/]" in text


def test_a_hostile_curve_name_stays_in_its_json() -> None:
    story = story_of("seed")[0]
    curve = replace(story.charts[0].curves[0], name=HOSTILE)
    story = replace(story, charts=(replace(story.charts[0], curves=(curve,)), *story.charts[1:]))
    page = render_html(story)
    assert HOSTILE not in page
    assert charts_of(page)["lr"]["curves"][0]["name"] == HOSTILE


def test_html_loads_nothing_from_elsewhere() -> None:
    page = render_html(story_of("seed")[0])
    # the first script is plotly.js
    own = re.sub(r"<script>.*?</script>", "", page, count=1, flags=re.DOTALL)
    assert len(own) < 200_000 < 1_000_000 < len(page)
    assert not re.search(r"https?:", own)
    assert not re.search(r"<(link|iframe|img|script[^>]*\ssrc)", own)
    assert "default-src 'none'" in own


def test_colour_only_where_the_console_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    story = story_of("seed")[0]
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[94m" in printed(story, 80, force_terminal=True, color_system="256")
    monkeypatch.setenv("NO_COLOR", "1")
    text = printed(story, 80, force_terminal=True, color_system="256")
    assert not re.search(r"\x1b\[[0-9;]*[39][0-7]m", text)


def test_a_terminal_without_unicode_gets_what_it_can_show() -> None:
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    print_story(story_of("seed")[0], Console(file=file, width=80))
    file.seek(0)
    assert "Linear(10?8), ReLU" in file.read()


def test_long_runs_are_thinned_and_keep_their_extremes() -> None:
    y = np.sin(np.arange(1_000_000) / 1000)
    y[[123_457, 765_432]] = 50, -50
    y[1000:3000] = np.nan
    indices = thin(y)
    assert len(indices) <= 2002
    assert {0, 123_457, 765_432, 999_999} <= set(indices.tolist())


def test_many_epochs_are_listed_in_part_and_said_to_be() -> None:
    story = story_of("100 epochs")[0]
    rows = select_rows(story.training, 40)
    assert len(rows) <= 40
    assert {1, 5, 100} <= {row.epoch for row in rows}
    assert f"{len(rows)} of 100 epochs are shown" in " ".join(printed(story, 80).split())


@pytest.mark.parametrize(
    ("function", "value", "text"),
    [
        (short, 0.30124, "0.3012"),
        (short, 12.3456, "12.346"),
        (short, 123456.7, "123457"),
        (short, 1.23e9, "1e+09"),
        (short, 3e-6, "3e-06"),
        (short, float("nan"), "nan"),
        (short, float("inf"), "inf"),
        (percent, 0.8812, "88.1"),
        (percent, 0.9999, "99.9"),
        (percent, 1.0, "100"),
    ],
)
def test_numbers_are_short(function: Callable[[float], str], value: float, text: str) -> None:
    assert function(value) == text


def test_difference_of_what_is_not_a_number() -> None:
    assert difference([np.nan, np.inf, 1], [np.nan, np.inf, 1.5]) == 0.5
    assert np.isnan(difference([np.nan], [1]))


def test_a_missing_trace_is_an_input_error() -> None:
    _, traces, contrast, data, table = story_of("seed")
    with pytest.raises(InputError, match="needs a trace of jax"):
        build_story(data, table, {"torch": traces["torch"]}, contrast, VERDICT)
