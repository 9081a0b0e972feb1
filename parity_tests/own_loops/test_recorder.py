"""The recorder of anybody's loop writes the whole schema, changes nothing, and stays within its
budget.
"""

import math
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

import lockstep
from lockstep.cli import main
from lockstep.errors import InputError, RecorderWarning
from lockstep.own_loops.arrays import moments_of, name_arrays, parameters_of, to_array
from lockstep.own_loops.detail_budget import Detail
from lockstep.records.trace import Trace
from parity_tests.shared.loops import (
    LOOPS,
    SETTINGS,
    UPDATES,
    B,
    H,
    K,
    rate_at,
    start_of,
    torch_loop,
)


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Trace]:
    folder = tmp_path_factory.mktemp("traces")
    recorded = {}
    for name, loop in LOOPS.items():
        with lockstep.Recorder(folder / name, backend=name, settings=SETTINGS) as recorder:
            loop(recorder)
        recorded[name] = Trace.load(folder / name)
    return recorded


# --- what is written


@pytest.mark.parametrize("name", LOOPS)
def test_every_kind_of_loop_writes_the_whole_schema(name: str, traces: dict[str, Trace]) -> None:
    trace = traces[name]
    assert trace.header["kind"] == "loop"
    assert trace.header["settings"] == SETTINGS
    assert trace.header["detail"] == list(range(UPDATES))
    assert trace.header["layers"] == ["tanh1", "linear2"]
    assert trace.header["environment"]["jax"] == jax.__version__
    assert trace.recorded_updates == list(range(UPDATES + 1))
    names = set(trace.parameters(0))
    assert len(names) == 4
    expected = {"batch/x", "batch/y", "forward/tanh1", "forward/linear2"}
    for family in ("gradients", "clip", "moments/first", "moments/second"):
        expected |= {f"{family}/{name}" for name in names}
    for update in range(UPDATES):
        prefix = f"detail/{update}/"
        detail = [key for key in trace.arrays if key.startswith(prefix)]
        assert {key.removeprefix(prefix) for key in detail} == expected
    rates = [rate_at(update) for update in range(UPDATES)]
    np.testing.assert_array_equal(trace.series("lr"), rates)
    for update in range(UPDATES):
        gradients = [
            trace.arrays[f"detail/{update}/gradients/{name}"].astype(np.float64) for name in names
        ]
        norm = math.sqrt(sum((gradient**2).sum() for gradient in gradients))
        assert trace.series("grad_norm")[update] == pytest.approx(norm, rel=1e-12)
        before, after = trace.parameters(update), trace.parameters(update + 1)
        change = [(after[name].astype(np.float64) - before[name]) for name in names]
        norm = math.sqrt(sum((part**2).sum() for part in change))
        assert trace.series("update_norm")[update] == pytest.approx(norm, rel=1e-12)


def test_the_same_training_is_recorded_of_every_kind(traces: dict[str, Trace]) -> None:
    for name in LOOPS:
        for series in ("loss", "grad_norm", "update_norm"):
            values, expected = traces[name].series(series), traces["torch"].series(series)
            np.testing.assert_allclose(values, expected, rtol=1e-4, err_msg=f"{name} {series}")


def test_a_watched_loop_records_the_same_with_fewer_words(
    tmp_path: Path, traces: dict[str, Trace]
) -> None:
    with lockstep.Recorder(tmp_path / "watched", backend="torch") as recorder:
        torch_loop(recorder, watch=True)
    watched, plain = Trace.load(tmp_path / "watched"), traces["torch"]
    more = {f"detail/{update}/forward/linear1" for update in range(UPDATES)}
    assert watched.arrays.keys() - plain.arrays.keys() == more
    assert watched.header["layers"] == ["linear1", "tanh1", "linear2"]
    for name, array in plain.arrays.items():
        np.testing.assert_array_equal(watched.arrays[name], array, err_msg=name)


