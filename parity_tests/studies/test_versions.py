"""Other versions: which combinations there are, what each is said to change, and the release with
which a change began.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import lockstep.studies.atlas.pages
import lockstep.studies.upgrade.environments
import lockstep.studies.upgrade.matrix
from lockstep.cli import main
from lockstep.errors import InputError
from lockstep.golden import Key
from lockstep.oracle.train import train as train_oracle
from lockstep.records.run_recorder import Watch
from lockstep.report.versions import describe_origin
from lockstep.run.team import Team
from lockstep.run.workers import Interpreter, Job
from lockstep.studies.upgrade.bless import Recording
from lockstep.studies.upgrade.compare_releases import Change, Finding
from lockstep.studies.upgrade.environments import (
    WORKER,
    Combination,
    combinations,
    environment,
    releases,
)
from lockstep.studies.upgrade.matrix import Row, bisect, find_origins
from parity_tests.shared.recipes import prepared, small_recipe

ROOT = Path(__file__).parents[2]
RELEASES = {
    "jax": ["0.7.2", "0.8.0", "0.8.3", "0.9.2", "0.10.0", "0.10.2"],
    "flax": ["0.11.2", "0.12.0", "0.12.8"],
    "optax": ["0.2.5", "0.2.6", "0.2.7", "0.2.8"],
}
Truth = Callable[[dict[str, str]], dict[str, Change] | None]


def run(*arguments: Any) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    assert isinstance(ended.value.code, int)
    return ended.value.code


def jax(jax: str, flax: str, optax: str) -> Combination:
    return Combination((("jax", jax), ("flax", flax), ("optax", optax)))


def planted(truth: Truth, tried: list[Combination] | None = None) -> Callable[[Combination], Row]:
    """Examine a combination by what `truth` says of each recipe; None: it cannot be installed."""

    def examine(combination: Combination) -> Row:
        if tried is not None:
            tried.append(combination)
        changes = truth(dict(combination.versions))
        if changes is None:
            return Row(combination, fault="no such version")
        findings = [Finding("jax", name, "update", change) for name, change in changes.items()]
        return Row(combination, tuple(findings))

    return examine


def origins(
    truth: Truth, chosen: Sequence[Combination], **options: Any
) -> list[tuple[str, Change, Any]]:
    examine = planted(truth)
    rows = [examine(combination) for combination in chosen]
    traced = find_origins(rows, examine, list_releases=RELEASES.__getitem__, **options)
    return [(origin.recipe, origin.change, origin.packages) for origin in traced]


# --- bisection


def bisections(count: int) -> st.SearchStrategy[tuple[int, int, set[int]]]:
    """A number of states, the first changed one, and those that cannot be tried."""
    firsts, broken = st.integers(1, count - 1), st.sets(st.integers(0, count - 1))
    return st.tuples(st.just(count), firsts, broken)


@given(st.integers(2, 40).flatmap(bisections))
def test_bisection_finds_the_step_and_leaves_out_what_cannot_be_tried(
    case: tuple[int, int, set[int]],
) -> None:
    count, first, broken = case
    tried: list[int] = []

    def changed(state: int) -> bool | None:
        tried.append(state)
        return None if state in broken else state >= first

    low, *untried, high = bisect(range(count), changed)
    assert low < first <= high
    assert set(untried) == set(range(low + 1, high)) <= broken
    assert len(tried) == len(set(tried))
    assert broken or len(tried) <= count.bit_length()


# --- the package, and the release


@pytest.mark.parametrize("release", RELEASES["optax"][1:])
def test_a_change_is_traced_to_the_release_of_its_package(release: str) -> None:
    def truth(versions: dict[str, str]) -> dict[str, Change]:
        return {
            "muon": Change.SEMANTICS if versions["optax"] >= release else Change.IDENTICAL,
            "sgd": Change.ROUNDING,
        }

    releases_of = RELEASES["optax"]
    before = releases_of[releases_of.index(release) - 1]
    chosen = [jax("0.7.2", "0.11.2", "0.2.5"), jax("0.10.2", "0.12.8", "0.2.8")]
    assert origins(truth, chosen) == [("muon", Change.SEMANTICS, [("optax", before, release)])]


def test_a_fault_that_a_later_release_mends_is_traced_too() -> None:
    def truth(versions: dict[str, str]) -> dict[str, Change]:
        return {"muon": Change.SEMANTICS if versions["optax"] == "0.2.6" else Change.IDENTICAL}

    chosen = [jax("0.10.2", "0.12.8", optax) for optax in ("0.2.8", "0.2.6")]
    assert origins(truth, chosen) == [("muon", Change.SEMANTICS, [("optax", "0.2.7", "0.2.6")])]


def test_each_recipe_has_an_origin_of_its_own() -> None:
    def truth(versions: dict[str, str]) -> dict[str, Change]:
        return {
            "muon": Change.SEMANTICS if versions["optax"] >= "0.2.7" else Change.IDENTICAL,
            "sgd": Change.MODE if versions["jax"] not in ("0.7.2", "0.8.0") else Change.ROUNDING,
        }

    chosen = [jax("0.7.2", "0.11.2", "0.2.5"), jax("0.10.2", "0.12.8", "0.2.8")]
    assert origins(truth, chosen) == [
        ("muon", Change.SEMANTICS, [("optax", "0.2.6", "0.2.7")]),
        ("sgd", Change.MODE, [("jax", "0.8.0", "0.8.3")]),
    ]


def test_rounding_is_traced_where_it_is_asked_for() -> None:
    def truth(versions: dict[str, str]) -> dict[str, Change]:
        is_new = versions["jax"] in ("0.10.0", "0.10.2")
        return {"sgd": Change.ROUNDING if is_new else Change.IDENTICAL}

    chosen = [jax("0.7.2", "0.11.2", "0.2.5"), jax("0.10.2", "0.11.2", "0.2.5")]
    assert origins(truth, chosen) == []
    assert origins(truth, chosen, least=Change.ROUNDING) == [
        ("sgd", Change.ROUNDING, [("jax", "0.9.2", "0.10.0")])
    ]


def test_a_version_known_to_be_at_fault_is_not_traced_again() -> None:
    def truth(versions: dict[str, str]) -> dict[str, Change]:
        faults = {"0.2.5": Change.FAILS, "0.2.6": Change.SEMANTICS}
        return {"muon": faults.get(versions["optax"], Change.IDENTICAL)}

    chosen = [jax("0.10.2", "0.12.8", optax) for optax in RELEASES["optax"]]
    chosen += [jax("0.7.2", "0.11.2", optax) for optax in RELEASES["optax"]]
    rows = [planted(truth)(combination) for combination in chosen]
    tried: list[Combination] = []
    traced = list(find_origins(rows, planted(truth, tried), list_releases=RELEASES.__getitem__))
    assert [(origin.change, origin.packages) for origin in traced] == [
        (Change.FAILS, [("optax", "0.2.6", "0.2.5")]),
        (Change.SEMANTICS, [("optax", "0.2.7", "0.2.6")]),
    ]
    assert {dict(combination.versions)["jax"] for combination in tried} == {"0.10.2"}


def test_an_origin_that_is_not_exact_says_so_and_explains_nothing_else() -> None:
    def truth(versions: dict[str, str]) -> dict[str, Change] | None:
        if (versions["jax"], versions["optax"]) == ("0.10.2", "0.2.7"):
            return None
        return {"muon": Change.SEMANTICS if versions["optax"] < "0.2.7" else Change.IDENTICAL}

    chosen = [jax("0.10.2", "0.12.8", optax) for optax in ("0.2.8", "0.2.6")]
    chosen += [jax("0.9.2", "0.12.8", optax) for optax in ("0.2.6", "0.2.7")]
    examine = planted(truth)
    rows = [examine(combination) for combination in chosen]
    traced = list(find_origins(rows, examine, list_releases=RELEASES.__getitem__))
    assert [(origin.packages, origin.untried) for origin in traced] == [
        ([("optax", "0.2.8", "0.2.6")], (jax("0.10.2", "0.12.8", "0.2.7"),)),
        ([("optax", "0.2.7", "0.2.6")], ()),
    ]
    line = "in between, not to be tried: jax 0.10.2, flax 0.12.8, optax 0.2.7"
    assert line in describe_origin(traced[0])


def test_packages_that_cannot_be_installed_apart_are_told_together() -> None:
    def truth(versions: dict[str, str]) -> dict[str, Change] | None:
        new = [versions["jax"] == "0.10.2", versions["flax"] == "0.12.8"]
        if any(new) and not all(new):
            return None
        return {"sgd": Change.SEMANTICS if all(new) else Change.IDENTICAL}

    chosen = [jax("0.7.2", "0.11.2", "0.2.5"), jax("0.10.2", "0.12.8", "0.2.5")]
    expected = [("jax", "0.7.2", "0.10.2"), ("flax", "0.11.2", "0.12.8")]
    assert origins(truth, chosen) == [("sgd", Change.SEMANTICS, expected)]


def test_nothing_to_start_from_is_no_origin() -> None:
    chosen = [jax("0.10.2", "0.12.8", "0.2.8")]
    assert origins(lambda versions: {"sgd": Change.SEMANTICS}, chosen) == []
    assert origins(lambda versions: None, chosen) == []


# --- which combinations


def test_each_with_each_and_first_with_first() -> None:
    wanted = {"jax": ["0.9.2", "0.10.2"], "flax": ["0.12.8"], "optax": ["0.2.7", "0.2.8"]}
    assert labels(wanted, together=False) == [
        "jax 0.9.2, flax 0.12.8, optax 0.2.7",
        "jax 0.9.2, flax 0.12.8, optax 0.2.8",
        "jax 0.10.2, flax 0.12.8, optax 0.2.7",
        "jax 0.10.2, flax 0.12.8, optax 0.2.8",
    ]
    assert labels(wanted, together=True) == [
        "jax 0.9.2, flax 0.12.8, optax 0.2.7",
        "jax 0.10.2, flax 0.12.8, optax 0.2.8",
    ]
    wanted = {"jax": ["0.9.2"], "flax": ["1"], "optax": ["2"], "torch": ["2.8.0"]}
    both = combinations(wanted, together=False)
    assert [combination.backend for combination in both] == ["jax", "torch"]


def labels(wanted: dict[str, list[str]], *, together: bool) -> list[str]:
    return [combination.label for combination in combinations(wanted, together=together)]


def test_a_package_that_is_not_named_is_as_it_is_here(monkeypatch: pytest.MonkeyPatch) -> None:
    here = {"jax": "1.0", "flax": "2.0"}
    monkeypatch.setattr(lockstep.studies.upgrade.environments, "version", here.__getitem__)
    assert labels({"optax": ["3.0"]}, together=False) == ["jax 1.0, flax 2.0, optax 3.0"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "name versions of jax, flax, optax, torch"),
        (
            ["--zip", "--jax", "1,2,3", "--optax", "1,2"],
            "--optax: 2 versions, and 3 of another package",
        ),
        (["--optax", "1", "--recipe", "nothing"], "nothing: no golden recipe of that name"),
        (["--optax", "1", "--golden", "nowhere"], "nowhere/manifest.json: cannot be read"),
        (["--optax", "1", "--out", "table.csv"], "must end in .md or .json"),
    ],
)
def test_options_that_cannot_be_followed(
    arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("matrix-versions", *arguments) == 2
    assert text in capsys.readouterr().err


# --- the environments


def test_the_releases_of_a_package_are_read_from_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = "optax (0.2.8)\nAvailable versions: 0.2.8, 0.2.7, 0.2.6\n  INSTALLED: 0.2.8\n"
    monkeypatch.setattr(lockstep.studies.upgrade.environments, "_pip", lambda *_: answer)
    assert releases("optax") == ["0.2.6", "0.2.7", "0.2.8"]
    monkeypatch.setattr(lockstep.studies.upgrade.environments, "_pip", lambda *_: "")
    with pytest.raises(InputError, match="does not say which releases of optax"):
        releases("optax")


def test_what_cannot_be_installed_is_said_and_not_kept(tmp_path: Path) -> None:
    nothing = jax("0.0.0.no.such.release", "0.12.8", "0.2.8")
    line = r"jax 0\.0\.0\.no\.such\.release, .*: cannot be installed: "
    with pytest.raises(InputError, match=line), environment(nothing, tmp_path):
        pass
    assert not list(tmp_path.iterdir())


def test_a_kept_environment_is_used_again_with_the_source_of_this_lockstep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(combination: Combination, folder: Path, python: Path) -> None:
        python.parent.mkdir(parents=True)
        python.symlink_to(sys.executable)
        (folder / "ready").touch()

    monkeypatch.setattr(lockstep.studies.upgrade.environments, "_build", build)
    with environment(jax("1", "2", "3"), tmp_path) as interpreter:
        assert interpreter is not None
        assert interpreter.python == tmp_path / "jax-1_flax-2_optax-3" / "bin" / "python"
        assert (interpreter.source / "lockstep").resolve() == ROOT / "lockstep"
    monkeypatch.setattr(lockstep.studies.upgrade.environments, "_build", None)
    with environment(jax("1", "2", "3"), tmp_path):
        pass


def test_a_worker_runs_in_the_environment_that_it_is_given(tmp_path: Path) -> None:
    """It imports the twins from the given folder and from nowhere else."""
    (tmp_path / "lockstep").symlink_to(ROOT / "lockstep")
    (tmp_path / "jax_impl" / "io").mkdir(parents=True)
    for package in ("jax_impl", "jax_impl/io"):
        (tmp_path / package / "__init__.py").touch()
    (tmp_path / "jax_impl" / "io" / "device.py").write_text("from jax import a_name_that_is_gone\n")
    jobs = [Job(small_recipe(), tmp_path / "data", tmp_path / f"{i}.trace") for i in range(2)]
    with Team(["jax"], interpreter=Interpreter(Path(sys.executable), tmp_path)) as team:
        team.begin({"jax": jobs}, lambda *_: None)
        with pytest.raises(InputError, match="a_name_that_is_gone"):
            team.finish()


def test_a_worker_needs_no_more_than_is_installed_for_it() -> None:
    code = f"""
