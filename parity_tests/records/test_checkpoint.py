"""A run that stops in one framework and goes on in the other ends as the run that never stopped."""

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import jax_impl.train
import lockstep.oracle.train
import pt_impl.train
from lockstep.cli import main
from lockstep.data_prep import prepare
from lockstep.errors import InputError
from lockstep.recipe import Optimizer, Recipe
from lockstep.records.checkpoint import Checkpoint, Checkpoints, expected_shapes, position
from lockstep.records.run_recorder import Watch
from lockstep.records.trace import Trace
from parity_tests.shared.recipes import oracle_trace, prepared, small_recipe
from parity_tests.shared.twins import patch_pair
from parity_tests.shared.verdicts import assert_agreement, assert_rounding, first_place

TRAINERS = {
    "torch": pt_impl.train.train,
    "jax": jax_impl.train.train,
    "oracle": lockstep.oracle.train.train,
}
# 6 batches an epoch, 2 updates of 4 and 2 batches; 8 updates: 3 of warmup, then a cosine
FULL: dict[str, Any] = {
    "training__dtype": "float64",
    "training__batch": 16,
    "gradient__accumulate": 4,
    "gradient__clip": "norm",
    "gradient__clip_at": 0.3,
    "schedule__name": "cosine",
    "schedule__unit": "update",
    "schedule__warmup": 3,
    "model__norm": "batch",
    "model__dropout": 0.2,
    "optimizer__name": "adamw",
    "optimizer__weight_decay": 0.05,
    # the gradient of a bias before batch normalisation is rounding alone, and a small eps would
    # blow it up
    "optimizer__eps": 1e-3,
    "average__decay": 0.9,
    "average__start": "zero",
    "average__debias": True,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "everything": FULL,
    "multipliers": {
        "training__dtype": "float64",
        "optimizer__name": "adam",
        "optimizer__multipliers": (1.0, 0.5, 2.0),
        "optimizer__weight_decay": 0.01,
        "optimizer__decay_on": "weights",
    },
    **{
        f"optimizer {name}": {"training__dtype": "float64", "optimizer__name": name}
        for name in Optimizer.variants
    },
    "sgd without momentum": {"training__dtype": "float64", "optimizer__momentum": 0.0},
    "rmsprop centered": {
        "training__dtype": "float64",
        "optimizer__name": "rmsprop",
        "optimizer__centered": True,
        "optimizer__momentum": 0.5,
    },
    **{
        f"amsgrad {form}": {
            "training__dtype": "float64",
            "optimizer__name": "adam",
            "optimizer__amsgrad": form,
        }
        for form in ("raw", "corrected")
    },
    "nadam without ramp": {
        "training__dtype": "float64",
        "optimizer__name": "nadam",
        "optimizer__momentum_ramp": False,
    },
    "muon, nadamw": {
        "training__dtype": "float64",
        "optimizer__name": "muon",
        "optimizer__nesterov_rest": True,
    },
    "dampening": {"training__dtype": "float64", "optimizer__dampening": 0.5},
}


@cache
def run(backend: str, recipe: Recipe) -> tuple[Trace, dict[int, Checkpoint]]:
    """The uninterrupted run, and its checkpoints after every batch."""
    checkpoints: dict[int, Checkpoint] = {}

    def keep(checkpoint: Checkpoint) -> None:
        checkpoints[checkpoint.batches] = checkpoint

    watch = Watch(parameters_every=1, checkpoints=Checkpoints(1, "batch", keep))
    return train(backend, recipe, watch), checkpoints


def resumed(backend: str, checkpoint: Checkpoint, recipe: Recipe) -> Trace:
    return train(backend, recipe, Watch(parameters_every=1, resume=checkpoint))


def train(backend: str, recipe: Recipe, watch: Watch) -> Trace:
    options: dict[str, Any] = {"bounds": False} if backend == "oracle" else {}
    return TRAINERS[backend](recipe, prepared(recipe), watch=watch, **options)


