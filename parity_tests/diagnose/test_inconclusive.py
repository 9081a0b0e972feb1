"""What cannot be judged is called inconclusive and never passes. A fault before that is found."""

import json
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

import lockstep
from lockstep.cli import main
from lockstep.commands.options import planting_trainer, trainer
from lockstep.data_prep import prepare
from lockstep.diagnose.compare import bounds_of, compare
from lockstep.diagnose.verdict import Failure, Verdict, judge
from lockstep.errors import ParityError
from lockstep.oracle.rounding import AMPLIFIED
from lockstep.parity import assert_parity
from lockstep.recipe import Recipe
from lockstep.records.ensemble import Ensemble
from lockstep.records.trace import Trace
from lockstep.studies.converge.measure import blown_up, measure
from lockstep.studies.prove.false_alarms import CHAOTIC, chaotic_recipe
from parity_tests.shared.recipes import SMALL

# the mean squared error of a linear layer diverges at this rate, and leaves float32's range after
# some updates
EXPLODING = [
    "data.source=diabetes",
    "loss.name=mse",
    "optimizer.weight_decay=0.0",
    "schedule.name=constant",
    "schedule.peak=0.8",
    "schedule.warmup=0",
    "training.epochs=6",
]


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as ending:
        main([*words])
    return int(ending.value.code or 0)


def overrides(values: list[str]) -> list[str]:
    return [f"--set={value}" for value in values]


@pytest.fixture(scope="module")
def exploded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exploded") / "run"
    assert run("run", *overrides(EXPLODING), "--out", str(out)) == 3
    return out


def test_a_run_that_overflows_is_judged_up_to_there(exploded: Path) -> None:
    summary = json.loads((exploded / "summary.json").read_text())
    assert summary["verdict"] == "inconclusive"
    assert 0 < summary["judged_updates"] < Trace.load(exploded / "torch.trace").header["updates"]
    outcomes = {check["name"]: check["outcome"] for check in summary["checks"]}
    assert outcomes["same learning rate, bit for bit"] == "pass"
    checks = {check["name"]: check for check in summary["checks"]}
    (name,) = [name for name in checks if name.startswith("the rest is rounding")]
    rounding = checks[name]
    assert rounding["outcome"] == "inconclusive"
    assert not rounding["passed"]
    last = summary["judged_updates"] - 1
    line = f"equal up to update {last}; from there on the loss leaves float32's range"
    assert line in rounding["detail"]
    assert "nconclusive" in (exploded / "report.html").read_text()


