"""Loops whose tensors are too large to be kept: what stays in memory and in the file, and that
their summaries say where two runs part.
"""

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import lockstep
from lockstep.cli import main
from lockstep.diagnose.diagnosis import Diagnosis
from lockstep.diagnose.names import Layout, NameMap
from lockstep.diagnose.pairs import diagnose
from lockstep.diagnose.propose import propose
from lockstep.errors import InputError, RecorderWarning
from lockstep.own_loops.latest_parameters import LatestParameters
from lockstep.records.trace import Trace
from parity_tests.shared.loops import plain_loop, torch_loop

TRANSPOSED = {f"linear{i}.weight": Layout(f"linear{i}.weight", axes=(1, 0)) for i in (1, 2)}
MIB = 2**20


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even small parameters are too large for a file."""
    monkeypatch.setattr("lockstep.own_loops.recorder.SMALL", 0)


def sketched(loop: Callable[..., Any], path: Path, **options: Any) -> Trace:
    settings = {"every": 0, "sketches": True, "backend": path.stem}
    recorder = lockstep.Recorder(path, **settings)
    loop(recorder, **options)
    recorder.finish()
    return Trace.load(path)


# --- what is written


def test_the_first_and_last_parameters_are_summarised_in_place_of_stored(
    tmp_path: Path, large: None
) -> None:
    full = lockstep.Recorder(tmp_path / "full", backend="full")
    torch_loop(full)
    tensors = full.finish()
    trace = sketched(torch_loop, tmp_path / "a")
    assert not any(name.startswith(("parameters/", "detail/")) for name in trace.arrays)
    assert trace.shapes == tensors.shapes
    for done in (0, 6):
        for name, array in tensors.parameters(done).items():
            wide = array.astype(np.float64)
            numbers = trace.arrays[f"summaries/{done}/{name}"]
            expected = [wide.mean(), np.sqrt((wide**2).mean()), np.abs(wide).max()]
            np.testing.assert_allclose(numbers[:3], expected, rtol=1e-12)
            assert trace.arrays[f"hashes/{done}/{name}"].shape == (32,)
    for series in ("loss", "lr", "grad_norm", "update_norm"):
        np.testing.assert_array_equal(trace.series(series), tensors.series(series))
    families = ["forward/tanh1", "gradients/linear1.weight", "clip/linear1.weight"]
    for name in [*families, "moments/second/linear2.bias", "parameters/linear2.bias"]:
        assert trace.arrays[f"statistics/{name}"].shape == (6, 3)
        assert trace.arrays[f"sketches/{name}"].shape == (6, 8)
        assert trace.header["shapes"][name] == [*tensors.arrays[key_of(name)].shape]


def key_of(name: str) -> str:
    return name.replace("parameters/", "parameters/1/") if name[0] == "p" else f"detail/0/{name}"


def test_a_small_model_keeps_its_first_and_last_parameters(tmp_path: Path) -> None:
    trace = sketched(torch_loop, tmp_path / "a")
    assert trace.recorded_updates == [0, 6]
    assert not any(name.startswith(("summaries/", "hashes/")) for name in trace.arrays)


def test_statistics_are_the_same_with_sketches_and_without(tmp_path: Path) -> None:
    recorder = lockstep.Recorder(tmp_path / "a", backend="a", every=0, statistics=True)
    torch_loop(recorder)
    statistics = recorder.finish()
    sketches = sketched(torch_loop, tmp_path / "b")
    tables = [name for name in statistics.arrays if name.startswith("statistics/")]
    assert len(tables) > 15
    for name in tables:
        np.testing.assert_allclose(
            sketches.arrays[name], statistics.arrays[name], rtol=1e-12, atol=1e-17, err_msg=name
        )


def test_micro_batches_are_summarised_as_the_batch_that_they_make(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(12, 70))
    traces = []
    for parts in ([12], [5, 7]):
        recorder = lockstep.Recorder(
            tmp_path / "t", backend="numpy", every=0, sketches=True, budget_mib=1
        )
        for batch in np.split(rows, np.cumsum(parts)[:-1]):
            recorder.record(forward={"out": batch})
        recorder.update(loss=1.0)
        traces.append(recorder.finish())
    assert traces[0].header["shapes"] == traces[1].header["shapes"] == {"forward/out": [12, 70]}
    for kind in ("statistics", "sketches"):
        whole, parted = (trace.arrays[f"{kind}/forward/out"] for trace in traces)
        np.testing.assert_allclose(parted, whole, rtol=1e-9)


def test_bfloat16_is_summarised_and_kept_as_it_is(tmp_path: Path, large: None) -> None:
    model = torch.nn.Linear(3, 2).to(torch.bfloat16)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    recorder = lockstep.Recorder(tmp_path / "t", backend="torch", every=0, sketches=True)
    recorder.watch(recorder.start(model), optimizer)
    before = model.weight.detach().double().numpy()
    model(torch.ones(4, 3, dtype=torch.bfloat16)).sum().backward()
    optimizer.step()
    recorder.update(loss=1.0)
    trace = recorder.finish()
    after = model.weight.detach().double().numpy()
    for row, value in ((trace.arrays["summaries/0/weight"], before),
                       (trace.arrays["statistics/parameters/weight"][0], after)):  # fmt: skip
        assert row[0] == pytest.approx(value.mean(), rel=1e-12)
    bias = model.bias.detach().double().numpy() - 0  # a step of 2 in each bias, 2 in each weight
    assert bias.shape == (2,)
    squares = 8 * 4.0
    assert trace.series("update_norm")[0] == pytest.approx(np.sqrt(squares), rel=0.01)


# --- what it costs


def loop_of(width: int, updates: int, recorder: lockstep.Recorder) -> None:
    """A loop of four square tensors."""
    parameters = {str(i): np.ones((width, width), np.float32) for i in range(4)}
    recorder.start(parameters)
    for _ in range(updates):
        for array in parameters.values():
            array += 0.5
        recorder.update(loss=1.0, gradients=parameters, clipped=parameters, parameters=parameters)


def peak_of(path: Path, **options: Any) -> tuple[float, Trace]:
    """The most memory in MiB that a recorder of a loop takes beside the loop's own 4 MiB."""
    recorder = lockstep.Recorder(path, backend="numpy", **options)
    tracemalloc.start()
    loop_of(512, 4, recorder)
    trace = recorder.finish()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak / MIB - 4, trace


