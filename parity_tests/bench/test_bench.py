"""The benchmark: it checks what it measures first and refuses what differs. No test judges a
timing.
"""

import importlib.util
import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

import lockstep.bench.registry
import lockstep.bench.run
from lockstep.bench.compare import SLACK, changes, print_changes
from lockstep.bench.intervals import median_interval, ratio_interval, three_digits
from lockstep.bench.prepared import Unable
from lockstep.bench.registry import CONTENDERS, make
from lockstep.bench.results import SCHEMA, Results
from lockstep.bench.run import compare_with_oracle, run_bench
from lockstep.bench.sweep import run_sweep
from lockstep.bench.workloads import WORKLOADS, Workload, find_workload, first_updates
from lockstep.commands.bench import bench as bench_command
from lockstep.data_prep import prepare
from lockstep.errors import InputError
from lockstep.recipe import load_recipe
from lockstep.report.console import PlainConsole
from parity_tests.shared.recipes import oracle_trace, prepared, small_recipe

TIMED = ("c", "torch products", "jax products", "numpy products")
TIMED += ("torch fast", "torch graph", "jax fast", "numpy")
NOT_TRAINED = ("torch products", "jax products", "numpy products")
needs_compiler = pytest.mark.skipif(not shutil.which("cc"), reason="needs a C compiler")


def bench(out: Path, *contenders: str, rounds: int = 3, **values: object) -> tuple[int, str]:
    screen = io.StringIO()
    console = PlainConsole(width=80, file=screen)
    work = [Workload("small", small_recipe(**values))]
    status = run_bench(
        work, device="cpu", rounds=rounds, out=out, console=console, contenders=contenders
    )
    return status, screen.getvalue()


@needs_compiler
def test_figures_come_from_the_samples(tmp_path: Path) -> None:
    adamw = {"optimizer__name": "adamw", "optimizer__weight_decay": 0.01}
    status, text = bench(tmp_path / "bench.json", *TIMED, model__hidden=(5,), **adamw)
    assert status == 0
    content = json.loads((tmp_path / "bench.json").read_text())
    assert content["schema"] == SCHEMA
    assert content["machine"]["cores"] >= 1
    workload = Results.load(tmp_path / "bench.json").workloads["small"]
    assert list(workload.contenders) == list(TIMED)
    graph = workload.contenders["torch graph"]
    assert "CUDA graphs need --device gpu" in graph.skipped
    assert not graph.samples
    for name, outcome in workload.contenders.items():
        if name == "torch graph":
            continue
        assert len(outcome.samples) == 3
        if name in NOT_TRAINED:
            assert outcome.float64_error is None
        else:
            assert outcome.float64_error is not None
            assert outcome.float64_error <= 1e-12
        assert outcome.environment["threads"] == 1
        assert outcome.cold_seconds is not None
        assert outcome.import_seconds is not None
        assert outcome.cold_seconds > outcome.import_seconds
        assert outcome.peak_mib
        row = next(line for line in text.splitlines() if line.strip().startswith(f"{name}  "))
        assert three_digits(1e6 * sorted(outcome.samples)[1]) in row
    assert max(len(line) for line in text.splitlines() if "skipped" not in line) <= 80


@pytest.mark.sweep
def test_the_plain_engines_are_timed_too(tmp_path: Path) -> None:
    status, _ = bench(
        tmp_path / "bench.json", "torch steps", "jax steps", "jax whole run", "jax unrecorded"
    )
    workload = Results.load(tmp_path / "bench.json").workloads["small"]
    assert status == 0
    assert all(len(outcome.samples) == 3 for outcome in workload.contenders.values())


@pytest.mark.sweep
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler on the CPU")
@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_the_compiled_torch_run_equals_the_oracle(tmp_path: Path, name: str) -> None:
    values = {"optimizer__nesterov": True} if name == "sgd" else {}
    # three updates in one graph: each takes seconds to compile
    status, _ = bench(
        tmp_path / "bench.json",
        "torch compiled",
        model__hidden=(5,),
        optimizer__name=name,
        optimizer__weight_decay=0.01,
        schedule__warmup=1,
        training__epochs=1,
        **values,
    )
    outcome = Results.load(tmp_path / "bench.json").workloads["small"].contenders["torch compiled"]
    assert status == 0, outcome
    assert outcome.float64_error is not None
    assert outcome.float64_error <= 1e-12


