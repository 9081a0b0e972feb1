"""The diagnosis: which update, stage and tensor part first, who is off, and why; through the
command.
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
        patch_pair(
            monkeypatch,
            module,
            "make_optimizer",
            lambda o, *rest: original(replace(o, **values), *rest),
        )

    return plant


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Right traces of both twins, and of each a wrong one: nesterov where the recipe has none."""
    place = tmp_path_factory.mktemp("traces")
    for backend, module in TWINS.items():
        module.train(RECIPE, prepared(RECIPE)).save(place / f"{backend}.trace")
        with pytest.MonkeyPatch.context() as monkeypatch:
            with_optimizer(backend, nesterov=True)(monkeypatch)
            forget_compiled()
            module.train(RECIPE, prepared(RECIPE)).save(place / f"{backend}_wrong.trace")
            module.train(RECIPE, prepared(RECIPE), watch=Watch(detail=DETAIL)).save(
                place / f"{backend}_detail.trace"
            )
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
    told = " ".join(out.split())
    assert "First divergence where update 0 stage update tensor update_norm" in told
    assert f"off {side}, and not {'b' if side == 'a' else 'a'}" in told
    assert f"cause {side} has optimizer.nesterov = true; the recipe says false" in told
    assert "read lockstep atlas nesterov-needs-its-flag" in told
    assert "of its elements beyond the bound" in told


def test_without_detail_it_says_what_to_record(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, "diagnose", f"{folder}/torch_wrong.trace", f"{folder}/jax.trace")
    assert code == 1
    assert "--replay, or record --detail 0:1" in " ".join(out.split())