@pytest.mark.parametrize("options", [{}, {"statistics": True}, {"sketches": True}], ids=str)
def test_a_recorder_of_scalars_and_summaries_holds_one_copy_of_the_parameters(
    options: dict[str, Any], tmp_path: Path
) -> None:
    peak, trace = peak_of(tmp_path / "t", every=0, **options)
    assert peak < 4 + 4  # a copy, and what is read at once; a second copy would be 8
    assert (tmp_path / "t").stat().st_size < 40_000
    steps = np.full(4, np.sqrt(2**20) * 0.5)
    np.testing.assert_allclose(trace.series("update_norm"), steps, rtol=1e-12)


def test_tensors_that_do_not_fit_are_not_piled_up_either(tmp_path: Path) -> None:
    with pytest.warns(RecorderWarning, match="one takes 16 MiB, and budget_mib is 10"):
        peak, trace = peak_of(tmp_path / "t", budget_mib=10)
    assert peak < 4 + 4 + 2  # copies stop when those of an update outgrow the budget
    assert trace.header["detail"] == []
    assert (tmp_path / "t").stat().st_size < 40_000


def test_what_does_not_fit_is_said_at_the_first_update(tmp_path: Path) -> None:
    parameters = {"w": np.ones(2**18, np.float32)}
    recorder = lockstep.Recorder(tmp_path / "t", backend="numpy", budget_mib=2.5)
    recorder.start(parameters)
    with pytest.warns(RecorderWarning, match="every=0, sketches=True") as warned:
        recorder.update(loss=1.0, gradients=parameters, parameters=parameters)
    assert "one takes 3 MiB, and budget_mib is 2.5" in str(warned[0].message)
    assert not recorder.due  # a loop can save the work
    with pytest.warns(RecorderWarning):
        recorder.finish()