def noisy_net() -> tuple[Any, Any]:
    torch.manual_seed(0)
    layers = [
        torch.nn.Linear(3, H),
        torch.nn.BatchNorm1d(H),
        torch.nn.ReLU(),
        torch.nn.Dropout(0.5),
    ]
    model = torch.nn.Sequential(*layers, torch.nn.Linear(H, K))
    return model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def train_noisy(recorder: lockstep.Recorder | None) -> dict[str, np.ndarray]:
    model, optimizer = noisy_net()
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    if recorder:
        recorder.start(model)
        recorder.watch(model, optimizer)
    start = start_of()
    for x_TBD, y_TB in zip(start.x_TBD.reshape(3, 2, B, 3), start.y_TB.reshape(3, 2, B)):
        losses = []
        for x_BD, y_B in zip(torch.from_numpy(x_TBD), torch.from_numpy(y_TB)):
            losses.append(torch.nn.functional.cross_entropy(model(x_BD), y_B) / 2)
            losses[-1].backward()
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        if recorder:
            recorder.update(loss=sum(losses))
        model.eval()
        model(torch.from_numpy(start.x_TBD[0]))
        model.train()
    state = {name: value.numpy().copy() for name, value in model.state_dict().items()}
    return state | {"drawn next": torch.rand(3).numpy()}


def test_recording_leaves_dropout_and_batchnorm_in_torch_as_they_are(tmp_path: Path) -> None:
    bare = train_noisy(None)
    with lockstep.Recorder(tmp_path / "t", backend="torch", statistics=True) as recorder:
        recorded = train_noisy(recorder)
    for name, value in bare.items():
        np.testing.assert_array_equal(recorded[name], value, err_msg=name)
    trace = Trace.load(tmp_path / "t")
    # the rates are those that were applied, not what the scheduler says afterwards; micro-batches
    # follow one another; evaluation is left out
    np.testing.assert_array_equal(trace.series("lr"), [0.1, 0.05, 0.025])
    assert trace.arrays["detail/1/forward/0"].shape == (2 * B, H)
    assert trace.header["buffers"] == ["1.running_mean", "1.running_var"]
    np.testing.assert_array_equal(trace.parameters(3)["1.running_var"], bare["1.running_var"])
    assert trace.arrays["statistics/gradients/0.weight"].shape == (3, 3)
    gradient = trace.arrays["detail/2/gradients/0.weight"].astype(np.float64)
    expected = [gradient.mean(), math.sqrt((gradient**2).mean()), np.abs(gradient).max()]
    statistics = trace.arrays["statistics/gradients/0.weight"][2]
    np.testing.assert_allclose(statistics, expected, rtol=1e-12)
    before, after = trace.parameters(0), trace.parameters(1)
    trained = [name for name in before if "running" not in name]
    changes = [after[name].astype(np.float64) - before[name] for name in trained]
    norm = math.sqrt(sum((change**2).sum() for change in changes))
    assert trace.series("update_norm")[0] == pytest.approx(norm, rel=1e-12)


@pytest.mark.parametrize("name", ["plain", "nnx"])
def test_recording_leaves_loops_in_jax_as_they_are(name: str, tmp_path: Path) -> None:
    with lockstep.Recorder(tmp_path / "t", backend=name, statistics=True) as recorder:
        recorded = LOOPS[name](recorder)
    for one, other in zip(jax.tree.leaves(recorded), jax.tree.leaves(LOOPS[name]())):
        np.testing.assert_array_equal(one, other)


def test_what_is_recorded_is_a_copy(tmp_path: Path) -> None:
    weights = {"w": np.zeros(2)}
    with lockstep.Recorder(tmp_path / "t", backend="numpy") as recorder:
        recorder.start(weights)
        for update in range(2):
            x = np.full(2, float(update))
            weights["w"] += 1
            recorder.update(batch=x, loss=0.0, gradients=weights, parameters=weights)
            x += 7
    trace = Trace.load(tmp_path / "t")
    np.testing.assert_array_equal(trace.arrays["detail/1/batch/x"], [1, 1])
    for update in range(3):
        np.testing.assert_array_equal(trace.parameters(update)["w"], [update, update])


# --- names and kinds of arrays


class Moments(NamedTuple):
    count: Any
    mu: Any


def test_trees_are_named_by_their_paths() -> None:
    tree = {
        "a": [np.ones(1), (np.ones(2), "no array")],
        "b": Moments(np.ones(3), {"c": np.ones(4)}),
        "d": None,
    }
    sizes = {name: array.size for name, array in name_arrays(tree).items()}
    assert sizes == {"a.0": 1, "a.1.0": 2, "b.count": 3, "b.mu.c": 4}
    with pytest.raises(InputError, match=r"two arrays of one tree are called 'a\.b'"):
        name_arrays({"a": {"b": np.ones(1)}, "a.b": np.ones(1)})


