"""Convergence over many seeds: the verdicts and their rates, the frameworks' own draws, and the
command line.
"""

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

import jax_impl.io.draws
import pt_impl.fast.ensemble
import pt_impl.fast.train
import pt_impl.io.draws
from lockstep.cli import main
from lockstep.commands.options import member_trainer
from lockstep.data_prep import PreparedData, draw_member
from lockstep.recipe import Recipe, load_recipe, ready_made_recipes
from lockstep.records.ensemble import Ensemble
from lockstep.studies.converge import study
from lockstep.studies.converge.controls import Control, controls
from lockstep.studies.converge.judge import RESAMPLES, Judgement, judge, overall
from lockstep.studies.converge.measure import bands, measure, reached
from parity_tests.shared.recipes import prepared, small_recipe
from parity_tests.shared.sweep import sweep_but

DRAWS: dict[str, Callable[[Recipe, PreparedData, int], PreparedData]] = {
    "torch": pt_impl.io.draws.draw_member,
    "jax": jax_impl.io.draws.draw_member,
    "shared": draw_member,
}


def judged(a: Any, b: Any, margin: float = 1.0, **options: Any) -> Judgement:
    options = {"alpha": 0.05, "power": 0.9} | options
    return judge("loss", np.asarray(a), np.asarray(b), margin, **options)


# --- the verdict


def test_the_tests_are_those_of_scipy() -> None:
    generator = np.random.default_rng(1)
    a, b = generator.normal(0, 1, 20), generator.normal(0.3, 2, 20)
    judgement = judged(a, b)
    welch = stats.ttest_ind(b, a, equal_var=False)
    low = stats.ttest_ind(b + 1, a, equal_var=False, alternative="greater").pvalue
    high = stats.ttest_ind(b - 1, a, equal_var=False, alternative="less").pvalue
    assert judgement.p_equivalent == pytest.approx(max(low, high), rel=1e-9)
    assert judgement.p_different == pytest.approx(min(1 - low, 1 - high), rel=1e-9)
    assert judgement.interval == pytest.approx(tuple(welch.confidence_interval(0.9)), rel=1e-9)
    paired = judged(a, b, paired=True)
    expected = stats.ttest_rel(b, a)
    assert paired.interval == pytest.approx(tuple(expected.confidence_interval(0.9)), rel=1e-9)
    resampled = stats.bootstrap(
        (b - a,),
        np.mean,
        confidence_level=0.9,
        n_resamples=RESAMPLES,
        method="percentile",
        rng=np.random.default_rng(1),
    )
    # a quantile q of n draws varies by sqrt(q (1 - q) / n) over the density there: 0.012 each, and
    # 0.017 for two; four times that is allowed
    density = stats.norm.pdf(stats.norm.ppf(0.05)) / stats.sem(b - a)
    atol = 4 * np.sqrt(2 * 0.05 * 0.95 / RESAMPLES) / density
    np.testing.assert_allclose(paired.bootstrap, resampled.confidence_interval, rtol=0, atol=atol)


@pytest.mark.parametrize(
    ("shift", "spread", "word"),
    [
        (0.0, 0.3, "equivalent"),
        (3.0, 0.3, "different"),
        (-3.0, 0.3, "different"),
        (0.9, 2.0, "inconclusive"),
    ],
)
def test_each_verdict_is_reached(shift: float, spread: float, word: str) -> None:
    a, b = np.random.default_rng(0).normal(0, spread, (2, 40))
    assert judged(a, b + shift).word == word
    assert judged(a, b + shift, paired=True).word == word


def test_what_does_not_vary_or_is_not_finite() -> None:
    same = np.full(5, 2.0)
    assert judged(same, same).word == "equivalent"
    assert judged(same, same + 2).word == "different"
    assert judged(same, same + 1).word == "inconclusive"  # on the margin
    broken = judged(same, np.array([1.0, 2.0, 3.0, np.nan, 2.0]))
    assert (broken.word, broken.p_equivalent) == ("inconclusive", 1.0)


