"""An output that two loops record at other places of a layer is no difference of the trainings."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lockstep
from lockstep.cli import main
from lockstep.diagnose.without_effect import outputs_without_effect
from lockstep.records.trace import Trace

random = np.random.default_rng(0)
X_BD = random.standard_normal((16, 5)).astype(np.float32)
PARAMETERS = {
    "first": {"w": random.standard_normal((5, 8)).astype(np.float32)},
    "last": {"w": random.standard_normal((8, 3)).astype(np.float32)},
}
Tree = Any


def loss_of(parameters: Tree, slope: float) -> tuple[jax.Array, Tree]:
    before = X_BD @ parameters["first"]["w"]
    after = jnp.where(before > 0, before, slope * before)
    last = after @ parameters["last"]["w"]
    return (last**2).mean(), {"before": before, "after": after, "last": last}


def record(path: Path, place: str, slope: float = 0.0, dtype: Any = jnp.float32) -> Trace:
    """One update of a loop that records the first layer's output at a place."""
    parameters = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), PARAMETERS)
    (loss, outputs), gradients = jax.value_and_grad(loss_of, has_aux=True)(parameters, slope)
    with lockstep.Recorder(path, backend="jax") as recorder:
        recorder.start(parameters)
        recorder.update(
            forward={"first": outputs[place], "last": outputs["last"]},
            loss=loss,
            gradients=gradients,
            parameters=parameters,
            lr=0.1,
        )
    return Trace.load(path)


def test_another_place_of_a_layer_is_set_aside_with_a_note(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a = record(tmp_path / "a", "before")
    b = record(tmp_path / "b", "after")
    assert list(outputs_without_effect(a, b)) == ["forward/first"]
    with pytest.raises(SystemExit) as ending:
        main(["compare", str(tmp_path / "a"), str(tmp_path / "b")])
    assert ending.value.code == 0
    assert "forward of first: not compared" in capsys.readouterr().out


def test_a_fault_has_an_effect_and_stays(tmp_path: Path) -> None:
    right = record(tmp_path / "right", "after")
    faulty = record(tmp_path / "faulty", "after", slope=0.3)
    assert list(outputs_without_effect(right, faulty)) == []
    alike = record(tmp_path / "alike", "after")
    assert list(outputs_without_effect(right, alike)) == []


def test_a_low_precision_decides_nothing(tmp_path: Path) -> None:
    a = record(tmp_path / "a", "before", dtype=jnp.bfloat16)
    b = record(tmp_path / "b", "after", dtype=jnp.bfloat16)
    assert list(outputs_without_effect(a, b)) == []


def test_scores_that_are_masked_by_another_number_are_set_aside_from_either_side(
    tmp_path: Path,
) -> None:
    traces = {}
    for mask in (-np.inf, -1e4):
        trace = record(tmp_path / f"{mask}", "before")
        name = "detail/0/forward/first"
        masked = np.where(trace.arrays[name] > 0, trace.arrays[name], mask)
        traces[mask] = Trace(trace.header, trace.arrays | {name: masked.astype(np.float32)})
    a, b = traces.values()
    assert list(outputs_without_effect(a, b)) == ["forward/first"]
    assert list(outputs_without_effect(b, a)) == ["forward/first"]
    assert list(outputs_without_effect(a, a)) == []
