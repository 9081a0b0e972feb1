"""Settings of layers and losses, measured from one side's own tensors in whatever precision."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import lockstep
from lockstep import diagnose
from lockstep.diagnose.local.activations import fit_activation
from lockstep.diagnose.local.attention import attention_fits
from lockstep.diagnose.local.difference import likely
from lockstep.diagnose.local.dropout import measure_dropout
from lockstep.diagnose.local.layer_calls import LayerCall, layer_calls
from lockstep.diagnose.local.linear import measure_linear
from lockstep.diagnose.local.norms import measure_eps
from lockstep.records.trace import Trace

DTYPES = ("float64", "float32", "bfloat16")
UNITS = {"float64": 2.0**-53, "float32": 2.0**-24, "bfloat16": 2.0**-8}


def call_of(x: torch.Tensor, y: torch.Tensor, dtype: str, **parameters: torch.Tensor) -> LayerCall:
    """A layer's call as it would be read from a trace."""
    low = UNITS[dtype] if dtype == "bfloat16" else 0.0
    arrays = {name: value.double().numpy() for name, value in parameters.items()}
    output = y.double().numpy()
    return LayerCall("norm", output, UNITS[dtype], low, arrays, {"x": x.double().numpy()}, False)


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def layer_norm(x: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor, eps: float) -> Any:
    return torch.nn.functional.layer_norm(x, x.shape[-1:], scale, shift, eps)


def rms_norm(x: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor, eps: float) -> Any:
    return torch.nn.functional.rms_norm(x, x.shape[-1:], scale, eps) + 0 * shift


def group_norm(x: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor, eps: float) -> Any:
    channels_first = x.transpose(1, 2)
    y = torch.nn.functional.group_norm(channels_first, 4, scale, shift, eps)
    return y.transpose(1, 2)


def batch_norm(x: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor, eps: float) -> Any:
    rows = x.reshape(-1, x.shape[-1])
    y = torch.nn.functional.batch_norm(rows, None, None, scale, shift, training=True, eps=eps)
    return y.reshape(x.shape)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("norm", [layer_norm, rms_norm, group_norm, batch_norm])
@given(
    eps=st.sampled_from([1e-6, 1e-5, 1e-3]),
    spread=st.floats(0.3, 3.0),
    seed=st.integers(0, 1000),
)
def test_the_eps_of_a_norm_is_measured(
    norm: Any, dtype: str, eps: float, spread: float, seed: int
) -> None:
    kind = getattr(torch, dtype)
    x = (spread * drawn(8, 12, 32, seed=seed) * (1 + drawn(8, 12, 1, seed=seed + 1).abs())).to(kind)
    scale = (1 + 0.1 * drawn(32, seed=seed + 2)).to(kind)
    shift = (0.1 * drawn(32, seed=seed + 3)).to(kind)
    if norm is rms_norm:
        shift = torch.zeros_like(shift)
    call = call_of(x, norm(x, scale, shift, eps), dtype, weight=scale, bias=shift)
    measured = measure_eps(call, 0)
    assert measured is not None
    assert abs(measured.value - eps) < 6 * measured.error
    if dtype != "bfloat16":
        assert measured.error < 1e-5 * spread**2
    # a far larger one is another, in every dtype
    far = 100 * eps + spread**2 * (0.5 if dtype == "bfloat16" else 1e-2)
    other = call_of(x, norm(x, scale, shift, far), dtype, weight=scale, bias=shift)
    further = measure_eps(other, 0)
    assert further is not None
    assert further.value - measured.value > 8 * np.hypot(further.error, measured.error)


def test_what_is_no_norm_has_no_eps() -> None:
    x = drawn(16, 32)
    for y in (x, 2 * x + 1, torch.tanh(x), x @ drawn(32, 32, seed=1), torch.softmax(x, -1)):
        assert measure_eps(call_of(x, y, "float64"), 0) is None


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["gelu", "gelu_tanh", "relu", "silu", "tanh", "softplus"])
def test_an_activation_is_told_by_thousands_of_elements(kind: str, dtype: str) -> None:
    functions = {
        "gelu": torch.nn.functional.gelu,
        "gelu_tanh": lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
        "relu": torch.relu,
        "silu": torch.nn.functional.silu,
        "tanh": torch.tanh,
        "softplus": torch.nn.functional.softplus,
    }
    x = drawn(64, 64).to(getattr(torch, dtype))
    fit = fit_activation(call_of(x, functions[kind](x), dtype))
    assert fit is not None
    assert fit.kind == kind
    assert fit_activation(call_of(x, torch.sin(x), dtype)) is None


