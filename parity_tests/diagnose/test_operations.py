"""The first operation whose result differs is named with its line on both sides, and nothing is
named where loops do the same.

One small transformer, whose functional parts are methods: a fault overrides one of them.
"""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from lockstep import Recorder, diagnose
from lockstep.diagnose.diagnosis import Diagnosis

B, T, D, H, K = 4, 6, 16, 2, 5
Tensor = torch.Tensor


class Block(torch.nn.Module):
    """A pre-norm block; its linear layers are all that is watched."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = torch.nn.Linear(D, 3 * D)
        self.out = torch.nn.Linear(D, D)
        self.up = torch.nn.Linear(D, 2 * D)
        self.down = torch.nn.Linear(2 * D, D)

    def norm(self, x_BTD: Tensor) -> Tensor:
        return F.layer_norm(x_BTD, (D,))

    def heads(self, x_BTD: Tensor) -> Tensor:
        return x_BTD.view(B, T, H, D // H).transpose(1, 2)

    def scores(self, q_BHTd: Tensor, k_BHTd: Tensor) -> Tensor:
        products_BHTT = q_BHTd @ k_BHTd.transpose(-2, -1)
        return products_BHTT / (D // H) ** 0.5

    def masked(self, scores_BHTT: Tensor) -> Tensor:
        mask_TT = torch.ones(T, T).tril()
        return scores_BHTT.masked_fill(mask_TT == 0, -torch.inf)

    def attend(self, scores_BHTT: Tensor, v_BHTd: Tensor) -> Tensor:
        weights_BHTT = F.softmax(scores_BHTT, dim=-1)
        return weights_BHTT @ v_BHTd

    def project(self, x_BTD: Tensor) -> Tensor:
        return F.linear(x_BTD, self.out.weight, self.out.bias)

    def activate(self, h_BTU: Tensor) -> Tensor:
        return F.gelu(h_BTU)

    def drop(self, h_BTU: Tensor) -> Tensor:
        return h_BTU

    def join(self, x_BTD: Tensor, change_BTD: Tensor) -> Tensor:
        return x_BTD + change_BTD

    def forward(self, x_BTD: Tensor) -> Tensor:
        q, k, v = map(self.heads, self.qkv(self.norm(x_BTD)).split(D, -1))
        mixed_BHTd = self.attend(self.masked(self.scores(q, k)), v)
        x_BTD = self.join(x_BTD, self.project(mixed_BHTd.transpose(1, 2).reshape(B, T, D)))
        h_BTU = self.up(self.norm(x_BTD))
        return x_BTD + self.down(self.drop(self.activate(h_BTU)))


class Model(torch.nn.Module):
    def __init__(self, block: type[Block]) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(K, D)
        self.blocks = torch.nn.ModuleList([block(), Block()])
        self.head = torch.nn.Linear(D, K)

    def forward(self, ids_BT: Tensor) -> Tensor:
        x_BTD = self.embed(ids_BT)
        for block in self.blocks:
            x_BTD = block(x_BTD)
        return self.head(x_BTD)


def cross_entropy(logits_BTK: Tensor, ids_BT: Tensor) -> Tensor:
    return F.cross_entropy(logits_BTK[:, :-1].reshape(-1, K), ids_BT[:, 1:].reshape(-1))


def record(
    path: Path,
    block: type[Block] = Block,
    loss_of: Callable[[Tensor, Tensor], Tensor] = cross_entropy,
    *,
    operations: Any = 0,
    dtype: torch.dtype | None = None,
    micro: int = 1,
) -> Path:
    """Two updates of AdamW; with a `dtype` under autocast, and in `micro` batches."""
    torch.manual_seed(0)
    model = Model(block)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    generator = torch.Generator().manual_seed(1)
    with Recorder(path, backend="torch", operations=operations) as recorder:
        recorder.watch(recorder.start(model), optimizer)
        for _ in range(2):
            optimizer.zero_grad()
            total = 0.0
            for _ in range(micro):
                ids_BT = torch.randint(K, (B, T), generator=generator)
                with torch.autocast("cpu", dtype, enabled=dtype is not None):
                    loss = loss_of(model(ids_BT), ids_BT) / micro
                loss.backward()
                total += loss.item()
                recorder.record(batch=ids_BT)
            optimizer.step()
            recorder.update(loss=total)
    return path


def judge(folder: Path, block: type[Block] = Block, **options: Any) -> Diagnosis:
    options_a = {key: value for key, value in options.items() if key != "loss_of"}
    a = record(folder / "a", **options_a)
    b = record(folder / "b", block, **options)
    return diagnose(a, b)


def line(function: Callable[..., Any], text: str) -> str:
    """The line of a function's source that holds a text, as a listing names it."""
    lines, begin = inspect.getsourcelines(function)
    number = begin + next(i for i, source in enumerate(lines) if text in source)
    return f"{Path(__file__).name}:{number} in {function.__name__}"


class TanhGelu(Block):
    def activate(self, h_BTU: Tensor) -> Tensor:
        return F.gelu(h_BTU, approximate="tanh")


class Relu(Block):
    def activate(self, h_BTU: Tensor) -> Tensor:
        return F.relu(h_BTU)


class WrittenTanhGelu(Block):
    def activate(self, h_BTU: Tensor) -> Tensor:
        inner_BTU = h_BTU + 0.044715 * h_BTU.pow(3)
        return 0.5 * h_BTU * (1 + torch.tanh(0.7978845608 * inner_BTU))


class Eps(Block):
    def norm(self, x_BTD: Tensor) -> Tensor:
        return F.layer_norm(x_BTD, (D,), eps=1e-3)