def test_the_whole_is_different_where_one_is_and_equivalent_where_all_are() -> None:
    equal, other = judged([0.0, 0.1], [0.0, 0.1], 9.0), judged([0.0, 0.1], [5.0, 5.1])
    unclear = replace(equal, word="inconclusive")
    assert overall([equal, equal]) == "equivalent"
    assert overall([equal, unclear]) == "inconclusive"
    assert overall([equal, unclear, other]) == "different"


RUNS, SEEDS = 300, 24


def rates(shift: float, margin: float, **options: Any) -> dict[str, float]:
    """How often each verdict is reached where the true difference is `shift`."""
    words = []
    for run in range(RUNS):
        a, b = np.random.default_rng(run).normal(0, 1, (2, SEEDS))
        words.append(judged(a, b + shift, margin, **options).word)
    return {word: words.count(word) / RUNS for word in ("equivalent", "different", "inconclusive")}


def test_false_verdicts_at_the_edge_of_the_margin_have_the_declared_rate(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("lockstep.studies.converge.judge.RESAMPLES", 500)
    shares = rates(1.5, 1.5)
    least, most = stats.binom.interval(0.999, RUNS, 0.05)
    # the bootstrap is asked beside the tests, and makes both a little rarer
    assert 0.5 * least <= RUNS * shares["equivalent"] <= most
    assert 0.5 * least <= RUNS * shares["different"] <= most
    assert rates(0.0, 1.5)["different"] == 0


def test_the_power_is_that_of_a_simulation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lockstep.studies.converge.judge.RESAMPLES", 500)
    samples = np.random.default_rng(3).normal(0, 1, (2, SEEDS))
    # of the very spread that is simulated
    deviations = samples.std(axis=1, ddof=1, keepdims=True)
    a, b = (samples - samples.mean(axis=1, keepdims=True)) / deviations
    power = judged(a, b).power
    assert rates(0.0, 1.0)["equivalent"] == pytest.approx(power.equivalent, abs=0.08)
    assert rates(2.0, 1.0)["different"] == pytest.approx(power.different, abs=0.08)
    assert rates(power.smallest, 1.0)["different"] == pytest.approx(0.9, abs=0.08)


# --- what is measured


def ensemble(loss: Any, accuracy: Any = None, **header: Any) -> Ensemble:
    loss_SE = np.asarray(loss, np.float64)
    accuracy_SE = 1 - loss_SE if accuracy is None else np.asarray(accuracy)
    updates = 10 * loss_SE.shape[1]
    position = {"updates": updates, "updates_per_epoch": 10}
    header = {"backend": "torch", "environment": {}} | position | header
    held_out = {"loss": loss_SE, "accuracy": accuracy_SE}
    return Ensemble(header, np.ones(updates), np.repeat(loss_SE, 10, axis=1), held_out, {})


def test_updates_to_the_target_are_read_between_epochs() -> None:
    recipe = small_recipe(convergence__target=0.5)
    members = ensemble([[0.9, 0.7, 0.3], [0.4, 0.6, 0.3], [0.9, 0.8, 0.7], [0.9, 0.5, 0.6]])
    np.testing.assert_allclose(measure(recipe, members)["updates"], [25, 10, 30, 20])
    np.testing.assert_array_equal(measure(recipe, members)["loss"], [0.3, 0.3, 0.7, 0.6])
    assert reached(recipe, members) == 0.75
    band = bands(recipe, members)["loss"]
    np.testing.assert_allclose(band.median, np.median(members.held_out["loss"], axis=0))
    assert bands(recipe, members)["batch"].x.tolist() == list(range(30))


# --- the frameworks' own draws


SLOW = ("xavier_uniform", "xavier_normal", "kaiming_uniform", "zeros")


QUICK = ("torch", "flax", "kaiming_normal", "orthogonal")


@pytest.mark.parametrize("init", sweep_but(QUICK, (*QUICK, *SLOW)))
def test_own_initialisers_have_the_distribution_of_the_shared_ones(init: str) -> None:
    recipe = small_recipe(model__init=init, model__hidden=(40,))
    data = prepared(recipe)
    drawn: dict[str, dict[str, Any]] = {source: {} for source in DRAWS}
    for source, draw in DRAWS.items():
        members = [draw(recipe, data, seed).parameters for seed in range(12)]
        assert members[0].keys() == data.parameters.keys()
        for name, array in data.parameters.items():
            assert members[0][name].shape == array.shape
            drawn[source][name] = np.concatenate([member[name].ravel() for member in members])
    for name in ("linear1.weight", "linear2.weight", "linear1.bias"):
        for source in ("torch", "jax"):
            values, expected = drawn[source][name], drawn["shared"][name]
            if not expected.any():
                assert not values.any()
                continue
            assert stats.ks_2samp(values, expected).pvalue > 1e-3, (source, name)
            assert values.std() == pytest.approx(expected.std(), rel=0.06)
    if init == "zeros":
        return
    # a fault of this size shows
    other = drawn["torch"]["linear2.weight"] * 1.6
    assert stats.ks_2samp(other, drawn["shared"]["linear2.weight"]).pvalue < 1e-3


@pytest.mark.parametrize("source", DRAWS)
def test_orders_and_masks_are_drawn_anew(source: str) -> None:
    recipe = small_recipe(model__dropout=0.3)
    data = prepared(recipe)
    one, again, other = (DRAWS[source](recipe, data, seed) for seed in (5, 5, 6))
    assert one.hash == again.hash != other.hash
    orders = [one.order(0), one.order(1), other.order(0)]
    assert len({order.tobytes() for order in orders}) == 3
    for order in orders:
        assert sorted(order) == list(range(90))
    masks = [one.masks(0), one.masks(1), other.masks(0)]
    assert [mask.shape for mask in masks[0]] == [(3, 32, 6), (3, 32, 5)]
    assert len({mask[0].tobytes() for mask in masks}) == 3
    shares = [mask.mean() for drawn in masks for mask in drawn]
    assert np.mean(shares) == pytest.approx(0.7, abs=0.03)


def test_a_member_of_own_draws_is_what_it_is_alone() -> None:
    recipe = small_recipe(model__dropout=0.2, training__dtype="float64")
    members = [DRAWS["torch"](recipe, prepared(recipe), seed) for seed in range(3)]
    ensemble = pt_impl.fast.ensemble.train_ensemble(recipe, members)
    alone = pt_impl.fast.train.train(recipe, members[2])
    np.testing.assert_allclose(ensemble.loss_ST[2], alone.series("loss"), rtol=1e-11)


def test_plain_trains_members_one_after_another() -> None:
    recipe = small_recipe(training__epochs=2, schedule__warmup=1)
    data = prepared(recipe)
    options: dict[str, Any] = {"seeds": range(2), "own": False, "device": "cpu", "progress": None}
    plain = member_trainer("torch", "plain")(recipe, data, **options)
    together = member_trainer("torch", "auto")(recipe, data, **options)
    assert plain.header["reason"] == "--engine plain"
    np.testing.assert_allclose(plain.loss_ST, together.loss_ST, rtol=1e-4)


# --- the command


DECLARED = {
    "convergence.target": 0.9,
    "convergence.loss_margin": 0.05,
    "convergence.score_margin": 0.05,
    "convergence.updates_margin": 2.0,
    "convergence.paired_loss_margin": 0.01,
    "convergence.paired_score_margin": 0.01,
    "convergence.paired_updates_margin": 2.0,
}


def recipe_file(folder: Path, **values: Any) -> Path:
    """A file with a small recipe and its declared margins."""
    declared = DECLARED | {name.replace("__", "."): value for name, value in values.items()}
    path = folder / "small.toml"
    path.write_text(small_recipe().with_values(declared).to_toml())
    return path


def run(*arguments: Any) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in ("converge", *arguments)])
    assert isinstance(ended.value.code, int)
    return ended.value.code


