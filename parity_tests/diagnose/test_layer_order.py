"""Where a trace lists its layers by the alphabet, their tensors tell which comes first."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lockstep
from lockstep.cli import main
from lockstep.diagnose.local.layer_order import order_of_layers
from lockstep.diagnose.loops import align
from lockstep.records.trace import Trace

B, D, H = 6, 5, 8
random = np.random.default_rng(0)
X_BD = random.standard_normal((B, D)).astype(np.float32)
Tree = Any
PARAMETERS = {
    name: random.standard_normal(shape).astype(np.float32) / np.float32(np.sqrt(shape[0]))
    for name, shape in {
        "z_first.w": (D, H),
        "z_first.b": (H,),
        "m_norm.g": (H,),
        "m_norm.b": (H,),
        "a_last.w": (H, 3),
    }.items()
}


def normalised(h: jax.Array, eps: float) -> jax.Array:
    mean, variance = h.mean(-1, keepdims=True), h.var(-1, keepdims=True)
    return (h - mean) / jnp.sqrt(variance + eps)


def forward(x_BD: jax.Array, eps: float, activation: Callable[..., Any]) -> dict[str, jax.Array]:
    first = x_BD @ PARAMETERS["z_first.w"] + PARAMETERS["z_first.b"]
    norm = normalised(first, eps) * PARAMETERS["m_norm.g"] + PARAMETERS["m_norm.b"]
    active = activation(norm)
    last = active @ PARAMETERS["a_last.w"]
    return {"z_first": first, "m_norm": norm, "b_active": active, "a_last": last}


def trace_of(path: Path, outputs: Tree, batch: Tree = None) -> Trace:
    with lockstep.Recorder(path, backend="jax") as recorder:
        recorder.start(PARAMETERS)
        recorder.update(forward=outputs, parameters=PARAMETERS, loss=1.0, batch=batch)
    return Trace.load(path)


CALL_ORDER = ["z_first", "m_norm", "b_active", "a_last"]


@pytest.mark.parametrize("activation", [jnp.tanh, jax.nn.gelu, jax.nn.relu])
@pytest.mark.parametrize("with_batch", [True, False])
def test_the_order_that_jit_loses_is_found_again(
    activation: Callable[..., Any], with_batch: bool, tmp_path: Path
) -> None:
    outputs = jax.jit(lambda x: forward(x, 1e-5, activation))(X_BD)
    assert list(outputs) == sorted(CALL_ORDER)
    batch = {"x": X_BD} if with_batch else None
    trace = trace_of(tmp_path / "trace", outputs, batch)
    found = order_of_layers(trace)
    # without the batch, nothing says what the first kernel multiplied
    if with_batch:
        assert found == CALL_ORDER
    else:
        assert found.index("b_active") < found.index("a_last")


def test_the_first_difference_is_the_first_in_call_order(tmp_path: Path) -> None:
    traces = []
    for name, eps in (("a", 1e-5), ("b", 1e-1)):
        outputs = jax.jit(lambda x, eps: forward(x, eps, jnp.tanh))(X_BD, eps)
        traces.append(trace_of(tmp_path / name, outputs, {"x": X_BD}))
    comparison = lockstep.compare(*align(*traces))
    assert comparison.first is not None
    assert (comparison.first.stage, comparison.first.tensor) == ("forward", "m_norm")


def test_the_eps_of_a_norm_without_parameters_is_named_behind_the_alphabet(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    x_BD = random.standard_normal((B, D))
    first, last = random.standard_normal((D, H)), random.standard_normal((H, 3))
    for name, eps in (("a", 1e-5), ("b", 1e-2)):
        z_first = x_BD @ first
        centred = z_first - z_first.mean(1, keepdims=True)
        norm = centred / np.sqrt(np.square(centred).mean(1, keepdims=True) + eps)
        outputs = {"a_last": norm @ last, "norm": norm, "z_first": z_first}  # as jit sorts them
        parameters = {"a_last": last, "z_first": first}
        with lockstep.Recorder(tmp_path / name, backend="jax") as recorder:
            recorder.start(parameters)
            recorder.update(forward=outputs, parameters=parameters, batch={"x": x_BD}, loss=1.0)
    with pytest.raises(SystemExit) as ending:
        main(["diagnose", str(tmp_path / "a"), str(tmp_path / "b")])
    text = capsys.readouterr().out
    assert ending.value.code == 1
    assert "norm[" in text
    assert "b's norm has an eps of 0.01 for 1e-05, 1000 times a's" in " ".join(text.split())


def test_an_order_that_nothing_contradicts_stays(tmp_path: Path) -> None:
    outputs = dict(forward(jnp.asarray(X_BD), 1e-5, jnp.tanh))
    in_order = trace_of(tmp_path / "order", outputs, {"x": X_BD})
    assert order_of_layers(in_order) == CALL_ORDER
    renamed = dict(zip("0123", outputs.values()))
    assert order_of_layers(trace_of(tmp_path / "numbers", renamed)) == list("0123")
    unrelated = {name: random.standard_normal((B, H)) for name in ("a", "b", "c")}
    assert order_of_layers(trace_of(tmp_path / "other", unrelated)) == ["a", "b", "c"]


def test_rows_of_an_embedding_follow_the_batch(tmp_path: Path) -> None:
    table, kernel = PARAMETERS["z_first.w"], PARAMETERS["m_norm.g"]
    ids = random.integers(0, D, (B, 4))
    outputs = {"a": table[ids] * 2 @ np.diag(kernel), "z": table[ids] * 2}
    parameters = {"z.w": table * 2, "a.w": np.diag(kernel)}
    with lockstep.Recorder(tmp_path / "t", backend="jax") as recorder:
        recorder.start(parameters)
        recorder.update(forward=outputs, parameters=parameters, batch={"ids": ids})
    assert order_of_layers(Trace.load(tmp_path / "t")) == ["z", "a"]
