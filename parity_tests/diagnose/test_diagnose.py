"""The diagnosis names the update, stage and tensor that part first, the side that is off, and the
cause; the command prints it.
"""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

import jax_impl.train
import pt_impl.train
from lockstep.cli import main
from lockstep.data_prep import PreparedData, prepare
from lockstep.diagnose.compare import bounds_of
from lockstep.diagnose.diagnosis import diagnose, unequal_settings
from lockstep.oracle.train import states
from lockstep.oracle.train import train as train_oracle
from lockstep.recipe import Recipe
from lockstep.records.checkpoint import Checkpoint, Checkpoints
from lockstep.records.run_recorder import Watch
from lockstep.records.trace import Trace
from lockstep.report.console import make_console
from lockstep.report.diagnosis import print_diagnosis
from lockstep.run.replay import truth_of
from parity_tests.shared.recipes import oracle_trace, prepared, small_recipe
from parity_tests.shared.twins import TWINS, forget_compiled, of_pair, patch_pair

RECIPE = small_recipe()
F64 = small_recipe(training__dtype="float64")
DETAIL = range(3)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert isinstance(ended.value.code, int)
    printed = capsys.readouterr()
    return ended.value.code, printed.out, printed.err


def with_optimizer(backend: str, **values: Any) -> Callable[[pytest.MonkeyPatch], None]:
    module = TWINS[backend]

    def plant(monkeypatch: pytest.MonkeyPatch) -> None:
        original = of_pair(module, "make_optimizer")

        def make_optimizer(optimizer: Any, *rest: Any) -> Any:
            return original(replace(optimizer, **values), *rest)

        patch_pair(monkeypatch, module, "make_optimizer", make_optimizer)

    return plant


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Right traces of both twins, and wrong ones of each: nesterov where the recipe has none."""
    place = tmp_path_factory.mktemp("traces")
    for backend, module in TWINS.items():
        module.train(RECIPE, prepared(RECIPE)).save(place / f"{backend}.trace")
        with pytest.MonkeyPatch.context() as monkeypatch:
            with_optimizer(backend, nesterov=True)(monkeypatch)
            forget_compiled()
            module.train(RECIPE, prepared(RECIPE)).save(place / f"{backend}_wrong.trace")
            detailed = module.train(RECIPE, prepared(RECIPE), watch=Watch(detail=DETAIL))
            detailed.save(place / f"{backend}_detail.trace")
        forget_compiled()
    return place


def test_right_traces_differ_by_rounding(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "diagnose", f"{folder}/torch.trace", f"{folder}/jax.trace")
    assert code == 0
    assert "verdict: rounding" in out
    assert "First divergence" not in out


@pytest.mark.parametrize(("wrong", "right", "side"), [("torch", "jax", "a"), ("jax", "torch", "b")])
def test_the_wrong_side_and_its_cause_are_named(
    wrong: str, right: str, side: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    detailed = TWINS[right].train(RECIPE, prepared(RECIPE), watch=Watch(detail=DETAIL))
    detailed.save(folder / "right.trace")
    pair = [f"{folder}/{wrong}_detail.trace", f"{folder}/right.trace"]
    code, out, _ = run(capsys, "diagnose", *(pair if side == "a" else pair[::-1]))
    assert code == 1
    text = " ".join(out.split())
    assert "First divergence where update 0 stage update tensor update_norm" in text
    assert f"off {side}, and not {'b' if side == 'a' else 'a'}" in text
    assert f"cause {side} has optimizer.nesterov = true; the recipe says false" in text
    assert "read lockstep atlas nesterov-needs-its-flag" in text
    assert "of its elements beyond the bound" in text


def test_without_detail_it_says_what_to_record(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, "diagnose", f"{folder}/torch_wrong.trace", f"{folder}/jax.trace")
    assert code == 1
    assert "--replay, or record --detail 0:1" in " ".join(out.split())


def test_a_replay_gives_the_same_bits_and_measures_noise(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pair = f"{folder}/torch.trace", f"{folder}/jax_wrong.trace"
    code, out, _ = run(capsys, "diagnose", *pair, "--replay")
    assert code == 1
    assert "a: the same bits" in out
    assert "b: other bits: another code or environment" in out
    assert "a against itself with one thread: error / bound" in out
    assert "b against itself" not in out


@pytest.mark.parametrize("is_synchronised", [False, pytest.param(True, marks=pytest.mark.sweep)])
def test_traces_with_detail_are_replayed_and_keep_it(
    is_synchronised: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = prepared(RECIPE)
    for backend, module in TWINS.items():
        watch = Watch(detail=(5,), synchronise=states(RECIPE, data) if is_synchronised else None)
        module.train(RECIPE, data, watch=watch).save(tmp_path / f"{backend}.trace")
    pair = f"{tmp_path}/torch.trace", f"{tmp_path}/jax.trace"
    code, out, _ = run(capsys, "diagnose", *pair, "--replay")
    assert code == 0, out
    assert "a: the same bits" in out
    assert "b: the same bits" in out
    assert re.search(r"forward .* 5 ", out)


def test_a_run_that_went_on_from_a_checkpoint_is_not_replayed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = prepared(RECIPE)
    checkpoints: list[Checkpoint] = []
    watch = Watch(checkpoints=Checkpoints(3, "update", checkpoints.append))
    pt_impl.train.train(RECIPE, data, watch=watch)
    path = tmp_path / "rest.trace"
    pt_impl.train.train(RECIPE, data, watch=Watch(resume=checkpoints[0])).save(path)
    code, _, error = run(capsys, "diagnose", str(path), str(path), "--replay")
    assert code == 2
    assert "a goes on from update 3, of a checkpoint" in error


def test_junit_holds_the_divergence(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "found.xml"
    pair = f"{folder}/torch.trace", f"{folder}/jax_wrong.trace"
    assert run(capsys, "diagnose", *pair, "--junit", str(out))[0] == 1
    assert any(case.find("failure") is not None for case in ElementTree.parse(out).iter("testcase"))


def test_bad_input_is_one_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch = folder / "torch.trace"
    cut = tmp_path / "cut.trace"
    cut.write_bytes(torch.read_bytes()[:-100])
    TWINS["torch"].train(F64, prepared(F64)).save(tmp_path / "other.trace")
    for other, message in (
        (cut, "perhaps truncated"),
        (tmp_path / "none", "cannot be read"),
        (tmp_path / "other.trace", "different recipes: training.dtype"),
    ):
        code, _, error = run(capsys, "diagnose", str(torch), str(other))
        assert code == 2
        assert message in error
        assert error.count("\n") == 1
        assert run(capsys, "diagnose", str(torch), str(torch), "--oracle", str(other))[0] == 2


def changed(trace: Trace, name: str, change: Callable[[Any], Any], **header: Any) -> Trace:
    arrays = dict(trace.arrays)
    arrays[name] = change(arrays[name].copy())
    return Trace({**trace.header, "backend": "torch", **header}, arrays)


def test_both_sides_can_be_off() -> None:
    truth = oracle_trace(F64)
    a = changed(truth, "updates/loss", lambda loss_T: loss_T + 1e-3)
    b = changed(truth, "updates/loss", lambda loss_T: loss_T - 1e-3)
    diagnosis = diagnose(a, b, truth)
    assert diagnosis.off == "both"
    assert diagnosis.distances is not None
    assert min(diagnosis.distances) > 1


def test_two_sides_that_are_wrong_alike_diverge() -> None:
    truth = oracle_trace(F64)

    def more_from_3_on(loss_T: Any) -> Any:
        loss_T[3:] *= 1.5
        return loss_T

    a = changed(truth, "updates/loss", more_from_3_on)
    close = changed(a, "updates/grad_norm", lambda norm_T: norm_T * (1 + 1e-16))
    for pair in ((a, a), (a, close)):
        diagnosis = diagnose(*pair, truth)
        assert diagnosis.comparison.verdict in ("identical", "rounding")
        assert (diagnosis.verdict, diagnosis.off) == ("diverged", "both")
        assert diagnosis.first is not None
        assert (diagnosis.first.update, diagnosis.first.stage) == (3, "loss")
        assert diagnosis.first.a == diagnosis.first.b == a.series("loss")[3]
        assert diagnosis.truth == truth.series("loss")[3]
        assert diagnosis.deciding[0] == ("a", "oracle")


def test_one_side_that_is_nearer_to_the_other_than_to_the_truth_diverges() -> None:
    truth = oracle_trace(RECIPE)
    bound_T = (bounds_of(truth) or {})["updates/loss"]
    near = changed(truth, "updates/loss", lambda loss_T: loss_T + 0.5 * bound_T)
    far = changed(truth, "updates/loss", lambda loss_T: loss_T + 1.5 * bound_T)
    for pair, off in (((far, near), "a"), ((near, far), "b")):
        diagnosis = diagnose(*pair, truth)
        assert (diagnosis.comparison.verdict, diagnosis.verdict, diagnosis.off) == (
            "rounding",
            "diverged",
            off,
        )
    # where one side is the oracle, nothing else is left to hold it against
    assert diagnose(far, truth, truth).against == {}


@pytest.mark.parametrize("option", [[], ["--replay"]], ids=["", "replayed"])
def test_a_knob_that_both_twins_have_wrong_is_named(
    option: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for backend, module in TWINS.items():
        with_optimizer(backend, momentum=0.8)(monkeypatch)
        forget_compiled()
        trace = module.train(F64, prepared(F64), watch=Watch(detail=DETAIL))
        trace.save(tmp_path / f"{backend}.trace")
    forget_compiled()
    junit = tmp_path / "found.xml"
    pair = f"{tmp_path}/torch.trace", f"{tmp_path}/jax.trace"
    code, out, _ = run(capsys, "diagnose", *pair, "--junit", str(junit), *option)
    text = " ".join(out.split())
    assert code == 1, out
    assert "off both a and b: neither does what the recipe says" in text
    assert "cause a has optimizer.momentum = 0.8; the recipe says 0.9; likewise b" in text
    assert "a against oracle" in text
    assert "verdict: diverged" in text
    suite = ElementTree.parse(junit).find("testsuite")
    assert suite is not None
    assert suite.get("name") == f"{pair[0]} against oracle"
    assert suite.get("failures") != "0"


def test_as_near_to_the_truth_as_each_other() -> None:
    recipe = small_recipe()
    truth = oracle_trace(recipe)
    bound_T = (bounds_of(truth) or {})["updates/loss"]
    up = changed(truth, "updates/loss", lambda loss_T: loss_T + 0.9 * bound_T)
    down = changed(truth, "updates/loss", lambda loss_T: loss_T - 0.9 * bound_T)
    assert diagnose(up, down, truth).verdict == "rounding"  # each may stray by its own bound
    far = changed(truth, "updates/loss", lambda loss_T: loss_T + 1.3 * bound_T)
    diagnosis = diagnose(far, down, truth)
    assert (diagnosis.verdict, diagnosis.off) == ("diverged", "a")


def test_the_horizon_is_where_bounds_let_anything_pass() -> None:
    truth = oracle_trace(F64)
    assert diagnose(truth, truth, truth).horizon is None
    wide = truth.arrays["bounds/updates/loss"].copy()
    wide[7:] = 0.06 * truth.arrays["updates/loss"][7:]  # twice that is more than a tenth
    loose = Trace(truth.header, truth.arrays | {"bounds/updates/loss": wide})
    assert diagnose(loose, loose, loose).horizon == 7


def test_unequal_settings_are_named() -> None:
    truth = oracle_trace(F64)
    environment = truth.header["environment"]
    a = Trace(truth.header | {"environment": environment | {"threads": 1}}, truth.arrays)
    b = Trace(truth.header | {"environment": environment | {"threads": 2}}, truth.arrays)
    assert [tuple(setting) for setting in unequal_settings(a, b)] == [("threads", 1, 2)]
    a = Trace(truth.header | {"settings": {"optimizer": {"lr": 1}}}, truth.arrays)
    b = Trace(truth.header | {"settings": {}}, truth.arrays)
    assert [tuple(setting) for setting in unequal_settings(a, b)] == [("optimizer.lr", 1, None)]


def test_a_side_that_differs_from_itself_is_told() -> None:
    truth = oracle_trace(F64)
    again = changed(truth, "updates/loss", lambda loss_T: loss_T * (1 + 1e-6))
    diagnosis = diagnose(truth, truth, truth, reruns={"a": [again], "b": [truth]})
    assert diagnosis.noise is not None
    assert diagnosis.noise["b"] == 0
    assert diagnosis.noise["a"] > 1


def test_not_a_number_is_reported_where_it_begins() -> None:
    truth = oracle_trace(F64)

    def broken(loss_T: Any) -> Any:
        loss_T[5:] = np.nan
        return loss_T

    diagnosis = diagnose(changed(truth, "updates/loss", broken), truth, truth)
    assert diagnosis.first is not None
    assert (diagnosis.first.update, diagnosis.first.stage) == (5, "loss")
    assert diagnosis.cause is not None
    assert (diagnosis.cause.key, diagnosis.cause.side) == ("not-a-number", "a")


def recipe_of(**values: Any) -> Recipe:
    return F64.with_values({name.replace("__", "."): value for name, value in values.items()})


@pytest.mark.parametrize("backend", TWINS)
def test_within_an_update_layers_go_forward_and_gradients_backward(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = TWINS[backend]
    original = module.load_batches
    recipe = recipe_of()
    data = prepare(recipe)

    def load_scaled(data: PreparedData, *rest: Any, **options: Any) -> Any:
        return original(replace(data, train_x_ND=data.train_x_ND * 1.01), *rest, **options)

    monkeypatch.setattr(module, "load_batches", load_scaled)
    trace = module.train(recipe, data, watch=Watch(detail=DETAIL))
    truth = train_oracle(recipe, data, watch=Watch(detail=DETAIL))
    diagnosis = diagnose(trace, truth, truth)
    assert diagnosis.first is not None
    assert (diagnosis.first.update, diagnosis.first.stage, diagnosis.first.tensor) == (
        0,
        "batch",
        "x",
    )
    parted = [difference for difference in diagnosis.comparison.parted if difference.update == 0]
    forward = [difference.tensor for difference in parted if difference.stage == "forward"]
    assert forward == ["linear1", "relu1", "linear2", "relu2", "linear3"]
    gradients = [difference.tensor for difference in parted if difference.stage == "gradients"]
    layers = [tensor.partition(".")[0] for tensor in gradients]
    assert layers == ["linear3", "linear3", "linear2", "linear2", "linear1", "linear1", "grad_norm"]


def test_the_oracle_is_trained_with_all_that_the_traces_hold() -> None:
    recipe = recipe_of()
    a = pt_impl.train.train(recipe, prepared(recipe), watch=Watch(detail=(1,), parameters_every=2))
    b = jax_impl.train.train(recipe, prepared(recipe), watch=Watch(detail=(4,)))
    truth = truth_of(a, b, prepared(recipe))
    assert truth.header["detail"] == [1, 4]
    assert set(a.recorded_updates) | set(b.recorded_updates) <= set(truth.recorded_updates)


def test_it_fits_80_columns(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = Trace.load(folder / "torch_detail.trace"), Trace.load(folder / "jax.trace")
    diagnosis = diagnose(a, b, oracle_trace(RECIPE))
    print_diagnosis(diagnosis, ("a.trace", "b.trace"), make_console(), replayed={"a": True})
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