def in_place_of_training(
    shift: float, spread: float, trained_keys: list[study.Key]
) -> Callable[..., dict[study.Key, Any]]:
    """Draw ensembles at random. Those of jax end higher by `shift`, and those of another recipe by
    1 more.
    """

    def train(jobs: study.SetUps, *_: Any) -> Mapping[study.Key, Ensemble]:
        right = next(iter(jobs.values()))[0]
        trained_keys.extend(jobs)
        trained = {}
        for i, (key, (recipe, (begin, end), own)) in enumerate(jobs.items()):
            generator = np.random.default_rng((begin, i) if own else (begin,))
            loss_SE = np.linspace(1.2, 0.6, 4) + generator.normal(0, spread, (end - begin, 4))
            study_name, backend = key
            if backend == "jax" and not study_name.startswith("repeat"):
                loss_SE += shift
            if recipe != right:
                loss_SE += 1
            trained[key] = ensemble(loss_SE, backend=backend)
        return trained

    return train


@pytest.mark.parametrize(
    ("shift", "spread", "word", "code"),
    [(0.0, 0.02, "equivalent", 0), (0.4, 0.02, "different", 1), (0.0, 0.6, "inconclusive", 3)],
)
def test_the_exit_status_is_the_verdict(
    shift: float,
    spread: float,
    word: str,
    code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
) -> None:
    trained_keys: list[study.Key] = []
    monkeypatch.setattr(study, "_train", in_place_of_training(shift, spread, trained_keys))
    out, path = tmp_path / "study", recipe_file(tmp_path)
    assert run(path, "--seeds", 12, "--controls", "--repeat", 4, "--out", out) == code
    text = capsys.readouterr().out
    assert f"verdict: {word}" in text
    assert all(len(line) <= 80 for line in text.splitlines() if str(tmp_path) not in line)
    assert "4 studies of a framework against itself" in text
    assert json.loads((out / "study.json").read_text())["verdict"] == word
    assert sum(key[0].startswith("repeat") for key in trained_keys) == 8
    assert not list(out.glob("repeat*"))