def test_a_replay_gives_the_same_bits_and_measures_noise(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(
        capsys, "diagnose", f"{folder}/torch.trace", f"{folder}/jax_wrong.trace", "--replay"
    )
    assert code == 1
    assert "a: the same bits" in out
    assert "b: other bits: another code or environment" in out
    assert "a against itself with one thread: error / bound" in out
    assert "b against itself" not in out


@pytest.mark.parametrize("is_synchronised", [False, True])
def test_traces_with_detail_are_replayed_and_keep_it(
    is_synchronised: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = prepared(RECIPE)
    for backend, module in TWINS.items():
        given = states(RECIPE, data) if is_synchronised else None
        module.train(RECIPE, data, watch=Watch(detail=(5,), synchronise=given)).save(
            tmp_path / f"{backend}.trace"
        )
    code, out, _ = run(
        capsys, "diagnose", f"{tmp_path}/torch.trace", f"{tmp_path}/jax.trace", "--replay"
    )
    assert code == 0, out
    assert "a: the same bits" in out
    assert "b: the same bits" in out
    assert re.search(r"forward .* 5 ", out)


def test_a_run_that_went_on_from_a_checkpoint_is_not_replayed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, taken = prepared(RECIPE), list[Checkpoint]()
    pt_impl.train.train(
        RECIPE, data, watch=Watch(checkpoints=Checkpoints(3, "update", taken.append))
    )
    path = tmp_path / "rest.trace"
    pt_impl.train.train(RECIPE, data, watch=Watch(resume=taken[0])).save(path)
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
    for other, said in (
        (cut, "perhaps truncated"),
        (tmp_path / "none", "cannot be read"),
        (tmp_path / "other.trace", "different recipes: training.dtype"),
    ):
        code, _, error = run(capsys, "diagnose", str(torch), str(other))
        assert code == 2
        assert said in error
        assert error.count("\n") == 1
        assert run(capsys, "diagnose", str(torch), str(torch), "--oracle", str(other))[0] == 2


def changed(trace: Trace, name: str, change: Callable[[Any], Any], **header: Any) -> Trace:
    arrays = dict(trace.arrays)
    arrays[name] = change(arrays[name].copy())
    return Trace({**trace.header, "backend": "torch", **header}, arrays)


def test_both_sides_can_be_off() -> None:
    truth = oracle_trace(F64)
    a, b = (
        changed(truth, "updates/loss", lambda loss_T, by=by: loss_T + by) for by in (1e-3, -1e-3)
    )
    found = diagnose(a, b, truth)
    assert found.off == "both"
    assert found.distances is not None
    assert min(found.distances) > 1


def test_two_sides_that_are_wrong_alike_diverge() -> None:
    truth = oracle_trace(F64)
    a = changed(
        truth, "updates/loss", lambda loss_T: loss_T * np.where(np.arange(len(loss_T)) < 3, 1, 1.5)
    )
    for pair in ((a, a), (a, changed(a, "updates/grad_norm", lambda norm_T: norm_T * (1 + 1e-16)))):
        found = diagnose(*pair, truth)
        assert found.comparison.verdict in ("identical", "rounding")
        assert (found.verdict, found.off) == ("diverged", "both")
        assert found.first is not None
        assert (found.first.update, found.first.stage) == (3, "loss")
        assert found.first.a == found.first.b == a.series("loss")[3]
        assert found.truth == truth.series("loss")[3]
        assert found.deciding[0] == ("a", "oracle")


def test_one_side_that_is_nearer_to_the_other_than_to_the_truth_diverges() -> None:
    truth = oracle_trace(RECIPE)
    bound_T = (bounds_of(truth) or {})["updates/loss"]
    near, far = (
        changed(truth, "updates/loss", lambda loss_T, s=s: loss_T + s * bound_T) for s in (0.5, 1.5)
    )
    for pair, off in (((far, near), "a"), ((near, far), "b")):
        found = diagnose(*pair, truth)
        assert (found.comparison.verdict, found.verdict, found.off) == ("rounding", "diverged", off)
    # where one is the oracle there is nobody else to hold it against
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
        module.train(F64, prepared(F64), watch=Watch(detail=DETAIL)).save(
            tmp_path / f"{backend}.trace"
        )
    forget_compiled()
    junit = tmp_path / "found.xml"
    pair = f"{tmp_path}/torch.trace", f"{tmp_path}/jax.trace"
    code, out, _ = run(capsys, "diagnose", *pair, "--junit", str(junit), *option)
    told = " ".join(out.split())
    assert code == 1, out
    assert "off both a and b: neither does what the recipe says" in told
    assert "cause a has optimizer.momentum = 0.8; the recipe says 0.9; likewise b" in told
    assert "a against oracle" in told
    assert "verdict: diverged" in told
    suite = ElementTree.parse(junit).find("testsuite")
    assert suite is not None
    assert suite.get("name") == f"{pair[0]} against oracle"
    assert suite.get("failures") != "0"


def test_as_near_to_the_truth_as_each_other() -> None:
    recipe = small_recipe()
    truth = oracle_trace(recipe)
    bounds = bounds_of(truth) or {}
    up, down = (
        changed(truth, "updates/loss", lambda loss_T, s=s: loss_T + s * bounds["updates/loss"])
        for s in (0.9, -0.9)
    )
    assert diagnose(up, down, truth).verdict == "rounding"  # each may stray by its own bound
    far = changed(truth, "updates/loss", lambda loss_T: loss_T + 1.3 * bounds["updates/loss"])
    found = diagnose(far, down, truth)
    assert (found.verdict, found.off) == ("diverged", "a")


def test_the_horizon_is_where_bounds_let_anything_pass() -> None:
    truth = oracle_trace(F64)
    assert diagnose(truth, truth, truth).horizon is None
    wide = truth.arrays["bounds/updates/loss"].copy()
    wide[7:] = 0.06 * truth.arrays["updates/loss"][7:]  # twice that is more than a tenth
    loose = Trace(truth.header, truth.arrays | {"bounds/updates/loss": wide})
    assert diagnose(loose, loose, loose).horizon == 7


def test_unequal_settings_are_named() -> None:
    truth = oracle_trace(F64)
    a, b = (
        Trace(
            {**truth.header, "environment": truth.header["environment"] | {"threads": n}},
            truth.arrays,
        )
        for n in (1, 2)
    )
    assert [tuple(setting) for setting in unequal_settings(a, b)] == [("threads", 1, 2)]
    c, d = (
        Trace({**truth.header, "settings": s}, truth.arrays) for s in ({"optimizer": {"lr": 1}}, {})
    )
    assert [tuple(setting) for setting in unequal_settings(c, d)] == [("optimizer.lr", 1, None)]


def test_a_side_that_differs_from_itself_is_told() -> None:
    truth = oracle_trace(F64)
    again = changed(truth, "updates/loss", lambda loss_T: loss_T * (1 + 1e-6))
    found = diagnose(truth, truth, truth, reruns={"a": [again], "b": [truth]})
    assert found.noise is not None
    assert found.noise["b"] == 0
    assert found.noise["a"] > 1


def test_not_a_number_is_reported_where_it_begins() -> None:
    truth = oracle_trace(F64)

    def broken(loss_T: Any) -> Any:
        loss_T[5:] = np.nan
        return loss_T

    found = diagnose(changed(truth, "updates/loss", broken), truth, truth)
    assert found.first is not None
    assert (found.first.update, found.first.stage) == (5, "loss")
    assert found.cause is not None
    assert (found.cause.key, found.cause.side) == ("not-a-number", "a")


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
    found = diagnose(trace, truth, truth)
    assert found.first is not None
    assert (found.first.update, found.first.stage, found.first.tensor) == (0, "batch", "x")
    now = [d for d in found.comparison.parted if d.update == 0]
    assert [d.tensor for d in now if d.stage == "forward"] == [
        "linear1",
        "relu1",
        "linear2",
        "relu2",
        "linear3",
    ]
    layers = [d.tensor.partition(".")[0] for d in now if d.stage == "gradients"]
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
    print_diagnosis(
        diagnose(a, b, oracle_trace(RECIPE)),
        ("a.trace", "b.trace"),
        make_console(),
        replayed={"a": True},
    )
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
