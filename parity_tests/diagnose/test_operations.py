"""The first operation whose result differs is named with its line on both sides, and nothing is
named where loops do the same.

One small transformer, whose functional parts are methods: a fault overrides one of them.
"""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jax
import jax.numpy as jnp
import optax
import pytest
import torch
from torch.nn import functional as F

from lockstep import Recorder, diagnose
from lockstep.cli import main
from lockstep.diagnose.compare import Difference
from lockstep.diagnose.diagnosis import Diagnosis
from lockstep.diagnose.operations import first_operation
from lockstep.records.trace import Trace

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


def make_model(block: type[Block] = Block) -> Model:
    torch.manual_seed(0)
    model = Model(block)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)  # so that activations are not all but linear
    return model


def record(
    path: Path,
    block: type[Block] = Block,
    loss_of: Callable[[Tensor, Tensor], Tensor] = cross_entropy,
    *,
    operations: Any = 0,
    dtype: torch.dtype | None = None,
    micro: int = 1,
    **options: Any,
) -> Path:
    """Two updates of AdamW; with a `dtype` under autocast, and in `micro` batches."""
    model = make_model(block)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    generator = torch.Generator().manual_seed(1)
    with Recorder(path, backend="torch", operations=operations, **options) as recorder:
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
    folder.mkdir(exist_ok=True)
    options_a = {key: value for key, value in options.items() if key != "loss_of"}
    a = record(folder / "a", **options_a)
    b = record(folder / "b", block, **options)
    return diagnose(a, b)


def line(function: Callable[..., Any], text: str) -> str:
    """The line of a function's source that holds a text, as a listing names it."""
    lines, begin = inspect.getsourcelines(function)
    number = begin + next(i for i, source in enumerate(lines) if text in source)
    return f"{Path(__file__).name}:{number} in {function.__name__}"


Place = tuple[str, Callable[..., Any], str]
"""An operation, and the function and a text of its line."""
DIFFERS = "their results differ, and what they read agrees"


def assert_names(diagnosis: Diagnosis, a: Place, b: Place, what: str) -> None:
    """Fail unless the first operation is `a` and `b`, and how they differ begins with `what`."""
    operation = diagnosis.operation
    assert operation is not None
    assert (operation.op_a, operation.line_a) == (a[0], line(a[1], a[2]))
    assert (operation.op_b, operation.line_b) == (b[0], line(b[1], b[2]))
    assert operation.what.startswith(what)


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


# --- the same computed otherwise


class Fused(Block):
    """Attention in one operation, with a scale of its own."""

    scale: float | None = None

    def forward(self, x_BTD: Tensor) -> Tensor:
        q, k, v = map(self.heads, self.qkv(self.norm(x_BTD)).split(D, -1))
        mixed_BHTd = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=self.scale)
        x_BTD = self.join(x_BTD, self.project(mixed_BHTd.transpose(1, 2).reshape(B, T, D)))
        h_BTU = self.up(self.norm(x_BTD))
        return x_BTD + self.down(self.drop(self.activate(h_BTU)))


class FusedScale(Fused):
    scale = 0.5