def test_a_control_that_is_not_found_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unplanted(recipe: Recipe) -> list[Control]:
        rate, *others = controls(recipe)
        assert rate.key == "rate"
        return [replace(rate, recipe=recipe), *others]

    monkeypatch.setattr(study, "controls", unplanted)
    monkeypatch.setattr(study, "_train", in_place_of_training(0.0, 0.02, []))
    assert run(recipe_file(tmp_path), "--seeds", 12, "--controls", "--out", tmp_path / "study") == 1
    results = json.loads((tmp_path / "study" / "study.json").read_text())
    assert results["verdict"] == "equivalent"
    verdicts = {text: control["verdict"] for text, control in results["controls"].items()}
    assert verdicts.pop("learning rate 5 % too high") == "equivalent"
    assert set(verdicts.values()) == {"different"}


def test_both_frameworks_are_trained_and_judged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # short runs of few seeds: wide margins where each draws by itself, narrow ones for pairs
    path = recipe_file(
        tmp_path,
        convergence__loss_margin=0.9,
        convergence__score_margin=0.9,
        convergence__updates_margin=9.0,
        convergence__paired_loss_margin=1e-4,
        model__hidden=(5,),
        data__rows=64,
        training__epochs=3,
    )
    out, png = tmp_path / "study", tmp_path / "curves.png"
    assert run(path, "--seeds", 6, "--controls", "--out", out, "--png", png) == 1
    text = capsys.readouterr().out
    assert "verdict: equivalent" in text
    # few seeds: pairs show what changes each of them alike, but not another initialisation
    assert "Controls that are not found different: flax initialisation instead of torch." in text
    results = json.loads((out / "study.json").read_text())
    verdicts = {text: control["verdict"] for text, control in results["controls"].items()}
    assert len(verdicts) == 3
    assert verdicts["learning rate 5 % too high"] == "different"
    assert verdicts["momentum 0.88 instead of 0.9"] == "different"
    torch = Ensemble.load(out / "shared.torch.ensemble")
    jax = Ensemble.load(out / "shared.jax.ensemble")
    assert np.abs(torch.loss_ST - jax.loss_ST).max() < 1e-5
    assert torch.lr_T.tobytes() == jax.lr_T.tobytes()
    torch = Ensemble.load(out / "own.torch.ensemble")
    jax = Ensemble.load(out / "own.jax.ensemble")
    assert np.abs(torch.loss_ST[:, 0] - jax.loss_ST[:, 0]).max() > 1e-3
    page = (out / "report.html").read_text()
    assert "learning rate 5 % too high" in page
    assert not re.search(r"<(script|link|img)[^>]*\s(src|href)=", page)
    assert png.read_bytes().startswith(b"\x89PNG")