def test_linen_and_nnx_tell_statistics_from_parameters() -> None:
    ones = jnp.ones(2)
    parameters, statistics = parameters_of(
        {"params": {"norm": {"scale": ones}}, "batch_stats": {"norm": {"mean": ones}}}
    )
    assert (list(parameters), statistics) == (["norm.scale", "norm.mean"], {"norm.mean"})

    class Net(nnx.Module):
        def __init__(self) -> None:
            rngs = nnx.Rngs(0)
            self.norm, self.dropout = nnx.BatchNorm(2, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)

    for source in (Net(), nnx.state(Net())):
        parameters, statistics = parameters_of(source)
        assert set(parameters) == {"norm.scale", "norm.bias", "norm.mean", "norm.var"}
        assert statistics == {"norm.mean", "norm.var"}
    parameters, _ = parameters_of({"net": Net()})
    names = {"net.norm.scale", "net.norm.bias", "net.norm.mean", "net.norm.var"}
    assert set(parameters) == names


def test_two_slots_of_one_name_keep_their_paths() -> None:
    state = (
        {"mu": {"w": np.ones(2)}},
        {"mu": {"w": np.ones(2)}, "trace": {"w": np.ones(2)}, "count": np.ones(())},
    )
    assert set(moments_of(state, None, ["w"])) == {"0.mu/w", "1.mu/w", "momentum/w"}


@pytest.mark.parametrize(
    "value",
    [
        torch.tensor([1.0078125, -3.0], dtype=torch.bfloat16),
        jnp.array([1.0078125, -3.0], dtype=jnp.bfloat16),
    ],
)
def test_bfloat16_is_widened_and_noted(value: Any, tmp_path: Path) -> None:
    array, dtype = to_array(value)
    assert (array.dtype, dtype) == (np.float32, "bfloat16")
    np.testing.assert_array_equal(array, [1.0078125, -3.0])
    with lockstep.Recorder(tmp_path / "t", backend="any") as recorder:
        recorder.start({"w": value})
        recorder.update(loss=0.0, parameters={"w": value})
    assert Trace.load(tmp_path / "t").header["dtype"] == "bfloat16"


# --- bad input


def test_what_cannot_be_recorded_is_named(tmp_path: Path) -> None:
    def new(**more: Any) -> lockstep.Recorder:
        return lockstep.Recorder(tmp_path / "t", backend="any", **more)

    with pytest.raises(InputError, match="no folder"):
        lockstep.Recorder(tmp_path / "none" / "t", backend="any")
    with pytest.raises(InputError, match="settings: must be nested dictionaries of plain values"):
        new(settings={"optimizer": object()})
    with pytest.raises(InputError, match="every is -1"):
        new(every=-1)
    with pytest.raises(InputError, match="no update was recorded"):
        new().finish()
    with pytest.raises(InputError, match="update 0: nothing was given"):
        new().update()
    with pytest.raises(InputError, match=r"call Recorder.start\(parameters\) before"):
        new().update(parameters={"w": np.ones(1)})
    with pytest.raises(InputError, match="parameters: no floating-point array in a dict"):
        new().start({"w": "kernel"})
    with pytest.raises(InputError, match="update 0: batch x: an array of complex128"):
        new().update(batch=np.ones(2, complex))
    with pytest.raises(InputError, match=r"loss: shape \(2,\), expected a number"):
        new().update(loss=np.ones(2))
    with pytest.raises(InputError, match="moments: a PyTorch optimizer needs its module"):
        new().update(moments=noisy_net()[1])
    recorder = new()
    recorder.start({"w": np.ones(1)})
    with pytest.raises(InputError, match="update 0: parameters have other names than before: v, w"):
        recorder.update(parameters={"v": np.ones(1)})
    recorder = new()
    recorder.update(loss=1.0)
    with pytest.raises(InputError, match="update 1: lr: given at some updates, not at all"):
        recorder.update(loss=1.0, lr=0.1)
    assert not (tmp_path / "t").exists()


def test_attention_is_watched_though_it_has_a_layer_of_its_own(tmp_path: Path) -> None:
    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            # it never calls its out_proj
            self.attention = torch.nn.MultiheadAttention(4, 2, batch_first=True)
            self.block = torch.nn.Sequential(torch.nn.Linear(4, 1))

        def forward(self, x_BTE: torch.Tensor) -> torch.Tensor:
            return self.block(self.attention(x_BTE, x_BTE, x_BTE)[0])

    with lockstep.Recorder(tmp_path / "t", backend="torch") as recorder:
        model = recorder.start(Net())
        recorder.watch(model)
        recorder.update(loss=model(torch.ones(2, 3, 4)).sum())
    assert Trace.load(tmp_path / "t").header["layers"] == ["attention", "block.0"]


