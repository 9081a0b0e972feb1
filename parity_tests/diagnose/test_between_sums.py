"""Norms, embeddings, sums and linear layers that two loops compute otherwise."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from parity_tests.diagnose.test_between_attention import DTYPES, Tensors, causes_of, drawn

B, T, D = 4, 7, 16


def normed(x: torch.Tensor, dim: int = -1, **other: Any) -> torch.Tensor:
    """x normalised over an axis, as the keywords say."""
    centre = 0.0 if other.get("rms") else x.mean(dim, keepdim=True)
    variance = (x - centre).square().mean(dim, keepdim=True)
    size = x.shape[dim]
    if other.get("unbiased"):
        variance = variance * size / (size - 1)
    return (x - centre) / (variance + other.get("eps", 1e-5)).sqrt()


def norm_loop(one: Any, other: Any) -> Callable[[bool], Tensors]:
    """A norm of a batch's x, with a weight and a bias, as functions of these."""

    def forward(is_other: bool) -> Tensors:
        x = drawn(B, T, D, seed=1) * (1 + drawn(B, T, 1, seed=2).abs())
        weight, bias = 1 + 0.1 * drawn(D, seed=3), 0.1 * drawn(D, seed=4)
        y = (other if is_other else one)(x, weight, bias)
        return {"embed": x, "block": y, "block.scale": weight, "block.bias": bias}

    return forward


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("other", "words"),
    [
        (lambda x, w, b: normed(x, eps=1e-2) * w + b, "eps of"),
        (lambda x, w, b: normed(x, rms=True) * w + b, "without centring (RMSNorm)"),
        (lambda x, w, b: normed(x, unbiased=True) * w + b, "n - 1"),
        (lambda x, w, b: normed(x) * (1 + w) + b, "1 + its weight"),
        (lambda x, w, b: normed(x) * w, "without its bias"),
        (lambda x, w, b: normed(x), "not at all"),
        (lambda x, w, b: normed(x, dim=1) * w + b, "axis 1 of 3"),
        (lambda x, w, b: x * w + b, "normalises nothing"),
    ],
)
def test_what_two_norms_do_otherwise_is_named(
    tmp_path: Path, dtype: str, other: Any, words: str
) -> None:
    forward = norm_loop(lambda x, w, b: normed(x) * w + b, other)
    for text in causes_of(tmp_path, dtype, forward, {}):
        assert words in text or words.replace("normalises ", "") in text, text


def test_an_eps_of_an_rms_norm_without_weight_is_told_on_both_sides(tmp_path: Path) -> None:
    def forward(is_other: bool) -> Tensors:
        x = 0.1 * drawn(B, T, D, seed=1) * (1 + drawn(B, T, 1, seed=2).abs())
        return {"embed": x, "rms": normed(x, rms=True, eps=1e-5 if is_other else 2.0**-23)}

    text, _ = causes_of(tmp_path, "float64", forward, {})
    assert "1e-05" in text
    assert "1.192e-07" in text
    assert "83.89 times" in text


def embedding_loop(recorded: tuple[str, ...], **other: Any) -> Callable[[bool], Tensors]:
    """Rows of tokens and places, and their sum."""

    def forward(is_other: bool) -> Tensors:
        changes = other if is_other else {}
        table, places = drawn(30, D, seed=1), drawn(12, D, seed=2)
        ids = torch.from_numpy(TOKENS)
        token = table[ids] * changes.get("scale", 1.0)
        if "zero" in changes:
            token = token * (ids != 0)[..., None]
        place = places[torch.arange(T) + changes.get("begin", 0)][None]
        if "waves" in changes:
            place = torch.cat([place, place], 0)[:1] * 0
        tensors = {"token": token, "place": place, "sum": token + place}
        kept = {name: tensors[name] for name in recorded}
        return {"wte.weight": table, "wpe.weight": places, **kept}

    return forward


