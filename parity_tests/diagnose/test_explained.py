"""Several causes at once are named one after the other, each with what speaks for it; where none
holds, the diagnosis says what was ruled out and what to record.
"""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lockstep
from lockstep.cli import main

FIELDS = {
    "schema",
    "lockstep",
    "a",
    "b",
    "verdict",
    "exit_status",
    "compared",
    "limit",
    "first",
    "most",
    "off",
    "oracle",
    "causes",
    "ruled_out",
    "to_record",
    "operation",
    "not_compared",
    "differs",
    "notes",
    "replayed",
    "stages",
}
CAUSE_FIELDS = {
    "key",
    "text",
    "side",
    "page",
    "update",
    "stage",
    "tensor",
    "evidence",
    "residual",
    "residual_without",
    "runner_up",
    "lines",
}


class Net(torch.nn.Module):
    """Two layers about a norm, whose output `shift` moves in a way that has no name."""

    def __init__(self, eps: float, shift: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.shift = shift
        self.up = torch.nn.Linear(6, 12, dtype=torch.float64)
        self.norm = torch.nn.LayerNorm(12, eps=eps, dtype=torch.float64)
        self.out = torch.nn.Linear(12, 3, dtype=torch.float64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.norm(self.up(x))
        if self.shift:
            h = h + self.shift * torch.sin(37 * h) * torch.arange(12, dtype=h.dtype)
        logits: torch.Tensor = self.out(h)
        return logits


def record(
    path: Path,
    *,
    eps: float = 1e-5,
    rate: float = 0.1,
    decay: float = 0.0,
    shift: float = 0.0,
    clears: bool = True,
    **options: Any,
) -> Path:
    """Three updates of a loop with momentum."""
    model = Net(eps, shift)
    draw = np.random.Generator(np.random.PCG64(1))
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9, weight_decay=decay)
    with lockstep.Recorder(path, backend="torch", **options) as recorder:
        recorder.watch(model, optimizer)
        for _ in range(3):
            x = torch.from_numpy(draw.normal(0, 0.05, (8, 6)))
            y = torch.from_numpy(draw.integers(0, 3, 8))
            if clears:
                optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            recorder.update(batch={"x": x, "y": y}, loss=loss)
    return path


@pytest.fixture
def right(tmp_path: Path) -> Path:
    return record(tmp_path / "a.trace")


def document(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, dict[str, Any]]:
    with pytest.raises(SystemExit) as stopped:
        main([*map(str, arguments), "--json"])
    # strict: NaN and infinities are no JSON
    content = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    return int(stopped.value.code or 0), content


def test_three_causes_at_once(
    tmp_path: Path, right: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = record(tmp_path / "b.trace", eps=1e-3, rate=0.2, decay=0.3)
    status, content = document(capsys, "diagnose", right, wrong)
    assert status == 1
    keys = [cause["key"] for cause in content["causes"]]
    assert keys[0] == "norm-eps"
    assert "lr-factor" in keys[1:]
    assert len(keys) == len(set(keys)) == 3
    places = [(cause["update"], cause["stage"]) for cause in content["causes"]]
    assert places[0] == (0, "forward")
    assert "lr" in [stage for _, stage in places]


def test_one_fault_has_one_cause(
    tmp_path: Path, right: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for fault, key in (
        ({"eps": 1e-3}, "norm-eps"),
        ({"rate": 0.2}, "lr-factor"),
        ({"clears": False}, "gradient-stale"),
    ):
        wrong = record(tmp_path / f"{key}.trace", **fault)  # type: ignore[arg-type]
        for sides in ((right, wrong), (wrong, right)):
            _, content = document(capsys, "diagnose", *sides)
            assert [cause["key"] for cause in content["causes"]] == [key]


def test_json_holds_all_that_is_known(
    tmp_path: Path, right: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = record(tmp_path / "b.trace", clears=False)
    status, content = document(capsys, "diagnose", right, wrong)
    assert content.keys() == FIELDS
    (cause,) = content["causes"]
    assert cause.keys() == CAUSE_FIELDS
    assert content["schema"] == "lockstep.diagnosis/1"
    assert (content["verdict"], content["exit_status"], status) == ("diverged", 1, 1)
    assert (cause["side"], cause["stage"], cause["update"]) == ("b", "gradients", 1)
    assert cause["residual"] < 1e-9 < cause["residual_without"]
    assert content["first"]["update"] == 1

    status, content = document(capsys, "compare", right, right)
    assert (status, content["verdict"], content["first"]) == (0, "identical", None)
    assert content["schema"] == "lockstep.comparison/1"


def test_json_is_strict_where_a_side_leaves_the_numbers(
    tmp_path: Path, right: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = record(tmp_path / "b.trace", rate=math.inf)
    status, content = document(capsys, "diagnose", right, wrong)
    assert status == 1
    assert content["first"]["b"] is None


def test_without_a_cause_it_says_what_to_record(
    tmp_path: Path, right: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = record(tmp_path / "b.trace", shift=0.3)
    _, content = document(capsys, "diagnose", right, wrong)
    assert content["causes"] == []
    assert any("operations=0" in advice for advice in content["to_record"])
    with pytest.raises(SystemExit):
        main(["diagnose", str(right), str(wrong)])
    text = " ".join(capsys.readouterr().out.split())
    assert "none of the known ones explains these numbers" in text
    assert "record a and b: Recorder(operations=0)" in text

    bare = [
        record(tmp_path / f"{side}-bare.trace", shift=shift, every=0)
        for side, shift in (("a", 0.0), ("b", 0.3))
    ]
    _, content = document(capsys, "diagnose", *bare)
    assert [advice[:2] for advice in content["to_record"]][:2] == ["a:", "b:"]
    assert "window=range(0, 1)" in content["to_record"][0]


def test_lines_of_source_stand_beside_the_cause(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [
        record(tmp_path / f"{side}.trace", eps=eps, operations=0)
        for side, eps in (("a", 1e-5), ("b", 1e-3))
    ]
    _, content = document(capsys, "diagnose", *paths)
    lines = content["causes"][0]["lines"]
    assert lines.keys() == {"a", "b"}
    assert all(Path(__file__).name in line for line in lines["a"])


def test_what_the_unexplained_does_not_entail_is_named(
    tmp_path: Path, right: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = record(tmp_path / "b.trace", shift=0.3, rate=0.2)
    _, content = document(capsys, "diagnose", right, wrong)
    assert content["first"]["stage"] == "forward"
    assert [(cause["key"], cause["stage"]) for cause in content["causes"]] == [("lr-factor", "lr")]
    assert content["to_record"]


def test_a_gradient_that_the_optimizer_is_not_given_is_no_clip(tmp_path: Path) -> None:
    """`.grad` is dropped between backward and step: the parameter stays, and nothing is clipped."""
    paths = []
    for side in "ab":
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(6, 12), torch.nn.Tanh(), torch.nn.Linear(12, 3))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with lockstep.Recorder(tmp_path / f"{side}.trace", backend="torch") as recorder:
            recorder.watch(model, optimizer)
            x, y = torch.randn(8, 6), torch.randint(0, 3, (8,))
            torch.nn.functional.cross_entropy(model(x), y).backward()
            if side == "b":
                model[0].weight.grad = None
            optimizer.step()
            recorder.update(batch={"x": x, "y": y})
        paths.append(tmp_path / f"{side}.trace")
    for sides in (paths, paths[::-1]):
        cause = lockstep.diagnose(*sides).cause
        assert cause is not None
        assert (cause.key, "0.weight" in cause.text) == ("not-trained", True)


class Clip(torch.autograd.Function):
    """Half of the positive part, whose backward lets a share through elsewhere."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, share: float) -> torch.Tensor:
        ctx.save_for_backward(x)
        ctx.share = share
        return torch.clamp(x, min=0.0) / 2

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        (x,) = ctx.saved_tensors
        return gradients[0] * torch.where(x > 0, 0.5, ctx.share), None


class Clipped(torch.nn.Module):
    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = Clip.apply(x, self.share)
        return result


def test_a_layer_without_bias_before_a_loss_of_each_number(tmp_path: Path) -> None:
    """The labels are as wide as the outputs: each number is a place of its own."""
    paths = []
    for side, share in (("a", 0.1), ("b", 0.0)):
        torch.manual_seed(0)
        lin = torch.nn.Linear(6, 3, bias=False, dtype=torch.float64)
        model = torch.nn.Sequential()
        model.add_module("lin", lin)
        model.add_module("act", Clipped(share))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        path = tmp_path / f"{side}.trace"
        with lockstep.Recorder(path, backend="torch") as recorder:
            recorder.watch(model, optimizer)
            for _ in range(2):
                x = torch.randn(16, 6, dtype=torch.float64)
                y = torch.randn(16, 3, dtype=torch.float64)
                optimizer.zero_grad()
                loss = torch.nn.functional.mse_loss(model(x), y)
                loss.backward()
                optimizer.step()
                recorder.update(batch={"x": x, "y": y}, loss=loss)
        paths.append(path)
    for sides in (paths, paths[::-1]):
        cause = lockstep.diagnose(*sides).cause
        assert cause is not None
        assert (cause.key, "backward of act" in cause.text) == ("other-backward", True)