class Scale(Block):
    def scores(self, q_BHTd: Tensor, k_BHTd: Tensor) -> Tensor:
        products_BHTT = q_BHTd @ k_BHTd.transpose(-2, -1)
        return products_BHTT / (D // H // 2) ** 0.5


class ScaleForgotten(Block):
    def scores(self, q_BHTd: Tensor, k_BHTd: Tensor) -> Tensor:
        return q_BHTd @ k_BHTd.transpose(-2, -1)


class ScaleMultiplied(Block):
    def scores(self, q_BHTd: Tensor, k_BHTd: Tensor) -> Tensor:
        return (q_BHTd @ k_BHTd.transpose(-2, -1)) * (D // H) ** -1


class OtherAxis(Block):
    def attend(self, scores_BHTT: Tensor, v_BHTd: Tensor) -> Tensor:
        weights_BHTT = F.softmax(scores_BHTT, dim=-2)
        return weights_BHTT.nan_to_num() @ v_BHTd


class MaskShifted(Block):
    def masked(self, scores_BHTT: Tensor) -> Tensor:
        mask_TT = torch.ones(T, T).tril(1)
        return scores_BHTT.masked_fill(mask_TT == 0, -torch.inf)


class MaskForgotten(Block):
    def masked(self, scores_BHTT: Tensor) -> Tensor:
        return scores_BHTT


class NoResidual(Block):
    def join(self, x_BTD: Tensor, change_BTD: Tensor) -> Tensor:
        return change_BTD


class OtherResidual(Block):
    def join(self, x_BTD: Tensor, change_BTD: Tensor) -> Tensor:
        return self.norm(x_BTD) + change_BTD


class Dropped(Block):
    def drop(self, h_BTU: Tensor) -> Tensor:
        return F.dropout(h_BTU, 0.1)


class NoBias(Block):
    def project(self, x_BTD: Tensor) -> Tensor:
        return F.linear(x_BTD, self.out.weight)


class WrongHeads(Block):
    def heads(self, x_BTD: Tensor) -> Tensor:
        return x_BTD.reshape(B, H, T, D // H)


MASK = "mask_TT = "
FAULTS: dict[type[Block], tuple[str, str, str, str, str]] = {
    TanhGelu: ("activate", "aten.gelu", "gelu(", "aten.gelu", "gelu("),
    Relu: ("activate", "aten.gelu", "gelu(", "aten.relu", "relu("),
    WrittenTanhGelu: ("activate", "aten.gelu", "gelu(", "aten.pow", "pow("),
    Eps: ("norm", "aten.native_layer_norm", "layer_norm", "aten.native_layer_norm", "layer_norm"),
    Scale: ("scores", "aten.div", "/ (", "aten.div", "/ ("),
    ScaleMultiplied: ("scores", "aten.div", "/ (", "aten.mul", ") * ("),
    OtherAxis: ("attend", "aten._softmax", "softmax(", "aten._softmax", "softmax("),
    MaskShifted: ("masked", "aten.tril", MASK, "aten.tril", MASK),
    OtherResidual: ("join", "aten.add", "x_BTD +", "aten.add", ") + ch"),
    NoBias: ("project", "aten.addmm", "linear(", "aten.mm", "linear("),
}
"""Fault -> its method, and for both sides the operation and a text of its line."""


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
@pytest.mark.parametrize("exchanged", [False, True], ids=["", "exchanged"])
def test_the_operation_and_both_lines_are_named(
    fault: type[Block], exchanged: bool, tmp_path: Path
) -> None:
    method, op_a, text_a, op_b, text_b = FAULTS[fault]
    a = record(tmp_path / "a", fault if exchanged else Block)
    b = record(tmp_path / "b", Block if exchanged else fault)
    operation = diagnose(a, b).operation
    assert operation is not None
    mine = op_a, line(getattr(Block, method), text_a)
    its = op_b, line(getattr(fault, method), text_b)
    expected = (its, mine) if exchanged else (mine, its)
    assert ((operation.op_a, operation.line_a), (operation.op_b, operation.line_b)) == expected
    assert not operation.what.startswith("only")


ALONE: dict[type[Block], tuple[str, str, str, str, str]] = {
    ScaleForgotten: ("a", "aten.div", "scores", "/ (", "aten.div"),
    MaskForgotten: ("a", "aten.masked_fill", "masked", "masked_fill", "aten.masked_fill"),
    NoResidual: ("a", "aten.add", "join", "x_BTD + change_BTD", "aten.add"),
    Dropped: ("b", "aten.mul", "drop", "dropout(", "aten.bernoulli_"),
}
"""Fault -> the side that has more, its operation, the method and text of its line, and a name in
what is said.
"""


@pytest.mark.parametrize("fault", ALONE, ids=lambda fault: fault.__name__)
@pytest.mark.parametrize("exchanged", [False, True], ids=["", "exchanged"])
def test_an_operation_that_one_side_alone_has_is_named(
    fault: type[Block], exchanged: bool, tmp_path: Path
) -> None:
    side, op, method, text, name = ALONE[fault]
    a = record(tmp_path / "a", fault if exchanged else Block)
    b = record(tmp_path / "b", Block if exchanged else fault)
    operation = diagnose(a, b).operation
    assert operation is not None
    if exchanged:
        side = "b" if side == "a" else "a"
    owner = Block if side == ("b" if exchanged else "a") else fault
    named = {"a": (operation.op_a, operation.line_a), "b": (operation.op_b, operation.line_b)}
    assert named[side] == (op, line(getattr(owner, method), text))
    assert operation.what.startswith(f"only {side} has ")
    assert name in operation.what
    assert all(place for _, place in named.values())
