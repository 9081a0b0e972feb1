"""The operations of an update are listed with their lines, and the training keeps its bits."""

import inspect
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from lockstep import Recorder
from lockstep.errors import InputError, RecorderWarning
from lockstep.own_loops.operations import result_norms
from lockstep.records.trace import Trace

B, D, H = 4, 6, 8


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = torch.nn.Linear(D, H)
        self.down = torch.nn.Linear(H, 2)

    def forward(self, x_BD: torch.Tensor) -> torch.Tensor:
        h_BH = F.gelu(self.up(x_BD))
        h_BH = F.dropout(h_BH, 0.25)
        return self.down(h_BH)


def line_of(function: Callable[..., Any], text: str) -> int:
    """The number of the first line of a function's source that holds a text."""
    lines, begin = inspect.getsourcelines(function)
    return begin + next(i for i, line in enumerate(lines) if text in line)


def train(
    path: Path,
    operations: Any = (),
    model: torch.nn.Module | None = None,
    step: Callable[..., torch.Tensor] | None = None,
) -> Trace:
    """Three updates; `step` gives the loss of a model and a batch."""
    torch.manual_seed(0)
    model = model or Net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with Recorder(path, backend="torch", operations=operations) as recorder:
        recorder.watch(recorder.start(model), optimizer)
        for _ in range(3):
            x_BD = torch.randn(B, D)
            loss = step(model, x_BD) if step else model(x_BD).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            recorder.update(batch=x_BD, loss=loss)
    return Trace.load(path)


def names(trace: Trace, update: int) -> list[str]:
    return [entry["op"] for entry in trace.header["operations"][str(update)]]


def assert_no_mode_is_left() -> None:
    assert torch._C._len_torch_dispatch_stack() == 0


def test_operations_are_listed_with_layer_line_and_what_they_read(tmp_path: Path) -> None:
    trace = train(tmp_path / "t", operations=1)
    assert trace.header["operations"].keys() == {"1"}
    entries = trace.header["operations"]["1"]
    expected = [
        ("up", "addmm", Net.forward, "self.up(", [-1]),
        ("net", "gelu", Net.forward, "self.up(", [0]),
        ("net", "bernoulli_", Net.forward, "dropout", []),
        ("net", "div_", Net.forward, "dropout", [2]),
        ("net", "mul", Net.forward, "dropout", [1, 3]),
        ("down", "addmm", Net.forward, "self.down(", [-1, 4]),
        ("", "pow", train, "square()", [5]),
        ("", "mean", train, "square()", [6]),
    ]
    for entry, (layer, op, function, text, inputs) in zip(entries, expected):
        line = f"{Path(__file__).name}:{line_of(function, text)} in {function.__name__}"
        assert (entry["layer"], entry["op"], entry["line"]) == (layer, f"aten.{op}", line)
        assert entry["inputs"] == inputs
    assert entries[1]["shape"] == [B, H]
    assert entries[1]["dtype"] == "float32"
    up = trace.arrays["detail/1/forward/up"]
    norms = trace.arrays["operations/1"]
    assert norms.dtype == np.float64
    np.testing.assert_allclose(norms[0], result_norms(up.T), rtol=1e-13)
    np.testing.assert_allclose(norms[7], trace.series("loss")[1], rtol=1e-13)


def test_listening_changes_no_bit(tmp_path: Path) -> None:
    plain = train(tmp_path / "plain")
    listed = train(tmp_path / "listed", operations=range(3))
    assert plain.header["operations"] == {}
    assert listed.header["operations"].keys() == {"0", "1", "2"}
    for name, array in plain.arrays.items():
        np.testing.assert_array_equal(listed.arrays[name], array, err_msg=name)
    assert_no_mode_is_left()


def test_the_tensors_of_a_listed_update_are_recorded(tmp_path: Path) -> None:
    model = Net()
    recorder = Recorder(tmp_path / "t", backend="torch", every=0, operations=[2])
    assert [recorder.due, recorder.every] == [False, 0]
    recorder.start(model)
    for _ in range(2):
        recorder.update(loss=0.0, parameters=model)
    assert recorder.due


def test_norms_leave_out_what_is_masked_and_survive_a_transposition() -> None:
    scores = np.array([[1.0, -np.inf, 2.0], [np.nan, -3.0, 0.5]])
    expected = (np.sqrt(14.25), 0.5, 6.5, 3.0)
    assert result_norms(scores) == pytest.approx(expected)
    assert result_norms(scores.T) == pytest.approx(expected)
    assert result_norms(np.array([True, False, True])) == pytest.approx((np.sqrt(2), 2, 2, 1))
    fills = np.where(np.isfinite(scores), scores, -1e9)
    assert result_norms(fills) == result_norms(scores)


class Masked(Net):
    def forward(self, x_BD: torch.Tensor) -> torch.Tensor:
        h_BH = self.up(x_BD)
        mask_BH = torch.ones_like(h_BH).tril()
        h_BH = h_BH.masked_fill(mask_BH == 0, -torch.inf).softmax(-1)
        turned_HB = h_BH.T.contiguous()
        turned_HB[0] = 0
        return self.down(turned_HB.T)


def test_masks_and_tensors_written_in_place_are_followed(tmp_path: Path) -> None:
    trace = train(tmp_path / "t", operations=0, model=Masked())
    entries = trace.header["operations"]["0"]
    place = {entry["op"].removeprefix("aten."): i for i, entry in enumerate(entries)}
    norms = trace.arrays["operations/0"]
    assert entries[place["masked_fill"]]["inputs"] == [0, place["eq"]]
    assert np.isfinite(norms).all()
    assert norms[place["eq"]][1] == B * H - 10  # 1 + 2 + 3 + 4 lie below the diagonal
    written = place["fill_"]
    down = next(entry for entry in entries if entry["layer"] == "down")
    assert down["inputs"] == [-1, written]