def test_a_budget_that_keeps_one_update_says_so(tmp_path: Path) -> None:
    parameters = {"w": np.ones(2**18, np.float32)}
    recorder = lockstep.Recorder(tmp_path / "t", backend="numpy", budget_mib=5)
    recorder.start(parameters)
    line = "the first and of the last update do not both fit: one takes 3 MiB, .*_mib=6 keeps both"
    with pytest.warns(RecorderWarning, match=line):
        recorder.update(loss=1.0, gradients=parameters, parameters=parameters)
    for _ in range(6):
        recorder.update(loss=1.0, gradients=parameters, parameters=parameters)
    assert 0 < len(recorder.finish().header["detail"]) < 3


def test_gradients_that_are_not_clipped_are_kept_once(tmp_path: Path) -> None:
    recorder = lockstep.Recorder(tmp_path / "t", backend="numpy")
    same, other = np.ones((3, 4)), np.ones((3, 4))
    other[2, 3] = -1.0
    recorder.record(gradients={"same": same, "other": same})
    recorder.update(clipped={"same": same, "other": other})
    arrays = recorder.finish().arrays
    assert arrays["detail/0/clip/same"] is arrays["detail/0/gradients/same"]
    np.testing.assert_array_equal(arrays["detail/0/clip/other"], other)


def test_parameters_of_another_shape_are_refused() -> None:
    latest = LatestParameters({"w": np.ones(3)})
    with pytest.raises(InputError, match=r"parameter w: shape \(4,\), before \(3,\)"):
        latest.replace({"w": np.ones(4)}, ["w"])


# --- where two runs part


def judged(a: Trace, b: Trace, names: NameMap | None = None) -> Diagnosis:
    return diagnose(a, b, names=names)


def test_a_right_port_is_right_by_its_summaries(tmp_path: Path, large: None) -> None:
    a = sketched(torch_loop, tmp_path / "torch")
    b = sketched(plain_loop, tmp_path / "jax")
    verdict = judged(a, b, NameMap(names=TRANSPOSED))
    assert verdict.verdict == "rounding"
    assert verdict.comparison.worst["init"].ratio < 0.1
    assert max(worst.ratio for worst in verdict.comparison.worst.values()) < 0.5
    again = sketched(torch_loop, tmp_path / "again")
    assert judged(a, again).verdict == "identical"


@pytest.mark.parametrize(
    ("fault", "stage", "update"),
    [("sum", "loss", 0), ("decay", "update", 0), ("clip", "clip", 0), ("rate", "lr", 3)],
)
def test_a_fault_is_placed_by_summaries(
    fault: str, stage: str, update: int, tmp_path: Path, large: None
) -> None:
    a = sketched(torch_loop, tmp_path / "torch")
    b = sketched(plain_loop, tmp_path / "jax", fault=fault)
    first = judged(a, b, NameMap(names=TRANSPOSED)).first
    assert first is not None
    assert (first.stage, first.update) == (stage, update)


@pytest.mark.parametrize("moved", ["one element", "a unit in the last place"])
def test_other_initial_parameters_are_seen_without_being_stored(
    moved: str, tmp_path: Path, large: None
) -> None:
    values = {"w": np.random.default_rng(0).normal(size=(40, 30)).astype(np.float32)}
    traces = []
    for backend in ("a", "b"):
        recorder = lockstep.Recorder(tmp_path / backend, backend=backend, every=0)
        recorder.start(values)
        recorder.update(loss=1.0, parameters=values)
        traces.append(recorder.finish())
        weight = values["w"].copy()
        weight[7, 7] += 1 if moved == "one element" else np.spacing(weight[7, 7])
        values = {"w": weight}
    first = judged(*traces).first
    assert first is not None
    assert (first.stage, first.update, first.array[-1]) == ("init", -1, "w")


