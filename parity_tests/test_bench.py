"""The benchmark: what it measures is checked first, what differs is refused. No test judges a timing."""

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

import benchmarks.bench
from benchmarks.bench import SCHEMA, compare_with_oracle, median_interval, run_bench, short
from lockstep.errors import InputError
from parity_tests.recipes_for_tests import oracle_trace, small_recipe

EAGER = ("torch steps", "torch fast", "jax steps", "jax whole run", "jax fast")


def bench(out: Path, *contenders: str, **values: object) -> tuple[int, str]:
    shown = io.StringIO()
    console = Console(width=80, file=shown)
    recipe = small_recipe(**values)
    status = run_bench(recipe, device="cpu", rounds=3, out=out, console=console, contenders=contenders)
    return status, shown.getvalue()


def test_figures_come_from_the_samples(tmp_path: Path) -> None:
    status, shown = bench(tmp_path / "bench.json", *EAGER, optimizer__name="adamw", optimizer__weight_decay=0.01)
    assert status == 0
    found = json.loads((tmp_path / "bench.json").read_text())
    assert found["schema"] == SCHEMA
    assert found["machine"]["cores"] >= 1
    assert list(found["contenders"]) == list(EAGER)
    for name, result in found["contenders"].items():
        assert len(result["samples"]) == 3
        assert min(result["samples"]) > 0
        assert result["float64_error"] <= 1e-12
        assert result["environment"]["threads"] >= 1
        row = next(line for line in shown.splitlines() if line.strip().startswith(f"{name} "))
        assert short(1e6 * sorted(result["samples"])[1]) in row
    assert max(len(line) for line in shown.splitlines()) <= 80


@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler on the CPU")
@pytest.mark.parametrize("name", ["sgd", pytest.param("adamw", marks=pytest.mark.sweep)])
def test_the_compiled_torch_run_equals_the_oracle(tmp_path: Path, name: str) -> None:
    values = {"optimizer__nesterov": True} if name == "sgd" else {}
    # three updates in one graph: each takes seconds to compile
    status, _ = bench(
        tmp_path / "bench.json",
        "torch compiled",
        model__hidden=(5,),
        optimizer__name=name,
        optimizer__weight_decay=0.01,
        schedule__warmup=1,
        training__epochs=1,
        **values,
    )
    result = json.loads((tmp_path / "bench.json").read_text())["contenders"]["torch compiled"]
    assert status == 0, result
    assert result["float64_error"] <= 1e-12


def test_a_contender_that_computes_something_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def off_by_a_little(*arguments: object, **options: object) -> object:
        trace = train(*arguments, **options)
        for name, array in trace.arrays.items():
            if name.startswith("parameters/"):
                trace.arrays[name] = array * (1 + 1e-9)
        return trace

    train = benchmarks.bench.train_oracle
    monkeypatch.setattr(benchmarks.bench, "train_oracle", off_by_a_little)
    status, shown = bench(tmp_path / "bench.json", "jax whole run")
    assert status == 1
    assert "jax whole run: computes something else (1.0e-09 from the oracle in float64): not timed" in " ".join(
        shown.split()
    )
    assert "samples" not in json.loads((tmp_path / "bench.json").read_text())["contenders"]["jax whole run"]


def test_what_differs_from_the_oracle() -> None:
    truth = oracle_trace(small_recipe(training__dtype="float64")).parameters(12)
    assert compare_with_oracle(truth, truth) == 0
    assert compare_with_oracle({**truth, "linear1.bias": truth["linear1.bias"] * (1 + 1e-9)}, truth) > 1e-10
    assert compare_with_oracle({**truth, "linear1.bias": truth["linear1.bias"][:-1]}, truth) == np.inf
    assert compare_with_oracle({}, truth) == np.inf
    # NaN is no agreement
    assert not compare_with_oracle({**truth, "linear1.bias": truth["linear1.bias"] * np.nan}, truth) <= 1e-12


def test_gpu_where_there_is_none(tmp_path: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(InputError, match="sees no GPU"):
        run_bench(small_recipe(), device="gpu", rounds=3, out=None, console=Console(quiet=True), contenders=EAGER[:1])


@given(st.lists(st.floats(1e-9, 1e3), min_size=1, max_size=60))
def test_the_interval_holds_the_median(samples: list[float]) -> None:
    middle, low, high = median_interval(samples)
    assert min(samples) <= low <= middle <= high <= max(samples)


@pytest.mark.parametrize(("n", "left_out"), [(3, 0), (5, 0), (6, 0), (9, 1), (17, 4), (100, 39)])
def test_the_interval_is_that_of_the_binomial(n: int, left_out: int) -> None:
    # Conover's table of order statistics for the median: so many samples lie below the 95 % interval
    assert median_interval([float(i) for i in range(n)])[1:] == (left_out, n - 1 - left_out)


def test_the_interval_covers_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    held = [low <= 0 <= high for _, low, high in (median_interval(generator.normal(size=15)) for _ in range(2000))]
    assert np.mean(held) >= 0.95