def test_no_tensor_is_kept(tmp_path: Path) -> None:
    def step(model: torch.nn.Module, x_BD: torch.Tensor) -> torch.Tensor:
        loss = model(x_BD).square().mean()
        passing_BD = x_BD.cos()
        tensor, storage = weakref.ref(passing_BD), StorageWeakRef(passing_BD.untyped_storage())
        assert not storage.expired()
        del passing_BD
        assert tensor() is None
        assert storage.expired()
        return loss

    train(tmp_path / "t", operations=0, step=step)


def test_an_evaluation_in_between_is_not_listed(tmp_path: Path) -> None:
    def step(model: torch.nn.Module, x_BD: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            model(x_BD.exp())
        return model(x_BD).square().mean()

    trace = train(tmp_path / "t", operations=0, step=step)
    assert names(trace, 0) == names(train(tmp_path / "u", operations=0), 0)


def test_what_the_backward_pass_computes_again_is_not_listed(tmp_path: Path) -> None:
    def step(model: torch.nn.Module, x_BD: torch.Tensor) -> torch.Tensor:
        y_BK: torch.Tensor = checkpoint(model, x_BD, use_reentrant=False)
        return y_BK.square().mean()

    trace = train(tmp_path / "t", operations=0, step=step)
    assert names(trace, 0).count("aten.gelu") == 1
    assert_no_mode_is_left()


def test_an_error_in_the_model_leaves_no_mode_behind(tmp_path: Path) -> None:
    class Failing(Net):
        calls = 0

        def forward(self, x_BD: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            if self.calls == 1:
                raise ValueError("planted")
            return super().forward(x_BD)

    def step(model: torch.nn.Module, x_BD: torch.Tensor) -> torch.Tensor:
        try:
            return model(x_BD).square().mean()
        except ValueError:
            return model(x_BD).square().mean()

    trace = train(tmp_path / "t", operations=0, model=Failing(), step=step)
    assert trace.header["operations"]["0"][0]["layer"] == "up"
    with pytest.raises(ValueError, match="planted"):
        train(tmp_path / "u", operations=0, model=Failing())
    assert_no_mode_is_left()


def test_a_mode_of_the_loop_that_is_left_later_is_respected(tmp_path: Path) -> None:
    counter = FlopCounterMode(display=False)

    def step(model: torch.nn.Module, x_BD: torch.Tensor) -> torch.Tensor:
        y_BK = model(x_BD)
        with counter:
            return y_BK.square().mean()

    trace = train(tmp_path / "t", operations=0, step=step)
    assert names(trace, 0)[-3:-1] == ["aten.pow", "aten.mean"]
    assert_no_mode_is_left()


def test_nothing_is_listed_under_another_mode_or_a_compiled_model(tmp_path: Path) -> None:
    def step(model: torch.nn.Module, x_BD: torch.Tensor) -> torch.Tensor:
        with FlopCounterMode(display=False):
            return model(x_BD).square().mean()

    with pytest.warns(RecorderWarning, match="another mode"):
        trace = train(tmp_path / "t", operations=0, step=step)
    assert trace.header["operations"] == {}
    assert_no_mode_is_left()
    compiled = Net()
    compiled.up.compile(backend="eager")
    with pytest.warns(RecorderWarning, match=r"torch\.compile hides them"):
        trace = train(tmp_path / "u", operations=0, model=compiled)
    assert trace.header["operations"] == {}


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # of dynamo's own look
def test_a_compiled_function_stays_compiled(tmp_path: Path) -> None:
    graphs = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    @torch.compile(backend=backend)
    def loss_of(y_BK: torch.Tensor) -> torch.Tensor:
        return y_BK.square().mean()

    def step(model: torch.nn.Module, x_BD: torch.Tensor) -> torch.Tensor:
        loss: torch.Tensor = loss_of(model(x_BD))
        return loss

    train(tmp_path / "t", operations=0, step=step)
    assert len(graphs) == 1


@pytest.mark.parametrize("operations", [-1, [0, -2], ["0"], 1.5])
def test_updates_that_are_none_are_refused(tmp_path: Path, operations: Any) -> None:
    with pytest.raises(InputError, match="operations must be an update"):
        Recorder(tmp_path / "t", backend="torch", operations=operations)


def forged(trace: Trace, path: Path, **changes: Any) -> Path:
    entries = [dict(entry) for entry in trace.header["operations"]["0"]]
    entries[1] |= changes
    Trace(trace.header | {"operations": {"0": entries}}, trace.arrays).save(path)
    return path


def test_a_forged_listing_is_refused(tmp_path: Path) -> None:
    trace = train(tmp_path / "t", operations=0)
    Trace.load(forged(trace, tmp_path / "same"))
    for fault, text in (
        ({"inputs": [1]}, "operation 1 reads a later one"),
        ({"inputs": [-2]}, "inputs"),
        ({"line": 3}, "line"),
        ({"shape": [-1]}, "shape"),
    ):
        with pytest.raises(InputError, match=text):
            Trace.load(forged(trace, tmp_path / "forged", **fault))
    arrays = dict(trace.arrays)
    del arrays["operations/0"]
    Trace(trace.header, arrays).save(tmp_path / "none")
    with pytest.raises(InputError, match="operations/0"):
        Trace.load(tmp_path / "none")
