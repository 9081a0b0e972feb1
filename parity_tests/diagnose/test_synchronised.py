"""Every update begins from the oracle's state: what one update gets wrong shows apart from what has
added up.
"""

from dataclasses import replace
from functools import cache
from typing import Any

import pytest

from lockstep.diagnose.compare import bounds_of, compare
from lockstep.diagnose.diagnosis import diagnose
from lockstep.errors import InputError
from lockstep.oracle.train import states
from lockstep.oracle.train import train as train_oracle
from lockstep.recipe import Recipe
from lockstep.records.run_recorder import Watch
from lockstep.records.trace import Trace
from lockstep.report.console import make_console
from lockstep.report.diagnosis import print_diagnosis
from parity_tests.shared.recipes import oracle_trace, prepared, small_recipe
from parity_tests.shared.twins import TWINS, patch_pair
from parity_tests.shared.verdicts import assert_rounding

VARIANTS: dict[str, dict[str, Any]] = {
    "sgd": {},
    "accumulated": {
        "gradient__accumulate": 2,
        "model__norm": "batch",
        "model__bias": False,
        "average__decay": 0.9,
        "optimizer__name": "adamw",
    },
    "signs": {"optimizer__name": "rprop"},
    "nadam": {"optimizer__name": "nadam"},
}


@cache
def synchronised(backend: str, recipe: Recipe) -> Trace:
    train = train_oracle if backend == "oracle" else TWINS[backend].train
    trace: Trace = train(recipe, prepared(recipe), watch=watch_each(recipe))
    return trace


def watch_each(recipe: Recipe) -> Watch:
    """Record every update from the oracle's state."""
    return Watch(parameters_every=1, synchronise=states(recipe, prepared(recipe)))


@pytest.mark.parametrize("backend", TWINS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_each_update_by_itself_is_right(backend: str, dtype: str, variant: str) -> None:
    recipe = small_recipe(training__dtype=dtype, **VARIANTS[variant])
    oracle = synchronised("oracle", recipe)
    assert_rounding(synchronised(backend, recipe), oracle, bounds_of(oracle) or {})


@pytest.mark.parametrize("variant", VARIANTS)
def test_one_update_has_narrower_bounds_than_a_run(variant: str) -> None:
    recipe = small_recipe(**VARIANTS[variant])
    name = f"parameters/{prepared(recipe).updates}/linear1.weight"
    of_updates = bounds_of(synchronised("oracle", recipe)) or {}
    of_run = bounds_of(oracle_trace(recipe)) or {}
    assert 0 < of_updates[name] < of_run[name] / 3


@pytest.mark.parametrize("backend", TWINS)
def test_a_fault_of_one_update_does_not_spread(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = small_recipe(training__dtype="float64")
    module, data = TWINS[backend], prepared(recipe)
    original = module.load_batches

    def wrong_in_the_second_epoch(data: Any, epoch: int, device: Any) -> Any:
        if epoch == 1:
            data = replace(data, train_x_ND=data.train_x_ND * 1.001)
        return original(data, epoch, device)

    def updates_off(trace: Trace, oracle: Trace) -> set[int]:
        parted = compare(trace, oracle, {}).parted
        return {difference.update for difference in parted if difference.stage == "parameters"}

    patch_pair(monkeypatch, module, "load_batches", wrong_in_the_second_epoch)
    free = module.train(recipe, data, watch=Watch(parameters_every=1))
    assert updates_off(free, oracle_trace(recipe)) == set(range(3, 12))
    local = module.train(recipe, data, watch=watch_each(recipe))
    assert updates_off(local, synchronised("oracle", recipe)) == {3, 4, 5}


@pytest.mark.parametrize("backend", TWINS)
def test_the_diagnosis_tells_local_errors_from_accumulated_ones(
    backend: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = small_recipe(training__dtype="float64")
    module, data, truth = TWINS[backend], prepared(recipe), synchronised("oracle", recipe)
    right = diagnose(synchronised(backend, recipe), truth, truth)
    assert right.local == ()
    original = module.load_batches

    def doubled_in_the_third_epoch(data: Any, epoch: int, **rest: Any) -> Any:
        if epoch == 2:
            data = replace(data, train_x_ND=data.train_x_ND * 2)
        return original(data, epoch, **rest)

    monkeypatch.setattr(module, "load_batches", doubled_in_the_third_epoch)
    wrong = module.train(recipe, data, watch=watch_each(recipe))
    diagnosis = diagnose(wrong, truth, truth)
    assert diagnosis.local == (6, 7, 8)
    print_diagnosis(diagnosis, ("a", "b"), make_console())
    text = " ".join(capsys.readouterr().out.split())
    assert "each of updates 6, 7, 8 is wrong by itself, and the others right" in text
    free = oracle_trace(recipe)
    assert diagnose(free, free, free).local is None


def test_a_synchronised_trace_is_not_compared_with_a_free_one() -> None:
    recipe = small_recipe()
    line = "began every update from the oracle's state and the other did not"
    with pytest.raises(InputError, match=line):
        compare(synchronised("torch", recipe), oracle_trace(recipe), {})