def test_stored_parameters_and_summaries_are_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = sketched(torch_loop, tmp_path / "stored")
    monkeypatch.setattr("lockstep.own_loops.recorder.SMALL", 0)
    b = sketched(plain_loop, tmp_path / "jax")
    comparison = judged(a, b, NameMap(names=TRANSPOSED)).comparison
    assert comparison.verdict == "rounding"
    assert "init" in comparison.worst


def test_names_are_not_drawn_from_summaries(tmp_path: Path, large: None) -> None:
    a = sketched(torch_loop, tmp_path / "torch")
    with pytest.raises(InputError, match=r"the trace of torch holds summaries .* with every=1"):
        propose(a, a)


def change_weight(model: Any, update: int) -> None:
    """A fault in the middle of training: one element of one tensor."""
    if update == 4:
        with torch.no_grad():
            model[2].weight[3, 5] += 0.01


def deep_loop(recorder: lockstep.Recorder, after_step: Callable[..., None] | None = None) -> None:
    torch.manual_seed(0)
    layers = [torch.nn.Linear(64, 64), torch.nn.GELU(), torch.nn.Linear(64, 64), torch.nn.GELU()]
    model = torch.nn.Sequential(*layers, torch.nn.Linear(64, 5))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    recorder.watch(recorder.start(model), optimizer)
    for update in range(10):
        x_BD = torch.randn(16, 64)
        y_B = torch.randint(0, 5, (16,))
        loss = torch.nn.functional.cross_entropy(model(x_BD), y_B)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if after_step:
            after_step(model, update)
        recorder.update(loss=loss)


def test_a_tensor_that_was_changed_in_the_middle_of_training_is_named(
    tmp_path: Path, large: None, capsys: pytest.CaptureFixture[str]
) -> None:
    a = sketched(deep_loop, tmp_path / "a.trace")
    b = sketched(deep_loop, tmp_path / "b.trace", after_step=change_weight)
    verdict = judged(a, b)
    assert verdict.first is not None
    assert (verdict.first.update, verdict.first.tensor) == (4, "update_norm")
    assert verdict.most is not None
    assert verdict.most.array.endswith("parameters/2.weight")
    with pytest.raises(SystemExit) as end:
        main(["compare", str(tmp_path / "a.trace"), str(tmp_path / "b.trace")])
    assert end.value.code == 1
    shown = " ".join(capsys.readouterr().out.split())
    assert "the same bits before update 4; first others there: parameters of 2.weight" in shown


def test_sketches_of_a_tensor_that_was_reshaped_are_left_out_with_a_note(
    tmp_path: Path, large: None
) -> None:
    draw = np.random.default_rng(0)
    wide = draw.normal(size=(6, 4)).astype(np.float32)
    traces = []
    for backend, value in (("a", wide), ("b", wide.reshape(6, 2, 2))):
        recorder = lockstep.Recorder(tmp_path / backend, backend=backend, every=0, sketches=True)
        recorder.start({"w": value})
        recorder.update(loss=1.0, gradients={"w": value}, parameters={"w": value})
        traces.append(recorder.finish())
    names = NameMap(names={"w": Layout("w", reshape=(6, 4))})
    assert judged(*traces, names).verdict == "identical"
    path = tmp_path / "names.toml"
    path.write_text('[names]\nw = { name = "w", reshape = [6, 4] }\n')
    with pytest.raises(InputError, match="parameters whose shapes differ"):
        judged(*traces)


def test_jax_arrays_are_summarised_alike(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(30, 20)).astype(np.float32)
    tables = []
    for array in (values, jnp.asarray(values), torch.from_numpy(values)):
        recorder = lockstep.Recorder(tmp_path / "t", backend="any", every=0, sketches=True)
        recorder.start({"w": array})
        recorder.update(loss=1.0, gradients={"w": array}, parameters={"w": array})
        tables.append(recorder.finish().arrays["sketches/gradients/w"])
    assert jax.devices()
    np.testing.assert_array_equal(tables[0], tables[1])
    np.testing.assert_array_equal(tables[0], tables[2])