def test_a_pilot_proposes_what_a_recipe_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(study, "_train", in_place_of_training(0.0, 0.05, []))
    assert run(recipe_file(tmp_path), "--seeds", 16, "--pilot") == 0
    proposed = "[convergence]" + capsys.readouterr().out.partition("[convergence]")[2]
    path = tmp_path / "declared.toml"
    path.write_text(proposed)
    declared = load_recipe(str(path)).convergence
    # half of what each other recipe changes, and half-way to the end
    assert declared.paired_loss_margin == pytest.approx(0.5, abs=0.02)
    assert declared.target == pytest.approx(0.9, abs=0.06)


def test_a_picture_that_cannot_be_drawn_is_refused_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trained: list[study.Key] = []
    monkeypatch.setattr(study, "_train", in_place_of_training(0.0, 0.02, trained))
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    out, path = tmp_path / "study", recipe_file(tmp_path)
    assert run(path, "--seeds", 12, "--out", out, "--png", tmp_path / "curves.png") == 2
    assert capsys.readouterr().err.startswith("lockstep: --png: needs the package matplotlib")
    assert not trained
    assert not out.exists()


@pytest.mark.parametrize("ended_by", ["SIGTERM", "SIGKILL"])
def test_a_study_that_is_ended_leaves_no_worker_and_no_folder(
    tmp_path: Path, ended_by: str
) -> None:
    path = recipe_file(tmp_path, training__epochs=5000)
    command = [sys.executable, "-m", "lockstep", "converge", str(path), "--seeds", "64"]
    command += ["--out", str(tmp_path / "out")]
    pipe, nowhere = subprocess.PIPE, subprocess.DEVNULL
    with subprocess.Popen(command, stderr=pipe, stdout=nowhere, text=True) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        if not children.exists():
            process.kill()
            pytest.skip("only Linux says who a process's children are")
        while len(workers := children.read_text().split()) < 2:
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.Signals[ended_by])
        _, error = process.communicate()
    if ended_by == "SIGTERM":
        assert process.returncode == 130
        assert error.strip().endswith("lockstep: stopped")
    deadline = time.monotonic() + 60
    while left := [worker for worker in workers if runs(worker)]:
        assert time.monotonic() < deadline, f"still running: {left}"
        time.sleep(0.05)
    assert not (tmp_path / "out").exists()


def runs(process: str) -> bool:
    """Whether a process is there and has not ended. One that ended may wait for its parent."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


@pytest.mark.parametrize("name", ready_made_recipes())
def test_ready_made_recipes_declare_their_margins(name: str) -> None:
    recipe = load_recipe(name)
    assert all(getattr(recipe.convergence, field) > 0 for field in vars(recipe.convergence))
    assert [control.key for control in controls(recipe)] == ["rate", "momentum", "init"]
    assert all(control.recipe.hash != recipe.hash for control in controls(recipe))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nothing",), "no such recipe file"),
        (("--seeds", 1), "Invalid value for '--seeds'"),
        (
            ("--set", "convergence.loss_margin=0"),
            "convergence.loss_margin: not declared; lockstep converge --pilot",
        ),
        (
            ("--set", "convergence.loss_margin=-1"),
            "convergence.loss_margin: input should be greater",
        ),
        (("--out", "."), "--out .: exists already"),
        (("--png", "curves.svg"), "--png curves.svg: must end in .png"),
        (("--pilot", "--controls"), "--pilot: judges nothing"),
    ],
)
def test_bad_input_is_one_line(
    arguments: Any,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(*arguments) == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) == 1
    assert not list(tmp_path.iterdir())