def test_two_steps_in_one_update_are_refused(tmp_path: Path) -> None:
    model, optimizer = noisy_net()
    recorder = lockstep.Recorder(tmp_path / "t", backend="torch")
    recorder.start(model)
    recorder.watch(model, optimizer)
    optimizer.step()
    with pytest.raises(InputError, match="update 0: the optimizer steps twice"):
        optimizer.step()


def test_an_error_in_the_loop_leaves_the_trace_up_to_there(tmp_path: Path) -> None:
    model, optimizer = noisy_net()

    def stop_early() -> None:
        with lockstep.Recorder(tmp_path / "t", backend="torch") as recorder:
            recorder.start(model)
            recorder.watch(model, optimizer)
            optimizer.step()
            recorder.update(loss=1.0)
            raise FloatingPointError("loss is not finite")

    with pytest.raises(FloatingPointError):
        stop_early()
    trace = Trace.load(tmp_path / "t")
    assert trace.header["updates"] == 1
    assert trace.header["recording"]["stopped"] == "FloatingPointError: loss is not finite"
    assert not any(module._forward_hooks for module in model.modules())
    assert not optimizer._optimizer_step_post_hooks


# --- levels and budget


def record_plain(path: Path, updates: int, size: int = 1000, **options: Any) -> Trace:
    with lockstep.Recorder(path, backend="numpy", **options) as recorder:
        recorder.start({"w": np.zeros(size)})
        for update in range(updates):
            parameters = {"w": np.full(size, float(update + 1))}
            recorder.update(
                batch=np.full(size, float(update)),
                loss=0.0,
                gradients=parameters,
                parameters=parameters,
            )
    return Trace.load(path)


def test_every_and_window_choose_the_updates(tmp_path: Path) -> None:
    assert record_plain(tmp_path / "a", 10, every=4).header["detail"] == [0, 4, 8]
    window = record_plain(tmp_path / "b", 10, every=0, window=range(3, 6))
    assert window.header["detail"] == [3, 4, 5]
    scalars = record_plain(tmp_path / "c", 10, every=0)
    assert scalars.header["detail"] == []
    assert not any(name.startswith("detail/") for name in scalars.arrays)
    assert scalars.recorded_updates == [0, 10]
    assert scalars.series("grad_norm").shape == (10,)


@given(st.integers(1, 200), st.integers(1, 60))
def test_detail_stays_within_its_budget_and_evenly_spread(updates: int, fitting: int) -> None:
    size = 800
    detail, before = Detail(budget=fitting * size), {"w": np.zeros(100)}
    for update in range(updates):
        after = {"w": np.full(100, float(update))}
        detail.add(update, {"gradients/w": after["w"]}, before, after)
        before = after
        families = [*detail.updates.values(), *detail.parameters.values()]
        size_of_all = sum(array.nbytes for arrays in families for array in arrays.values())
        assert size_of_all == detail.bytes <= detail.budget
        recorded = list(detail.updates)
        for one in recorded:
            assert set(detail.parameters) >= {one, one + 1}
        if fitting >= 6:
            assert (recorded[0], recorded[-1]) == (0, update)
            assert recorded[:-1] == list(range(0, update, detail.stride))
    if fitting >= 6:
        assert (detail.stride == 1) == (2 * updates + 1 <= fitting)


def test_what_the_budget_took_is_said(tmp_path: Path) -> None:
    trace = record_plain(tmp_path / "t", 50, budget_mib=0.25)
    recording = trace.header["recording"]
    assert recording["kept_every"] > 1
    assert recording["offered"] == 50
    assert recording["bytes"] <= 0.25 * 2**20
    assert trace.header["detail"][-1] == 49
    for update in trace.header["detail"]:
        before, after = np.full(1000, float(update)), np.full(1000, float(update + 1))
        np.testing.assert_array_equal(trace.arrays[f"detail/{update}/batch/x"], before)
        np.testing.assert_array_equal(trace.parameters(update)["w"], before)
        np.testing.assert_array_equal(trace.parameters(update + 1)["w"], after)


def test_statistics_count_towards_the_budget_and_end_with_it(tmp_path: Path) -> None:
    trace = record_plain(tmp_path / "t", 300, size=4, budget_mib=0.01, statistics=True)
    until = trace.header["recording"]["statistics_until"]
    assert until == len(trace.arrays["statistics/gradients/w"]) < 300
    assert trace.series("loss").shape == (300,)