def record(folder: Path, name: str, logits: list[NDArray[Any]], losses: list[float]) -> Path:
    """A loop whose logits, labels and losses are these."""
    path = folder / f"{name}.trace"
    labels = np.arange(16) % 5
    with lockstep.Recorder(path, backend=name) as recorder:
        recorder.start({"w": np.ones(2, np.float32)})
        for update, z in enumerate(logits):
            recorder.update(
                batch={"x": z, "y": labels},
                forward={"head": z},
                loss=np.float32(losses[update]),
                parameters={"w": np.ones(2, np.float32)},
            )
    return path


def test_label_smoothing_is_measured_from_logits_labels_and_losses(tmp_path: Path) -> None:
    logits = [drawn(16, 5, seed=seed).float() for seed in range(4)]
    labels = torch.from_numpy(np.arange(16) % 5)
    paths = []
    for smoothing in (0.1, 0.0, 0.1001):
        losses = [
            torch.nn.functional.cross_entropy(z, labels, label_smoothing=smoothing).item()
            for z in logits
        ]
        name = f"smoothed-{smoothing}"
        paths.append(record(tmp_path, name, [z.numpy() for z in logits], losses))
    named = diagnose(paths[0], paths[1])
    assert named.first is not None
    assert named.first.stage == "loss"
    assert named.cause is not None
    assert named.cause.text == "label smoothing: 0.1 in a, 0 in b"
    assert diagnose(paths[0], paths[2]).cause is None  # nobody writes so; the loss alone is off


def test_a_layers_input_is_the_residual_stream(tmp_path: Path) -> None:
    outputs = {"embed": drawn(4, 8, 16), "mix": drawn(4, 8, 16, seed=1)}
    ones, zeros = torch.ones(16, dtype=torch.float64), torch.zeros(16, dtype=torch.float64)
    norm1 = layer_norm(outputs["embed"], ones, zeros, 1e-5)
    norm2 = layer_norm(outputs["embed"] + outputs["mix"], ones, zeros, 1e-5)
    forward = {"embed": outputs["embed"], "norm1": norm1, "mix": outputs["mix"], "norm2": norm2}
    with lockstep.Recorder(tmp_path / "t", backend="torch") as recorder:
        recorder.start({"norm1.weight": ones, "norm2.weight": ones})
        recorder.update(forward=forward, parameters={"norm1.weight": ones, "norm2.weight": ones})
    trace = Trace.load(tmp_path / "t")
    inputs = {}
    for call in layer_calls(trace, 0):
        measured = measure_eps(call, 0)
        if measured is not None:
            assert abs(measured.value - 1e-5) < 1e-9
            inputs[call.name] = next(iter(call.inputs))
    assert inputs == {"norm1": "embed", "norm2": "the residual stream + mix"}


def test_scores_of_masked_tokens_are_no_input(tmp_path: Path) -> None:
    scores = drawn(2, 4, 4).masked_fill(torch.ones(4, 4, dtype=torch.bool).triu(1), -torch.inf)
    weights = torch.softmax(scores, -1)
    forward = {"softmax.input": scores, "softmax": weights, "out": weights @ drawn(2, 4, 3)}
    ones = torch.ones(3, dtype=torch.float64)
    with lockstep.Recorder(tmp_path / "t", backend="torch") as recorder:
        recorder.start({"out.bias": ones})
        recorder.update(forward=forward, parameters={"out.bias": ones})
    trace = Trace.load(tmp_path / "t")
    trace.header["inputs"] = {"softmax": "forward/softmax.input"}
    assert [call.name for call in layer_calls(trace, 0)] == ["out"]
    assert diagnose(trace, trace).verdict == "identical"


