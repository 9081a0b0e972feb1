"""`lockstep run` finds faults of the libraries, planted from outside, under the name of the engine
that comes by them. `lockstep prove` says where each shows.
"""

import json
import os
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

import jax_impl.proof.library_faults
import lockstep.run.everywhere
import lockstep.run.team
import pt_impl.proof.library_faults
from lockstep.cli import main
from lockstep.data_prep import prepare
from lockstep.diagnose.compare import Difference
from lockstep.errors import InputError
from lockstep.report.prove import proof_markdown, summarise
from lockstep.run.everywhere import train_everywhere
from lockstep.run.team import Team
from lockstep.run.workers import Job, Worker
from lockstep.studies.prove.library_faults import LIBRARY_FAULTS, LibraryFault
from lockstep.studies.prove.prove_libraries import LibraryOutcome, prove_libraries
from lockstep.studies.prove.run import Proof
from parity_tests.shared.sweep import sweep_but

PLANTS = {"torch": pt_impl.proof.library_faults.PLANTS, "jax": jax_impl.proof.library_faults.PLANTS}
CHECKS = {engine: f"same semantics, in float64, {engine} engine" for engine in ("plain", "fast")}


def quiet(name: str, updates: int, total: int) -> None:
    """Show no progress."""


def run(fault: LibraryFault, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """The exit status of `lockstep run` of the fault's recipe, with the fault `key` in the library;
    "" plants none.
    """
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(fault.right.to_toml())
    planted = partial(train_everywhere, library_faults={fault.twin: key})
    monkeypatch.setattr(lockstep.run.everywhere, "train_everywhere", planted)
    monkeypatch.setattr(lockstep.run.team, "Team", partial(Team, plants={fault.twin: "library"}))
    with pytest.raises(SystemExit) as ended:
        main(["run", str(recipe), "--out", str(tmp_path / "run")])
    assert isinstance(ended.value.code, int)
    return ended.value.code


def checks_of(folder: Path) -> dict[str, dict[str, str]]:
    """Engine -> "outcome" and "detail" of the check of its float64 run, in a run's folder."""
    summary = json.loads((folder / "summary.json").read_text())
    checks = {check["name"]: check for check in summary["checks"]}
    return {engine: checks[name] for engine, name in CHECKS.items()}


RUN_WITH = ["torch-softmax", "jax-trace-decay"]


@pytest.mark.parametrize(
    "key", sweep_but(RUN_WITH, [*RUN_WITH, "torch-sgd-momentum", "jax-linear-bias"])
)
def test_run_finds_a_fault_of_a_library_under_the_name_of_the_engine_that_comes_by_it(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = LIBRARY_FAULTS[key]
    assert run(fault, key, tmp_path, monkeypatch) == 1
    for engine, check in checks_of(tmp_path / "run").items():
        place = fault.places[engine]
        assert check["outcome"] == ("pass" if place is None else "fail")
        if place is not None:
            where = f"at update {place.update}, {place.stage}"
            assert f"{fault.twin} against oracle: {where}" in check["detail"]


def test_run_without_a_fault_in_the_same_processes_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(LIBRARY_FAULTS["torch-sgd-momentum"], "", tmp_path, monkeypatch) == 0
    assert all(check["outcome"] == "pass" for check in checks_of(tmp_path / "run").values())


def test_the_table_has_faults_of_both_twins_that_reach_either_engine_and_all_can_be_planted() -> (
    None
):
    for twin, plants in PLANTS.items():
        mine = {key: fault for key, fault in LIBRARY_FAULTS.items() if fault.twin == twin}
        assert plants.keys() == mine.keys()
        assert all(any(fault.places.values()) for fault in mine.values())
        for engine in CHECKS:
            assert sum(fault.places[engine] is not None for fault in mine.values()) >= 20


def test_a_fault_is_found_by_the_engines_that_come_by_it_and_changes_no_bit_in_the_other() -> None:
    faults = [LIBRARY_FAULTS["torch-mse-half"], LIBRARY_FAULTS["torch-zero-grad"]]
    outcomes = prove_libraries(faults, report=quiet)
    assert all(outcome.is_right for outcome in outcomes)
    assert [outcome.is_reached for outcome in outcomes] == [True, True, True, False]


def test_what_cannot_be_planted_is_no_fault_that_is_caught() -> None:
    unknown = replace(LIBRARY_FAULTS["torch-zero-grad"], key="torch-unknown")
    outcomes = prove_libraries([unknown, LIBRARY_FAULTS["torch-zero-grad"]], report=quiet)
    for outcome in outcomes[:2]:
        assert "torch-unknown" in outcome.error
        assert not outcome.is_right
    assert all(outcome.is_right for outcome in outcomes[2:])


def test_a_fault_that_survives_or_is_found_elsewhere_fails_the_proof() -> None:
    fault = LIBRARY_FAULTS["torch-zero-grad"]
    at = Difference("gradients", "grad_norm", 1, (), 2.0, 1.0, 1.0, 0.0, 1e3)
    right = LibraryOutcome(fault, "plain", at, True), LibraryOutcome(fault, "fast", None, False)
    proof = Proof((), {"": ()}, 0, (), {}, right)
    assert proof.holds
    row = (
        "| `torch-zero-grad` | `torch.optim.Optimizer.zero_grad` | does nothing |  "
        "| 1 gradients | not reached |"
    )
    assert row in proof_markdown(proof)
    for wrong, cell in (
        (replace(right[0], first=None), "survives, not 1 gradients"),
        (replace(right[0], is_reached=False, first=None), "not reached, not 1 gradients"),
        (replace(right[0], first=replace(at, update=2)), "2 gradients, not 1 gradients"),
        (replace(right[0], error="it broke"), "it broke"),
    ):
        failed = replace(proof, libraries=(wrong, right[1]))
        assert not failed.holds
        assert f"| {cell} |" in proof_markdown(failed)
    line = "1 reach the plain engine, 1 caught, 1 at their place; 0 reach the fast engine"
    assert line in summarise(proof)[0]


def test_a_killed_worker_leaves_no_process_behind(tmp_path: Path) -> None:
    if not Path("/proc/self/stat").exists():
        pytest.skip("no /proc to look into")
    fault, data = LIBRARY_FAULTS["torch-sgd-momentum"], tmp_path / "data"
    long = fault.right.with_values({"training.epochs": 20000})
    prepare(long).save(data)
    worker = Worker("torch", "cpu", 1, plants="library")
    try:
        worker.send([Job(long, data, tmp_path / "long.trace", fault=fault.key)], quiet)
        below = processes_below(worker.process.pid)
        while len(below) < 2:
            assert worker.process.poll() is None
            time.sleep(0.1)
            below = processes_below(worker.process.pid)
    finally:
        worker.stop()
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in below):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def processes_below(pid: int) -> set[int]:
    """The process's children, and theirs."""
    parents: dict[int, int] = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            status = Path(f"/proc/{name}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended
        _, parent, *_ = status.rpartition(")")[2].split()
        parents[int(name)] = int(parent)
    children = {child for child, parent in parents.items() if parent == pid}
    return children | {grandchild for child in children for grandchild in processes_below(child)}


def test_a_worker_says_why_a_fault_cannot_be_planted(tmp_path: Path) -> None:
    recipe, data = LIBRARY_FAULTS["torch-zero-grad"].right, tmp_path / "data"
    prepare(recipe).save(data)
    worker = Worker("torch", "cpu", 1, plants="library")
    try:
        worker.send([Job(recipe, data, tmp_path / "a.trace", fault="no-such-fault")], quiet)
        with pytest.raises(InputError, match="no-such-fault"):
            worker.wait()
    finally:
        worker.stop()


@pytest.mark.sweep
@pytest.mark.parametrize("key", LIBRARY_FAULTS)
def test_run_finds_every_fault_of_a_library(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = LIBRARY_FAULTS[key]
    assert run(fault, key, tmp_path, monkeypatch) == 1
    for engine, check in checks_of(tmp_path / "run").items():
        assert check["outcome"] == ("pass" if fault.places[engine] is None else "fail")


@pytest.mark.sweep
def test_every_fault_of_a_library_is_found_at_its_place() -> None:
    outcomes = prove_libraries(list(LIBRARY_FAULTS.values()), report=quiet)
    wrong = [outcome for outcome in outcomes if not outcome.is_right]
    assert not [
        (outcome.fault.key, outcome.engine, outcome.first, outcome.error) for outcome in wrong
    ]
