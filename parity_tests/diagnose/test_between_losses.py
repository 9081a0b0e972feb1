"""How one loop's loss or gradients follow from the other's is named whichever side is off, in both
precisions; a look-alike gets another cause or none.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

import lockstep
from lockstep.diagnose.pairs import diagnose

UPDATES = 3
ROWS = 12
FLOATS = [torch.float64, torch.float32]
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""The loss of outputs and targets."""
Change = Callable[[torch.nn.Module], dict[str, torch.Tensor] | None]
"""What happens between `backward` and the step; gradients to record in place of the model's."""


class Sentences(torch.nn.Module):
    """The mean of the tokens' rows of a table, and a linear layer."""

    def __init__(self, padding: int | None = None) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(9, 5, padding_idx=padding)
        self.out = torch.nn.Linear(5, 4)

    def forward(self, tokens_BT: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.out(self.embed(tokens_BT).mean(1))
        return logits


def classifier() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 5))


def regressor() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))


def language_model() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Embedding(11, 7), torch.nn.Tanh(), torch.nn.Linear(7, 11))


def data_of(kind: str, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and targets, (updates, rows, ...); token 0 fills up short rows."""
    draw = np.random.default_rng(4)
    x = torch.tensor(draw.standard_normal((UPDATES, ROWS, 6)), dtype=dtype)
    if kind == "classes":
        return x, torch.tensor(draw.integers(0, 5, (UPDATES, ROWS)))
    if kind == "numbers":
        return x, torch.tensor(draw.standard_normal((UPDATES, ROWS, 3)), dtype=dtype)
    tokens = draw.integers(1, 11 if kind == "text" else 9, (UPDATES, ROWS, 9))
    for row in range(0, ROWS, 2):
        tokens[:, row, 4 + row // 3 :] = 0
    if kind == "text":
        return torch.tensor(tokens), torch.tensor(tokens)
    return torch.tensor(tokens), torch.tensor(draw.integers(0, 4, (UPDATES, ROWS)))


def record(
    path: Path,
    kind: str,
    make: Callable[[], torch.nn.Module],
    loss_of: Loss,
    *,
    dtype: torch.dtype = torch.float64,
    logged: Loss | None = None,
    change: Change | None = None,
    micro: int = 1,
    share: float | None = None,
    clears: bool = True,
    settings: dict[str, Any] | None = None,
) -> None:
    """Record a loop.

    Args:
        path: of the trace.
        kind: of the data.
        make: makes the model.
        loss_of: the loss that is differentiated.
        dtype: of the model.
        logged: the loss that is logged; None: the same.
        change: what happens to the gradients.
        micro: micro-batches of an update.
        share: of the loss of each micro-batch; None: one over their number.
        clears: whether gradients are set to zero before each update.
        settings: that are declared.
    """
    torch.manual_seed(0)
    model = make().to(dtype)
    x, y = data_of(kind, dtype)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with lockstep.Recorder(path, backend="torch", settings=settings) as recorder:
        recorder.watch(model, optimizer)
        for update in range(UPDATES):
            if clears:
                optimizer.zero_grad()
            total = 0.0
            for x_part, y_part in zip(x[update].chunk(micro), y[update].chunk(micro)):
                outputs = model(x_part)
                part = loss_of(outputs, y_part) * (1 / micro if share is None else share)
                part.backward()
                shown = part if logged is None else logged(outputs, y_part) / micro
                total += shown.item()
            gradients = None if change is None else change(model)
            if gradients is not None:
                recorder.record(gradients=gradients)
            optimizer.step()
            batch = {"x": x[update]} if kind == "text" else {"x": x[update], "y": y[update]}
            recorder.update(loss=total, batch=batch)


def cause_of(a: Path, b: Path) -> str:
    """The sentence on two traces; "" where there is none."""
    cause = diagnose(a, b).cause
    return "" if cause is None else cause.text


def assert_named(
    folder: Path, right: Callable[[Path], None], off: Callable[[Path], None], words: str
) -> None:
    """The cause is told with either side as the one that is off; "{off}" in the words stands for
    it, and "{right}" for the other.
    """
    for side, other in (("b", "a"), ("a", "b")):
        right(folder / f"{other}.trace")
        off(folder / f"{side}.trace")
        text = cause_of(folder / "a.trace", folder / "b.trace")
        assert words.format(off=side, right=other) in text


def entropy(z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return functional.cross_entropy(z, y)


def next_token(
    z: torch.Tensor, y: torch.Tensor, *, shift: int = 1, ignored: int = 0, kind: str = "mean"
) -> torch.Tensor:
    """The cross entropy of the token so many places ahead."""
    outputs = z[:, : z.shape[1] - shift].reshape(-1, z.shape[-1])
    labels = y[:, shift:].reshape(-1)
    return functional.cross_entropy(outputs, labels, ignore_index=ignored, reduction=kind)


CLASSES: dict[str, tuple[dict[str, Any], str]] = {
    "sum": (
        {"loss_of": lambda z, y: functional.cross_entropy(z, y, reduction="sum")},
        "{off}'s loss and gradients are 12 times {right}'s: the sum over 12 rows for their mean",
    ),
    "sum in the log": (
        {"logged": lambda z, y: functional.cross_entropy(z, y, reduction="sum")},
        "{off}'s loss is 12 times {right}'s: the sum over 12 rows for their mean; gradients are "
        "equal",
    ),
    "softmax twice": (
        {"loss_of": lambda z, y: functional.cross_entropy(z.softmax(-1), y)},
        "{off} puts its outputs through a softmax before a cross entropy that has its own",
    ),
    "no log-softmax": (
        {"loss_of": functional.nll_loss},
        "a log-softmax is missing",
    ),
    "another factor": (
        {"loss_of": lambda z, y: 1.37 * functional.cross_entropy(z, y)},
        "{off}'s loss and gradients are 1.37 times {right}'s",
    ),
    "micro-batches": (
        {"micro": 4, "share": 1.0, "settings": {"accumulate": 4}},
        "{off}'s loss and gradients are 4 times {right}'s: the means of 4 micro-batches are added, "
        "not averaged",
    ),
    "other sign": (
        {"loss_of": lambda z, y: -entropy(z, y), "logged": entropy},
        "gradients have the other sign",
    ),
    "stale": (
        {"clears": False},
        "{off}'s gradient is {right}'s plus {off}'s own of the update before: {off} does not clear "
        "it",
    ),
}


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", CLASSES)
def test_losses_of_classes_are_told_apart(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    changed, words = CLASSES[name]
    plain = {"loss_of": entropy, "dtype": dtype}
    right = partial(record, kind="classes", make=classifier, **plain)
    off = partial(record, kind="classes", make=classifier, **(plain | changed))
    assert_named(tmp_path, right, off, words)


TEXTS: dict[str, tuple[Loss, str]] = {
    "padding counted": (
        partial(next_token, ignored=-100),
        "{off}'s mean is over all 96 places, {right}'s over those",
    ),
    "not shifted": (
        partial(next_token, shift=0),
        "{off}'s labels are the inputs themselves: the shift by one is missing",
    ),
    "shifted twice": (
        partial(next_token, shift=2),
        "{off}'s labels are the tokens after the next: they are shifted by one twice",
    ),
    "by all places": (
        lambda z, y: next_token(z, y, kind="sum") / (ROWS * 8),
        "{off} divides the whole sum by all 96 places",
    ),
    "by rows": (
        lambda z, y: next_token(z, y, kind="sum") / ROWS,
        "{off} divides the whole sum by the 12 rows",
    ),
}


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", TEXTS)
def test_losses_of_tokens_are_told_apart(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    loss_of, words = TEXTS[name]
    make = partial(record, kind="text", make=language_model, dtype=dtype)
    assert_named(tmp_path, partial(make, loss_of=next_token), partial(make, loss_of=loss_of), words)


@pytest.mark.parametrize("shown", [None, next_token])
def test_micro_batches_of_unequal_counts_are_told(shown: Loss | None, tmp_path: Path) -> None:
    tokens = data_of("text", torch.float64)[1]
    count = int((tokens[0, :, 1:] != 0).sum())  # as many in every update

    def of_all(z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return next_token(z, y, kind="sum") / count

    make = partial(record, kind="text", make=language_model, micro=4, logged=shown)
    text = "adds the mean of each micro-batch (4 of 3 rows)"
    right = partial(make, loss_of=of_all, share=1.0)
    off = partial(make, loss_of=next_token, share=1.0)
    assert_named(tmp_path, right, off, "{off} " + text)


@pytest.mark.parametrize("dtype", FLOATS)
def test_halves_of_squares_are_told(dtype: torch.dtype, tmp_path: Path) -> None:
    make = partial(record, kind="numbers", make=regressor, dtype=dtype)
    right = partial(make, loss_of=functional.mse_loss)
    off = partial(make, loss_of=lambda z, y: functional.mse_loss(z, y) / 2)
    words = "{right}'s loss and gradients are 2 times {off}'s: {off} takes halves"
    assert_named(tmp_path, right, off, words)


def test_a_penalty_in_the_loss_is_told(tmp_path: Path) -> None:
    make = partial(record, kind="classes", loss_of=entropy)

    def penalised(path: Path) -> None:
        model = classifier()

        def same() -> torch.nn.Module:
            torch.manual_seed(0)
            model.load_state_dict(classifier().state_dict())
            return model

        def with_penalty(z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            squares = [parameter.square().sum() for parameter in model.parameters()]
            return entropy(z, y) + 0.01 * torch.stack(squares).sum()

        record(path, "classes", same, with_penalty)

    words = "{off}'s loss holds a penalty of 0.01 times the sum of the squares of all parameters"
    assert_named(tmp_path, partial(make, make=classifier), penalised, words)


def scaled_by(factor: float, model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The gradients as they were recorded, which the step does not take."""
    return {name: factor * p.grad for name, p in model.named_parameters() if p.grad is not None}


def clipped_to(norm: float, model: torch.nn.Module) -> dict[str, torch.Tensor]:
    torch.nn.utils.clip_grad_norm_(model.parameters(), norm)
    return scaled_by(1.0, model)


def one_tensor_scaled(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    first = next(model.parameters())
    assert first.grad is not None
    first.grad *= 3.7
    return scaled_by(1.0, model)


GRADIENTS: dict[str, tuple[Change, str]] = {
    "recorded scaled": (
        partial(scaled_by, 2.0**10),
        "{off}'s gradients are 1024 times {right}'s: a loss scale (2 to the 10th) that was not "
        "divided out when they were recorded; the step is equal",
    ),
    "clipped": (partial(clipped_to, 0.05), "{off}'s gradients are {right}'s clipped to a norm of"),
    "one tensor": (one_tensor_scaled, "{off}'s gradients of 0.weight are 3.7 times {right}'s"),
}


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients_that_differ_by_a_factor_are_explained(
    name: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    change, words = GRADIENTS[name]
    make = partial(record, kind="classes", make=classifier, loss_of=entropy, dtype=dtype)
    assert_named(tmp_path, make, partial(make, change=change), words)


def test_a_padding_row_is_told(tmp_path: Path) -> None:
    def without(padding: int | None) -> torch.nn.Module:
        model = Sentences(padding)
        with torch.no_grad():
            model.embed.weight[0] = 0
        return model

    make = partial(record, kind="sentences", loss_of=entropy)
    right = partial(make, make=partial(without, None))
    off = partial(make, make=partial(without, 0))
    words = "row 0 of embed.weight: {off}'s gradient is 0 (a padding index), {right}'s is not"
    assert_named(tmp_path, right, off, words)


def test_frozen_layers_are_named_and_not_the_norm_of_all(tmp_path: Path) -> None:
    def frozen() -> torch.nn.Module:
        model = classifier()
        for parameter in list(model.parameters())[:2]:
            parameter.requires_grad_(requires_grad=False)
        return model

    make = partial(record, kind="classes", loss_of=entropy)
    words = "{off} does not train 0 (weights and biases): no gradient there, and they do not move"
    right = partial(make, make=classifier)
    assert_named(tmp_path, right, partial(make, make=frozen), words)
    first = diagnose(tmp_path / "a.trace", tmp_path / "b.trace").first
    assert first is not None
    assert first.tensor.startswith("0.")


def test_gradients_that_follow_no_formula_get_none(tmp_path: Path) -> None:
    def noisy(model: torch.nn.Module) -> dict[str, torch.Tensor]:
        draw = torch.Generator().manual_seed(1)
        for parameter in model.parameters():
            assert parameter.grad is not None
            noise = torch.randn(parameter.shape, generator=draw, dtype=parameter.dtype)
            parameter.grad += 0.1 * noise
        return scaled_by(1.0, model)

    make = partial(record, kind="classes", make=classifier, loss_of=entropy)
    make(tmp_path / "a.trace")
    make(tmp_path / "b.trace", change=noisy)
    assert cause_of(tmp_path / "a.trace", tmp_path / "b.trace") == ""


def test_a_loss_that_follows_no_formula_gets_none(tmp_path: Path) -> None:
    make = partial(record, kind="classes", make=classifier)
    make(tmp_path / "a.trace", loss_of=entropy)
    make(tmp_path / "b.trace", loss_of=lambda z, y: entropy(z, y) + 0.01 * z.square().mean() ** 2)
    assert cause_of(tmp_path / "a.trace", tmp_path / "b.trace") == ""