@pytest.mark.parametrize("command", ["compare", "diagnose"])
def test_two_traces_that_overflow_are_inconclusive(
    exploded: Path, command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    junit = tmp_path / "result.xml"
    pair = [str(exploded / f"{twin}.trace") for twin in ("torch", "jax")]
    assert run(command, *pair, "--junit", str(junit)) == 3
    printed = capsys.readouterr().out
    assert "verdict: inconclusive" in printed
    assert "from there on the loss leaves float32's range" in printed
    (error,) = ElementTree.parse(junit).iter("error")
    assert error.get("type") == "inconclusive"


def test_what_overflows_is_not_blessed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "exploding.toml"
    path.write_text(Recipe().with_overrides(EXPLODING).to_toml())
    assert run("bless", str(path), "--out", str(tmp_path / "gold"), "--backend", "torch") == 2
    message = capsys.readouterr().err
    assert "exploding" in message
    assert "cannot be blessed" in message
    assert not (tmp_path / "gold").exists()


def trained(
    recipe: Recipe, fault: str, twin: str, faulty: Collection[str] = ("float32", "float64")
) -> tuple[Verdict, Mapping[str, Trace]]:
    """The verdict on a run whose one twin has the fault in those dtypes, and the float64 traces.

    The other twin is the same one without the fault, which halves the work.
    """
    exact, data = recipe.with_dtype("float64"), prepare(recipe)
    plant, oracle = planting_trainer(twin), trainer("oracle", "plain")
    forms = {}
    for form in (recipe, exact):
        dtype = form.training.dtype
        right = plant(form, data, device="cpu", fault="")
        wrong = plant(form, data, device="cpu", fault=fault) if fault and dtype in faulty else right
        forms[dtype] = {"torch": wrong, "jax": right, "oracle": oracle(form, data)}
    return judge(forms["float32"], forms["float64"]), forms["float64"]


@pytest.mark.parametrize("fault", ["loss-sum", "momentum-other", "batch-labels-shifted"])
def test_a_fault_is_found_before_the_overflow_hides_it(fault: str) -> None:
    verdict, _ = trained(Recipe().with_overrides(EXPLODING), fault, "torch")
    assert verdict.word == "diverged"
    assert verdict.failure is not None
    assert verdict.failure.off == ("torch",)


def test_a_failure_as_trained_says_how_far_float64_was_judged() -> None:
    recipe = chaotic_recipe("Adam at a high rate", 3, "float32")
    verdict, _ = trained(recipe, "loss-sum", "torch", ["float32"])
    assert verdict.word == "diverged"
    assert verdict.sentence.startswith(
        "As trained here, PyTorch strays farther than rounding can; in float64, equal up to"
    )
    recipe = chaotic_recipe("Adam at a high rate", 1, "float32")
    settled, _ = trained(recipe, "loss-sum", "torch", ["float32"])
    assert settled.sentence.startswith(
        "In float64 both do what the recipe says; as trained here, PyTorch strays"
    )


@pytest.mark.parametrize(
    ("off", "stray"),
    [
        (("jax",), "JAX strays farther than rounding can."),
        (("torch", "jax"), "PyTorch and JAX stray farther than rounding can."),
    ],
)
def test_a_failure_as_trained_names_who_strays(off: tuple[str, ...], stray: str) -> None:
    assert Failure("traces", off, alike=True, float64=None).sentence.endswith(stray)


@pytest.mark.sweep
@pytest.mark.parametrize("name", CHAOTIC)
@pytest.mark.parametrize("twin", ["torch", "jax"])
@pytest.mark.parametrize(
    "fault", ["loss-half", "loss-sum", "batch-labels-shifted", "gradients-summed", "lr-scaled"]
)
def test_a_fault_is_found_in_chaos(name: str, twin: str, fault: str) -> None:
    for seed in (1, 2):
        assert trained(chaotic_recipe(name, seed, "float32"), fault, twin)[0].word == "diverged"


def test_chaos_is_inconclusive_and_no_divergence() -> None:
    recipe = chaotic_recipe("Adam at a high rate", 3, "float32")
    verdict, _ = trained(recipe, "", "torch")
    assert verdict.word == "inconclusive"
    assert verdict.limit is not None
    assert verdict.limit.reason == AMPLIFIED
    assert verdict.sentence.startswith(
        f"Equal up to update {verdict.limit.update - 1}; from there on rounding is amplified"
    )


def test_float64_settles_what_float32_cannot_say() -> None:
    # float32 loses its way after some hundred updates, float64 does not
    recipe = chaotic_recipe("Adam at a high rate", 1, "float32")
    verdict, exact = trained(recipe, "", "torch")
    oracle = trainer("oracle", "plain")(recipe, prepare(recipe))
    assert oracle.header["horizon"]["reason"] == AMPLIFIED
    comparison = compare(exact["torch"], exact["oracle"], bounds_of(exact["oracle"]) or {})
    assert comparison.verdict == "rounding"
    assert verdict.word == "rounding"
    assert verdict.limit is not None
    assert f"within the bound up to update {verdict.limit.update - 1}" in verdict.sentence


def loop(
    recorder: lockstep.Recorder, *, blows_up: int | None = None, off: int | None = None
) -> None:
    """Least squares by hand. The loss is not a number from an update on, or is wrong at one."""
    generator = np.random.default_rng(5)
    weight = generator.standard_normal((3, 2))
    recorder.start({"weight": weight})
    for update in range(12):
        x_BD = generator.standard_normal((7, 3))
        gradient = x_BD.T @ (x_BD @ weight) / 7
        weight = weight - 0.1 * gradient
        loss = float(np.square(x_BD @ weight).mean()) + (off == update)
        if blows_up is not None and update >= blows_up:
            loss = float("nan")
        recorder.update(
            loss=loss, gradients={"weight": gradient}, lr=0.1, parameters={"weight": weight}
        )
    recorder.finish()


def record(path: Path, **options: Any) -> str:
    loop(lockstep.Recorder(path, backend=path.stem), **options)
    return str(path)


@pytest.mark.parametrize(("off", "status"), [(None, 3), (2, 1)])
def test_loops_that_are_not_a_number_on_both_sides(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], off: int | None, status: int
) -> None:
    a = record(tmp_path / "a.trace", blows_up=6)
    b = record(tmp_path / "b.trace", blows_up=6, off=off)
    for command in ("compare", "diagnose"):
        assert run(command, a, b) == status
        printed = capsys.readouterr().out
        assert f"verdict: {'diverged' if off else 'inconclusive'}" in printed
        if not off:
            line = "Equal up to update 5; from there on the loss is finite on neither side."
            assert line in printed


