"""The detail of an update is what the oracle has, and recording it changes nothing."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lockstep.cli import main
from lockstep.oracle.train import train as train_oracle
from lockstep.recipe import Recipe
from lockstep.records.run_recorder import Watch
from lockstep.records.trace import Trace
from parity_tests.shared.recipes import prepared, small_recipe
from parity_tests.shared.sweep import sweep_but
from parity_tests.shared.twins import TWINS

DETAIL = (0, 2, 3, 5)  # 2 ends an epoch
VARIANTS: dict[str, dict[str, Any]] = {
    "sgd": {},
    "dropout": {"model__norm": "layer", "model__dropout": 0.2, "optimizer__name": "adamw"},
    "clip and accumulate": {
        "gradient__accumulate": 2,
        "gradient__clip": "norm",
        "gradient__clip_at": 0.05,
        "model__norm": "batch",
        "model__bias": False,
        "average__decay": 0.9,
    },
    "muon": {"optimizer__name": "muon"},
}


def recipe_of(variant: str, dtype: str) -> Recipe:
    return small_recipe(training__dtype=dtype, **VARIANTS[variant])


@cache
def detailed(backend: str, recipe: Recipe) -> Trace:
    train = train_oracle if backend == "oracle" else TWINS[backend].train
    trace: Trace = train(recipe, prepared(recipe), watch=Watch(detail=DETAIL))
    return trace


@pytest.mark.parametrize("backend", TWINS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_detail_is_what_the_oracle_has(backend: str, variant: str) -> None:
    recipe = recipe_of(variant, "float64")
    trace, oracle = detailed(backend, recipe), detailed("oracle", recipe)
    names = {name for name in trace.arrays if name.startswith("detail/")}
    assert names == {name for name in oracle.arrays if name.startswith("detail/")}
    for name in names:
        array = trace.arrays[name].astype(np.float64)
        expected = oracle.arrays[name].astype(np.float64)
        assert array.shape == expected.shape, name
        assert np.abs(array - expected).max() <= 1e-12 * np.abs(expected).max(), name


@pytest.mark.parametrize("backend", TWINS)
@pytest.mark.parametrize("variant", sweep_but(["sgd", "clip and accumulate"], VARIANTS))
def test_detail_in_float32_is_within_its_bounds(backend: str, variant: str) -> None:
    recipe = recipe_of(variant, "float32")
    trace, oracle = detailed(backend, recipe), detailed("oracle", recipe)
    ratios = []
    for name in [name for name in oracle.arrays if name.startswith("detail/")]:
        gap = np.abs(trace.arrays[name].astype(np.float64) - oracle.arrays[name]).max()
        if name.split("/")[2] == "batch":
            assert gap == 0
        else:
            ratios.append(float(gap / oracle.arrays[f"bounds/{name}"]))
    assert max(ratios) <= 1
    assert max(ratios) > 0.01  # bounds so wide that nothing could leave them would bound nothing


@pytest.mark.parametrize("backend", TWINS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("variant", sweep_but(["sgd", "clip and accumulate"], VARIANTS))
def test_recording_detail_changes_no_bit(backend: str, dtype: str, variant: str) -> None:
    recipe = recipe_of(variant, dtype)
    plain = TWINS[backend].train(recipe, prepared(recipe))
    trace = detailed(backend, recipe)
    for name, array in plain.arrays.items():
        assert array.tobytes() == trace.arrays[name].tobytes(), name


@pytest.mark.parametrize("backend", ["oracle", *TWINS])
def test_every_family_is_there_with_the_parameters_around(backend: str) -> None:
    recipe = recipe_of("clip and accumulate", "float64")
    trace = detailed(backend, recipe)
    assert trace.header["detail"] == list(DETAIL)
    families = {name.split("/")[2] for name in trace.arrays if name.startswith("detail/0/")}
    assert families == {"batch", "forward", "gradients", "clip", "moments"}
    assert {0, 1, 2, 3, 4, 5, 6} <= set(trace.recorded_updates)
    # two batches of 32, one after the other; the epoch's last update has what is left
    assert trace.arrays["detail/0/batch/x"].shape == (64, 6)
    assert trace.arrays["detail/3/batch/x"].shape == (26, 6)


def record_small(out: Path) -> list[str]:
    """The command that records a run of 12 updates."""
    small = ["--set=data.rows=90", "--set=training.epochs=4", "--set=schedule.warmup=1"]
    return ["record", "--backend", "oracle", "--out", str(out), *small]


@pytest.mark.parametrize("window", ["3", "5:5", "7:6", "0:13", "a:b", "-1:2", "0:9:0", "1:2:3:4"])
def test_no_window_is_one_line(
    window: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*record_small(tmp_path / "t"), f"--detail={window}"])
    assert ended.value.code == 2
    line = f"--detail {window}: must be A:B or A:B:K with A < B of the run's 12 updates"
    assert line in capsys.readouterr().err
    assert not (tmp_path / "t").exists()


def test_every_kth_update_within_a_budget(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*record_small(tmp_path / "t"), "--detail", "1:9:3"]
    for budget, code in (("0.1", 2), ("10", 0)):
        with pytest.raises(SystemExit) as ended:
            main([*command, "--budget-mib", budget])
        assert ended.value.code == code
        assert (tmp_path / "t").exists() == (code == 0)
    message = capsys.readouterr().err
    assert "the detail of one update takes" in message
    assert "of the 3 wanted" in message
    assert "budget of 0.1 MiB" in message
    assert Trace.load(tmp_path / "t").header["detail"] == [1, 4, 7]
