"""What one loop is fed and begins with, beside the other: the relation is named whichever side has
it, in both precisions, and nothing is said where there is none.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from lockstep.diagnose.diagnosis import diagnose
from lockstep.diagnose.loops import align
from lockstep.diagnose.noise import loop_bounds
from lockstep.records.trace import Trace

Batch = dict[str, NDArray[Any]]
ROWS = 16
UPDATES = 3
FLOATS = [np.float64, np.float32]


def data_of(seed: int, classes: int = 5) -> Batch:
    """Features (updates, rows, 6), images (updates, rows, 3, 6, 6) and labels (updates, rows)."""
    draw = np.random.default_rng(seed)
    x = draw.standard_normal((UPDATES, ROWS, 6))
    image = draw.integers(0, 256, (UPDATES, ROWS, 3, 6, 6)) / 255
    return {"x": x, "image": image, "y": draw.integers(0, classes, (UPDATES, ROWS))}


def start_of(seed: int) -> Batch:
    """Parameters as PyTorch draws them: uniform within 1 / sqrt(fan_in)."""
    draw = np.random.default_rng(seed)
    return {
        "hidden.weight": draw.uniform(-1, 1, (40, 16)) / 4,
        "hidden.bias": draw.uniform(-1, 1, 40) / 4,
        "out.weight": draw.uniform(-1, 1, (5, 40)) / np.sqrt(40),
        "norm.weight": np.ones(40),
    }


def trace_of(batches: Batch, start: Batch, dtype: Any = np.float64) -> Trace:
    """A loop that does nothing but be fed."""

    def stored(array: NDArray[Any]) -> NDArray[Any]:
        return array.astype(dtype) if array.dtype.kind == "f" else array

    arrays = {f"parameters/0/{name}": stored(array) for name, array in start.items()}
    for update in range(UPDATES):
        for name, array in batches.items():
            arrays[f"detail/{update}/batch/{name}"] = stored(array[update])
    arrays["updates/loss"] = np.zeros(UPDATES)
    header = {
        "kind": "loop",
        "backend": "torch",
        "updates": UPDATES,
        "updates_per_epoch": UPDATES,
        "first_update": 0,
        "detail": list(range(UPDATES)),
        "dtype": np.dtype(dtype).name,
        "dtypes": [np.dtype(dtype).name],
        "layers": [],
        "buffers": [],
        "settings": {},
        "recording": {"perturb": None, "budget_mib": 256, "stopped": "", "statistics_until": None},
    }
    return Trace(header, arrays)


def causes_of(a: Trace, b: Trace) -> list[str]:
    """The sentences on two traces."""
    a, b = align(a, b)
    diagnosis = diagnose(a, b, bounds=loop_bounds(a, b, []))
    assert diagnosis.first is not None
    causes = [diagnosis.cause, *diagnosis.further]
    return [cause.text for cause in causes if cause is not None]


def assert_named(right: Trace, off: Trace, words: str, opposite: str = "") -> None:
    """The cause has these words, with either side as the one that is off."""
    texts = causes_of(right, off)
    assert texts
    assert words in texts[0]
    texts = causes_of(off, right)
    assert texts
    assert (opposite or words) in texts[0]


def text_order(labels: NDArray[Any]) -> NDArray[Any]:
    """The classes 1 to 12 in the order of text."""
    names = sorted(str(number) for number in range(1, 13))
    rank = [names.index(str(number)) for number in range(1, 13)]
    return np.array(rank)[labels]


CHANGES: dict[str, tuple[Callable[[Batch], Batch], str, str]] = {
    "another order": (
        lambda d: {name: array[:, ::-1] for name, array in d.items()},
        "the same 16 rows as",
        "",
    ),
    "labels shuffled": (
        lambda d: d | {"y": d["y"][:, np.random.default_rng(1).permutation(ROWS)]},
        "they no longer belong to their rows",
        "",
    ),
    "first rows": (
        lambda d: {name: array[:, :5] for name, array in d.items()},
        "b is fed the first 5 of a's 16 rows",
        "a is fed the first 5 of b's 16 rows",
    ),
    "every 2nd": (
        lambda d: {name: array[:, ::2] for name, array in d.items()},
        "every 2nd of",
        "",
    ),
    "shifted": (
        lambda d: {
            name: np.roll(array.reshape(-1, *array.shape[2:]), -2, 0).reshape(array.shape)
            for name, array in d.items()
        },
        "b's batch begins 2 rows later",
        "b's batch begins 2 rows earlier",
    ),
    "labels from 1": (lambda d: d | {"y": d["y"] + 1}, "labels are a's plus 1", "minus 1"),
    "labels reversed": (lambda d: d | {"y": 4 - d["y"]}, "in reverse order", ""),
    "one label ignored": (
        lambda d: d | {"y": np.where(d["y"] == 2, -100, d["y"])},
        "have -100 where a has 2",
        "have 2 where a has -100",
    ),
    "bytes": (lambda d: d | {"image": d["image"] * 255}, "255", ""),
    "channels": (lambda d: d | {"image": d["image"][:, :, ::-1]}, "channels in reverse", ""),
    "mirrored": (lambda d: d | {"image": d["image"][..., ::-1]}, "reversed along axis 3", ""),
    "float16": (
        lambda d: d | {"x": d["x"].astype(np.float16).astype(np.float64)},
        "rounded to float16",
        "",
    ),
}


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", CHANGES)
def test_what_is_fed_otherwise_is_named(name: str, dtype: Any) -> None:
    change, words, opposite = CHANGES[name]
    batches = data_of(3)
    start = start_of(0)
    right = trace_of(batches, start, dtype)
    assert_named(right, trace_of(change(batches), start, dtype), words, opposite)


@pytest.mark.parametrize("dtype", FLOATS)
def test_labels_in_the_order_of_text_are_told(dtype: Any) -> None:
    batches = data_of(5, classes=12)
    right = trace_of(batches, start_of(0), dtype)
    off = trace_of(batches | {"y": text_order(batches["y"])}, start_of(0), dtype)
    assert_named(right, off, "the order of 1, 10, 11, 12, 2, ... as text")


def test_unsigned_labels_do_not_overflow() -> None:
    batches = data_of(5)
    labels = batches["y"].astype(np.uint8)
    right = trace_of(batches | {"y": labels + np.uint8(1)}, start_of(0))
    off = trace_of(batches | {"y": labels}, start_of(0))
    assert causes_of(right, off) == ["b's labels are a's minus 1: counted from 0, not from 1"]


@settings(max_examples=10, deadline=None)
@given(rows=st.integers(5, 300), seed=st.integers(0, 99))
def test_the_rows_of_a_deviation_over_n_are_counted(rows: int, seed: int) -> None:
    batches = data_of(seed)
    right = trace_of(batches, start_of(0))
    larger = {name: batches[name] * np.sqrt(rows / (rows - 1)) for name in ("x", "image")}
    off = trace_of(batches | {"x": larger["x"]}, start_of(0))
    assert f"the deviation is divided by n = {rows}, not by n - 1" in causes_of(right, off)[0]


@pytest.mark.parametrize("factor", [1.01, 1.002, 0.9, 2.0, 3.7])
def test_another_factor_is_no_deviation_over_n(factor: float) -> None:
    batches = data_of(7)
    right = trace_of(batches, start_of(0))
    off = trace_of(batches | {"x": batches["x"] * factor}, start_of(0))
    (text,) = causes_of(right, off)
    assert "deviation" not in text
    assert "times" in text


def test_known_means_and_deviations_are_named() -> None:
    batches = data_of(7)
    mean = np.array([0.485, 0.456, 0.406])[:, None, None]
    deviation = np.array([0.229, 0.224, 0.225])[:, None, None]
    right = trace_of(batches | {"image": (batches["image"] - mean) / deviation}, start_of(0))
    off = trace_of(batches | {"image": batches["image"] * 2 - 1}, start_of(0))
    (text,) = causes_of(right, off)
    assert "a mean and a deviation of 0.5" in text
    assert "ImageNet" in text


def test_rows_that_share_nothing_are_others() -> None:
    batches = {name: data_of(1)[name] for name in ("x", "y")}
    others = {name: data_of(2)[name] for name in ("x", "y")}
    (text,) = causes_of(trace_of(batches, start_of(0)), trace_of(others, start_of(0)))
    assert text.startswith("b is fed other rows than a")


def test_features_made_otherwise_of_the_same_rows_are_not_other_rows() -> None:
    batches = {name: data_of(1)[name] for name in ("x", "y")}
    squared = batches | {"x": batches["x"] ** 3 + batches["x"]}
    texts = causes_of(trace_of(batches, start_of(0)), trace_of(squared, start_of(0)))
    assert not any("other rows" in text for text in texts)


@pytest.mark.parametrize("dtype", FLOATS)
def test_another_draw_is_told_from_another_law(dtype: Any) -> None:
    batches = data_of(0)
    right = trace_of(batches, start_of(0), dtype)
    assert_named(right, trace_of(batches, start_of(1), dtype), "another draw of the same law")
    wider = start_of(1)
    wider["hidden.weight"] = wider["hidden.weight"] * np.sqrt(3)
    texts = causes_of(right, trace_of(batches, wider, dtype))
    assert any("b's initial hidden.weight is another draw, of a law" in text for text in texts)


def test_xavier_of_packed_matrices_is_told() -> None:
    draw = np.random.default_rng(0)
    packed = draw.uniform(-1, 1, (48, 16)) * np.sqrt(6 / 64)
    three = draw.uniform(-1, 1, (48, 16)) * np.sqrt(6 / 32)
    batches = data_of(0)
    right = trace_of(batches, {"in_proj_weight": packed})
    off = trace_of(batches, {"in_proj_weight": three})
    words = "sqrt(2) = 1.414 times as wide as a's: Xavier of three matrices for one packed"
    assert_named(right, off, words, words.replace("a's", "b's"))


def test_the_same_draw_scaled_is_no_other_draw() -> None:
    batches = data_of(0)
    start = start_of(0)
    scaled = start | {"out.weight": start["out.weight"] * np.sqrt(3)}
    (text,) = causes_of(trace_of(batches, start), trace_of(batches, scaled))
    assert text == "b's initial parameters are a's draw scaled: out.weight sqrt(3) = 1.732 times"


def test_zeros_for_a_draw_are_named() -> None:
    batches = data_of(0)
    start = start_of(0)
    off = trace_of(batches, start | {"hidden.bias": np.zeros(40)})
    (text,) = causes_of(trace_of(batches, start), off)
    assert text == "b starts hidden.bias at 0; a draws it"