# --- one unit in the last place


@pytest.mark.parametrize("kind", ["torch", "nnx", "linen", "plain"])
def test_a_perturbed_start_is_one_unit_away_everywhere(kind: str) -> None:
    model = noisy_net()[0]
    values = {"a": np.linspace(1, 2, 50, dtype=np.float32), "b": [np.ones((3, 3))]}
    source = {
        "torch": model,
        "nnx": nnx.BatchNorm(20, rngs=nnx.Rngs(0)),
        "linen": {
            "params": jax.tree.map(jnp.asarray, values),
            "batch_stats": {"mean": jnp.ones(3)},
        },
        "plain": values,
    }[kind]
    before = {name: to_array(array)[0] for name, array in parameters_of(source)[0].items()}
    moved, statistics = parameters_of(lockstep.perturbed(source, 5))
    assert moved.keys() == before.keys()
    ups = 0
    for name, value in moved.items():
        array, _ = to_array(value)
        if name in statistics:
            np.testing.assert_array_equal(array, before[name])
            continue
        up, down = np.nextafter(before[name], np.inf), np.nextafter(before[name], -np.inf)
        assert array.dtype == before[name].dtype
        assert ((array == up) | (array == down)).all(), name
        ups += (array == up).sum()
    assert 0 < ups < sum(before[name].size for name in moved if name not in statistics)


def test_the_recorder_perturbs_the_start_of_a_loop(tmp_path: Path) -> None:
    model, _ = noisy_net()
    weight = model[0].weight.detach().clone()
    recorder = lockstep.Recorder(tmp_path / "t", backend="torch", perturb=1)
    assert recorder.start(model) is model
    assert 0 < (model[0].weight - weight).abs().max() < 1e-6


# --- what cannot be watched, and what is too large to be kept


class FromKeras:
    """An optimizer of another library."""


@pytest.mark.parametrize(
    "other",
    [FromKeras(), optax.adam(0.1), 3, type("Wrapped", (), {"param_groups": []})()],
    ids=["keras", "optax", "3", "wrapped"],
)
def test_what_is_no_optimizer_of_torch_is_refused_before_anything_is_watched(
    other: Any, tmp_path: Path
) -> None:
    recorder, model = lockstep.Recorder(tmp_path / "t", backend="torch"), torch.nn.Linear(2, 2)
    line = r"optimizer must be a torch.optim.Optimizer, got .*Recorder.update\(loss="
    with pytest.raises(InputError, match=line):
        recorder.watch(model, other)
    line = r"model must be a torch.nn.Module, got .*Recorder.update\(loss="
    with pytest.raises(InputError, match=line):
        recorder.watch(other)
    assert not model._forward_hooks


def large_loop(path: Path, **options: Any) -> Trace:
    """Two updates whose tensors take 4 MiB each: parameters before and after, gradients and a
    moment.
    """
    tree = {"w": np.zeros(2**18, np.float32)}
    recorder = lockstep.Recorder(path, backend=path.stem, **options)
    recorder.start(tree)
    for _ in range(2):
        recorder.update(loss=1.0, gradients=tree, moments={"m": tree}, parameters=tree)
    return recorder.finish()


def test_a_model_too_large_for_the_budget_is_warned_of_with_the_budget_that_would_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = (
        "no update's tensors are kept: one takes 4 MiB, and budget_mib is 3; budget_mib=8 "
        "keeps the first and"
    )
    for side in ("a", "b"):
        with pytest.warns(RecorderWarning, match=line) as warned:
            trace = large_loop(tmp_path / f"{side}.trace", budget_mib=3)
        assert len(warned) == 2  # at the first update, and at the end
        assert trace.header["detail"] == []
    for command in ("compare", "diagnose"):
        with pytest.raises(SystemExit) as end:
            main([command, str(tmp_path / "a.trace"), str(tmp_path / "b.trace")])
        assert end.value.code == 0
        assert "a: no update's tensors are kept" in " ".join(capsys.readouterr().out.split())
    assert large_loop(tmp_path / "c.trace", budget_mib=8).header["detail"] == [0, 1]
    assert large_loop(tmp_path / "d.trace", budget_mib=3, every=0).header["detail"] == []


@pytest.mark.parametrize("budget", [float("nan"), float("inf"), 0.0])
def test_a_budget_is_a_number_above_0(budget: float, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="budget_mib"):
        lockstep.Recorder(tmp_path / "t", backend="torch", budget_mib=budget)