def assert_goes_on(writer: str, reader: str, batches: int, recipe: Recipe) -> None:
    checkpoint = run(writer, recipe)[1][batches]
    trace, whole = resumed(reader, checkpoint, recipe), run(reader, recipe)[0]
    assert trace.first_update == checkpoint.update
    assert len(trace.series("lr")) == whole.header["updates"] - checkpoint.update
    np.testing.assert_array_equal(trace.series("lr"), whole.series("lr")[checkpoint.update :])
    begin = checkpoint.update + (checkpoint.accumulated > 0)
    assert trace.recorded_updates == list(range(begin, whole.header["updates"] + 1))
    assert_agreement(trace, whole, {})
    if writer == reader:  # the state holds every bit
        for name, array in trace.arrays.items():
            expected = whole.arrays[name]
            if name.startswith("updates/"):
                expected = expected[trace.first_update :]
            elif name.startswith("epochs/"):
                expected = expected[trace.first_update // whole.header["updates_per_epoch"] :]
            np.testing.assert_array_equal(array, expected, err_msg=name)


PAIRS = [(writer, reader) for writer in TRAINERS for reader in TRAINERS]


@pytest.mark.parametrize(("writer", "reader"), PAIRS)
# before the first update, in the midst of the warmup, at its end, in the midst of an accumulation,
# and at an epoch's end
@pytest.mark.parametrize("batches", [1, 4, 6, 9, 10, 23])
def test_everything_goes_on(writer: str, reader: str, batches: int) -> None:
    assert_goes_on(writer, reader, batches, small_recipe(**FULL))


@given(pair=st.sampled_from(PAIRS), batches=st.integers(1, 23))
@settings(deadline=None, max_examples=8, derandomize=True)
def test_stopped_anywhere(pair: tuple[str, str], batches: int) -> None:
    assert_goes_on(*pair, batches, small_recipe(**FULL))


@pytest.mark.sweep
@pytest.mark.parametrize(("writer", "reader"), PAIRS)
@pytest.mark.parametrize("batches", range(1, 24))
def test_stopped_everywhere(writer: str, reader: str, batches: int) -> None:
    assert_goes_on(writer, reader, batches, small_recipe(**FULL))


@pytest.mark.sweep
@pytest.mark.parametrize("variant", [name for name in VARIANTS if name != "everything"])
@pytest.mark.parametrize("batches", [1, 2, 3, 7, 11])
@pytest.mark.parametrize(("writer", "reader"), PAIRS)
def test_every_optimizer_stopped_elsewhere(
    variant: str, batches: int, writer: str, reader: str
) -> None:
    assert_goes_on(writer, reader, batches, small_recipe(**VARIANTS[variant]))


@pytest.mark.parametrize("variant", [name for name in VARIANTS if name != "everything"])
@pytest.mark.parametrize(
    ("writer", "reader"),
    [
        ("torch", "jax"),
        ("jax", "torch"),
        pytest.param("oracle", "jax", marks=pytest.mark.sweep),
    ],
)
def test_every_optimizer_goes_on(variant: str, writer: str, reader: str) -> None:
    assert_goes_on(writer, reader, 5, small_recipe(**VARIANTS[variant]))


@pytest.mark.parametrize("variant", VARIANTS)
def test_all_backends_write_the_same_checkpoint(variant: str) -> None:
    recipe = small_recipe(**VARIANTS[variant])
    written = {backend: run(backend, recipe)[1][5] for backend in TRAINERS}
    assert written["torch"].header | {"backend": ""} == written["oracle"].header | {"backend": ""}
    for backend in ("torch", "jax"):
        assert written[backend].arrays.keys() == written["oracle"].arrays.keys()
        for name, array in written["oracle"].arrays.items():
            other = written[backend].arrays[name]
            assert other.dtype == np.float64
            allowed = 1e-12 * max(np.abs(array).max(), 1e-4)
            assert np.abs(other - array).max() <= allowed, (backend, name)


@pytest.mark.parametrize("reader", ["torch", "jax"])
def test_float32_goes_on_with_the_same_bits(reader: str) -> None:
    recipe = small_recipe(**FULL | {"training__dtype": "float32"})
    assert_goes_on(reader, reader, 9, recipe)
    # in the other framework within rounding
    other = "jax" if reader == "torch" else "torch"
    trace = resumed(reader, run(other, recipe)[1][9], recipe)
    assert_rounding(trace, oracle_trace(recipe))


# --- the file and the position


@given(
    rows=st.integers(9, 40),
    batch=st.integers(1, 9),
    many=st.integers(1, 7),
    epochs=st.integers(1, 3),
)
@settings(deadline=None, max_examples=30)
def test_position_counts_as_the_batches_do(rows: int, batch: int, many: int, epochs: int) -> None:
    recipe = small_recipe(
        data__rows=rows,
        data__classes=2,
        training__batch=batch,
        training__epochs=epochs,
        schedule__warmup=0,
    )
    data = replace(prepare(recipe), accumulate=many)
    update = accumulated = batches = 0
    for epoch in range(epochs):
        for i, last in enumerate(data.batches(epoch).last_T):
            expected = {"update": update, "epoch": epoch, "batch": i, "accumulated": accumulated}
            assert position(data, batches) == expected
            batches += 1
            update, accumulated = (update + 1, 0) if last else (update, accumulated + 1)
    assert position(data, batches)["update"] == data.updates == update


def test_file_round_trip(tmp_path: Path) -> None:
    checkpoint = run("torch", small_recipe(**FULL))[1][9]
    checkpoint.save(tmp_path / "c")
    loaded = Checkpoint.load(tmp_path / "c")
    assert loaded.recipe == checkpoint.recipe
    assert loaded.header.keys() == checkpoint.header.keys()
    assert loaded.arrays.keys() == checkpoint.arrays.keys()
    for name, array in checkpoint.arrays.items():
        np.testing.assert_array_equal(loaded.arrays[name], array)
    content = (tmp_path / "c").read_bytes()
    for cut in (0, 7, len(content) // 2, len(content) - 1):
        (tmp_path / "cut").write_bytes(content[:cut])
        with pytest.raises(InputError) as caught:
            Checkpoint.load(tmp_path / "cut")
        assert "\n" not in str(caught.value)


def test_before_the_first_update_there_is_no_optimizer_state() -> None:
    recipe = small_recipe(**FULL)
    names = expected_shapes(recipe, prepared(recipe), 0, 1)
    assert not any(name.startswith("optimizer/") for name in names)
    assert "accumulated/loss" in names
    assert run("jax", recipe)[1][1].arrays.keys() == names.keys()


# --- what is refused


def refusal(checkpoint: Checkpoint, recipe: Recipe, **values: Any) -> str:
    watch = Watch(resume=replace(checkpoint, **values))
    with pytest.raises(InputError) as caught:
        pt_impl.train.train(recipe, prepare(recipe), watch=watch)
    (line,) = str(caught.value).splitlines()
    return line


def test_refusals_name_what_is_wrong() -> None:
    recipe = small_recipe(**FULL)
    checkpoints = run("torch", recipe)[1]
    known = checkpoints[9]
    other = recipe.with_values({"schedule.peak": 0.1})
    assert "schedule.peak 0.05 and 0.1" in refusal(known, other)
    assert "other data" in refusal(known, recipe, header=known.header | {"data_hash": "0" * 64})
    assert "finished run" in refusal(checkpoints[24], recipe)
    assert "position" in refusal(known, recipe, header=known.header | {"update": 5})
    missing = dict(known.arrays)
    del missing["optimizer/first/linear1.bias"]
    assert "missing: optimizer/first/linear1.bias" in refusal(known, recipe, arrays=missing)
    extra = known.arrays | {"parameters/x": np.zeros(3)}
    assert "extra: parameters/x" in refusal(known, recipe, arrays=extra)
    weight = known.arrays["parameters/linear2.weight"]
    turned = known.arrays | {"parameters/linear2.weight": weight.T}
    line = refusal(known, recipe, arrays=turned)
    assert "parameters/linear2.weight: shape (5, 6), expected (6, 5)" in line
    whole = known.arrays | {"accumulated/loss": np.array(1)}
    assert "accumulated/loss: int64" in refusal(known, recipe, arrays=whole)


# --- planted faults


@pytest.mark.parametrize("reader", ["torch", "jax"])
@pytest.mark.parametrize(
    ("prefix", "stage", "update"),
    [
        ("optimizer/", "update", 3),
        ("average/", "average", 3),
        ("accumulated/", "loss", 3),
        ("statistics/", "parameters", 3),
    ],
)
def test_a_part_that_is_lost_is_caught(prefix: str, stage: str, update: int, reader: str) -> None:
    recipe = small_recipe(**FULL)
    checkpoint = run("jax", recipe)[1][11]  # 3 updates done, and 1 batch of the next
    lost = {
        name: np.zeros_like(array) if name.startswith(prefix) else array
        for name, array in checkpoint.arrays.items()
    }
    trace = resumed(reader, replace(checkpoint, arrays=lost), recipe)
    assert first_place(trace, run("oracle", recipe)[0], {}) == (stage, update)


@pytest.mark.parametrize("reader", ["torch", "jax"])
@pytest.mark.parametrize(("off", "stage"), [(-3, "lr"), (1, "lr")])
def test_a_count_that_is_reset_or_one_off_is_caught(
    off: int, stage: str, reader: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = small_recipe(**FULL)
    module: Any = {"torch": pt_impl.train, "jax": jax_impl.train}[reader]
    original = module.import_state

    def shifted(recipe: Recipe, state: Any, checkpoint: Checkpoint) -> Any:
        header = checkpoint.header | {"update": checkpoint.update + off}
        return original(recipe, state, replace(checkpoint, header=header))

    patch_pair(monkeypatch, module, "import_state", shifted)
    checkpoint = run(reader, recipe)[1][10]
    trace = resumed(reader, checkpoint, recipe)
    assert first_place(trace, run("oracle", recipe)[0], {}) == (stage, 3)


def test_a_count_of_the_optimizer_alone_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The schedule goes on, but Adam corrects its moments as in a first update."""
    recipe = small_recipe(**FULL)
    full_like = torch.full_like
    monkeypatch.setattr(torch, "full_like", lambda like, value: full_like(like, 0.0))
    trace = resumed("torch", run("torch", recipe)[1][10], recipe)
    assert first_place(trace, run("oracle", recipe)[0], {}) == ("update", 3)


# --- on the command line


def test_record_stops_and_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--set=data.rows=64", "--set=training.epochs=3", "--set=schedule.warmup=1"]
    small += ["--set=training.dtype='float64'", "--set=gradient.accumulate=2"]
    small += ["--set=training.batch=16"]

    def call(*arguments: str, status: int = 0) -> str:
        with pytest.raises(SystemExit) as end:
            main(arguments)
        printed = capsys.readouterr()
        assert end.value.code == status, printed.err
        return printed.out + printed.err

    def record(backend: str, out: str, *options: str, status: int = 0) -> str:
        command = ("record", "--backend", backend, "--out", out)
        return call(*command, *small, *options, status=status)

    whole, rest = str(tmp_path / "whole.trace"), str(tmp_path / "rest.trace")
    output = record("torch", whole, "--checkpoint-every", "2")
    assert "whole.2.checkpoint" in output
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "whole.2.checkpoint", "whole.4.checkpoint", "whole.6.checkpoint", "whole.trace"
    ]  # fmt: skip
    resume = str(tmp_path / "whole.4.checkpoint")
    assert "updates 4 to 6" in record("jax", rest, "--resume", resume)
    assert "rounding" in call("compare", whole, rest)
    last = str(tmp_path / "whole.6.checkpoint")
    assert "finished run" in record("jax", rest, "--resume", last, status=2)
    output = record("jax", rest, "--resume", resume, "--set=training.seed=1", status=2)
    assert "another recipe: training.seed 0 and 1" in output
    record("oracle", whole, "--checkpoint-every", "3", "--checkpoint-unit", "batch")
    inside = tmp_path / "whole.1+1.checkpoint"
    assert inside.exists()
    record("torch", rest, "--resume", str(inside))
    assert "rounding" in call("compare", whole, rest)