@pytest.mark.parametrize(
    ("value", "error", "plain"),
    [
        (1.0e-8, 1e-7, 0.0),
        (7.7e-6, 1e-6, 1e-5),
        (9.98e-4, 1e-6, 1e-3),
        (0.0503, 1e-4, 0.05),
        (0.12345678, 1e-9, 0.1235),
        (-0.0999, 1e-4, -0.1),
    ],
)
def test_a_measured_number_is_shown_as_somebody_would_write_it(
    value: float, error: float, plain: float
) -> None:
    assert likely(value, error) == pytest.approx(plain, rel=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_rate_of_dropout_is_measured(dtype: str) -> None:
    torch.manual_seed(0)
    x = drawn(64, 64).to(getattr(torch, dtype))
    for rate in (0.0, 0.1, 0.5):
        call = call_of(x, torch.nn.functional.dropout(x, rate), dtype)
        measured = measure_dropout(call, 0)
        assert measured is not None
        assert abs(measured.value - rate) < 3 * max(measured.error, 1e-12)
    for y in (torch.relu(x), 2 * x, torch.where(x > 1, 0.0, x)):
        assert measure_dropout(call_of(x, y, dtype), 0) is None


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("turned", [False, True])
def test_a_linear_layers_factors_are_measured(turned: bool, dtype: str) -> None:
    kind = getattr(torch, dtype)
    x, kernel, bias = drawn(64, 24).to(kind), drawn(16, 24, seed=1), drawn(16, seed=2)
    for scale, share in ((1.0, 1.0), (1.5, 1.0), (1.0, 0.0)):
        y = scale * (x @ kernel.to(kind).T) + share * bias.to(kind)
        weight = kernel.T if turned else kernel
        fit = measure_linear(call_of(x, y, dtype, weight=weight, bias=bias), 0)
        assert fit is not None
        assert fit.bias is not None
        assert abs(fit.scale.value - scale) < 6 * fit.scale.error + 1e-12
        assert abs(fit.bias.value - share) < 6 * fit.bias.error + 1e-12
    far = call_of(x, torch.tanh(x @ kernel.to(kind).T), dtype, weight=kernel, bias=bias)
    assert measure_linear(far, 0) is None


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("factor", [1.0, 0.5**0.5])
def test_an_attentions_heads_mask_and_scale_are_measured(
    factor: float, is_causal: bool, dtype: str
) -> None:
    kind = getattr(torch, dtype)
    q, k, v = (drawn(4, 12, 32, seed=seed).to(kind) for seed in range(3))
    heads = [x.reshape(4, 12, 4, 8).transpose(1, 2) for x in (q, k, v)]
    scale = factor / 8**0.5
    mixed = torch.nn.functional.scaled_dot_product_attention(
        *heads, is_causal=is_causal, scale=scale
    )
    kernel = drawn(32, 32, seed=4)
    y = mixed.transpose(1, 2).reshape(4, 12, 32) @ kernel.to(kind).T
    calls = [
        replace(call_of(x, x, dtype), name=name, inputs={})
        for name, x in (("query", q), ("key", k), ("value", v))
    ]
    out = replace(call_of(q, y, dtype, weight=kernel), name="out", inputs={})
    (fit,) = attention_fits([*calls, out])
    assert (fit.name, fit.heads, fit.is_causal) == ("out", 4, is_causal)
    # a factor that is itself rounded to bfloat16 may be off by more than the outputs show
    assert abs(fit.scale - scale) < 6 * fit.error + (5e-3 * scale if dtype == "bfloat16" else 1e-6)
    assert not list(attention_fits([*calls, replace(out, output=np.tanh(out.output))]))


def test_an_eps_that_cannot_be_told_from_0_is_not_called_0(tmp_path: Path) -> None:
    x, scale, shift = drawn(32, 16).bfloat16(), torch.ones(16), torch.zeros(16)
    for name, eps in (("a", 1e-5), ("b", 1e-12)):
        y = layer_norm(x.float(), scale, shift, eps)
        with lockstep.Recorder(tmp_path / name, backend=name) as recorder:
            recorder.start({"norm.weight": scale, "norm.bias": shift})
            recorder.update(
                batch={"x": x},
                forward={"norm": y},
                loss=torch.ones(()),
                parameters={"norm.weight": scale, "norm.bias": shift},
            )
    cause = diagnose(tmp_path / "a", tmp_path / "b").cause
    assert cause is not None
    assert re.fullmatch(r"b's norm has an eps below \S+ for 1e-05", cause.text)