import sys
from importlib.metadata import requires
others = {{name.split(">")[0] for name in requires("lockstep") if "extra" not in name}} - {set(WORKER)!r}
others |= {{"sklearn", "rich", "threadpoolctl"}}
assert "polars" in others
class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in others:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, NotInstalled())
from lockstep.cli import main
main(["worker", "oracle"])
"""  # noqa: E501
    command, pipe = [sys.executable, "-c", code], subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as worker:
        assert worker.stdin is not None
        assert worker.stdout is not None
        # a worker ends where its stdin does, so that stays open until it is ready
        line = worker.stdout.readline()
        rest, errors = worker.communicate()
    assert (worker.returncode, rest, errors) == (0, "", "")
    assert json.loads(line) == {"lockstep": "ready"}


# --- the command


@pytest.fixture
def planted_releases(monkeypatch: pytest.MonkeyPatch) -> None:
    """Releases of optax that train otherwise from 0.2.7 on, and cannot train before 0.2.6. The
    oracle records them here, in no environment.
    """
    recipe = small_recipe(training__epochs=1, schedule__warmup=1)
    monkeypatch.setattr(lockstep.studies.upgrade.bless, "golden_recipes", lambda: {"sgd": recipe})

    def record(
        recipes: Any, data: Any, backends: list[str], interpreter: Any = None, **_: Any
    ) -> Recording:
        recording = Recording({}, {})
        optax = "0.2.6" if interpreter is None else interpreter.python.parts[-3].rpartition("-")[2]
        for backend in backends:
            for dtype, form in recipe.forms.items():
                key = Key("sgd", dtype, backend)
                if optax < "0.2.6":
                    recording.faults[key] = "optax has no attribute 'tree'"
                    continue
                trace = train_oracle(form, prepared(recipe), watch=Watch(parameters_every=1))
                if optax >= "0.2.7" and backend == "jax":
                    norms_T = trace.arrays["updates/update_norm"]
                    trace.arrays["updates/update_norm"] = norms_T * (1 + 1e-6)
                trace.header["environment"]["optax"] = optax
                recording.traces[key] = trace
        return recording

    def build(combination: Combination, folder: Path, python: Path) -> None:
        if dict(combination.versions)["optax"] == "9":
            raise InputError(f"{combination.label}: cannot be installed: no such version")

    monkeypatch.setattr(lockstep.studies.upgrade.matrix, "record", record)
    monkeypatch.setattr(lockstep.studies.upgrade.environments, "_build", build)
    monkeypatch.setattr(lockstep.studies.upgrade.matrix, "releases", RELEASES.__getitem__)
    defaults = {"least": Change.MODE, "list_releases": RELEASES.__getitem__}
    monkeypatch.setattr(find_origins, "__kwdefaults__", defaults)


@pytest.mark.usefixtures("planted_releases")
def test_a_planted_release_is_found_and_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outs = [tmp_path / "versions.md", tmp_path / "versions.json"]
    options = [argument for out in outs for argument in ("--out", out)]
    chosen = ["--jax", "0.10.2", "--flax", "0.12.8", "--optax", "0.2.6,0.2.8,0.2.5,9"]
    assert run("matrix-versions", *chosen, *options) == 1
    printed = capsys.readouterr().out
    line = "sgd: semantics changed with optax 0.2.7 (not 0.2.6), beside jax 0.10.2, flax 0.12.8"
    assert line in printed
    assert "sgd: fails with optax 0.2.5 (not 0.2.6)" in printed
    assert "optax 9: cannot be installed: no such version" in printed
    report = json.loads(outs[1].read_text())
    verdicts = [row["verdict"] for row in report["combinations"]]
    assert verdicts == ["identical", "semantics changed", "fails", "fails"]
    assert report["combinations"][1]["stages"]["update"] == "semantics changed"
    assert report["combinations"][1]["stages"]["lr"] == "identical"
    assert report["origins"][0]["with"]["optax"] == "0.2.7"
    row = "| jax 0.10.2, flax 0.12.8, optax 0.2.8 |"
    assert row in outs[0].read_text()


@pytest.mark.usefixtures("planted_releases")
def test_the_same_releases_change_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("matrix-versions", "--jax", "0.10.2", "--flax", "0.12.8", "--optax", "0.2.6") == 0
    assert run("matrix-versions", "--jax", "0.10.2", "--flax", "0.12.8", "--optax", "9") == 2
    assert "cannot be installed: no such version" in capsys.readouterr().err


TRAP = """# A trap

