"""Equal forward passes and losses, and other gradients: the step whose backward differs is named.
Losses of another crop of an output, and vectors of spectral norms, are told as well.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lockstep import Recorder
from lockstep.diagnose.causes import Cause
from lockstep.diagnose.pairs import diagnose

DTYPES = pytest.mark.parametrize("dtype", ["float64", "float32"])
Rule = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Loop = Callable[[Path], None]
BEGIN = "forward and loss are equal and gradients are not: "


class Ruled(torch.autograd.Function):
    """A function whose backward is a rule of its input and the gradient."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, function: Any, rule: Rule) -> torch.Tensor:
        ctx.save_for_backward(x)
        ctx.rule = rule
        return function(x)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        (x,) = ctx.saved_tensors
        return ctx.rule(x, gradients[0]), None, None


class Step(torch.nn.Module):
    """An elementwise step with a backward of its own, or with its derivative."""

    def __init__(self, function: Any, rule: Rule | None) -> None:
        super().__init__()
        self.function = function
        self.rule = rule

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x) if self.rule is None else Ruled.apply(x, self.function, self.rule)


class Net(torch.nn.Module):
    def __init__(self, step: Step, has_head: bool) -> None:
        super().__init__()
        self.lin = torch.nn.Linear(6, 5)
        self.act = step
        if has_head:
            self.out = torch.nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.act(self.lin(x))
        return self.out(h) if hasattr(self, "out") else h