def test_parity_asserts_nothing_of_what_is_not_a_number() -> None:
    broken = partial(loop, blows_up=6)
    with pytest.raises(ParityError, match="inconclusive, equal up to update 5"):
        assert_parity(broken, broken)
    assert assert_parity(loop, loop).verdict == "identical"


def test_masked_scores_are_no_overflow(tmp_path: Path) -> None:
    # -inf before a softmax is what attention means, and NaN may stand for a missing value
    for side in ("a", "b"):
        recorder = lockstep.Recorder(tmp_path / f"{side}.trace", backend=side)
        recorder.start({"weight": np.ones(2)})
        for _ in range(3):
            scores, rows = np.array([[0.5, -np.inf]]), np.array([[np.nan, 1.0]])
            recorder.update(
                loss=1.0,
                forward={"scores": scores},
                batch={"x": rows},
                parameters={"weight": np.ones(2)},
            )
        recorder.finish()
    assert run("compare", str(tmp_path / "a.trace"), str(tmp_path / "b.trace")) == 0


@pytest.mark.parametrize("change", [np.nan, np.inf])
def test_a_bound_that_is_not_finite_passes_nothing(change: float) -> None:
    recipe = Recipe().with_values(SMALL)
    oracle = trainer("oracle", "plain")(recipe, prepare(recipe))
    known = bounds_of(oracle) or {}
    bounds = {name: np.full_like(bound, change) for name, bound in known.items()}
    off = {name: array.copy() for name, array in oracle.arrays.items()}
    off["updates/loss"][4:] *= 1.5
    comparison = compare(Trace(oracle.header | {"backend": "torch"}, off), oracle, bounds)
    assert comparison.verdict == "inconclusive"
    assert comparison.limit is not None
    assert comparison.limit.update == 4


def test_members_that_blow_up_are_not_measured() -> None:
    recipe = Recipe().with_values({"convergence.target": 0.5})
    loss_SE = np.array([[0.9, 0.4], [0.9, np.nan], [0.4, np.nan]])
    accuracy_SE = np.array([[0.5, 0.9], [0.5, 0.5], [0.9, 0.5]])
    header = {"updates": 20, "updates_per_epoch": 10}
    held_out = {"loss": loss_SE, "accuracy": accuracy_SE}
    members = Ensemble(header, np.zeros(20), np.zeros((3, 20)), held_out, {})
    values = measure(recipe, members)
    assert blown_up(members) == 2
    assert np.isnan(values["score"]).tolist() == [False, True, True]
    # a member that met the target before it blew up has met it
    assert np.isnan(values["updates"]).tolist() == [False, True, False]
