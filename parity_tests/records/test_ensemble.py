"""Many members train at once: each becomes what it becomes alone, and members mixed up show."""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jax_impl.fast.ensemble
import jax_impl.fast.train
import lockstep.records.ensemble
import pt_impl.fast.ensemble
import pt_impl.fast.train
from lockstep.commands.options import trainer
from lockstep.data_prep import PreparedData, prepare, prepare_members
from lockstep.diagnose.compare import bounds_of
from lockstep.errors import InputError
from lockstep.oracle.train import train as train_oracle
from lockstep.recipe import Recipe
from lockstep.records.ensemble import Ensemble, blocks_of
from lockstep.records.trace import Trace
from parity_tests.shared.recipes import small_recipe

ENSEMBLES: dict[str, Any] = {"torch": pt_impl.fast.ensemble, "jax": jax_impl.fast.ensemble}
ALONE: dict[str, Callable[..., Trace]] = {
    "torch": trainer("torch", "auto"),
    "jax": jax_impl.fast.train.train,
}
SHORT = {"training__epochs": 2, "schedule__warmup": 1, "training__dtype": "float64"}

CLIPPED = {"gradient__clip": "norm", "gradient__clip_at": 0.3, "gradient__accumulate": 2}
ADAMW = {
    "optimizer__name": "adamw",
    "optimizer__weight_decay": 0.1,
    "optimizer__multipliers": (1.0, 0.5, 2.0),
}
BCE = {"loss__name": "binary_cross_entropy", "data__classes": 2, "loss__positive_weight": 1.7}
EACH: dict[str, dict[str, Any]] = {
    "momentum": {},
    "adamw": ADAMW,
    "clipped, accumulated": CLIPPED | {"gradient__accumulate_mean": "rows"},
    "dropout": {"model__dropout": 0.3},
    "batch norm": {"model__norm": "batch"},
    "layer norm": {"model__norm": "layer", "model__activation": "gelu"},
    "average, no bias": {"average__decay": 0.9, "model__bias": False},
    "smoothing": {"loss__label_smoothing": 0.1, "loss__class_weights": (1.0, 2.0, 0.5)},
    "ignored": {"loss__ignored_class": "1"},
    "one logit": BCE,
    "squares": {"loss__name": "mse"},
    "huber": {"loss__name": "huber", "loss__delta": 0.5},
    "no hidden layer": {"model__hidden": ()},
    "lamb": {"optimizer__name": "lamb", "optimizer__decay_on": "weights"},
    "adafactor": {
        "optimizer__name": "adafactor",
        "optimizer__min_factored": 6,
        "model__norm": "layer",
    },
    "muon": {"optimizer__name": "muon"} | BCE,
}
# every choice of the table once: a compilation takes seconds
TOGETHER: dict[str, dict[str, Any]] = {
    "sgd": CLIPPED | EACH["dropout"] | EACH["layer norm"] | EACH["smoothing"],
    "adamw": ADAMW | EACH["batch norm"] | EACH["huber"] | {"model__bias": False},
}
CASES = [pytest.param("torch", values, id=f"torch-{name}") for name, values in EACH.items()]
CASES += [
    pytest.param("jax", values, id=f"jax-together-{name}") for name, values in TOGETHER.items()
]
CASES += [
    pytest.param("jax", values, id=f"jax-{name}", marks=pytest.mark.sweep)
    for name, values in EACH.items()
]


@cache
def members_of(recipe: Recipe, count: int = 5) -> list[PreparedData]:
    return prepare_members(recipe, range(count))


def differences(
    ensemble: Ensemble, recipe: Recipe, backend: str, places: Sequence[int] = (0, 4)
) -> list[str]:
    """What differs between some members and the same members alone: a value by more than 1e-12 of
    the largest, or a bit of the learning rate.
    """
    wrong = []
    for place in places:
        alone = ALONE[backend](recipe, members_of(recipe)[place])
        if alone.series("lr").tobytes() != ensemble.lr_T.tobytes():
            wrong.append(f"{place} lr")
        expected = {"loss": alone.series("loss")} | alone.parameters(alone.recorded_updates[-1])
        mine = {"loss": ensemble.loss_ST[place]} | ensemble.member(place)
        for name, values_ST in ensemble.held_out.items():
            expected[f"held-out {name}"] = alone.metric(f"held_out_{name}")
            mine[f"held-out {name}"] = values_ST[place]
        assert expected.keys() == mine.keys()
        for name, array in expected.items():
            assert array.shape == mine[name].shape
            if not np.abs(array - mine[name]).max() <= 1e-12 * np.abs(array).max():
                wrong.append(f"{place} {name}")
    return wrong


@pytest.mark.parametrize(("backend", "values"), CASES)
def test_each_member_is_what_it_is_alone(backend: str, values: dict[str, Any]) -> None:
    recipe = small_recipe(**(SHORT | values))
    ensemble = ENSEMBLES[backend].train_ensemble(recipe, members_of(recipe), chunk=2)
    assert ensemble.loss_ST.shape == (5, members_of(recipe)[0].updates)
    assert ensemble.header["chunk"] == 2
    assert len(np.unique(ensemble.loss_ST[:, 0])) == 5
    assert differences(ensemble, recipe, backend) == []


