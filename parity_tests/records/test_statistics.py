"""Three numbers of every tensor at every update: they are those of the run's own tensors, recording
them changes nothing, and a comparison judges them and names their place.
"""

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

import jax_impl.train
import pt_impl.train
from lockstep.cli import main
from lockstep.diagnose.compare import bounds_of, compare
from lockstep.diagnose.diagnosis import diagnose
from lockstep.errors import InputError
from lockstep.oracle.train import states
from lockstep.oracle.train import train as train_oracle
from lockstep.recipe import Recipe
from lockstep.records.checkpoint import Checkpoint, Checkpoints
from lockstep.records.run_recorder import Watch
from lockstep.records.tensor_statistics import STATISTICS, statistics_of
from lockstep.records.trace import Trace
from lockstep.run.engine import choose_engine
from lockstep.run.replay import replay, reproduces, truth_of
from parity_tests.shared.recipes import prepared, small_recipe
from parity_tests.shared.sweep import sweep_but
from parity_tests.shared.twins import TWINS, patch_pair
from parity_tests.shared.verdicts import assert_rounding, assert_verdict

TRAINERS = {"torch": pt_impl.train.train, "jax": jax_impl.train.train, "oracle": train_oracle}
VARIANTS: dict[str, dict[str, Any]] = {
    "sgd": {},
    "by layer": {
        "model__norm": "layer",
        "model__dropout": 0.2,
        "optimizer__name": "adamw",
        "optimizer__multipliers": (0.5, 1.0, 2.0),
    },
    "all at once": {
        "gradient__accumulate": 2,
        "gradient__clip": "norm",
        "gradient__clip_at": 0.05,
        "model__norm": "batch",
        "average__decay": 0.9,
    },
}


def recipe_of(variant: str, dtype: str = "float32") -> Recipe:
    return small_recipe(training__dtype=dtype, **VARIANTS[variant])


@cache
def recorded(backend: str, recipe: Recipe) -> Trace:
    trace: Trace = TRAINERS[backend](recipe, prepared(recipe), watch=Watch(statistics=True))
    return trace


def statistics_in(trace: Trace) -> dict[str, NDArray[Any]]:
    return {name: array for name, array in trace.arrays.items() if name.startswith("statistics/")}


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    printed = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, printed.out + printed.err


# ---- the three numbers


@given(
    arrays(
        np.float32,
        array_shapes(max_dims=3, max_side=5),
        elements=st.floats(-(2.0**99), 2.0**99, width=32),
    )
)
def test_the_numbers_are_those_of_the_values_whatever_holds_them(
    array: NDArray[np.float32],
) -> None:
    wide = array.astype(np.float64)
    largest = np.abs(wide).max()
    numbers = statistics_of(array)
    expected = [wide.mean(), np.sqrt((wide**2).mean()), largest]
    np.testing.assert_allclose(numbers, expected, rtol=1e-12, atol=1e-12 * largest)
    assert numbers == statistics_of(wide) == statistics_of(np.asfortranarray(array))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_shows(value: float) -> None:
    assert not np.isfinite(statistics_of(np.array([[1.0, value], [2.0, 3.0]]))).any()


# ---- recording


