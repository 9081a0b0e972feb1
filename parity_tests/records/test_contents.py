"""A sealed file proves nothing: what follows from its recipe is checked, and what contradicts it is
refused.
"""

import json
import math
import shutil
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

import jax_impl.train
import pt_impl.train
from lockstep import Recorder
from lockstep.cli import main
from lockstep.data_prep import PreparedData, prepare
from lockstep.errors import InputError
from lockstep.golden import Golden, Key, write_golden
from lockstep.oracle.train import states
from lockstep.oracle.train import train as train_oracle
from lockstep.records.checkpoint import Checkpoint, Checkpoints
from lockstep.records.contents import parameter_shapes, recorded_updates
from lockstep.records.ensemble import Ensemble
from lockstep.records.run_recorder import Watch
from lockstep.records.trace import Trace
from lockstep.tensor_file import read_tensors, write_tensors
from parity_tests.shared.recipes import prepared, small_recipe

RECIPE = small_recipe(training__epochs=2, schedule__warmup=1, model__hidden=(4,))
SHORT: dict[str, Any] = {"training__epochs": 1, "schedule__warmup": 1, "model__hidden": ()}
Arrays = dict[str, np.ndarray]
WRITERS: list[dict[str, Any]] = [
    {},
    {"model__norm": "batch", "model__activation": "gelu", "training__dtype": "float64"},
    {"model__norm": "layer", "model__dropout": 0.3, "training__drop_last": True},
    {
        "average__decay": 0.9,
        "average__debias": True,
        "average__start": "zero",
        "model__bias": False,
    },
    {
        "gradient__accumulate": 2,
        "gradient__clip": "norm",
        "optimizer__name": "adam",
        "optimizer__amsgrad": "corrected",
    },
    {"model__hidden": (), "loss__ignored_class": "1"},
    {"loss__name": "mse", "optimizer__name": "adafactor"},
    {"loss__name": "binary_cross_entropy", "data__classes": 2, "optimizer__name": "muon"},
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the traces, a checkpoint and the data of one recipe, as lockstep writes them.
    No test may change it.
    """
    folder, data = tmp_path_factory.mktemp("run"), prepared(RECIPE)
    watch = Watch(detail={1}, statistics=True)
    pt_impl.train.train(RECIPE, data, watch=watch).save(folder / "torch.trace")
    jax_impl.train.train(RECIPE, data, watch=watch).save(folder / "jax.trace")
    train_oracle(RECIPE, data, watch=watch).save(folder / "oracle.trace")
    train_oracle(RECIPE, data, watch=watch, bounds=False).save(folder / "unbounded.trace")
    checkpoints: list[Checkpoint] = []
    watch = Watch(checkpoints=Checkpoints(4, "update", checkpoints.append))
    train_oracle(RECIPE, data, bounds=False, watch=watch)
    checkpoints[0].save(folder / "a.checkpoint")
    data.save(folder / "a.data")
    return folder


def lockstep(*arguments: Any) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    assert isinstance(ended.value.code, int)
    return ended.value.code


def refused(capsys: pytest.CaptureFixture[str], *arguments: Any) -> str:
    """The one line in which a command refuses its input."""
    capsys.readouterr()
    assert lockstep(*arguments) == 2
    output = capsys.readouterr()
    (line,) = output.err.splitlines()
    assert output.out == ""
    return line


def sealed_again(
    source: Path, out: Path, change: Callable[[dict[str, Any], Arrays], Any], kind: str = "trace"
) -> Path:
    """A copy of a file that is changed and sealed as lockstep seals it."""
    header, arrays = read_tensors(source, f"lockstep.{kind}/1")
    change(header, arrays)
    write_tensors(out, f"lockstep.{kind}/1", header, arrays)
    return out


# ---- what the writers write is what the recipe says


@pytest.mark.parametrize("values", WRITERS, ids=lambda values: ",".join(values) or "default")
def test_what_the_oracle_writes_is_what_the_recipe_says(
    values: dict[str, Any], tmp_path: Path
) -> None:
    recipe = small_recipe(**{"training__epochs": 2, "schedule__warmup": 1, **values})
    data = prepared(recipe)
    shapes = {name: array.shape for name, array in data.parameters.items()}
    assert parameter_shapes(recipe, 6, data.outputs) == shapes
    written: list[Checkpoint] = []
    checkpoints = Checkpoints(1, "batch", written.append)
    watch = Watch(detail={1}, statistics=True, parameters_every=2, checkpoints=checkpoints)
    train_oracle(recipe, data, watch=watch).save(tmp_path / "whole")
    watch = Watch(resume=written[2], statistics=True, detail={3})
    train_oracle(recipe, data, watch=watch).save(tmp_path / "resumed")
    watch = Watch(synchronise=states(recipe, data))
    train_oracle(recipe, data, watch=watch, bounds=False).save(tmp_path / "synchronised")
    for name in ("whole", "resumed", "synchronised"):
        assert Trace.load(tmp_path / name).recipe == recipe
    for checkpoint in written:
        checkpoint.save(tmp_path / "checkpoint")
        loaded = Checkpoint.load(tmp_path / "checkpoint")
        assert loaded.header == json.loads(json.dumps(checkpoint.header))
    data.save(tmp_path / "data")
    assert PreparedData.load(tmp_path / "data").hash == data.hash


def test_parameters_are_recorded_where_the_header_says() -> None:
    # epochs of 3 updates, every 4th of 9, and on both sides of update 4
    assert recorded_updates(0, 9, 3, 4, {4}) == {0, 3, 4, 5, 6, 8, 9}
    assert recorded_updates(4, 9, 3, 0, ()) == {4, 6, 9}


# ---- what anybody can seal again


def _drop(*prefixes: str) -> Callable[[dict[str, Any], Arrays], None]:
    def change(_: dict[str, Any], arrays: Arrays) -> None:
        for name in [name for name in arrays if name.startswith(prefixes)]:
            del arrays[name]

    return change


def _put(
    name: str, turn: Callable[[np.ndarray], np.ndarray]
) -> Callable[[dict[str, Any], Arrays], None]:
    def change(_: dict[str, Any], arrays: Arrays) -> None:
        arrays[name] = turn(arrays[name].copy())

    return change


def _say(**fields: Any) -> Callable[[dict[str, Any], Arrays], None]:
    def change(header: dict[str, Any], _: Arrays) -> None:
        header |= fields

    return change


def _retrain(header: dict[str, Any], _: Arrays) -> None:
    header["recipe"]["schedule"]["peak"] = 0.5


def _rename(_: dict[str, Any], arrays: Arrays) -> None:
    arrays["updates/losses"] = arrays.pop("updates/loss")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_drop("updates/loss", "epochs/"), "missing: updates/loss"),
        (_drop("epochs/"), "missing: epochs/held_out_accuracy, epochs/held_out_loss"),
        (_drop("parameters/6/"), "missing: parameters/6/linear1.weight"),
        (_drop("parameters/3/linear1.bias"), "missing: parameters/3/linear1.bias"),
        (_drop("detail/1/gradients/"), "missing: detail/1/gradients/linear1.bias"),
        (_drop("statistics/moments/"), "missing: statistics/moments/momentum/linear1.bias"),
        (_drop("prediction/relu1"), "missing: prediction/relu1"),
        (_rename, "missing: updates/loss"),
        (_put("updates/lr", lambda a: (a * 90).astype("i1")), "updates/lr: int8, expected float32"),
        (_put("updates/lr", lambda a: a.astype("f2")), "updates/lr: float16, expected float32"),
        (_put("updates/loss", lambda a: a[:3]), "updates/loss: shape (3,), expected (6,)"),
        (_put("updates/loss", lambda a: a[:, None]), "updates/loss: shape (6, 1), expected (6,)"),
        (
            _put("parameters/3/linear1.weight", lambda a: a.T.copy()),
            "shape (4, 6), expected (6, 4)",
        ),
        (
            _put("parameters/0/linear2.bias", lambda a: a > 0),
            "parameters/0/linear2.bias: bool, expected float32",
        ),
        (
            _put("detail/1/forward/relu1", lambda a: a[:, :2]),
            "forward/relu1: shape (32, 2), expected (any, 4)",
        ),
        (
            _put("detail/1/batch/y", lambda a: a.astype("u1")),
            "detail/1/batch/y: uint8, expected int32 or int64",
        ),
        (
            _say(recipe_hash="0" * 64),
            "header: recipe_hash: 000000000000, and the recipe beside it has",
        ),
        (_retrain, "header: recipe_hash: "),
        (_say(data_hash="unknown"), "header: data_hash: string should match"),
        (_say(dtype="float64"), "header: dtype: float64, and a run of this recipe by"),
        (_say(updates=9), "header: updates: 9, and 2 epochs of 3 are 6"),
        (
            _say(updates=2, updates_per_epoch=1),
            "header: updates_per_epoch: 1, and the recipe's is 3",
        ),
        (_say(first_update=6), "header: first_update: 6, of a run of 6 updates"),
        (_say(first_update=1, statistics=1), "updates/grad_norm: shape (6,), expected (5,)"),
        (_say(detail=[1, 1]), "header: detail: must be updates from 0 to 5, ascending"),
        (_say(detail=[]), "extra: detail/1/batch/x"),
        (_say(statistics=None), "extra: statistics/forward/linear1"),
        (_say(statistics=4), "header: statistics: 4, and the run begins with update 0"),
        (_say(backend="keras"), "header: backend: input should be 'torch', 'jax' or 'oracle'"),
        (_say(layers=["input"]), "header: layers: must be input, linear1, relu1, linear2, softmax"),
        (_say(environment={"engine": {}}), "header: environment: 'engine' must be text"),
        (_say(synchronised="no"), "header: synchronised: input should be a valid boolean"),
    ],
)
def test_a_trace_that_contradicts_its_recipe_is_refused(
    change: Any, said: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # both sides alike: nothing but the recipe can tell
    a = sealed_again(run / "torch.trace", tmp_path / "torch", change)
    b = sealed_again(run / "jax.trace", tmp_path / "jax", change)
    for command in ("compare", "diagnose"):
        line = refused(capsys, command, a, b)
        assert line.startswith(f"lockstep: {a}: ")
        assert said in line


def test_a_smaller_model_on_both_sides_is_not_the_recipes(run: Path, tmp_path: Path) -> None:
    """Where the recipe does not say how many columns there are, its data do."""
    recipe = small_recipe(
        data__source="breast_cancer", training__epochs=1, schedule__warmup=1, model__hidden=()
    )
    trace = train_oracle(recipe, prepared(recipe), bounds=False)

    def crop(_: dict[str, Any], arrays: Arrays) -> None:
        for name in [name for name in arrays if name.endswith("linear1.weight")]:
            arrays[name] = arrays[name][:7]
        arrays["prediction/input"] = arrays["prediction/input"][:7]

    trace.save(tmp_path / "whole")
    cropped = sealed_again(tmp_path / "whole", tmp_path / "cropped", crop)
    assert Trace.load(cropped)  # by itself it fits
    assert lockstep("compare", cropped, cropped) == 2
    assert lockstep("compare", tmp_path / "whole", tmp_path / "whole") == 0


# ---- bounds


def _bound(
    value: Any, prefix: str = "", begin: int = 0
) -> Callable[[dict[str, Any], Arrays], None]:
    def change(_: dict[str, Any], arrays: Arrays) -> None:
        for name in [name for name in arrays if name.startswith(f"bounds/{prefix}")]:
            arrays[name] = arrays[name].copy()
            arrays[name][begin:] = value

    return change


def _everywhere(value: float) -> Callable[[dict[str, Any], Arrays], None]:
    def change(_: dict[str, Any], arrays: Arrays) -> None:
        for name in [name for name in arrays if name.startswith("bounds/")]:
            arrays[name] = np.full_like(arrays[name], value)

    return change


def _hole(_: dict[str, Any], arrays: Arrays) -> None:
    arrays["bounds/updates/loss"] = arrays["bounds/updates/loss"] * [1, 1, np.inf, 1, 1, 1]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_everywhere(np.inf), "bounds are infinite from the first update on: they judge nothing"),
        (_everywhere(np.nan), "nan; a bound is at least 0"),
        (_everywhere(-1.0), "-1; a bound is at least 0"),
        (_everywhere(1e300), "1e+300; a bound is at least 0"),
        (_bound(np.inf, "updates/loss"), "bounds are infinite from the first update on"),
        (_bound(3e38, "updates/grad_norm", 5), "bounds/updates/grad_norm: 3e+38; "),
        (
            _bound(2.0, "epochs/train_accuracy"),
            "bounds/epochs/train_accuracy: 2; a bound is at least 0 and, where it "
            "is finite, at most 1",
        ),
        (_hole, "bounds/updates/loss: is finite again after it was infinite"),
        (_drop("bounds/epochs/"), "missing: bounds/epochs/"),
        (_drop("bounds/updates/loss"), "missing: bounds/updates/loss"),
        (_drop("bounds/statistics/"), "missing: bounds/statistics/"),
        (
            _put("bounds/updates/loss", lambda a: a.astype("f4")),
            "bounds/updates/loss: float32, expected float64",
        ),
        (
            _put("bounds/updates/loss", lambda a: a[:1]),
            "bounds/updates/loss: shape (1,), expected (6,)",
        ),
    ],
)
def test_bounds_that_cannot_be_are_refused(
    change: Any, said: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    oracle = sealed_again(run / "oracle.trace", tmp_path / "oracle", change)
    wrong = sealed_again(run / "jax.trace", tmp_path / "jax", _put("updates/loss", lambda a: a * 3))
    line = refused(capsys, "diagnose", run / "torch.trace", wrong, "--oracle", oracle)
    assert line.startswith(f"lockstep: {oracle}: ")
    assert said in line
    assert said in refused(capsys, "compare", oracle, wrong)


def test_bounds_may_end_where_a_run_leaves_the_range_of_its_dtype(tmp_path: Path) -> None:
    recipe = RECIPE.with_values({"loss.name": "mse", "schedule.peak": 0.5, "training.epochs": 20})
    trace = train_oracle(recipe, prepared(recipe))
    assert np.isinf(trace.arrays["bounds/updates/loss"][-1])
    assert np.isfinite(trace.arrays["bounds/updates/loss"][0])
    trace.save(tmp_path / "oracle")
    assert Trace.load(tmp_path / "oracle").backend == "oracle"

    def known_again(_: dict[str, Any], arrays: Arrays) -> None:
        arrays["bounds/parameters/60/linear1.weight"] = np.array(0.1)

    with pytest.raises(InputError, match="where nothing is known it is so in every array"):
        Trace.load(sealed_again(tmp_path / "oracle", tmp_path / "changed", known_again))


def test_bounds_of_a_framework_are_refused(run: Path, tmp_path: Path) -> None:
    oracle = Trace.load(run / "oracle.trace")

    def lend(_: dict[str, Any], arrays: Arrays) -> None:
        arrays |= {name: array for name, array in oracle.arrays.items() if "bounds" in name}

    lent = sealed_again(run / "torch.trace", tmp_path / "torch", lend)
    line = "has bounds, which an oracle's trace alone has, and is of torch"
    with pytest.raises(InputError, match=line):
        Trace.load(lent)


# ---- the oracle's trace


def test_the_oracle_is_the_oracles_trace_with_bounds(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sides = run / "torch.trace", run / "jax.trace"
    line = refused(capsys, "diagnose", *sides, "--oracle", run / "torch.trace")
    assert f"--oracle {run / 'torch.trace'}: is torch's trace, not the oracle's" in line
    line = refused(capsys, "diagnose", *sides, "--oracle", run / "unbounded.trace")
    assert f"--oracle {run / 'unbounded.trace'}: has no rounding bounds" in line


def test_compare_and_diagnose_say_the_same_of_a_runs_files(run: Path) -> None:
    files = [run / f"{name}.trace" for name in ("torch", "jax", "oracle", "unbounded")]
    for a, b in product(files, repeat=2):
        assert lockstep("compare", a, b) == 0, (a, b)
        assert lockstep("diagnose", a, b) == 0, (a, b)
        assert lockstep("diagnose", a, b, "--oracle", run / "oracle.trace") == 0, (a, b)


def test_the_first_golden_files_can_be_compared(capsys: pytest.CaptureFixture[str]) -> None:
    """They do not say in what detail they were recorded."""
    golden = Path(__file__).parents[2] / "golden"
    sides = golden / "sgd.float32.torch.trace", golden / "sgd.float32.jax.trace"
    assert lockstep("compare", *sides) == 0
    assert lockstep("diagnose", *sides) == 0


# ---- nothing crafted ends in a traceback

NUMBERS = [-1, 0, 1, 3, 2**70, 1e308, math.nan, True]
JUNK: list[Any] = [None, "x", "", *NUMBERS, [], [-1], ["x"], {}, {"a": {"b": [None]}}]

FITTING = [("environment", {}), ("parameters_every", 3)]
"""Fields and values that fit: another environment, and every 3rd update, which is the end of an
epoch, whose parameters are recorded anyway.
"""


@pytest.mark.parametrize(
    "field",
    [
        "backend",
        "recipe",
        "recipe_hash",
        "data_hash",
        "dtype",
        "updates",
        "detail",
        "updates_per_epoch",
        "first_update",
        "parameters_every",
        "statistics",
        "layers",
        "synchronised",
        "target",
        "environment",
    ],
)
def test_no_header_field_is_trusted(field: str, run: Path, tmp_path: Path) -> None:
    known, _ = read_tensors(run / "torch.trace", "lockstep.trace/1")
    for junk in JUNK:
        a = sealed_again(run / "torch.trace", tmp_path / "a", _say(**{field: junk}))
        is_same = type(junk) is type(known[field]) and junk == known[field]
        if not is_same and (field, junk) not in FITTING:
            assert lockstep("compare", a, run / "jax.trace") == 2, (field, junk)
    a = sealed_again(run / "torch.trace", tmp_path / "a", lambda header, _: header.pop(field))
    if field not in ("parameters_every", "synchronised"):  # which older files lack
        assert lockstep("compare", a, run / "jax.trace") == 2


@pytest.mark.parametrize("header", [[], None, "x", 3, {}, {"kind": "loop"}, {"kind": ["loop"]}])
def test_a_header_that_is_none_is_refused(header: Any, run: Path, tmp_path: Path) -> None:
    write_tensors(tmp_path / "a", "lockstep.trace/1", header, {})
    assert lockstep("compare", tmp_path / "a", run / "jax.trace") == 2
    for kind, load in (("checkpoint", Checkpoint), ("ensemble", Ensemble), ("data", PreparedData)):
        write_tensors(tmp_path / kind, f"lockstep.{kind}/1", header, {})
        with pytest.raises(InputError):
            load.load(tmp_path / kind)


def test_a_deep_header_is_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    deep: Any = 1
    for _ in range(300):
        deep = {"a": deep}
    a = sealed_again(run / "torch.trace", tmp_path / "a", _say(note=deep))
    assert "is nested deeper" in refused(capsys, "compare", a, run / "jax.trace")


DAMAGE: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "bytes": lambda a: a.astype("i1"),
    "flags": lambda a: a.astype(bool) if a.dtype != bool else a.astype("i8"),
    "unsigned": lambda a: a.astype("u8"),
    "longer": lambda a: np.concatenate([np.atleast_1d(a)] * 2),
    "an axis more": lambda a: a[None],
    "flat": lambda a: a.reshape(-1) if a.ndim != 1 else a.reshape(1, -1),
    "empty": lambda a: a[..., None][:0] if not a.ndim else a[:0],
}


@given(st.data())
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_array_is_trusted(run: Path, tmp_path: Path, draw: Any) -> None:
    side = draw.draw(st.sampled_from(["torch", "oracle"]))
    _, known = read_tensors(run / f"{side}.trace", "lockstep.trace/1")
    name = draw.draw(st.sampled_from(sorted(known)))
    how = draw.draw(st.sampled_from(["gone", "renamed", *DAMAGE]))

    def change(_: dict[str, Any], arrays: Arrays) -> None:
        array = arrays.pop(name)
        if how == "renamed":
            arrays[draw.draw(st.text(max_size=8)) + name] = array
        elif how != "gone":
            with np.errstate(all="ignore"):
                arrays[name] = DAMAGE[how](array)

    a = sealed_again(run / f"{side}.trace", tmp_path / "a", change)
    _, left = read_tensors(a, "lockstep.trace/1")
    forms = {key: (array.dtype, array.shape) for key, array in left.items()}
    known_forms = {key: (array.dtype, array.shape) for key, array in known.items()}
    # the number of a batch's rows is left to the comparison
    by_rows = name.startswith(("detail/1/batch/", "detail/1/forward/"))
    if forms != known_forms and not (how == "longer" and by_rows):
        assert lockstep("compare", a, run / "jax.trace") == 2


# ---- other kinds of files


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_drop("optimizer/"), "missing: optimizer/"),
        (
            _put("parameters/linear1.weight", lambda a: a.astype("f4")),
            "parameters/linear1.weight: float32",
        ),
        (
            _put("parameters/linear1.weight", lambda a: a[:2]),
            "parameters/linear1.weight: shape (2, 4)",
        ),
        (_say(recipe_hash="0" * 64), "header: recipe_hash: "),
        (_say(batches=-1), "header: batches: "),
        (_say(batches="4"), "header: batches: "),
        (_say(accumulated=1), "are no place in a run"),
        (_say(epoch=7), "are no place in a run"),
        (_say(update=0), "extra: optimizer/"),
    ],
)
def test_a_checkpoint_that_contradicts_its_recipe_is_refused(
    change: Any, said: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = sealed_again(run / "a.checkpoint", tmp_path / "a.checkpoint", change, "checkpoint")
    assert said in refused(capsys, "convert", path, tmp_path / "a.pt")
    (tmp_path / "r.toml").write_text(RECIPE.to_toml())
    record = ("record", tmp_path / "r.toml", "--backend", "oracle", "--out", tmp_path / "o.trace")
    assert said in refused(capsys, *record, "--resume", path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_drop("train_x_ND"), "missing: 'train_x_ND'"),
        (_drop("parameters/linear2.weight"), "missing: 'parameters/linear2.weight'"),
        (
            _put("train_x_ND", lambda a: a[:, :2]),
            "train_x_ND: float64 (90, 2), expected float64 (90, 6)",
        ),
        (_put("train_x_ND", lambda a: a * np.nan), "train_x_ND: must be finite"),
        (_put("train_y_N", lambda a: a + 7), "train_y_N: labels must be from 0 to 2, or -1"),
        (_put("mean_D", lambda a: a.astype("f4")), "mean_D: float32"),
        (_say(epochs=-1), "header: epochs: "),
        (_say(hidden=[[]]), "header: hidden.0: "),
        (_say(batch=1000), "header: batch: 1000 rows are more than the training rows"),
        (_say(dropout=2.0), "header: dropout: "),
    ],
)
def test_prepared_data_that_contradict_their_header_are_refused(
    change: Any, said: str, run: Path, tmp_path: Path
) -> None:
    path = sealed_again(run / "a.data", tmp_path / "data", change, "data")
    with pytest.raises(InputError) as caught:
        PreparedData.load(path)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_drop("loss"), "missing: loss"),
        (_drop("held_out/"), "missing: held_out/accuracy, held_out/loss"),
        (_put("loss", lambda a: a[:, :2]), "loss: shape (3, 2), expected (any, 6)"),
        (_put("held_out/loss", lambda a: a[:2]), "held_out/loss: shape (2, 2), expected (3, 2)"),
        (_put("lr", lambda a: a.astype("i8")), "lr: int64, expected float32 or float64"),
        (
            _put("parameters/linear1.bias", lambda a: a[:2]),
            "parameters/linear1.bias: shape (2, 4), expected (3, 4)",
        ),
        (_say(updates_per_epoch=4), "header: updates: 6, no multiple of the 4"),
        (_say(updates=None), "header: updates: "),
    ],
)
def test_an_ensemble_that_contradicts_its_header_is_refused(
    change: Any, said: str, tmp_path: Path
) -> None:
    header = {
        "backend": "torch",
        "recipe_hash": "0" * 64,
        "updates": 6,
        "updates_per_epoch": 3,
        "chunk": 3,
        "environment": {},
    }
    held_out = {"loss": np.ones((3, 2)), "accuracy": np.ones((3, 2))}
    parameters = {"linear1.bias": np.ones((3, 4))}
    ensemble = Ensemble(header, np.ones(6), np.ones((3, 6)), held_out, parameters)
    ensemble.save(tmp_path / "whole")
    assert Ensemble.load(tmp_path / "whole").header == header
    changed = sealed_again(tmp_path / "whole", tmp_path / "changed", change, "ensemble")
    with pytest.raises(InputError) as caught:
        Ensemble.load(changed)
    assert said in str(caught.value)


# ---- somebody's own loops


def loop(path: Path, labels: np.ndarray, **options: Any) -> Path:
    """The recording of six updates of a linear model by hand, whose batches have these labels."""
    draw, w_DK = np.random.default_rng(0), np.ones((4, 3))
    recorder = Recorder(path, backend=path.name, **options)
    recorder.start({"w": w_DK})
    for _ in range(6):
        x_BD = draw.standard_normal((len(labels), 4))
        gradient_DK = x_BD.T @ (x_BD @ w_DK) / len(x_BD)
        w_DK = w_DK - 0.05 * gradient_DK
        recorder.update(
            batch={"x": x_BD, "y": labels},
            loss=float((x_BD @ w_DK).mean()),
            gradients={"w": gradient_DK},
            lr=0.05,
            parameters={"w": w_DK},
        )
    recorder.finish()
    return path


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "u8", "i1", "i8", "?"])
@pytest.mark.parametrize("turned", ["a", "b"])
def test_labels_in_another_order_are_told_in_every_dtype(
    dtype: str, turned: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = np.array([0, 1, 1, 0, 1, 1] if dtype == "?" else [0, 1, 2, 3, 4, 5]).astype(dtype)
    labels_of = {"a": labels, "b": labels} | {turned: labels[::-1].copy()}
    a = loop(tmp_path / "a", labels_of["a"])
    b = loop(tmp_path / "b", labels_of["b"])
    assert lockstep("diagnose", a, b) == 1
    output = capsys.readouterr().out
    assert "verdict: diverged" in output
    assert "batch" in output


def test_labels_that_a_byte_cannot_hold_are_not_the_same(tmp_path: Path) -> None:
    a = loop(tmp_path / "a", np.array([0, 1, 2, 3, 4, 5], "u1"))
    b = loop(tmp_path / "b", np.array([256, 257, 2, 3, 4, 5], "i8"))
    assert lockstep("compare", a, b) == lockstep("compare", b, a) == 1
    c = loop(tmp_path / "c", np.array([0, 1, 2, 3, 4, 5], "i8"))
    assert lockstep("compare", a, c) == 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_say(updates=7), "header: updates_per_epoch: must be as many as the 7 updates"),
        (_say(updates=7, updates_per_epoch=7), "updates/grad_norm: shape (6,), expected (7,)"),
        (_say(updates=True), "header: updates: "),
        (_say(detail=[9]), "header: detail: must be updates from 0 to 5"),
        (_say(recording=None), "header: recording: "),
        (_say(settings=[]), "header: settings: "),
        (_say(buffers=[3]), "header: buffers.0: "),
        (_put("updates/loss", lambda a: a[:2]), "updates/loss: shape (2,), expected (6,)"),
        (
            _put("parameters/3/w", lambda a: a.T.copy()),
            "parameters/3/w: float64 (3, 4), after one of 6 updates",
        ),
        (
            _put("parameters/3/w", lambda a: a.astype("i8")),
            "parameters/3/w: int64 (4, 3), after one of 6 updates",
        ),
        (
            _put("statistics/parameters/w", lambda a: a[:, :2]),
            "statistics/parameters/w: float64 (6, 2), expected",
        ),
        (
            lambda _, arrays: arrays.update({"bounds/updates/loss": np.full(6, np.inf)}),
            "extra: bounds/updates/loss",
        ),
        (lambda _, arrays: arrays.update({"parameters/x/w": np.ones(3)}), "extra: parameters/x/w"),
        (lambda _, arrays: arrays.update({"detail/one": np.ones(3)}), "extra: detail/one"),
    ],
)
def test_a_loop_that_contradicts_its_header_is_refused(
    change: Any, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = np.arange(6)
    a = loop(tmp_path / "a", labels, statistics=True)
    b = loop(tmp_path / "b", labels, statistics=True)
    c = sealed_again(b, tmp_path / "c", change)
    for command in ("compare", "diagnose"):
        assert said in refused(capsys, command, a, c)
        assert said in refused(capsys, command, c, a)
    assert said in refused(capsys, "names", a, c, "--out", tmp_path / "names.toml")


# ---- golden folders


@pytest.fixture(scope="module")
def golden(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The golden folder of one recipe, by the oracle alone. No test may change it."""
    folder = tmp_path_factory.mktemp("golden") / "golden"
    recipe = small_recipe(**SHORT)
    data = prepare(recipe)
    traces = {}
    for dtype, form in recipe.forms.items():
        bounds = dtype == "float32"
        trace = train_oracle(form, data, watch=Watch(parameters_every=1), bounds=bounds)
        traces[Key("small", dtype, "oracle")] = trace
    write_golden(folder, {"small": recipe}, {"small": data}, traces)
    assert Golden.load(folder).recipes == {"small": recipe}
    return folder


@pytest.fixture
def damaged(golden: Path, tmp_path: Path) -> Callable[..., Path]:
    """Make a copy of the golden folder whose manifest is changed and sealed again."""

    def damage(change: Callable[[dict[str, Any], Path], Any]) -> Path:
        from lockstep import golden as module

        folder = tmp_path / "golden"
        shutil.copytree(golden, folder)
        content = json.loads((folder / "manifest.json").read_text())
        del content["seal"]
        change(content, folder)
        (folder / "manifest.json").write_text(json.dumps(content | {"seal": module._seal(content)}))
        return folder

    return damage


def _of_small(**values: Any) -> Callable[[dict[str, Any], Path], None]:
    return lambda content, _: content["recipes"]["small"].update(values)


def _without_traces(content: dict[str, Any], _: Path) -> None:
    files = content["recipes"]["small"]["files"]
    for name in [name for name in files if not name.endswith(".data")]:
        del files[name]


def _without_bounds(content: dict[str, Any], folder: Path) -> None:
    _replace(content, folder / "small.float32.oracle.trace", _drop("bounds/"))


def _of_another_recipe(content: dict[str, Any], folder: Path) -> None:
    other, path = small_recipe(**SHORT, schedule__peak=0.1), folder / "small.float32.oracle.trace"
    train_oracle(other, prepare(other), watch=Watch(parameters_every=1)).save(path)
    _replace(content, path, _say())


def _of_other_data(content: dict[str, Any], folder: Path) -> None:
    prepare(small_recipe(**SHORT, training__seed=1)).save(folder / "small.data")
    _replace(content, folder / "small.data", _say(), "data")


def _replace(content: dict[str, Any], path: Path, change: Any, kind: str = "trace") -> None:
    from lockstep import golden as module

    sealed_again(path, path, change, kind)
    content["recipes"]["small"]["files"][path.name] = module._sha256(path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_without_traces, "recipe 'small': lacks 'small.float32.oracle.trace'"),
        (_without_bounds, "small.float32.oracle.trace: has no rounding bounds"),
        (_of_another_recipe, "small.float32.oracle.trace: recipe_hash: "),
        (_of_other_data, "small.data: header: seed: 1, and the recipe has 0"),
        (_of_small(files=[]), "header: recipes.small.files: "),
        (_of_small(recipe=3), "header: recipes.small.recipe: "),
        (_of_small(recipe="[["), "recipe small: "),
        (_of_small(data_hash="0" * 64), "is of other data than were blessed"),
        (_of_small(files={"../../etc/passwd": "0" * 64}), "recipe 'small': lacks"),
        (lambda content, _: content.update(recipes=[3]), "header: recipes: "),
        (lambda content, _: content.update(recipes={}), "names no recipe"),
        (lambda content, _: content.pop("recipes"), "names no recipe"),
        (lambda content, _: content.update(host=None), "header: host: "),
        (lambda content, _: content.update(backends={}), "lacks the oracle"),
        (lambda content, _: content.update(backends=["oracle"]), "header: backends: "),
    ],
)
def test_a_golden_folder_that_contradicts_itself_is_refused(
    change: Any, said: str, damaged: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(capsys, "upgrade-check", damaged(change))
    assert said in line