def test_a_contender_that_computes_something_else_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = lockstep.bench.run.states
    wrong = {"optimizer.momentum": 0.9 * (1 + 1e-9)}

    def wrong_states(recipe: Any, data: Any) -> Any:
        return states(recipe.with_values(wrong), data)

    monkeypatch.setattr(lockstep.bench.run, "states", wrong_states)
    status, text = bench(tmp_path / "bench.json", "jax fast")
    assert status == 1
    assert "jax fast: computes something else" in " ".join(text.split())
    outcome = Results.load(tmp_path / "bench.json").workloads["small"].contenders["jax fast"]
    assert not outcome.samples
    assert outcome.differs is not None
    assert 1e-12 < outcome.differs < 1e-6


def test_what_differs_from_the_oracle() -> None:
    truth = oracle_trace(small_recipe(training__dtype="float64")).parameters(12)
    bias = truth["linear1.bias"]

    def distance(other: Any) -> float:
        return compare_with_oracle({**truth, "linear1.bias": other}, truth)

    assert distance(bias) == 0
    assert distance(bias * (1 + 1e-9)) > 1e-10
    assert distance(bias[:-1]) == np.inf
    assert compare_with_oracle({}, truth) == np.inf
    assert not distance(bias * np.nan) <= 1e-12  # NaN is no agreement