@pytest.mark.parametrize("backend", TRAINERS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_statistics_are_of_the_tensors_of_the_run(backend: str, variant: str) -> None:
    recipe = recipe_of(variant)
    updates = range(prepared(recipe).updates)
    watch = Watch(statistics=True, detail=updates, parameters_every=1)
    trace = TRAINERS[backend](recipe, prepared(recipe), watch=watch)
    expected: dict[str, list[Any]] = {}
    for update in updates:
        prefixes = {
            f"detail/{update}/": "statistics/",
            f"parameters/{update + 1}/": "statistics/parameters/",
            f"average/{update + 1}/": "statistics/average/",
        }
        for prefix, family in prefixes.items():
            names = [name for name in trace.arrays if name.startswith(prefix)]
            for name in [name for name in names if "/batch/" not in name]:
                rows = expected.setdefault(family + name.removeprefix(prefix), [])
                rows.append(statistics_of(trace.arrays[name]))
    statistics = statistics_in(trace)
    assert statistics.keys() == expected.keys() == statistics_in(recorded("oracle", recipe)).keys()
    for name, rows in expected.items():
        assert statistics[name].dtype == np.float64
        np.testing.assert_array_equal(statistics[name], np.array(rows), err_msg=name)


@pytest.mark.parametrize("backend", TWINS)
@pytest.mark.parametrize("dtype", sweep_but(["float32"], ["float32", "float64"]))
@pytest.mark.parametrize("variant", VARIANTS)
def test_recording_statistics_changes_no_bit(backend: str, dtype: str, variant: str) -> None:
    recipe = recipe_of(variant, dtype)
    trace = recorded(backend, recipe)
    for name, array in TRAINERS[backend](recipe, prepared(recipe)).arrays.items():
        assert array.tobytes() == trace.arrays[name].tobytes(), name


@pytest.mark.parametrize("backend", TRAINERS)
def test_a_run_that_stops_and_goes_on_has_the_same_statistics(backend: str) -> None:
    recipe = recipe_of("all at once")
    data = prepared(recipe)
    checkpoints: dict[int, Checkpoint] = {}

    def keep(checkpoint: Checkpoint) -> None:
        checkpoints[checkpoint.batches] = checkpoint

    watch = Watch(statistics=True, checkpoints=Checkpoints(1, "batch", keep))
    cut = TRAINERS[backend](recipe, data, watch=watch)
    whole = statistics_in(recorded(backend, recipe))
    for name, rows in statistics_in(cut).items():
        np.testing.assert_array_equal(rows, whole[name], err_msg=name)
    for batches, first in ((3, 2), (4, 3)):  # after an update, and in the midst of one
        watch = Watch(statistics=True, resume=checkpoints[batches])
        rest = TRAINERS[backend](recipe, data, watch=watch)
        assert rest.header["statistics"] == first
        for name, rows in statistics_in(rest).items():
            np.testing.assert_array_equal(rows, whole[name][first:], err_msg=name)
        assert compare(rest, recorded(backend, recipe), {}).verdict == "identical"


def test_a_cut_update_is_recorded_in_detail_too() -> None:
    recipe = recipe_of("all at once")
    data = prepared(recipe)
    whole = pt_impl.train.train(recipe, data, watch=Watch(detail=(2,)))
    watch = Watch(detail=(2,), checkpoints=Checkpoints(1, "batch", lambda _: None))
    cut = pt_impl.train.train(recipe, data, watch=watch)
    assert cut.header["detail"] == [2]
    for name in [name for name in whole.arrays if name.startswith("detail/")]:
        np.testing.assert_array_equal(cut.arrays[name], whole.arrays[name], err_msg=name)


# ---- the budget


@pytest.mark.parametrize("backend", TRAINERS)
def test_statistics_fit_a_budget_of_24_bytes_a_tensor_and_update_and_no_other(backend: str) -> None:
    recipe = recipe_of("all at once")
    data, statistics = prepared(recipe), statistics_in(recorded(backend, recipe))
    size = 24 * data.updates * len(statistics)
    assert size == sum(array.nbytes for array in statistics.values())
    TRAINERS[backend](recipe, data, watch=Watch(statistics=True, budget_mib=size / 2**20))
    line = f"the statistics of {len(statistics)} tensors at {data.updates} updates take 0.0"
    with pytest.raises(InputError, match=line):
        TRAINERS[backend](recipe, data, watch=Watch(statistics=True, budget_mib=(size - 1) / 2**20))


def test_detail_takes_what_statistics_leave_of_the_budget(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["--set=data.rows=96", "--set=training.epochs=4", "--set=schedule.warmup=1"]
    out = tmp_path / "t"
    command = ["record", "--backend", "oracle", "--out", str(out), "--detail", "0:4", *small]
    assert call(capsys, *command, "--statistics")[0] == 0
    sizes = {name: array.nbytes for name, array in Trace.load(out).arrays.items()}
    detail = sum(size for name, size in sizes.items() if name.startswith("detail/"))
    statistics = sum(size for name, size in sizes.items() if name.startswith("statistics/"))
    for missing, status in ((0, 0), (1, 2)):
        budget = str((detail + statistics - missing) / 2**20)
        code, output = call(capsys, *command, "--statistics", "--budget-mib", budget)
        assert code == status, output
    assert "of the 4 wanted 3 fit into the budget of 0." in output
    assert output.strip().endswith(f"beside {statistics / 2**20:.3g} MiB of statistics")
    assert call(capsys, *command, "--budget-mib", budget)[0] == 0


# ---- comparing


@pytest.mark.parametrize("backend", TWINS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_right_runs_differ_by_rounding(backend: str, variant: str) -> None:
    for dtype, farthest in (("float64", 1), ("float32", 0.5)):
        recipe = recipe_of(variant, dtype)
        trace, oracle = recorded(backend, recipe), recorded("oracle", recipe)
        comparison = compare(trace, oracle, bounds_of(oracle) or {})
        assert_verdict(comparison, "rounding")
        stages = ("forward", "gradients", "moments", "parameters")
        ratios = [comparison.worst[stage].ratio for stage in stages]
        assert 1e-4 < max(ratios) <= farthest


def test_updates_from_the_oracles_state_have_statistics_too() -> None:
    recipe = recipe_of("all at once")
    data = prepared(recipe)
    run = train_oracle(recipe, data, watch=Watch(statistics=True))
    watch = Watch(statistics=True, synchronise=states(recipe, data))
    updates = train_oracle(recipe, data, watch=watch)
    watch = Watch(statistics=True, synchronise=states(recipe, data))
    trace = jax_impl.train.train(recipe, data, watch=watch)
    assert_rounding(trace, updates)
    name = "bounds/statistics/parameters/linear1.weight"
    assert updates.arrays[name][-1] < run.arrays[name][-1]


def test_a_run_that_blows_up_is_called_wrong_by_no_statistic() -> None:
    recipe = small_recipe(schedule__peak=1e8)
    trace, oracle = recorded("torch", recipe), recorded("oracle", recipe)
    assert not np.isfinite(trace.arrays["statistics/parameters/linear1.weight"]).all()
    assert compare(trace, oracle, bounds_of(oracle) or {}).verdict == "inconclusive"


@pytest.mark.parametrize("update", [0, 7])
@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize(
    "tensor", ["forward/relu1", "gradients/linear2.bias", "moments/momentum/linear1.weight"]
)
def test_one_number_is_enough(tensor: str, number: int, update: int) -> None:
    truth = recorded("oracle", recipe_of("sgd", "float64"))
    moved = truth.arrays[f"statistics/{tensor}"].copy()
    moved[update, number] += 1e-11 * np.abs(moved).max()
    arrays = truth.arrays | {f"statistics/{tensor}": moved}
    other = Trace(truth.header | {"backend": "torch"}, arrays)
    first = compare(other, truth, {}).first
    assert first is not None
    stage, _, name = tensor.partition("/")
    assert (first.stage, first.update) == (stage, update)
    assert first.tensor == f"{STATISTICS[number]} of {name}"
    assert diagnose(other, truth, truth, bounds={}).off == "a"


FAULTS: dict[str, tuple[dict[str, Any], int, str, str]] = {
    "clipped at more": ({"gradient.clip_at": 0.051}, 0, "clip", "linear3."),
    "running share": ({"model.norm_momentum": 0.2}, 0, "parameters", "norm1.mean"),
    "less momentum": ({"optimizer.momentum": 0.89}, 1, "moments", "momentum/linear1."),
    "shorter average": ({"average.decay": 0.89}, 0, "average", "norm1."),
}
"""Fault -> what is set otherwise, and the update, stage and tensor at which statistics alone show
it first. Parameters are recorded at the ends of epochs, which have two updates.
"""


@pytest.mark.parametrize(
    ("backend", "fault"), [*(("torch", fault) for fault in FAULTS), ("jax", "less momentum")]
)
def test_a_fault_shows_at_its_update_and_stage(backend: str, fault: str) -> None:
    recipe = recipe_of("all at once")
    values, update, stage, tensor = FAULTS[fault]
    oracle = recorded("oracle", recipe)
    faulty = recipe.with_values(values)
    wrong = TRAINERS[backend](faulty, prepared(recipe), watch=Watch(statistics=True))
    identity = {name: oracle.header[name] for name in ("recipe", "recipe_hash")}
    other = recorded("jax" if backend == "torch" else "torch", recipe)
    diagnosis = diagnose(Trace(wrong.header | identity, wrong.arrays), other, oracle)
    assert diagnosis.first is not None
    assert (diagnosis.first.update, diagnosis.first.stage) == (update, stage)
    assert f" of {tensor}" in diagnosis.first.tensor
    assert diagnosis.off == "a"


@pytest.mark.parametrize("backend", TWINS)
def test_wrong_rows_show_in_the_first_layer(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, module = recipe_of("sgd"), TWINS[backend]
    original = module.load_batches

    def scaled_in_the_second_epoch(data: Any, epoch: int, device: Any) -> Any:
        if epoch == 1:
            data = replace(data, train_x_ND=data.train_x_ND * 1.01)
        return original(data, epoch, device)

    oracle = recorded("oracle", recipe)
    patch_pair(monkeypatch, module, "load_batches", scaled_in_the_second_epoch)
    wrong = module.train(recipe, prepared(recipe), watch=Watch(statistics=True))
    first = compare(wrong, oracle, bounds_of(oracle) or {}).first
    assert first is not None
    assert (first.update, first.stage) == (3, "forward")
    assert first.tensor.partition(" of ")[2] == "linear1"


def test_a_tensor_is_named_before_its_statistics() -> None:
    recipe = recipe_of("sgd", "float64")
    right = train_oracle(recipe, prepared(recipe), watch=Watch(statistics=True, detail=(4,)))
    wrong = {
        name: array * 1.001
        for name, array in right.arrays.items()
        if "gradients/linear2.weight" in name
    }
    # statistics first, as a file may have them
    arrays = dict(sorted((right.arrays | wrong).items(), reverse=True))
    comparison = compare(Trace(right.header | {"backend": "jax"}, arrays), right, {})
    at_4 = [part.tensor for part in comparison.parted if part.update == 4]
    assert at_4[0] == "linear2.weight"


# ---- commands


def test_the_commands_record_and_judge_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["--set=data.rows=90", "--set=training.epochs=2", "--set=schedule.warmup=1"]
    paths = {backend: str(tmp_path / f"{backend}.trace") for backend in TRAINERS}
    for backend, path in paths.items():
        record = ("record", "--backend", backend, "--out", path, "--statistics", *small)
        code, output = call(capsys, *record)
        assert code == 0, output
        is_said = "engine plain (statistics of every update are recorded)" in output
        assert is_said == (backend != "oracle")
    for other in ("jax", "oracle"):
        code, output = call(capsys, "compare", paths["torch"], paths[other])
        assert code == 0, output
        assert "verdict: rounding" in output
    diagnose_both = ("diagnose", paths["torch"], paths["jax"], "--oracle")
    assert " of " in call(capsys, *diagnose_both, paths["oracle"])[1]
    bare = str(tmp_path / "bare.trace")
    assert call(capsys, "record", "--backend", "oracle", "--out", bare, *small)[0] == 0
    code, output = call(capsys, *diagnose_both, bare)
    assert code == 2
    assert "the oracle's trace has no statistics/" in output


def test_the_fast_engine_has_none() -> None:
    with pytest.raises(InputError, match="--engine fast: statistics of every update are recorded"):
        choose_engine("fast", Watch(statistics=True))


def test_a_replay_has_them_too() -> None:
    recipe = recipe_of("sgd")
    data = prepared(recipe)
    traces = {backend: recorded(backend, recipe) for backend in TWINS}
    truth = truth_of(*traces.values(), data)
    again = replay(traces, data, detail=(5,), report=lambda *_: None)
    names = statistics_in(truth).keys()
    for backend, trace in traces.items():
        assert statistics_in(trace).keys() == names
        assert statistics_in(again[backend]).keys() == names
        assert reproduces(again[backend], trace, truth)