def record(path: Path, step: Step, dtype: str, has_head: bool) -> None:
    torch.manual_seed(0)
    kind = getattr(torch, dtype)
    model = Net(step, has_head).to(kind)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    draw = torch.Generator().manual_seed(1)
    with Recorder(path, backend="torch") as recorder:
        recorder.watch(model, optimizer)
        for _ in range(2):
            x = torch.randn((16, 6), generator=draw).to(kind)
            output = model(x)
            y = torch.randn(output.shape, generator=draw).to(kind)
            loss = torch.nn.functional.mse_loss(output, y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            recorder.update(batch={"x": x, "y": y}, loss=loss)


def cause_of(
    folder: Path, steps: tuple[Step, Step], dtype: str = "float64", has_head: bool = True
) -> Cause | None:
    for side, step in zip("ab", steps):
        record(folder / f"{side}.trace", step, dtype, has_head)
    return told(folder, "gradients")


def told(folder: Path, stage: str) -> Cause | None:
    diagnosis = diagnose(folder / "a.trace", folder / "b.trace")
    assert diagnosis.first is not None
    assert diagnosis.first.stage == stage
    return diagnosis.cause


def clip(x: torch.Tensor) -> torch.Tensor:
    return x.clamp(0, 1)


def leaky(x: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    inside = ((x > 0) & (x < 1)).to(gradient.dtype)
    return gradient * (inside + 0.1 * (x <= 0).to(gradient.dtype))


def straight(x: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    return gradient


def reversed_tanh(x: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    return -gradient * (1 - torch.tanh(x) ** 2)


LEAKY = "lets 0.1 times the gradient through where its input is at or below 0"


@DTYPES
@pytest.mark.parametrize("has_head", [False, True])
def test_a_backward_that_leaks_is_told(tmp_path: Path, dtype: str, has_head: bool) -> None:
    behind = "out" if has_head else "the loss"
    where = f"{BEGIN}the backward of act, between lin and {behind}, differs"
    steps = Step(clip, leaky), Step(clip, None)
    cause = cause_of(tmp_path, steps, dtype, has_head)
    assert cause is not None
    assert (cause.key, cause.side) == ("other-backward", "")
    assert cause.text == f"{where} (a {LEAKY})"
    cause = cause_of(tmp_path, steps[::-1], dtype, has_head)
    assert cause is not None
    assert cause.text == f"{where} (b {LEAKY})"


@DTYPES
def test_a_straight_through_estimator_is_told(tmp_path: Path, dtype: str) -> None:
    steps = Step(torch.sign, straight), Step(torch.sign, None)
    cause = cause_of(tmp_path, steps, dtype)
    assert cause is not None
    assert cause.text.endswith("(a lets the gradient straight through, b lets none through)")


@DTYPES
def test_a_reversed_gradient_is_told(tmp_path: Path, dtype: str) -> None:
    steps = Step(torch.tanh, None), Step(torch.tanh, reversed_tanh)
    cause = cause_of(tmp_path, steps, dtype)
    assert cause is not None
    assert cause.text == (
        f"{BEGIN}b reverses the gradient between lin and out: up to there it is -1 times a's"
    )


class ConvNet(torch.nn.Module):
    def __init__(self, step: Step) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(2, 3, 3, stride=2, padding=1)
        self.act = step
        self.conv2 = torch.nn.Conv2d(3, 3, 3, padding=1)
        self.out = torch.nn.Linear(27, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.conv2(self.act(self.conv(x))).flatten(1))


def test_a_backward_between_convolutions_is_told(tmp_path: Path) -> None:
    for side, rule in (("a", leaky), ("b", None)):
        torch.manual_seed(0)
        model = ConvNet(Step(clip, rule)).double()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        draw = torch.Generator().manual_seed(1)
        with Recorder(tmp_path / f"{side}.trace", backend="torch") as recorder:
            recorder.watch(model, optimizer)
            x = torch.randn((6, 2, 6, 6), generator=draw, dtype=torch.float64)
            loss = model(x).square().mean()
            loss.backward()
            optimizer.step()
            recorder.update(batch={"x": x}, loss=loss)
    cause = told(tmp_path, "gradients")
    assert cause is not None
    where = "the backward of act, between conv and conv2, differs"
    assert cause.text == f"{BEGIN}{where} (a {LEAKY})"


def test_a_gradient_that_is_cut_may_be_of_what_is_frozen(tmp_path: Path) -> None:
    def nothing(x: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        return 0 * gradient

    cause = cause_of(tmp_path, (Step(torch.tanh, None), Step(torch.tanh, nothing)))
    assert cause is not None
    assert cause.text == (
        "b does not train lin (weights and biases): no gradient there, and they do not move "
        "(frozen, or cut off behind by a detach or stop_gradient)"
    )


def test_gradients_that_no_rule_gives_get_no_cause(tmp_path: Path) -> None:
    def noisy(x: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        inside = ((x > 0) & (x < 1)).to(gradient.dtype)
        return gradient * inside + 1e-3 * torch.cos(100 * x)

    assert cause_of(tmp_path, (Step(clip, None), Step(clip, noisy))) is None


# ---- what follows the last layer


def record_crop(path: Path, start: tuple[int, int], dtype: str, is_noisy: bool = False) -> None:
    draw = np.random.default_rng(3)
    with Recorder(path, backend="torch") as recorder:
        parameters = recorder.start({"w": np.ones(2, dtype)})
        for _ in range(3):
            up = draw.normal(size=(2, 3, 9, 9)).astype(dtype)
            y = draw.normal(size=(2, 3, 7, 8)).astype(dtype)
            down, right = start
            gap = up[:, :, down : down + 7, right : right + 8] - y
            loss = np.square(gap).mean() + (1e-2 * draw.normal() if is_noisy else 0.0)
            recorder.update(batch={"y": y}, forward={"up": up}, parameters=parameters, loss=loss)


@DTYPES
def test_a_loss_of_another_crop_is_told(tmp_path: Path, dtype: str) -> None:
    record_crop(tmp_path / "a.trace", (0, 0), dtype)
    record_crop(tmp_path / "b.trace", (1, 1), dtype)
    cause = told(tmp_path, "loss")
    assert cause is not None
    assert (cause.key, cause.side) == ("loss-of-another-crop", "")
    assert cause.text == (
        "what follows up differs: b's loss is taken of another crop of it, shifted by one place in "
        "both axes: from 1 where a's is from 0"
    )


def test_a_loss_that_is_of_no_crop_gets_no_cause(tmp_path: Path) -> None:
    record_crop(tmp_path / "a.trace", (0, 0), "float64")
    record_crop(tmp_path / "b.trace", (0, 0), "float64", is_noisy=True)
    cause = told(tmp_path, "loss")
    assert cause is None or cause.key != "loss-of-another-crop"


# ---- spectral norms


def record_vectors(path: Path, iterations: int, dtype: str, turn: float = 0.0) -> None:
    draw = np.random.default_rng(4)
    weight = draw.normal(size=(6, 4))
    u, v = (vector / np.linalg.norm(vector) for vector in (draw.normal(size=6), np.ones(4)))
    for _ in range(iterations):
        v = weight.T @ u
        v = v / np.linalg.norm(v)
        u = weight @ v
        u = u / np.linalg.norm(u)
    u = u + turn * draw.normal(size=6)
    named = {"lin.weight_orig": weight, "lin.weight_u": u, "lin.weight_v": v}
    parameters = {name: array.astype(dtype) for name, array in named.items()}
    with Recorder(path, backend="torch") as recorder:
        recorder.start(parameters)
        recorder.update(parameters=parameters, loss=1.0)


@DTYPES
@pytest.mark.parametrize(
    ("count", "words"), [(1, "one power iteration"), (9, "9 power iterations")]
)
def test_an_iterated_vector_is_told(tmp_path: Path, count: int, words: str, dtype: str) -> None:
    record_vectors(tmp_path / "a.trace", count, dtype)
    record_vectors(tmp_path / "b.trace", 0, dtype)
    cause = told(tmp_path, "init")
    assert cause is not None
    assert (cause.key, cause.side) == ("spectral-norm-start", "")
    assert cause.text == (
        f"a's lin.weight_u has been through {words} of the spectral normalisation, b's is as "
        "drawn; the weights are equal"
    )


def test_vectors_that_are_both_iterated_are_not_called_drawn(tmp_path: Path) -> None:
    record_vectors(tmp_path / "a.trace", 1, "float64")
    record_vectors(tmp_path / "b.trace", 3, "float64")
    cause = told(tmp_path, "init")
    assert cause is not None
    assert cause.text == (
        "b's lin.weight_u has been through 2 power iterations of the spectral normalisation more "
        "than a's; the weights are equal"
    )


def test_vectors_that_are_no_iteration_of_another_get_no_cause(tmp_path: Path) -> None:
    record_vectors(tmp_path / "a.trace", 2, "float64", turn=1e-2)
    record_vectors(tmp_path / "b.trace", 0, "float64")
    assert told(tmp_path, "init") is None