def test_gpu_where_there_is_none(tmp_path: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    work = [Workload("small", small_recipe())]
    with pytest.raises(InputError, match="sees no GPU"):
        run_bench(
            work,
            device="gpu",
            rounds=3,
            out=None,
            console=Console(quiet=True),
            contenders=["torch steps"],
        )


def test_the_proof_of_a_long_run_is_its_first_updates() -> None:
    recipe = small_recipe(schedule__unit="update", training__epochs=1)
    data = prepared(recipe)
    short = first_updates(data, 2)
    assert short.updates == 2
    for whole, first in zip(data.batches(0), short.batches(0)):
        assert len(first) == 2
        if whole.ndim == 1:
            np.testing.assert_array_equal(whole[:2], first)
    rows_TB, short_TB = data.batches(0).rows_TB[:2], short.batches(0).rows_TB
    np.testing.assert_array_equal(short.train_x_ND[short_TB], data.train_x_ND[rows_TB])
    np.testing.assert_array_equal(short.train_y_N[short_TB], data.train_y_N[rows_TB])


def test_the_named_workloads() -> None:
    assert find_workload("W1").recipe == load_recipe("seed")
    assert find_workload("W1-adamw").recipe.optimizer.name == "adamw"
    wide = find_workload("W2", ["training.batch=64"]).recipe
    assert (wide.data.rows, wide.data.features) == (60000, 784)
    assert (wide.model.hidden, wide.training.batch) == ((512, 512), 64)
    assert find_workload("W3").seeds == 256
    with pytest.raises(InputError, match="no such recipe"):
        find_workload("W4")
    assert set(WORKLOADS) == {"W1", "W1-adamw", "W2", "W3"}


# --- peers


def test_a_peer_that_is_not_there_is_skipped_with_what_installs_it(tmp_path: Path) -> None:
    missing = [
        name
        for name, entry in CONTENDERS.items()
        if entry.extra == "peers" and not importable(entry.imports)
    ]
    if not missing:
        pytest.skip("all peers are installed")
    status, text = bench(tmp_path / "bench.json", missing[0])
    assert status == 0
    package = CONTENDERS[missing[0]].imports
    assert f"{missing[0]}: skipped: {package} is not installed: pip install" in text
    assert "'lockstep[peers]'" in text


def importable(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


@pytest.mark.parametrize("name", ["torch unrecorded", "numpy", "sklearn", "skorch", "lightning"])
def test_peers_train_the_same_or_say_that_they_do_not(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not importable(CONTENDERS[name].imports.partition(".")[0]):
        pytest.skip(f"{name} is not installed")
    recipe = small_recipe(training__dtype="float64")
    contender = make(name)(recipe, [prepare(recipe)], "cpu", 1)
    for _ in range(2):  # from the start each time
        contender.reset()
        contender.run()
        error = compare_with_oracle(contender.parameters()[0], oracle_trace(recipe).parameters(12))
        assert error > 1e-3 if name == "sklearn" else error <= 1e-12


@pytest.mark.parametrize("name", ["numpy", "c"])
def test_what_others_do_not_train_is_refused(name: str) -> None:
    for values in (
        {"model__norm": "layer"},
        {"gradient__accumulate": 2},
        {"optimizer__nesterov": True},
    ):
        with pytest.raises(Unable, match="has "):
            make(name)(small_recipe(**values), [prepared(small_recipe(**values))], "cpu", 1)


def test_what_comes_with_a_checkout_alone_is_named_in_one_line_by_an_installed_lockstep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lockstep.bench.registry, "CHECKOUT", tmp_path / "none")
    status, text = bench(tmp_path / "bench.json", "c", "numpy products", "torch fast")
    assert status == 0
    (line,) = (line for line in text.splitlines() if "skipped" in line)
    assert line.startswith("c, numpy products: skipped: not part of an installed lockstep")
    outcomes = Results.load(tmp_path / "bench.json").workloads["small"].contenders
    assert [name for name, outcome in outcomes.items() if outcome.samples] == ["torch fast"]


# --- statistics


@given(st.lists(st.floats(1e-9, 1e3), min_size=1, max_size=60))
def test_the_interval_holds_the_median(samples: list[float]) -> None:
    middle, low, high = median_interval(samples)
    assert min(samples) <= low <= middle <= high <= max(samples)


@pytest.mark.parametrize(("n", "left_out"), [(3, 0), (5, 0), (6, 0), (9, 1), (17, 4), (100, 39)])
def test_the_interval_is_that_of_the_binomial(n: int, left_out: int) -> None:
    # Conover's table of order statistics for the median: so many samples lie below the 95 %
    # interval
    assert median_interval([float(i) for i in range(n)])[1:] == (left_out, n - 1 - left_out)


def test_the_interval_covers_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    covers = []
    for _ in range(2000):
        _, low, high = median_interval(generator.normal(size=15))
        covers.append(low <= 0 <= high)
    assert np.mean(covers) >= 0.95


@given(
    st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=12),
    st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=12),
)
def test_the_ratio_of_two_runs_is_that_of_one_over_the_other(
    old: list[float], new: list[float]
) -> None:
    middle, low, high = ratio_interval(old, new, 0.05)
    back, back_low, back_high = ratio_interval(new, old, 0.05)
    assert low <= middle <= high
    assert np.isclose(middle * back, 1, rtol=1) or len(old) * len(new) % 2 == 0
    if low:
        assert np.isclose(low * back_high, 1)
        assert np.isclose(high * back_low, 1)


@pytest.mark.parametrize(("n", "rank"), [(5, 3), (7, 9), (10, 24)])
def test_the_interval_of_the_ratio_is_that_of_the_table(n: int, rank: int) -> None:
    # Conover's table of the Mann-Whitney statistic: its 0.025 quantile is 2, 8 and 23; the interval
    # begins one later
    generator = np.random.default_rng(n)
    old, new = generator.uniform(1, 2, (2, n)).tolist()
    ordered = sorted(after / before for before in old for after in new)
    assert ratio_interval(old, new, 0.05)[1:] == (ordered[rank - 1], ordered[-rank])


def test_the_interval_of_the_ratio_covers_as_often_as_it_says() -> None:
    generator = np.random.default_rng(1)
    covers = []
    for _ in range(1000):
        old, new = np.exp(0.1 * generator.normal(size=(2, 7))).tolist()
        _, low, high = ratio_interval(old, new, 0.05)
        covers.append(low <= 1 <= high)
    assert np.mean(covers) >= 0.95


# --- two files