**Group** loss · **Knob** - · **Threads** - · **Measured** optax 0.2.8

What goes wrong.

## PyTorch
```python
reference = [1.0]
```

## The naive port
```python
naive = [1.5]
```
Divergence: 5.0e-01

## The right port
```python
import os

right = [1.25 if os.environ.get("RELEASE", "") >= "0.2.7" else 1.0]
```
Residual: 0

## Why
Because.
"""


@pytest.mark.usefixtures("planted_releases")
def test_a_trap_that_moves_is_traced_to_its_release(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def build(combination: Combination, folder: Path, python: Path) -> None:
        python.parent.mkdir(parents=True)
        release = dict(combination.versions)["optax"]
        python.write_text(f'#!/bin/sh\nRELEASE={release} exec {sys.executable} "$@"\n')
        python.chmod(0o755)

    monkeypatch.setattr(lockstep.studies.upgrade.environments, "_build", build)
    page = lockstep.studies.atlas.pages.parse_page("trap", TRAP)
    monkeypatch.setattr(lockstep.studies.atlas.pages, "load_atlas", lambda: (page,))
    out = tmp_path / "versions.json"
    chosen = ["--jax", "0.10.2", "--flax", "0.12.8", "--optax", "0.2.6,0.2.8"]
    assert run("matrix-versions", *chosen, "--atlas", "--out", out) == 1
    printed = capsys.readouterr().out
    line = "atlas trap: semantics changed: residual 2.5e-01, recorded 0: the right port is off"
    assert line in printed
    assert "atlas trap: semantics changed with optax 0.2.7 (not 0.2.6)" in printed
    stages = [row["stages"]["atlas"] for row in json.loads(out.read_text())["combinations"]]
    assert stages == ["identical", "semantics changed"]


@pytest.mark.sweep
def test_a_real_release_of_optax_that_let_a_scheduled_decay_stand_still(tmp_path: Path) -> None:
    """optax 0.2.6 never counts the updates of `add_decayed_weights` with a schedule; 0.2.7 does."""
    out = tmp_path / "versions.json"
    chosen = ["--jax", "0.9.2", "--flax", "0.12.6", "--optax", "0.2.7,0.2.6"]
    chosen += ["--recipe", "muon", "--recipe", "sgd"]
    assert run("matrix-versions", *chosen, "--out", out) == 1
    report = json.loads(out.read_text())
    assert [origin["recipe"] for origin in report["origins"]] == ["muon"]
    assert report["origins"][0]["with"]["optax"] == "0.2.6"
