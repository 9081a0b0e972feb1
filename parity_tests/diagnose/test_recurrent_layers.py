"""Recurrent layers that are others on either side: each side's own numbers tell what differs."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lockstep import Recorder
from lockstep.diagnose.causes import Cause
from lockstep.diagnose.pairs import diagnose

DRAW = np.random.default_rng(1)
BATCH, STEPS, GIVEN, WIDTH = 5, 6, 3, 4
X_BTD = DRAW.normal(size=(BATCH, STEPS, GIVEN))
GATES = {"lstm": 4, "gru": 3}
DTYPES = pytest.mark.parametrize("dtype", ["float64", "float32"])


def sigmoid(z: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-z))


def weights(kind: str) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(2)
    rows = GATES[kind] * WIDTH
    return {
        "weight_ih": draw.normal(size=(rows, GIVEN)),
        "weight_hh": draw.normal(size=(rows, WIDTH)),
        "bias_ih": draw.normal(size=rows),
        "bias_hh": draw.normal(size=rows),
    }


def lstm(p: dict[str, Any], x_BTD: Any, *, order: str = "ifgo", forget: float = 0.0) -> Any:
    """All hidden states of an LSTM, (B, T, H)."""
    h = c = np.zeros((BATCH, WIDTH))
    states = []
    for x in np.moveaxis(x_BTD, 1, 0):
        gates = x @ p["weight_ih"].T + h @ p["weight_hh"].T + p["bias_ih"] + p["bias_hh"]
        of = dict(zip(order, np.split(gates, 4, axis=1)))
        c = sigmoid(of["f"] + forget) * c + sigmoid(of["i"]) * np.tanh(of["g"])
        h = sigmoid(of["o"]) * np.tanh(c)
        states.append(h)
    return np.stack(states, axis=1)


def gru(p: dict[str, Any], x_BTD: Any, *, order: str = "rzn", cell: str = "torch") -> Any:
    """All hidden states of a GRU, (B, T, H)."""
    h = np.zeros((BATCH, WIDTH))
    states = []
    kernels = dict(zip(order, np.split(p["weight_hh"], 3)))
    biases = dict(zip(order, np.split(p["bias_hh"], 3)))
    for x in np.moveaxis(x_BTD, 1, 0):
        fed = dict(zip(order, np.split(x @ p["weight_ih"].T + p["bias_ih"], 3, axis=1)))
        hidden = {gate: h @ kernels[gate].T for gate in "rzn"}
        bias = {gate: 0.0 if cell == "bare" else biases[gate] for gate in "rzn"}
        r = sigmoid(fed["r"] + hidden["r"] + bias["r"])
        z = sigmoid(fed["z"] + hidden["z"] + bias["z"])
        if cell == "folded":
            n = np.tanh(fed["n"] + bias["n"] + r * hidden["n"])
        elif cell == "reset before":
            n = np.tanh(fed["n"] + (r * h) @ kernels["n"].T + bias["n"])
        else:
            n = np.tanh(fed["n"] + r * (hidden["n"] + bias["n"]))
        h = (1 - z) * n + z * h
        states.append(h)
    return np.stack(states, axis=1)


def backward_in_time(layer: Any, p: dict[str, Any], x_BTD: Any) -> Any:
    return layer(p, x_BTD[:, ::-1])[:, ::-1]


def summary(layer: Any, p: dict[str, Any], x_BTD: Any, *, place: int) -> Any:
    return layer(p, x_BTD)[:, place]


def cause_of(folder: Path, kind: str, layers: Any, dtype: str = "float64") -> Cause | None:
    parameters = {f"cell.{name}": array.astype(dtype) for name, array in weights(kind).items()}
    own = {name: array.astype(dtype) for name, array in weights(kind).items()}
    for side, layer in zip("ab", layers):
        with Recorder(folder / f"{side}.trace", backend="torch") as recorder:
            recorder.start(parameters)
            for update in range(2):
                x = ((1 + update) * X_BTD).astype(dtype)
                output = layer(own, x).astype(dtype)
                recorder.update(batch={"x": x}, forward={"cell": output}, parameters=parameters)
    diagnosis = diagnose(folder / "a.trace", folder / "b.trace")
    assert diagnosis.first is not None
    assert (diagnosis.first.stage, diagnosis.first.tensor) == ("forward", "cell")
    return diagnosis.cause


ORDERED = "b's cell has its gates in the order"


@DTYPES
@pytest.mark.parametrize(
    ("kind", "other", "key", "text"),
    [
        (
            "lstm",
            partial(lstm, order="ifog"),
            "recurrent-gates",
            f"{ORDERED} i f o g, a's its gates in the order i f g o",
        ),
        (
            "lstm",
            partial(lstm, forget=1.0),
            "recurrent-forget",
            "b's cell adds 1 to its forget gate, a's nothing to its forget gate",
        ),
        (
            "gru",
            partial(gru, order="zrn"),
            "recurrent-gates",
            f"{ORDERED} z r n, a's its gates in the order r z n",
        ),
        (
            "gru",
            partial(gru, cell="bare"),
            "recurrent-hidden-bias",
            "b has no hidden bias in cell: what bias_hh adds is missing, in the n gate within "
            "r * (...)",
        ),
        (
            "gru",
            partial(gru, cell="folded"),
            "recurrent-hidden-bias",
            "b adds the hidden bias of cell's n gate outside of r * (...), as if it were one with "
            "the bias of the input",
        ),
        (
            "gru",
            partial(gru, cell="reset before"),
            "recurrent-reset",
            "b's cell resets the hidden state before its product with the kernel, a's the hidden "
            "state after its product with the kernel",
        ),
        (
            "gru",
            partial(backward_in_time, gru),
            "recurrent-direction",
            "b's cell runs backward in time, a's forward in time",
        ),
    ],
)
def test_a_recurrent_layer_is_told(
    tmp_path: Path, kind: str, other: Any, key: str, text: str, dtype: str
) -> None:
    layers = {"lstm": lstm, "gru": gru}[kind], other
    cause = cause_of(tmp_path, kind, layers, dtype)
    assert cause is not None
    assert (cause.key, cause.text) == (key, text)
    exchanged = cause_of(tmp_path, kind, layers[::-1], dtype)
    assert exchanged is not None
    assert exchanged.key == key
    if "no hidden bias" in text:
        assert (cause.side, exchanged.side) == ("b", "a")
    else:
        assert (cause.side, exchanged.side) == ("", "")


def test_the_state_that_a_layer_gives_is_told(tmp_path: Path) -> None:
    layers = partial(summary, gru, place=-1), partial(summary, gru, place=0)
    cause = cause_of(tmp_path, "gru", layers)
    assert cause is not None
    assert cause.text == "b's cell gives the first of its states, a's the last of its states"


def test_a_recurrent_layer_of_other_weights_gets_no_cause(tmp_path: Path) -> None:
    def scaled(p: dict[str, Any], x_BTD: Any) -> Any:
        return gru({**p, "weight_hh": 1.01 * p["weight_hh"]}, x_BTD)

    assert cause_of(tmp_path, "gru", (gru, scaled)) is None


def test_a_bias_that_the_map_leaves_out_is_missed(tmp_path: Path) -> None:
    own = weights("gru")
    bare = {name: array for name, array in own.items() if name != "bias_hh"}
    for side, named, cell in (("a", own, "torch"), ("b", bare, "bare")):
        parameters = {f"cell.{name}": array for name, array in named.items()}
        with Recorder(tmp_path / f"{side}.trace", backend="torch") as recorder:
            recorder.start(parameters)
            output = gru(own, X_BTD, cell=cell).swapaxes(0, 1).reshape(-1, WIDTH)
            recorder.update(batch={"x": X_BTD}, forward={"cell": output}, parameters=parameters)
    names = tmp_path / "names.toml"
    pairs = [f'"cell.{name}" = "cell.{name}"' for name in bare]
    names.write_text("\n".join(["[names]", *pairs, "[only]", 'a = ["cell.bias_hh"]', "b = []"]))
    diagnosis = diagnose(tmp_path / "a.trace", tmp_path / "b.trace", names=names)
    assert diagnosis.cause is not None
    assert diagnosis.cause.side == "b"
    assert diagnosis.cause.text == (
        "b has no hidden bias in cell: what bias_hh adds is missing, in the n gate within r * (...)"
    )