def results(samples: dict[str, list[float]], **changed: object) -> Results:
    outcomes = {name: {"samples": values, "float64_error": 0.0} for name, values in samples.items()}
    rounds = len(next(iter(samples.values())))
    work: dict[str, object] = {"recipe": {}, "seeds": 1, "updates": 3, "proof_updates": 3}
    work |= {"rounds": rounds, "device": "cpu", "threads": 1}
    work |= {name: value for name, value in changed.items() if name in work}
    work["contenders"] = outcomes
    content: dict[str, object] = {"schema": SCHEMA, "lockstep": "1"}
    content |= {"machine": {"processor": "one"}, "workloads": {"W1": work}}
    content |= {name: value for name, value in changed.items() if name in content}
    return Results.model_validate(content)


@given(st.integers(0, 10**6), st.integers(7, 15), st.sampled_from(["a", "b", "c"]), st.booleans())
def test_a_slowdown_is_caught_and_equal_runs_are_not(
    seed: int, rounds: int, slow: str, floor: bool
) -> None:
    generator = np.random.default_rng(seed)

    def run(factors: dict[str, float], speed: float = 1.0) -> Results:
        noise = np.exp(0.05 * np.clip(generator.normal(size=(4, rounds)), -3, 3))
        samples = {}
        names = ("c", "a", "b", "d") if floor else ("d", "a", "b", "e")
        for name, noise_T in zip(names, noise):
            samples[name] = (speed * 1e-6 * factors.get(name, 1.0) * noise_T).tolist()
        return results(samples)

    def judged(verdict: str, before: Results, after: Results) -> set[str]:
        of_all = changes(before, after)
        return {change.contender for change in of_all if change.verdict == verdict}

    # the machine's own speed is divided out where the floor is there to tell it
    old, again = run({}), run({}, speed=1.7 if floor else 1.0)
    assert not any(change.verdict == "slower" for change in changes(old, old))
    verdicts = {change.contender: change.verdict for change in changes(old, again)}
    assert {name for name, verdict in verdicts.items() if name != "c"} >= {"a", "b", "d"}
    assert all(verdict == "noise" for name, verdict in verdicts.items() if name != "c")
    name = "a" if slow == "c" else slow
    slower = run({name: 1.6})
    console = Console(quiet=True)
    assert judged("slower", old, slower) == {name}
    assert judged("faster", slower, old) == {name}
    assert print_changes(changes(old, slower), console) == 1
    assert print_changes(changes(slower, old), console) == 0


def test_too_few_rounds_say_nothing() -> None:
    old, new = results({"a": [1.0, 1.0, 1.0]}), results({"a": [9.0, 9.0, 9.0]})
    assert [change.verdict for change in changes(old, new)] == ["noise"]


