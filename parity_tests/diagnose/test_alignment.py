"""Two loops made comparable: arrays that were recorded under other shapes are left out with a note,
and never end a comparison.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lockstep.diagnose.compare import compare
from lockstep.diagnose.diagnosis import diagnose
from lockstep.diagnose.loops import align, notes_on
from lockstep.diagnose.names import Layout, NameMap
from lockstep.diagnose.noise import loop_bounds
from lockstep.errors import InputError
from lockstep.own_loops.recorder import Recorder
from lockstep.records.trace import Trace

DRAW = np.random.Generator(np.random.PCG64(0))
WEIGHT = DRAW.normal(size=(3, 2))


def draw(*shape: int) -> np.ndarray:
    return DRAW.normal(size=shape)


def record(folder: Path, name: str, parameters: Any = None, **families: Any) -> Trace:
    """A trace of one update."""
    recorder = Recorder(folder / name, backend=name, statistics=True)
    recorder.start(parameters or {"w": WEIGHT})
    recorder.update(**{"loss": 1.0} | families)
    return recorder.finish()


def outcome(a: Trace, b: Trace, names: NameMap | None = None) -> tuple[str, str, list[str]]:
    """The verdict, the first tensor that parts, and the notes on what was left out."""
    aligned = align(a, b, names)
    comparison = compare(*aligned, loop_bounds(*aligned))
    tensor = "" if comparison.first is None else comparison.first.tensor
    return comparison.verdict, tensor, [note for note in notes_on(*aligned) if "shapes" in note]


def test_an_output_under_two_shapes_is_left_out_with_its_statistics(tmp_path: Path) -> None:
    position, output = draw(1, 5), draw(8, 2)
    a = record(tmp_path, "a", forward={"pos": position, "out": output})
    b = record(tmp_path, "b", forward={"pos": np.repeat(position, 2, axis=0) + 1, "out": output})
    note = "forward of pos: not compared, as the shapes differ: (1, 5) and (2, 5) of pos"
    assert outcome(a, b) == ("identical", "", [note])
    off = record(tmp_path, "off", forward={"pos": draw(2, 5), "out": output + 1})
    assert outcome(a, off) == ("diverged", "out", [note])


def test_a_batch_of_other_rows_diverges(tmp_path: Path) -> None:
    rows = draw(16, 3)
    a = record(tmp_path, "a", batch=rows)
    b = record(tmp_path, "b", batch=rows[:1])
    assert outcome(a, b) == ("diverged", "x", [])
    assert outcome(b, a) == ("diverged", "x", [])


def test_a_batch_that_nothing_lays_out_is_left_out(tmp_path: Path) -> None:
    rows = draw(16, 3, 4)
    a = record(tmp_path, "a", batch={"x": rows, "y": rows})
    b = record(tmp_path, "b", batch={"x": rows.reshape(16, 12), "y": rows})
    verdict, _, notes = outcome(a, b)
    assert (verdict, len(notes)) == ("identical", 1)


def test_an_output_that_the_map_leaves_out_is_laid_out_as_the_batch(tmp_path: Path) -> None:
    image, output = draw(2, 3, 6, 6), draw(2, 5, 4, 4)
    a = record(tmp_path, "a", batch=image, forward={"conv": output})
    turned = output.transpose(0, 2, 3, 1)
    names = NameMap(batch={"x": Layout("x", (0, 3, 1, 2))})
    fed = image.transpose(0, 2, 3, 1)
    b = record(tmp_path, "b", batch=fed, forward={"conv": turned})
    assert outcome(a, b, names) == ("identical", "", [])
    off = record(tmp_path, "off", batch=fed, forward={"conv": turned + 1})
    assert outcome(a, off, names) == ("diverged", "conv", [])


def test_parameters_of_other_shapes_are_named_in_one_line_five_and_a_count(tmp_path: Path) -> None:
    a = record(tmp_path, "a", {f"w{i}": draw(3, 2) for i in range(9)})
    b = record(tmp_path, "b", {f"w{i}": draw(2, 3) for i in range(9)})
    with pytest.raises(InputError) as caught:
        align(a, b)
    assert str(caught.value) == (
        "parameters whose shapes differ: w0: (3, 2) and (2, 3); w1: (3, 2) and (2, 3); "
        "w2: (3, 2) and (2, 3); w3: (3, 2) and (2, 3); w4: (3, 2) and (2, 3); and 4 more"
    )


def test_layers_that_were_not_compared_before_the_first_difference_are_named(
    tmp_path: Path,
) -> None:
    first, act, second = draw(4, 3), draw(4, 3), draw(4, 2)
    a = record(tmp_path, "a", forward={"fc1": first, "act": act, "drop": act, "fc2": second})
    b = record(tmp_path, "b", forward={"fc1": first, "gelu": act + 1, "fc2": second + 1})
    assert diagnose(*align(a, b)).skipped == "a's act, drop; b's gelu"
    assert diagnose(*align(b, a)).skipped == "a's gelu; b's act, drop"
    agreeing = record(tmp_path, "c", forward={"fc1": first, "act": act, "fc2": second + 1})
    assert diagnose(*align(a, agreeing)).skipped == "a's drop"
    early = record(tmp_path, "d", forward={"fc1": first + 1, "gelu": act})
    assert diagnose(*align(a, early)).skipped == ""


def test_layers_before_a_loss_that_differs_are_named_where_any_was_compared(
    tmp_path: Path,
) -> None:
    output = draw(4, 2)
    a = record(tmp_path, "a", loss=1.0, forward={"fc": output, "softmax": output})
    b = record(tmp_path, "b", loss=2.0, forward={"fc": output})
    assert diagnose(*align(a, b)).skipped == "a's softmax"
    none = record(tmp_path, "none", loss=2.0, forward={"other": output})
    assert diagnose(*align(a, none)).skipped == ""


def test_what_the_map_leaves_out_is_noted(tmp_path: Path) -> None:
    a = record(tmp_path, "a", {"w": WEIGHT, "extra": draw(3)})
    b = record(tmp_path, "b")
    aligned = align(a, b, NameMap(only_a=frozenset({"extra", "elsewhere"})))
    assert "only a has extra: not compared, as the map says" in notes_on(*aligned)