class Written(Block):
    """Everything in small operations, and the scale and the mask at other places."""

    def norm(self, x_BTD: Tensor) -> Tensor:
        centred_BTD = x_BTD - x_BTD.mean(-1, keepdim=True)
        return centred_BTD * torch.rsqrt(centred_BTD.square().mean(-1, keepdim=True) + 1e-5)

    def scores(self, q_BHTd: Tensor, k_BHTd: Tensor) -> Tensor:
        return (q_BHTd * (D // H) ** -0.5) @ k_BHTd.transpose(-2, -1)

    def masked(self, scores_BHTT: Tensor) -> Tensor:
        places_T = torch.arange(T)
        return torch.where(places_T[:, None] >= places_T, scores_BHTT, -1e30)

    def attend(self, scores_BHTT: Tensor, v_BHTd: Tensor) -> Tensor:
        powers_BHTT = torch.exp(scores_BHTT - scores_BHTT.amax(-1, keepdim=True))
        weights_BHTT = powers_BHTT / powers_BHTT.sum(-1, keepdim=True)
        return weights_BHTT @ v_BHTd


class WrittenActivation(Written):
    activate = TanhGelu.activate


class WrittenAxis(Written):
    def attend(self, scores_BHTT: Tensor, v_BHTd: Tensor) -> Tensor:
        powers_BHTT = torch.exp(scores_BHTT - scores_BHTT.amax(-1, keepdim=True))
        weights_BHTT = powers_BHTT / powers_BHTT.sum(-2, keepdim=True)
        return weights_BHTT @ v_BHTd


class WrittenScale(Written):
    def scores(self, q_BHTd: Tensor, k_BHTd: Tensor) -> Tensor:
        return (q_BHTd * (D // H // 2) ** -0.5) @ k_BHTd.transpose(-2, -1)


class WrittenEps(Written):
    def norm(self, x_BTD: Tensor) -> Tensor:
        centred_BTD = x_BTD - x_BTD.mean(-1, keepdim=True)
        return centred_BTD * torch.rsqrt(centred_BTD.square().mean(-1, keepdim=True) + 1e-3)


@pytest.mark.parametrize("block", [Block, Fused, Written], ids=lambda block: block.__name__)
@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=["float32", "bfloat16"])
def test_nothing_is_named_where_both_do_the_same(
    block: type[Block], dtype: torch.dtype | None, tmp_path: Path
) -> None:
    diagnosis = judge(tmp_path, block, dtype=dtype)
    assert diagnosis.verdict in ("identical", "rounding")
    assert diagnosis.operation is None
    assert diagnosis.advice == ""


OTHERWISE: dict[type[Block], tuple[Place, Place, str]] = {
    FusedScale: (
        ("aten.bmm", Block.scores, "@"),
        (
            "aten._scaled_dot_product_flash_attention_for_cpu",
            Fused.forward,
            "scaled_dot_product_attention",
        ),
        "a has aten.bmm, aten.div, aten.masked_fill, aten._softmax where b has",
    ),
    WrittenActivation: (
        ("aten.gelu", Block.activate, "gelu("),
        ("aten.gelu", TanhGelu.activate, "gelu("),
        "their results differ",
    ),
    WrittenAxis: (
        ("aten._softmax", Block.attend, "softmax("),
        ("aten.amax", WrittenAxis.attend, "amax("),
        "a has aten._softmax where b has aten.amax, aten.sub, aten.exp, aten.sum, aten.div",
    ),
    WrittenScale: (
        ("aten.div", Block.scores, "/ ("),
        ("aten.mul", WrittenScale.scores, "** -0.5"),
        "a has aten.div where b has aten.mul",
    ),
    WrittenEps: (
        ("aten.native_layer_norm", Block.norm, "layer_norm("),
        ("aten.sub", WrittenEps.norm, "mean("),
        "a has aten.native_layer_norm where b has aten.sub, aten.pow, aten.mean, aten.add",
    ),
}
"""Fault -> for both sides the operation, its method and a text of its line; how they differ."""


@pytest.mark.parametrize("fault", OTHERWISE, ids=lambda fault: fault.__name__)
def test_a_fault_is_named_among_what_is_computed_otherwise(
    fault: type[Block], tmp_path: Path
) -> None:
    a, b, what = OTHERWISE[fault]
    assert_names(judge(tmp_path, fault), a, b, what)


@pytest.mark.parametrize("fault", [OtherAxis, MaskShifted, NoBias], ids=lambda f: f.__name__)
def test_a_fault_is_named_under_autocast(fault: type[Block], tmp_path: Path) -> None:
    method, op_a, text_a, op_b, text_b = FAULTS[fault]
    a = op_a, getattr(Block, method), text_a
    b = op_b, getattr(fault, method), text_b
    assert_names(judge(tmp_path, fault, dtype=torch.bfloat16), a, b, DIFFERS)


def test_an_operation_is_named_where_a_layer_was_measured(tmp_path: Path) -> None:
    a = Trace.load(record(tmp_path / "a", Watched, dtype=torch.bfloat16))
    b = Trace.load(record(tmp_path / "b", WatchedTanh, dtype=torch.bfloat16))
    # of a measurement there is no array
    measured = Difference("forward", "blocks.0.activation", 0, (), 0.0, 1.0, 1.0, 0.1, 10.0)
    operation = first_operation(a, b, measured)
    assert operation is not None
    at = line(Watched.activate, "activation(")
    assert (operation.op_a, operation.line_a) == ("aten.gelu", at)
    assert (operation.op_b, operation.line_b) == ("aten.gelu", at)


def test_of_micro_batches_the_first_is_listed(tmp_path: Path) -> None:
    a = "aten.gelu", Block.activate, "gelu("
    b = "aten.gelu", TanhGelu.activate, "gelu("
    assert_names(judge(tmp_path, TanhGelu, micro=2), a, b, DIFFERS)


def test_of_a_reshape_of_other_axes_the_product_is_named(tmp_path: Path) -> None:
    at = "aten.bmm", Block.scores, "@"
    assert_names(judge(tmp_path, WrongHeads), at, at, f"{DIFFERS}, perhaps but for its order")


class Watched(Block):
    """The activation is a layer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.activation = torch.nn.GELU()

    def activate(self, h_BTU: Tensor) -> Tensor:
        return self.activation(h_BTU)


class WatchedTanh(Watched):
    def __init__(self) -> None:
        super().__init__()
        self.activation = torch.nn.GELU(approximate="tanh")


@pytest.mark.filterwarnings("ignore::lockstep.errors.RecorderWarning")  # that the budget is small
def test_tensors_that_the_budget_dropped_are_found_by_their_layer(tmp_path: Path) -> None:
    options = {"statistics": True, "budget_mib": 0.02}
    a = record(tmp_path / "a", Watched, **options)
    b = record(tmp_path / "b", WatchedTanh, **options)
    assert Trace.load(a).header["detail"] == []
    diagnosis = diagnose(a, b)
    assert diagnosis.first is not None
    assert diagnosis.first.array.partition("/")[0] in ("statistics", "sketches")
    at = "aten.gelu", Watched.activate, "activation("
    assert_names(diagnosis, at, at, DIFFERS)


def test_a_result_that_goes_elsewhere_is_named(tmp_path: Path) -> None:
    operation = judge(tmp_path, OtherResidual).operation
    assert operation is not None
    embedded = line(Model.forward, "embed(")
    normed = line(Block.norm, "layer_norm(")
    assert operation.what == (
        f"a reads the result of {embedded} (aten.embedding), "
        f"b reads the result of {normed} (aten.native_layer_norm)"
    )


class SmallGelu(Block):
    def activate(self, h_BTU: Tensor) -> Tensor:
        return F.gelu(0.1 * h_BTU)


class SmallTanhGelu(Block):
    def activate(self, h_BTU: Tensor) -> Tensor:
        return WrittenTanhGelu.activate(self, 0.1 * h_BTU)


def test_what_norms_do_not_show_is_named_where_all_that_is_read_is_the_same_to_the_bit(
    tmp_path: Path,
) -> None:
    a = record(tmp_path / "a", SmallGelu)
    b = record(tmp_path / "b", SmallTanhGelu)
    gelu = "aten.gelu", SmallGelu.activate, "gelu("
    power = "aten.pow", WrittenTanhGelu.activate, "pow("
    assert_names(diagnose(a, b), gelu, power, "a has aten.gelu where b has aten.pow")


# --- the loss


def summed(logits_BTK: Tensor, ids_BT: Tensor) -> Tensor:
    logits_NK = logits_BTK[:, :-1].reshape(-1, K)
    return F.cross_entropy(logits_NK, ids_BT[:, 1:].reshape(-1), reduction="sum")


def unshifted(logits_BTK: Tensor, ids_BT: Tensor) -> Tensor:
    return F.cross_entropy(logits_BTK.reshape(-1, K), ids_BT.reshape(-1))


def test_an_operation_of_the_loss_is_named(tmp_path: Path) -> None:
    a = "aten.nll_loss_forward", cross_entropy, "F.cross_entropy("
    b = "aten.nll_loss_forward", summed, "F.cross_entropy("
    assert_names(judge(tmp_path / "summed", loss_of=summed), a, b, DIFFERS)
    a = "aten.slice", cross_entropy, "logits_BTK[:"
    b = "aten._log_softmax", unshifted, "F.cross_entropy("
    assert_names(
        judge(tmp_path / "unshifted", loss_of=unshifted),
        a,
        b,
        "a has aten.slice, aten._log_softmax where",
    )


# --- against a port to JAX


def jax_norm(x_BTD: jax.Array) -> jax.Array:
    centred_BTD = x_BTD - x_BTD.mean(-1, keepdims=True)
    variance_BT1 = jnp.square(centred_BTD).mean(-1, keepdims=True)
    return centred_BTD * jax.lax.rsqrt(variance_BT1 + 1e-5)


def jax_gelu(h_BTU: jax.Array) -> jax.Array:
    return jax.nn.gelu(h_BTU, approximate=False)


def jax_scores(q_BHTd: jax.Array, k_BHTd: jax.Array) -> jax.Array:
    return jnp.einsum("bhqd,bhkd->bhqk", q_BHTd, k_BHTd) / jnp.sqrt(D // H)


def jax_masked(scores_BHTT: jax.Array) -> jax.Array:
    return jnp.where(jnp.tril(jnp.ones((T, T), bool)), scores_BHTT, -1e10)


def jax_join(x_BTD: jax.Array, change_BTD: jax.Array) -> jax.Array:
    return x_BTD + change_BTD


PARTS: dict[str, Callable[..., jax.Array]] = {
    "norm": jax_norm,
    "activate": jax_gelu,
    "scores": jax_scores,
    "masked": jax_masked,
    "join": jax_join,
}


def jax_linear(layer: Any, x: jax.Array) -> jax.Array:
    return x @ layer["weight"].T + layer["bias"]


def jax_block(
    block: Any, x_BTD: jax.Array, parts: dict[str, Callable[..., jax.Array]]
) -> jax.Array:
    def heads(x_BTD: jax.Array) -> jax.Array:
        return x_BTD.reshape(B, T, H, D // H).transpose(0, 2, 1, 3)

    q, k, v = map(heads, jnp.split(jax_linear(block["qkv"], parts["norm"](x_BTD)), 3, -1))
    weights_BHTT = jax.nn.softmax(parts["masked"](parts["scores"](q, k)))
    mixed_BTD = (weights_BHTT @ v).transpose(0, 2, 1, 3).reshape(B, T, D)
    x_BTD = parts["join"](x_BTD, jax_linear(block["out"], mixed_BTD))
    h_BTU = jax_linear(block["up"], parts["norm"](x_BTD))
    return x_BTD + jax_linear(block["down"], parts["activate"](h_BTU))


def record_jax(path: Path, **faults: Callable[..., jax.Array]) -> Path:
    """The training of `record` in JAX; faults are in its first block."""
    parameters: Any = {}
    for name, value in make_model().state_dict().items():
        *keys, leaf = name.split(".")
        node = parameters
        for key in keys:
            node = node.setdefault(key, {})
        node[leaf] = jnp.asarray(value.numpy())

    def loss_of(parameters: Any, ids_BT: jax.Array) -> jax.Array:
        x_BTD = parameters["embed"]["weight"][ids_BT]
        for name, block in parameters["blocks"].items():
            x_BTD = jax_block(block, x_BTD, PARTS | faults if name == "0" else PARTS)
        logits_BTK = jax_linear(parameters["head"], x_BTD)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits_BTK[:, :-1], ids_BT[:, 1:])
        return losses.mean()

    optimizer = optax.adamw(1e-3, weight_decay=1e-2)
    generator = torch.Generator().manual_seed(1)
    with Recorder(path, backend="jax", operations=0) as recorder:
        parameters = recorder.start(parameters)
        state = optimizer.init(parameters)
        for _ in range(2):
            ids_BT = jnp.asarray(torch.randint(K, (B, T), generator=generator).numpy())
            _, gradients = recorder.value_and_grad(loss_of)(parameters, ids_BT)
            changes, state = optimizer.update(gradients, state, parameters)
            parameters = optax.apply_updates(parameters, changes)
            recorder.update(lr=1e-3, moments=state, parameters=parameters)
    return path


def jax_tanh_gelu(h_BTU: jax.Array) -> jax.Array:
    return jax.nn.gelu(h_BTU)


def jax_other_eps(x_BTD: jax.Array) -> jax.Array:
    centred_BTD = x_BTD - x_BTD.mean(-1, keepdims=True)
    return centred_BTD * jax.lax.rsqrt(jnp.square(centred_BTD).mean(-1, keepdims=True) + 1e-3)


def jax_other_scale(q_BHTd: jax.Array, k_BHTd: jax.Array) -> jax.Array:
    return jnp.einsum("bhqd,bhkd->bhqk", q_BHTd, k_BHTd) / jnp.sqrt(D // H // 2)


def jax_no_scale(q_BHTd: jax.Array, k_BHTd: jax.Array) -> jax.Array:
    return jnp.einsum("bhqd,bhkd->bhqk", q_BHTd, k_BHTd)


def jax_shifted_mask(scores_BHTT: jax.Array) -> jax.Array:
    return jnp.where(jnp.tril(jnp.ones((T, T), bool), 1), scores_BHTT, -1e10)


def jax_no_residual(x_BTD: jax.Array, change_BTD: jax.Array) -> jax.Array:
    return change_BTD


@pytest.fixture(scope="module")
def in_torch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(tmp_path_factory.mktemp("torch") / "a")


def test_a_right_port_names_nothing(in_torch: Path, tmp_path: Path) -> None:
    diagnosis = diagnose(in_torch, record_jax(tmp_path / "b"))
    assert (diagnosis.verdict, diagnosis.operation) == ("rounding", None)


PORTS: dict[str, tuple[str, Callable[..., jax.Array], Place, tuple[str, str], str]] = {
    "gelu": (
        "activate",
        jax_tanh_gelu,
        ("aten.gelu", Block.activate, "gelu("),
        ("integer_pow", "jax.nn.gelu"),
        "a has aten.gelu where b has integer_pow, mul, add, tanh",
    ),
    "eps": (
        "norm",
        jax_other_eps,
        ("aten.native_layer_norm", Block.norm, "layer_norm("),
        ("sub", "x_BTD - "),
        "a has aten.native_layer_norm where b has sub, square",
    ),
    "scale": (
        "scores",
        jax_other_scale,
        ("aten.div", Block.scores, "/ ("),
        ("div", "jnp.sqrt"),
        DIFFERS,
    ),
    "no scale": (
        "scores",
        jax_no_scale,
        ("aten.div", Block.scores, "/ ("),
        ("dot_general", "einsum"),
        "only a has aten.div",
    ),
    "mask": (
        "masked",
        jax_shifted_mask,
        ("aten.masked_fill", Block.masked, "masked_fill("),
        ("select_n", "jnp.where"),
        DIFFERS,
    ),
}
"""A fault of the port: what it replaces and by what, the operation and its line on both sides, and
how they differ.
"""


@pytest.mark.parametrize("name", PORTS)
def test_a_fault_of_a_port_is_named(name: str, in_torch: Path, tmp_path: Path) -> None:
    part, fault, a, (op_b, text_b), what = PORTS[name]
    diagnosis = diagnose(in_torch, record_jax(tmp_path / "b", **{part: fault}))
    assert_names(diagnosis, a, (op_b, fault, text_b), what)


def test_a_residual_that_a_port_forgets_is_named(in_torch: Path, tmp_path: Path) -> None:
    operation = diagnose(in_torch, record_jax(tmp_path / "b", join=jax_no_residual)).operation
    assert operation is not None
    assert (operation.op_a, operation.line_a) == ("aten.add", line(Block.join, "x_BTD + ch"))


# --- how it is shown


def printed(*arguments: str, capsys: pytest.CaptureFixture[str]) -> str:
    """What the command prints, without its line breaks."""
    with pytest.raises(SystemExit) as caught:
        main(["diagnose", *arguments])
    assert caught.value.code == 1
    return " ".join(capsys.readouterr().out.split())


def test_the_operation_is_shown_beneath_the_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a = record(tmp_path / "a")
    b = record(tmp_path / "b", TanhGelu)
    text = printed(str(a), str(b), "--junit", str(tmp_path / "j.xml"), capsys=capsys)
    line_a = line(Block.activate, "gelu(")
    line_b = line(TanhGelu.activate, "gelu(")
    assert f"first operation {line_a} (aten.gelu) and {line_b} (aten.gelu): {DIFFERS}" in text
    suite = ElementTree.parse(tmp_path / "j.xml").getroot()
    properties = {item.get("name"): item.get("value") for item in suite.iter("property")}
    assert properties["operation.line_b"] == line_b


def test_a_listing_is_advised_where_it_would_tell_more(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a = record(tmp_path / "a", operations=())
    b = record(tmp_path / "b", TanhGelu)
    text = printed(str(a), str(b), capsys=capsys)
    assert "record with Recorder(..., operations=0) to see the first that differs" in text
    diagnosis = diagnose(a, record(tmp_path / "c"))
    assert (diagnosis.verdict, diagnosis.advice) == ("identical", "")


def test_what_a_forged_listing_says_is_escaped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a = record(tmp_path / "a")
    b = Trace.load(record(tmp_path / "b", TanhGelu))
    for entry in b.header["operations"]["0"]:
        entry["line"] = "\x1b]0;title\x07"
    b.save(tmp_path / "forged")
    text = printed(str(a), str(tmp_path / "forged"), capsys=capsys)
    assert "\x1b" not in text
    assert "\\x1b]0;title\\x07 (aten.gelu)" in text