@pytest.mark.parametrize("backend", ["torch", pytest.param("jax", marks=pytest.mark.sweep)])
@pytest.mark.parametrize(
    "values", [{"model__dropout": 0.2}, {"model__norm": "batch", "optimizer__name": "adamw"}]
)
def test_in_bfloat16_each_member_is_within_the_bounds_of_what_it_is_alone(
    backend: str, values: dict[str, Any]
) -> None:
    mixed = {"training__dtype": "float32", "training__compute": "bfloat16"}
    recipe = small_recipe(**(SHORT | values | mixed))
    ensemble = ENSEMBLES[backend].train_ensemble(recipe, members_of(recipe), chunk=2)
    for place in (0, 4):
        member = members_of(recipe)[place]
        alone, bounds = ALONE[backend](recipe, member), bounds_of(train_oracle(recipe, member))
        assert bounds is not None
        np.testing.assert_array_equal(alone.series("lr"), ensemble.lr_T)
        gap_T = np.abs(alone.series("loss") - ensemble.loss_ST[place])
        assert (gap_T <= 2 * bounds["updates/loss"]).all()
        last = alone.recorded_updates[-1]
        for name, array in alone.parameters(last).items():
            gap = np.abs(array - ensemble.member(place)[name]).max()
            assert gap <= 2 * bounds[f"parameters/{last}/{name}"]


def test_two_devices_share_the_members(tmp_path: Path) -> None:
    recipe = small_recipe(**SHORT)
    code = f"""
import sys
from pathlib import Path
import jax
from jax_impl.fast import ensemble
from lockstep.data_prep import prepare_members
from parity_tests.shared.recipes import small_recipe
train_block, places = ensemble._train_block, []
ensemble._train_block = lambda recipe, place, *rest: places.append(place) or train_block(recipe, place, *rest)
recipe = small_recipe(**{SHORT!r})
ensemble.train_ensemble(recipe, prepare_members(recipe, range(5)), chunk=4).save(Path(sys.argv[1]))
assert sorted(place.id for place in places) == [0, 1], places
"""  # noqa: E501
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    out = tmp_path / "two.ensemble"
    subprocess.run([sys.executable, "-c", code, str(out)], env=os.environ | flags, check=True)
    shared = Ensemble.load(out)
    assert shared.header["chunk"] == 3  # as many for each device
    assert differences(shared, recipe, "jax") == []


def test_the_chunk_changes_nothing_and_progress_is_told() -> None:
    recipe = small_recipe(**SHORT)
    data = members_of(recipe)
    reports: list[tuple[int, int]] = []

    def report(updates: int, total: int) -> None:
        reports.append((updates, total))

    chunked = pt_impl.fast.ensemble.train_ensemble(recipe, data, chunk=2, progress=report)
    total = 5 * data[0].updates
    assert reports == sorted(reports)
    assert reports[-1] == (total, total)
    whole = pt_impl.fast.ensemble.train_ensemble(recipe, data)
    assert whole.header["chunk"] == 3
    np.testing.assert_allclose(chunked.loss_ST, whole.loss_ST, rtol=1e-12, atol=0)


def test_little_room_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = small_recipe(gradient__accumulate=2, model__dropout=0.2, **SHORT)
    whole = pt_impl.fast.ensemble.train_ensemble(recipe, members_of(recipe), chunk=5)
    for name in ("lockstep.records.ensemble.ROOM", "pt_impl.fast.network.ROOM"):
        monkeypatch.setattr(name, 1)  # a batch, and an update, at a time
    ensemble = pt_impl.fast.ensemble.train_ensemble(recipe, members_of(recipe), chunk=5)
    np.testing.assert_array_equal(ensemble.loss_ST, whole.loss_ST)


def test_members_of_one_seed_are_what_prepare_gives() -> None:
    recipe = small_recipe(training__seed=3, model__dropout=0.2)
    assert members_of(recipe)[3].hash == prepare(recipe).hash


@pytest.mark.parametrize(
    "values", [{"data__seed": 1}, {"training__batch": 16}, {"training__epochs": 3}]
)
def test_members_must_share_rows_and_sizes(values: dict[str, Any]) -> None:
    others = [members_of(small_recipe(**(SHORT | changed)))[0] for changed in ({}, values)]
    with pytest.raises(InputError, match="members must have the same"):
        blocks_of(others, 2)
    with pytest.raises(InputError, match="needs a member"):
        blocks_of([], 2)


# --- members mixed up show


def other_orders(monkeypatch: pytest.MonkeyPatch) -> None:
    def turned(members: Sequence[PreparedData], epoch: int) -> Any:
        return right([*members[1:], members[0]], epoch)

    right = lockstep.records.ensemble.stack_batches
    monkeypatch.setattr(lockstep.records.ensemble, "stack_batches", turned)


def other_places(monkeypatch: pytest.MonkeyPatch) -> None:
    def turned(recipe: Recipe, state: Any) -> Any:
        return {name: array[::-1] for name, array in right(recipe, state).items()}

    right = pt_impl.fast.train.parameters_of
    monkeypatch.setattr(pt_impl.fast.train, "parameters_of", turned)


def one_norm_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def together(gradients: Any, network: Any, gradient: Any, out: Any) -> Any:
        norm = gradient.norm()
        return out.copy_(gradient * (gradients.clip_at / norm).clamp(max=1.0))

    monkeypatch.setattr("pt_impl.fast.optimizer._clip_norm", together)


@pytest.mark.parametrize(
    ("plant", "difference"),
    [(other_orders, "0 loss"), (other_places, "0 linear1.weight"), (one_norm_for_all, "0 loss")],
)
def test_a_planted_fault_is_seen(
    plant: Any, difference: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = small_recipe(**(SHORT | CLIPPED))
    plant(monkeypatch)
    ensemble = pt_impl.fast.ensemble.train_ensemble(recipe, members_of(recipe))
    monkeypatch.undo()
    differing = differences(ensemble, recipe, "torch")
    assert difference in differing
    assert "0 lr" not in differing