def test_a_planted_slowdown_of_a_real_contender_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [tmp_path / "old.json", tmp_path / "new.json"]
    bench(files[0], "numpy", rounds=7)
    # loaded by every Python that starts from here on: each ReLU is computed many times
    (tmp_path / "sitecustomize.py").write_text("""
import numpy
maximum = numpy.maximum
numpy.maximum = lambda *arguments: [maximum(*arguments) for _ in range(500)][-1]
""")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    bench(files[1], "numpy", rounds=7)

    def last_word(output: str) -> str:
        line = next(line for line in output.splitlines() if "numpy" in line)
        return line.split()[-1]

    old, new = map(str, files)
    result = CliRunner().invoke(bench_command, ["--compare", old, new], standalone_mode=False)
    assert result.return_value == 1, result.output
    assert last_word(result.output) == "slower"
    back = CliRunner().invoke(bench_command, ["--compare", new, old], standalone_mode=False)
    assert last_word(back.output) == "faster"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"machine": {"processor": "two"}},
            "machine.processor is 'one' in the first file and 'two'",
        ),
        ({"recipe": {"training": {"epochs": 11}}}, "W1: recipe differs"),
        ({"recipe": {"a": 1}}, "W1: a: no such section"),
        ({"threads": 2}, "W1: threads differs"),
        ({"workloads": {}}, "the first file has W1 and the second "),
    ],
)
def test_files_that_do_not_fit_each_other_are_refused(
    changed: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        changes(results({"a": [1.0] * 7}), results({"a": [1.0] * 7}, **changed))
    with pytest.raises(InputError, match="no contender was timed in both"):
        changes(results({"a": [1.0] * 7}), results({"b": [1.0] * 7}))


def test_an_older_file_names_the_knobs_that_an_optimizer_has_not() -> None:
    old = results({"a": [1.0] * 7}, recipe={"optimizer": {"name": "sgd", "beta1": None}})
    new = results({"a": [1.0] * 7}, recipe={"optimizer": {"name": "sgd"}})
    assert [change.verdict for change in changes(old, new)] == ["noise"]


def broken(edit: Callable[[Any], object]) -> str:
    content = json.loads(results({"a": [1.0] * 7}).model_dump_json(by_alias=True))
    edit(content)
    return json.dumps(content)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not a JSON file"),
        ("[]", "not a file of lockstep bench --out"),
        (
            broken(lambda content: content.update(schema="lockstep.bench/1")),
            "schema 1; this lockstep reads schema 2",
        ),
        (broken(lambda content: content.pop("machine")), "machine: field required"),
        (
            broken(lambda content: content["workloads"]["W1"].update(extra=1)),
            "workloads.W1.extra: extra inputs",
        ),
        (
            broken(
                lambda content: content["workloads"]["W1"]["contenders"]["a"].update(
                    samples=[-1.0] * 7
                )
            ),
            "samples.0: input should",
        ),
        (
            broken(lambda content: content["workloads"]["W1"].update(rounds=9)),
            "W1, a: 7 samples of 9 rounds",
        ),
    ],
)
def test_a_file_is_checked_when_it_is_read(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        Results.load(path)
    with pytest.raises(InputError, match="cannot be read"):
        Results.load(tmp_path / "none.json")


def test_bad_arguments_are_one_line() -> None:
    result = CliRunner().invoke(
        bench_command, ["W1", "--against", "tensorflow"], standalone_mode=False
    )
    assert isinstance(result.exception, InputError)
    assert "--against tensorflow: no such group; there are c, products, " in str(result.exception)
    assert SLACK > 1


@pytest.mark.sweep
@needs_compiler
def test_ensembles_are_proved_and_timed(tmp_path: Path) -> None:
    work = [Workload("small", small_recipe(model__hidden=(5,)), seeds=3)]
    out, console = tmp_path / "bench.json", Console(quiet=True)
    names = ["c", "torch ensemble", "jax ensemble"]
    assert run_bench(work, device="cpu", rounds=3, out=out, console=console, contenders=names) == 0
    outcomes = Results.load(out).workloads["small"].contenders
    for outcome in outcomes.values():
        assert outcome.trained == 3, outcome.skipped
        assert outcome.float64_error is not None
        assert outcome.float64_error <= 1e-12


def test_a_sweep_is_a_table_and_a_plot(tmp_path: Path) -> None:
    screen = io.StringIO()
    sweep = {"device": "cpu", "rounds": 3, "console": PlainConsole(width=80, file=screen)}
    work, out = Workload("<small>", small_recipe()), tmp_path / "sweep.html"
    chosen = {"values": (16, 45), "contenders": ["numpy", "torch graph"]}
    assert run_sweep(work, "batch", out=out, **chosen, **sweep) == 0
    rows = [line.split() for line in screen.getvalue().splitlines()]
    assert [row[0] for row in rows if row and row[0].isdigit()] == ["16", "45"]
    assert all(row[2] == "-" for row in rows if row and row[0].isdigit())
    page = out.read_text()
    assert "&lt;small&gt;: time per update" in page
    assert '"name": "numpy", "x": [16, 45]' in page
    assert "torch graph" not in page
    with pytest.raises(InputError, match=r"a sweep is written as .png, .html or .json"):
        run_sweep(work, "batch", out=tmp_path / "sweep.txt", **sweep)
    result = CliRunner().invoke(
        bench_command, ["W1", "W2", "--sweep", "width"], standalone_mode=False
    )
    assert "--sweep: one workload at a time" in str(result.exception)


@pytest.mark.parametrize(
    "name", ["torch rate", "torch forward", "torch gradient", "torch step", "jax rate", "jax step"]
)
def test_the_parts_of_an_update_run_alone(name: str) -> None:
    recipe = small_recipe()
    part = make(name)(recipe, [prepared(recipe)], "cpu", 1)
    assert part.parameters is None
    part.reset()
    part.run()
