"""Two attentions, rotations and dropouts: what one side does and the other does not is named."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lockstep
from lockstep import diagnose

B, T, H, D = 3, 6, 3, 4
E = H * D
Tensors = dict[str, torch.Tensor]
Forward = Callable[[Tensors, bool], Tensors]
DTYPES = ("float64", "float32")


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def record(path: Path, dtype: str, tensors: Mapping[str, Any], batch: Mapping[str, Any]) -> Path:
    """One update of a loop whose parameters are named with a dot; the rest are outputs."""
    kind = getattr(torch, dtype)
    parameters = {"head.weight": torch.ones(2)}
    parameters |= {name: value for name, value in tensors.items() if "." in name}
    forward = {name: value for name, value in tensors.items() if "." not in name}
    with lockstep.Recorder(path, backend=path.name) as recorder:
        recorder.start({name: value.to(kind) for name, value in parameters.items()})
        recorder.update(
            batch=dict(batch),
            forward={name: value.to(kind) for name, value in forward.items()},
            loss=float(list(forward.values())[-1].square().mean()),
            parameters={name: value.to(kind) for name, value in parameters.items()},
        )
    return path


def causes_of(
    folder: Path, dtype: str, forward: Callable[[bool], Tensors], batch: Mapping[str, Any]
) -> tuple[str, str]:
    """The cause with the plain forward pass as a, and with the sides exchanged."""
    torch.manual_seed(0)
    paths = [
        record(folder / name, dtype, forward(is_other), batch)
        for name, is_other in (("plain", False), ("other", True))
    ]
    texts = []
    for one, other in (paths, paths[::-1]):
        cause = diagnose(one, other).cause
        texts.append("none" if cause is None else cause.text)
    return texts[0], texts[1]


def turned(x: torch.Tensor, base: float = 1e4, begin: int = 0, pairs: bool = False) -> Any:
    """x (B, H, T, D) rotated by its places."""
    half = x.shape[-1] // 2
    place = torch.arange(x.shape[-2], dtype=torch.float64) + begin
    angle = place[:, None] * base ** -(torch.arange(half, dtype=torch.float64) / half)
    first, second = (x[..., 0::2], x[..., 1::2]) if pairs else (x[..., :half], x[..., half:])
    parts = [
        first * angle.cos() - second * angle.sin(),
        second * angle.cos() + first * angle.sin(),
    ]
    return torch.stack(parts, -1).flatten(-2) if pairs else torch.cat(parts, -1)


def attention(
    recorded: tuple[str, ...],
    *,
    scale: float = D**-0.5,
    mask: str = "causal",
    axis: int = -1,
    split: str = "(heads, d)",
    tile: bool = False,
    joined: bool = True,
    alibi: bool = False,
    rotation: Callable[[torch.Tensor], Any] | None = None,
    order: str = "qkv",
) -> Tensors:
    """An attention over padded examples, with as many of its tensors as are recorded."""
    x = drawn(B, T, 8)
    kernels = {f"{name}.weight": drawn(E, 8, seed=ord(name)) for name in "qkv"}
    out = {"o.weight": drawn(8, E, seed=7), "o.bias": drawn(8, seed=8)}
    projections = {name: x @ kernels[f"{name}.weight"].T for name in "qkv"}

    def in_heads(array: torch.Tensor) -> torch.Tensor:
        if split == "(d, heads)":
            return array.reshape(B, T, D, H).permute(0, 3, 1, 2)
        return array.reshape(B, T, H, D).transpose(1, 2)

    q, k, v = (in_heads(projections[name]) for name in order)
    if rotation is not None:
        q, k = rotation(q), rotation(k)
    scores = scale * q @ k.transpose(-1, -2)
    i, j = torch.arange(T)[:, None], torch.arange(T)[None]
    if alibi:
        scores = scores + torch.tensor([0.5, 0.25, 0.125])[:, None, None] * (j - i)
    kept = (torch.arange(T) < torch.tensor([T, T - 2, T - 3])[:, None])[:, None]
    seen = {
        "causal": j <= i,
        "none": j >= 0,
        "window": (j <= i) & (j > i - 3),
        "ahead": j <= i + 1,
        "padding": kept[:, :, None, :],
    }[mask]
    scores = scores.masked_fill(~seen, -torch.inf)
    weights = scores.softmax(axis)
    mixed = weights @ v
    merged = (mixed.transpose(1, 2) if joined else mixed).reshape(B, T, E)
    tensors = {
        **projections,
        "q_rot": q,
        "scores": scores,
        "probs": weights,
        "mixed": merged,
        "o": merged @ out["o.weight"].T + out["o.bias"],
    }
    return {**kernels, **out, **{name: tensors[name] for name in recorded}}


def settings_of(one: dict[str, Any], other: dict[str, Any], **both: Any) -> Any:
    return one | both, other | both


SCORES = ("q", "k", "v", "scores", "probs", "o")
PROBS = ("q", "k", "v", "probs", "o")
OUTPUT = ("q", "k", "v", "o")
PAIRS = {"rotation": lambda x: turned(x, pairs=True)}
HALVES = {"rotation": turned}
FAR = {"rotation": lambda x: turned(x, base=5e5)}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("recorded", [SCORES, PROBS, OUTPUT])
@pytest.mark.parametrize(
    ("one", "other", "words"),
    [
        ({}, {"scale": 8**-0.5}, "1/sqrt(8)"),
        ({}, {"scale": 1.0}, "1 (not at all)"),
        ({}, {"scale": 0.25}, "twice"),
        ({}, {"mask": "none"}, "nothing"),
        ({}, {"mask": "window"}, "the last 3 places"),
        ({}, {"mask": "ahead"}, "but one place ahead"),
        ({"mask": "padding"}, {"mask": "none"}, "padding among keys (mask)"),
        ({"mask": "none"}, {"mask": "none", "axis": -2}, "queries (the axis before the last)"),
        ({"mask": "none"}, {"mask": "none", "axis": 1}, "heads"),
        ({}, {"split": "(d, heads)"}, "heads as (d, heads)"),
        ({}, {"joined": False}, "without transposing"),
        (HALVES, PAIRS, "pairs (2i, 2i + 1)"),
        (HALVES, FAR, "base 500000"),
        ({}, {"order": "qvk"}, "q, v, k"),
    ],
)
def test_what_two_attentions_do_otherwise_is_named(
    tmp_path: Path, recorded: Any, dtype: str, one: Any, other: Any, words: str
) -> None:
    kept = np.arange(T) < np.array([T, T - 2, T - 3])[:, None]
    texts = causes_of(
        tmp_path,
        dtype,
        lambda is_other: attention(recorded, **(other if is_other else one)),
        {"mask": kept.astype(np.int64)},
    )
    for text in texts:
        assert words in text, text
    assert texts[0] != texts[1]


def test_a_scale_is_named_by_the_sizes_of_the_shapes(tmp_path: Path) -> None:
    text, _ = causes_of(
        tmp_path,
        "float64",
        lambda is_other: attention(SCORES, scale=12**-0.5 if is_other else D**-0.5),
        {},
    )
    assert text == (
        "at scores b scales its scores by 1/sqrt(12) (12 is a width, a head's size 4), a "
        "1/sqrt(4) (a head's size is 4): 0.57735 = sqrt(4/12) times a's"
    )


def test_biases_by_distance_are_told(tmp_path: Path) -> None:
    text, _ = causes_of(tmp_path, "float64", lambda is_other: attention(SCORES, alibi=is_other), {})
    assert text.startswith(
        "at scores b adds a bias of j - i times 0.5, 0.25, 0.125 by head (ALiBi)"
    )


def rotated_loop(
    axis: int, other: Mapping[str, Any], recorded: bool = True
) -> Callable[[bool], Tensors]:
    """Queries and what is rotated of them, (B, H, T, d) or (B, T, H, d)."""

    def forward(is_other: bool) -> Tensors:
        q = drawn(B, 9, 2 * 8)
        q_rot = turned(q.reshape(B, 9, 2, 8).transpose(1, 2), **(other if is_other else {}))
        queries = {"query": q} if recorded else {}
        return {**queries, "embedded": q_rot if axis == 1 else q_rot.transpose(1, 2)}

    return forward


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("axis", [1, 2])
@pytest.mark.parametrize("recorded", [True, False])
@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"pairs": True}, ("rotates pairs (2i, 2i + 1), a the halves (i, i + d/2)",)),
        ({"base": 5e5}, ("base 500000", "base 10000")),
        ({"begin": 1}, ("begins at place 1, a at place 0",)),
    ],
)
def test_what_a_rotation_does_otherwise_is_told_by_its_angles(
    tmp_path: Path, dtype: str, axis: int, recorded: bool, other: Any, words: tuple[str, ...]
) -> None:
    text, exchanged = causes_of(tmp_path, dtype, rotated_loop(axis, other, recorded), {})
    for word in words:
        assert word in text
    assert exchanged.startswith("at embedded b ")


def test_what_is_no_rotation_is_not_called_one(tmp_path: Path) -> None:
    def forward(is_other: bool) -> Tensors:
        q = drawn(B, 9, 16)
        other = drawn(B, 2, 9, 8, seed=3)
        q_rot = turned(q.reshape(B, 9, 2, 8).transpose(1, 2))
        return {"query": q, "embedded": other if is_other else q_rot}

    assert causes_of(tmp_path, "float64", forward, {}) == ("none", "none")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("factor", "words"),
    [
        (1.0, "25% of {side}'s drop is 0, the others are 1.333 times"),
        (0.75, "{side} does not divide what it keeps by 1 - p"),
        (3.0, "{side} divides what it keeps by p, not by 1 - p"),
    ],
)
def test_a_dropout_on_one_side_is_named(
    tmp_path: Path, dtype: str, factor: float, words: str
) -> None:
    def forward(is_other: bool) -> Tensors:
        x = drawn(32, 24).to(getattr(torch, dtype))
        dropped = torch.nn.functional.dropout(x, 0.25) * factor
        return {"drop": dropped if is_other else x, "o": x @ drawn(24, 2).to(x)}

    text, exchanged = causes_of(tmp_path, dtype, forward, {})
    assert words.format(side="b") in text
    assert words.format(side="a") in exchanged


def test_a_clip_is_no_dropout(tmp_path: Path) -> None:
    def forward(is_other: bool) -> Tensors:
        x = drawn(32, 24)
        return {"drop": torch.where(x > 1, 0.0, x) if is_other else x}

    for text in causes_of(tmp_path, "float64", forward, {}):
        assert "dropout" not in text


@pytest.mark.parametrize(
    ("one", "other", "words"),
    [
        ("gelu", "quick", "quick_gelu"),
        ("gelu", "silu", "silu"),
        ("relu", "squared", "relu squared"),
        ("leaky", "steeper", "slope 0.37"),
        ("same", "clipped", "clipped to -1 and 1"),
        ("same", "capped", "20 tanh(z / 20) (a soft cap)"),
        ("first", "second", "the second half of up"),
    ],
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_another_function_of_the_elements_is_named(
    tmp_path: Path, one: str, other: str, words: str, dtype: str
) -> None:
    functional = torch.nn.functional
    functions: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "gelu": functional.gelu,
        "quick": lambda z: z * torch.sigmoid(1.702 * z),
        "silu": functional.silu,
        "relu": torch.relu,
        "squared": lambda z: torch.relu(z) ** 2,
        "leaky": functional.leaky_relu,
        "steeper": lambda z: functional.leaky_relu(z, 0.37),
        "same": lambda z: z,
        "clipped": lambda z: z.clamp(-1, 1),
        "capped": lambda z: 20 * torch.tanh(z / 20),
        "first": lambda z: functional.silu(z[..., :8]) * z[..., 8:],
        "second": lambda z: z[..., :8] * functional.silu(z[..., 8:]),
    }

    def forward(is_other: bool) -> Tensors:
        z = 3 * drawn(16, 16).to(getattr(torch, dtype))
        return {"up": z, "swish": functions[other if is_other else one](z)}

    for text in causes_of(tmp_path, dtype, forward, {}):
        assert words in text, text
