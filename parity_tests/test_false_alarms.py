"""Right runs must pass: over seeds, optimizers and activations, no float32 run leaves its bound. Slow: `make sweep`."""

from typing import Any

import numpy as np
import pytest

import jax_impl.train
import pt_impl.train
from lockstep.data_prep import prepare
from lockstep.diagnose.compare import bounds_of, compare
from lockstep.diagnose.verdict import describe_difference
from lockstep.oracle.train import train as train_oracle
from lockstep.recipe import load_recipe

SEEDS = 30
RECIPES: dict[str, dict[str, Any]] = {
    "sgd, relu": {},
    "adamw, relu": {"optimizer.name": "adamw", "optimizer.weight_decay": 0.01},
    "adamw, tanh": {"optimizer.name": "adamw", "model.activation": "tanh", "schedule.name": "cosine"},
    "nesterov, two layers": {"optimizer.nesterov": True, "model.hidden": (24, 16), "optimizer.weight_decay": 1e-3},
}


@pytest.mark.sweep
@pytest.mark.parametrize("name", RECIPES)
def test_no_false_alarm(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    ratios, alarms = [], []
    for seed in range(SEEDS):
        values = RECIPES[name] | {"data.seed": seed, "training.seed": seed, "training.epochs": 10}
        recipe = load_recipe("seed").with_values(values)
        data = prepare(recipe)
        oracle = train_oracle(recipe, data)
        bounds = bounds_of(oracle)
        assert bounds
        for twin in (pt_impl.train, jax_impl.train):
            found = compare(twin.train(recipe, data), oracle, bounds)
            ratios.append(max(worst.ratio for worst in found.worst.values()))
            if found.first is not None:
                alarms.append(f"seed {seed}, {twin.__name__}: {describe_difference(found.first)}")
    with capsys.disabled():
        quantiles = ", ".join(f"{np.quantile(ratios, q):.2f}" for q in (0.5, 0.9, 1.0))
        print(f"\n{name}: {len(ratios)} runs, error / bound: median, 90 %, largest: {quantiles}")
    assert not alarms
