"""An optimizer that is made up here goes everywhere, as all that lockstep does with one follows
from its spec.
"""

from typing import Any, Literal

import pytest
from pydantic.dataclasses import dataclass

import jax_impl.optimizer
import jax_impl.optimizers.from_rule
import jax_impl.optimizers.parts
import jax_impl.train
import lockstep.oracle.optimizers
import pt_impl.fast.train
import pt_impl.optimizer
import pt_impl.optimizers.from_rule
import pt_impl.optimizers.parts
import pt_impl.train
from lockstep.data_prep import prepare
from lockstep.diagnose.compare import bounds_of, compare
from lockstep.diagnose.diagnosis import diagnose
from lockstep.errors import InputError
from lockstep.oracle.optimizers.parts import average
from lockstep.oracle.train import train as train_oracle
from lockstep.recipe import Optimizer, Recipe
from lockstep.recipe.optimizers.base import OptimizerSpec, like
from lockstep.recipe.optimizers.knobs import Momentum, WeightDecay
from lockstep.recipe.values import CONFIG
from lockstep.records.checkpoint import Checkpoint, Checkpoints
from lockstep.records.run_recorder import Watch
from lockstep.records.trace import Trace
from lockstep.report.run.pipeline import describe_optimizer
from lockstep.studies.matrix_entries import entries
from parity_tests.shared.recipes import small_recipe


def rule(optimizer: Any, lr: Any, update: Any, parameter: Any, gradient: Any, moments: Any) -> Any:
    """A mean of the gradient, and a decoupled decay."""
    mean = optimizer.momentum * moments["mean"] + (1 - optimizer.momentum) * gradient
    return lr * (mean + optimizer.weight_decay * parameter), {"mean": mean}


def oracle_rule(
    optimizer: Any, lr: float, update: int, parameter: Any, gradient: Any, moments: Any, exact: Any
) -> Any:
    mean = average("momentum", optimizer.momentum, moments.get("mean"), gradient, exact)
    direction = exact.round(mean + exact.round(optimizer.weight_decay * parameter))
    return exact.round(parameter - exact.round(lr * direction)), {"mean": mean}


def make_in_torch(optimizer: Any, groups: Any) -> Any:
    start = pt_impl.optimizers.parts.start_moments
    return pt_impl.optimizers.from_rule.from_rule(optimizer, groups, start, rule)


def make_in_jax(optimizer: Any, groups: Any) -> Any:
    start = jax_impl.optimizers.parts.start_moments
    return jax_impl.optimizers.from_rule.from_rule(optimizer, groups, start, rule)


@pytest.fixture(autouse=True)
def made_up(monkeypatch: pytest.MonkeyPatch) -> type[Optimizer]:
    """The optimizer "mean", which is there while a test runs."""
    monkeypatch.setattr(Optimizer, "variants", dict(Optimizer.variants))

    @dataclass(frozen=True, kw_only=True, config=CONFIG)
    class Mean(Optimizer):
        """A mean of the gradient."""

        name: Literal["mean"] = "mean"
        momentum: Momentum = 0.8
        weight_decay: WeightDecay = 0.01

    Mean.spec = OptimizerSpec(
        title="mean", slots=like("mean"), decoupled=True, others={"momentum": 0.5}
    )
    monkeypatch.setitem(lockstep.oracle.optimizers.RULES, "mean", oracle_rule)
    monkeypatch.setitem(pt_impl.optimizer.MAKERS, "mean", make_in_torch)
    monkeypatch.setitem(jax_impl.optimizer.MAKERS, "mean", make_in_jax)
    return Mean


def recipe_of(**values: Any) -> Recipe:
    return small_recipe(optimizer__name="mean", training__dtype="float64", **values)


def trained(backend: str, recipe: Recipe, **options: Any) -> Trace:
    data, watch = prepare(recipe), Watch(parameters_every=1, **options)
    if backend == "oracle":
        return train_oracle(recipe, data, watch=watch)
    twin: Any = {"torch": pt_impl.train, "jax": jax_impl.train, "fast": pt_impl.fast.train}[backend]
    trace: Trace = twin.train(recipe, data, watch=watch)
    return trace


def test_a_recipe_names_it_and_refuses_what_it_lacks() -> None:
    recipe = Recipe.from_dict({"optimizer": {"name": "mean", "momentum": 0.7}})
    assert 'name = "mean"\nmomentum = 0.7' in recipe.to_toml()
    assert recipe.hash != Recipe().hash
    line = r"beta1: mean has no such knob; it has momentum, weight_decay"
    with pytest.raises(InputError, match=line):
        Recipe.from_dict({"optimizer": {"name": "mean", "beta1": 0.7}})
    with pytest.raises(InputError, match="'mean'"):
        Recipe.from_dict({"optimizer": {"name": "meen"}})


@pytest.mark.parametrize("backend", ["torch", "fast", "jax"])
def test_it_trains_as_the_oracle_does(backend: str) -> None:
    recipe = recipe_of(optimizer__decay_on="weights")
    comparison = compare(trained(backend, recipe), trained("oracle", recipe), {})
    assert comparison.first is None


def test_a_checkpoint_of_it_goes_on_in_the_other_framework() -> None:
    written: list[Checkpoint] = []
    recipe = recipe_of()
    whole = trained("torch", recipe, checkpoints=Checkpoints(5, "update", written.append))
    assert "optimizer/mean/linear1.weight" in written[0].arrays
    rest = trained("jax", recipe, resume=written[0])
    assert compare(rest, whole, {}).first is None


def test_a_diagnosis_names_its_wrong_knob() -> None:
    recipe = recipe_of()
    right = trained("torch", recipe, detail=(0, 1))
    wrong = trained("torch", recipe.with_values({"optimizer.momentum": 0.7}), detail=(0, 1))
    identity = {key: right.header[key] for key in ("recipe", "recipe_hash")}
    wrong = Trace(wrong.header | identity, wrong.arrays)
    oracle = trained("oracle", recipe, detail=(0, 1))
    cause = diagnose(right, wrong, oracle, bounds=bounds_of(oracle) or {}).cause
    assert cause is not None
    assert cause.key == "other-momentum"
    assert "optimizer.momentum = 0.7" in cause.text


def test_the_matrix_has_rows_of_it_that_the_twins_train_alike() -> None:
    rows = {entry.name: entry for entry in entries() if entry.name.split(",")[0] == "mean"}
    assert list(rows) == ["mean", "mean, momentum 0.5", "mean, weight_decay 0.05"]
    row = rows["mean, momentum 0.5"]
    recipe = row.recipe.with_dtype("float64").with_values({"training.epochs": 8})
    assert compare(trained("torch", recipe), trained("oracle", recipe), {}).first is None


def test_the_report_describes_it() -> None:
    assert describe_optimizer(recipe_of()) == "mean (momentum 0.8, weight decay 0.01)"
