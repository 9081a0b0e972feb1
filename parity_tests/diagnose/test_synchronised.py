"""Every update from the oracle's state: what one update gets wrong, apart from what has added
up.
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
    data = prepared(recipe)
    trace: Trace = train(
        recipe, data, watch=Watch(parameters_every=1, synchronise=states(recipe, data))
    )
    return trace


@pytest.mark.parametrize("backend", TWINS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_each_update_by_itself_is_right(backend: str, dtype: str, variant: str) -> None:
    recipe = small_recipe(training__dtype=dtype, **VARIANTS[variant])
    oracle = synchronised("oracle", recipe)
    assert (
        compare(synchronised(backend, recipe), oracle, bounds_of(oracle) or {}).verdict
        == "rounding"
    )


@pytest.mark.parametrize("variant", VARIANTS)
def test_one_update_has_narrower_bounds_than_a_run(variant: str) -> None:
    recipe = small_recipe(**VARIANTS[variant])
    name = f"parameters/{prepared(recipe).updates}/linear1.weight"
    one, run = (
        bounds_of(trace) or {} for trace in (synchronised("oracle", recipe), oracle_trace(recipe))
    )
    assert 0 < one[name] < run[name] / 3


@pytest.mark.parametrize("backend", TWINS)
def test_a_fault_of_one_update_does_not_spread(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = small_recipe(training__dtype="float64")
    module, data = TWINS[backend], prepared(recipe)
    original = module.load_batches

    def wrong_in_the_second_epoch(data: Any, epoch: int, device: Any) -> Any:
        return original(
            replace(data, train_x_ND=data.train_x_ND * 1.001) if epoch == 1 else data, epoch, device
        )

    patch_pair(monkeypatch, module, "load_batches", wrong_in_the_second_epoch)
    free = compare(
        module.train(recipe, data, watch=Watch(parameters_every=1)), oracle_trace(recipe), {}
    )
    local = compare(
        module.train(
            recipe, data, watch=Watch(parameters_every=1, synchronise=states(recipe, data))
        ),
        synchronised("oracle", recipe),
        {},
    )
    off = [
        {found.update for found in result.parted if found.stage == "parameters"}
        for result in (free, local)
    ]
    assert off == [set(range(3, 12)), {3, 4, 5}]


@pytest.mark.parametrize("backend", TWINS)
def test_the_diagnosis_tells_local_errors_from_accumulated_ones(
    backend: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = small_recipe(training__dtype="float64")
    module, data, truth = TWINS[backend], prepared(recipe), synchronised("oracle", recipe)
    right = diagnose(synchronised(backend, recipe), truth, truth)
    assert right.local == ()
    original = module.load_batches
    monkeypatch.setattr(
        module,
        "load_batches",
        lambda d, epoch, **rest: original(
            replace(d, train_x_ND=d.train_x_ND * (1 + (epoch == 2))), epoch, **rest
        ),
    )
    wrong = module.train(
        recipe, data, watch=Watch(parameters_every=1, synchronise=states(recipe, data))
    )
    found = diagnose(wrong, truth, truth)
    assert found.local == (6, 7, 8)
    print_diagnosis(found, ("a", "b"), make_console())
    assert "each of updates 6, 7, 8 is wrong by itself, and the others right" in " ".join(
        capsys.readouterr().out.split()
    )
    assert diagnose(oracle_trace(recipe), oracle_trace(recipe), oracle_trace(recipe)).local is None


def test_a_synchronised_trace_is_not_compared_with_a_free_one() -> None:
    recipe = small_recipe()
    with pytest.raises(
        InputError, match="began every update from the oracle's state and the other did not"
    ):
        compare(synchronised("torch", recipe), oracle_trace(recipe), {})
