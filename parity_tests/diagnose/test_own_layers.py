"""Causes in somebody's own layers: each is planted in one of two loops in NumPy, and the numbers
must tell it.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from scipy.special import ndtr

from lockstep import Recorder
from lockstep.errors import ParityError
from lockstep.parity import assert_parity

DRAW = np.random.default_rng(0)
X_BD, X_BCHW = DRAW.normal(size=(6, 5)), DRAW.normal(size=(4, 3, 8, 8))
KERNEL_OIHW, GAMMA, BETA = DRAW.normal(size=(2, 3, 3, 3)), DRAW.normal(size=5), DRAW.normal(size=5)

Layer = Callable[[np.ndarray], np.ndarray]


def loop(
    recorder: Recorder, *, layer: Layer, x: np.ndarray, parameters: dict[str, Any] | None = None
) -> None:
    """A layer called "layer", after one called "before"."""
    weights = recorder.start({"other": np.ones(2)} | (parameters or {}))
    recorder.update(forward={"before": x, "layer": layer(x)}, parameters=weights)


def cause_of(first: Layer, second: Layer, **options: Any) -> tuple[str, str]:
    """The key and the text of the cause; "" where there is none."""
    with pytest.raises(ParityError) as caught:
        assert_parity(partial(loop, layer=first, **options), partial(loop, layer=second, **options))
    properties = caught.value.properties
    assert properties["tensor"] == "layer"
    return properties.get("cause", ""), properties.get("cause.text", "")


def gelu(x: np.ndarray) -> np.ndarray:
    return x * ndtr(x)


def gelu_tanh(x: np.ndarray) -> np.ndarray:
    return x * 0.5 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0)


def normed(
    x: np.ndarray, eps: float, over: Any = -1, gamma: Any = GAMMA, beta: Any = BETA
) -> np.ndarray:
    centred = x - x.mean(over, keepdims=True)
    return centred / np.sqrt(np.square(centred).mean(over, keepdims=True) + eps) * gamma + beta


def convolved(x: np.ndarray, before: int, after: int) -> np.ndarray:
    """A convolution of stride 2, one output at a time."""
    padded = np.pad(x, ((0, 0), (0, 0), (before, after), (before, after)))
    y = np.zeros((len(x), 2, 4, 4))
    for i, j in np.ndindex(4, 4):
        window = padded[:, :, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3]
        y[:, :, i, j] = np.tensordot(window, KERNEL_OIHW, ((1, 2, 3), (1, 2, 3)))
    return y


def test_an_activation_is_told_by_what_it_makes_of_the_layer_before() -> None:
    key, text = cause_of(gelu, gelu_tanh, x=X_BD)
    assert (key, text) == ("gelu-approximation", "b's layer is gelu_tanh, a's gelu")
    key, text = cause_of(relu, np.tanh, x=X_BD)
    assert (key, text) == ("other-activation", "b's layer is tanh, a's relu")


@pytest.mark.parametrize("factor", [0.1, 1.02, 1e3])
def test_the_eps_of_a_layer_norm_is_measured(factor: float) -> None:
    parameters = {"layer.weight": GAMMA, "layer.bias": BETA}
    layers = partial(normed, eps=1e-5), partial(normed, eps=factor * 1e-5)
    key, text = cause_of(*layers, x=X_BD, parameters=parameters)
    values = f"{factor * 1e-5:.4g} for 1e-05"
    assert key == "norm-eps"
    assert text == f"b's layer has an eps of {values}, {factor:.4g} times a's"


def test_the_eps_of_a_batch_norm_is_measured() -> None:
    gamma, beta = DRAW.normal(size=(2, 3))
    affine = {"gamma": gamma.reshape(1, 3, 1, 1), "beta": beta.reshape(1, 3, 1, 1)}
    batch_norm = partial(normed, over=(0, 2, 3), **affine)
    layers = partial(batch_norm, eps=1e-3), partial(batch_norm, eps=1e-5)
    key, text = cause_of(*layers, x=X_BCHW, parameters={"layer.scale": gamma, "layer.bias": beta})
    assert key == "norm-eps"
    assert text == "b's layer has an eps of 1e-05 for 0.001, 0.01 times a's"


def test_the_padding_of_a_convolution_is_told() -> None:
    layers = partial(convolved, before=1, after=1), partial(convolved, before=0, after=1)
    key, text = cause_of(*layers, x=X_BCHW, parameters={"layer.weight": KERNEL_OIHW})
    assert key == "other-padding"
    assert text == "b's layer pads 0 before and 1 after, a's 1 before and 1 after"


def test_what_is_none_of_these_is_not_called_one() -> None:
    noise = 1e-3 * DRAW.normal(size=X_BD.shape)
    parameters = {"layer.weight": GAMMA, "layer.bias": BETA}
    layer = partial(normed, eps=1e-5)
    key, _ = cause_of(layer, lambda x: layer(x) + noise, x=X_BD, parameters=parameters)
    assert key == ""
    key, _ = cause_of(gelu, lambda x: gelu(x) + noise, x=X_BD)
    assert key == ""
    padded = partial(convolved, before=1, after=1)
    parameters = {"layer.weight": KERNEL_OIHW}
    key, _ = cause_of(padded, lambda x: padded(x + 0.1), x=X_BCHW, parameters=parameters)
    assert key != "other-padding"


def statistics_loop(recorder: Recorder, *, momentum: float = 0.1, ddof: int = 1) -> None:
    values = {"norm.mean": np.zeros(5), "norm.var": np.ones(5)}
    variables = recorder.start({"params": {"w": np.ones(2)}, "batch_stats": values})
    draw = np.random.default_rng(1)
    for _ in range(2):
        x_BD = draw.normal(1, 2, (20, 5))
        batch_statistics = {"norm.mean": x_BD.mean(0), "norm.var": x_BD.var(0, ddof=ddof)}
        values = {
            name: (1 - momentum) * values[name] + momentum * batch_statistics[name]
            for name in values
        }
        recorder.update(parameters=variables | {"batch_stats": values})


@pytest.mark.parametrize(
    ("other", "key", "text"),
    [
        (
            {"momentum": 0.01},
            "norm-momentum",
            "b's norm.mean moves 0.1 times as far as a's: another momentum",
        ),
        (
            {"ddof": 0},
            "norm-variance",
            "b's norm.var takes in variances over n, a's over n - 1; n is 20",
        ),
    ],
)
def test_how_running_statistics_move_is_told(other: dict[str, Any], key: str, text: str) -> None:
    with pytest.raises(ParityError) as caught:
        assert_parity(statistics_loop, partial(statistics_loop, **other))
    assert (caught.value.properties["cause"], caught.value.properties["cause.text"]) == (key, text)
    with pytest.raises(ParityError) as caught:
        assert_parity(partial(statistics_loop, **other), statistics_loop)
    assert caught.value.properties["cause"] == key