TOKENS = np.random.default_rng(0).integers(0, 30, (B, T))
TOKENS[1:, -2:] = 0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("recorded", [("token", "place", "sum"), ("sum",)])
@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"scale": 4.0}, "sqrt(16) = 4 times rows of wte.weight"),
        ({"zero": True}, "those of token 0 as 0"),
        ({"begin": 2}, "rows of wpe.weight by place, from row 2 on"),
        ({"begin": 1}, "rows of wpe.weight by place, from row 1 on"),
    ],
)
def test_what_two_embeddings_add_is_named(
    tmp_path: Path, dtype: str, recorded: tuple[str, ...], other: Any, words: str
) -> None:
    for text in causes_of(tmp_path, dtype, embedding_loop(recorded, **other), {"ids": TOKENS}):
        assert words in text, text


def test_a_scale_that_is_rounded_to_bfloat16_is_told(tmp_path: Path) -> None:
    def forward(is_other: bool) -> Tensors:
        table = drawn(30, 48, seed=1)
        root = torch.tensor(48**0.5, dtype=torch.float64)
        scale = root.bfloat16().double() if is_other else root
        return {"embed.weight": table, "embed": table[torch.from_numpy(TOKENS)] * scale}

    text, _ = causes_of(tmp_path, "float32", forward, {"ids": TOKENS})
    assert "sqrt(48) rounded to bfloat16, 6.9375" in text


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("other", "words"),
    [
        (lambda x, f: f, "leaves out stream"),
        (lambda x, f: x + 0.5 * f, "0.5 times branch"),
        (lambda x, f: x - f, "subtracts branch"),
    ],
)
def test_another_residual_sum_is_named(tmp_path: Path, dtype: str, other: Any, words: str) -> None:
    def forward(is_other: bool) -> Tensors:
        x, f = drawn(B, T, D, seed=1), drawn(B, T, D, seed=2)
        return {"stream": x, "branch": f, "total": other(x, f) if is_other else x + f}

    text, _ = causes_of(tmp_path, dtype, forward, {})
    assert words in text


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (lambda x, w, b, v: x @ w + b, "lin.weight as (in, out), a lin.weight as (out, in)"),
        (lambda x, w, b, v: x @ v.T + b, "other.weight"),
        (lambda x, w, b, v: x @ w.T, "b's lin is without its bias"),
        (
            lambda x, w, b, v: (x.bfloat16().double() @ w.bfloat16().double().T) + b,
            "multiplies in bfloat16",
        ),
    ],
)
def test_another_kernel_bias_or_precision_is_named(tmp_path: Path, other: Any, words: str) -> None:
    def forward(is_other: bool) -> Tensors:
        x, w, b, v = (
            drawn(B, T, D, seed=1),
            drawn(D, D, seed=2),
            drawn(D, seed=3),
            drawn(D, D, seed=4),
        )
        y = other(x, w, b, v) if is_other else x @ w.T + b
        return {"lin.weight": w, "lin.bias": b, "other.weight": v, "embed": x, "lin": y}

    text, _ = causes_of(tmp_path, "float64", forward, {})
    assert words in text


def test_another_tensor_has_no_cause(tmp_path: Path) -> None:
    def forward(is_other: bool) -> Tensors:
        y = drawn(B, T, D, seed=8 + is_other)
        return {"wte.weight": drawn(30, D, seed=5), "embed": drawn(B, T, D, seed=1), "block": y}

    assert causes_of(tmp_path, "float64", forward, {"ids": TOKENS}) == ("none", "none")


def test_the_base_of_kept_frequencies_is_named(tmp_path: Path) -> None:
    def forward(is_other: bool) -> Tensors:
        base = 5e5 if is_other else 1e4
        return {"rotary.inv_freq": base ** -(torch.arange(8).double() / 8), "y": drawn(B, T)}

    text, _ = causes_of(tmp_path, "float32", forward, {})
    assert text == "b's rotary.inv_freq has the base 500000, a's the base 10000"
