"""The tests of the tests: every fault of the library, planted in each twin, is caught and placed,
and so is every fault of the checker. No right run is called wrong.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import jax_impl.proof.faults
import lockstep.studies.prove.false_alarms
import lockstep.studies.prove.run
import pt_impl.proof.faults
from lockstep.cli import main
from lockstep.diagnose.compare import STAGES, Difference
from lockstep.studies.prove.checker_faults import CHECKER_FAULTS
from lockstep.studies.prove.false_alarms import right_runs
from lockstep.studies.prove.faults import FAULTS, PlantedFault
from lockstep.studies.prove.naive_rules import RULES
from lockstep.studies.prove.own_loops.fault_list import DEFAULT_FAULTS
from lockstep.studies.prove.run import Outcome, Proof, prove

PLANTS = {"torch": pt_impl.proof.faults.PLANTS, "jax": jax_impl.proof.faults.PLANTS}

# one fault is said to be planted and is not; the other is expected at another update than its own
IDLE = replace(FAULTS["lr-scaled"], key="idle", wrong={}, twins=("torch",))
MISPLACED = replace(FAULTS["lr-late"], update=4, twins=("torch",))


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert isinstance(ended.value.code, int)
    return ended.value.code


ONE_A_STAGE = {fault.stage: fault for fault in reversed(FAULTS.values())}


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(tuple(ONE_A_STAGE.values()), id="one a stage"),
        pytest.param(tuple(FAULTS.values()), id="all", marks=pytest.mark.sweep),
    ],
)
def faults(request: pytest.FixtureRequest) -> tuple[PlantedFault, ...]:
    chosen: tuple[PlantedFault, ...] = request.param
    return chosen


@pytest.fixture(scope="module")
def everything(faults: tuple[PlantedFault, ...]) -> Proof:
    return prove([*faults, IDLE, MISPLACED], report=lambda name, done, total: None)


@pytest.fixture(scope="module")
def proof(everything: Proof) -> Proof:
    """The proof of the library's faults alone."""
    outcomes = [
        outcome for outcome in everything.outcomes if FAULTS.get(outcome.fault.key) is outcome.fault
    ]
    return replace(everything, outcomes=tuple(outcomes))


def outcome_of(fault: PlantedFault, proof: Proof) -> Outcome:
    return next(outcome for outcome in proof.outcomes if outcome.fault is fault)


def test_every_fault_is_caught_at_its_update_and_stage_with_its_cause_in_either_twin(
    proof: Proof, faults: tuple[PlantedFault, ...]
) -> None:
    missed = [
        (outcome.fault.key, outcome.twin, outcome.first, outcome.cause)
        for outcome in proof.outcomes
        if not outcome.is_located
    ]
    assert not missed
    assert len(proof.outcomes) == sum(len(fault.twins) for fault in faults)
    assert len(FAULTS) >= 60


def test_what_the_fast_engine_is_told_or_fed_wrongly_is_caught_in_it_too(
    proof: Proof, faults: tuple[PlantedFault, ...]
) -> None:
    caught = [outcome for outcome in proof.outcomes if outcome.is_fast_caught]
    assert len(caught) == sum(len(fault.twins) for fault in faults if not fault.is_in_code) > 0
    assert sum(len(fault.twins) for fault in FAULTS.values() if not fault.is_in_code) >= 60


def test_without_a_fault_the_twins_are_equal_on_the_same_recipes(
    proof: Proof, faults: tuple[PlantedFault, ...]
) -> None:
    assert not proof.alarms
    assert proof.unpatched == len({fault.right for fault in (*faults, IDLE, MISPLACED)})


def test_a_fault_that_is_not_planted_survives(everything: Proof) -> None:
    outcome = outcome_of(IDLE, everything)
    assert outcome.first is None
    assert outcome.is_fast_caught is None  # nothing wrong was told or fed
    assert not any(is_right for name, is_right in outcome.right.items() if name != "fast")
    assert not everything.holds


def test_a_fault_at_another_update_is_caught_and_not_placed(everything: Proof) -> None:
    outcome = outcome_of(MISPLACED, everything)
    assert [name for name, is_right in outcome.right.items() if not is_right] == ["update"]
    assert not outcome.is_located


def test_every_fault_of_the_checker_is_exposed_and_the_right_one_is_right(proof: Proof) -> None:
    assert proof.checker[""] == ()
    assert [key for key, cases in proof.checker.items() if key and not cases] == []
    assert len(proof.checker) == 1 + len(CHECKER_FAULTS)


def test_simple_rules_let_faults_through(proof: Proof, faults: tuple[PlantedFault, ...]) -> None:
    fooled = [set(outcome.fooled) for outcome in proof.outcomes if outcome.fooled is not None]
    assert len(fooled) == len(faults)
    counts = [sum(rule in rules for rules in fooled) for rule in RULES]
    assert all(counts) or len(faults) < len(FAULTS)
    assert counts[:4] == sorted(counts[:4])  # looser and looser
    assert counts[3] > counts[0]


def test_the_library_spans_all_stages_and_is_planted_as_it_says() -> None:
    assert {fault.stage for fault in FAULTS.values()} == set(STAGES)
    for twin, plants in PLANTS.items():
        mine = {key for key, fault in FAULTS.items() if twin in fault.twins}
        in_code = {key for key in mine if FAULTS[key].is_in_code}
        assert in_code <= plants.keys() <= mine


def test_the_command_prints_and_writes_the_matrix_and_fails_where_a_fault_survives(
    everything: Proof,
    proof: Proof,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "prove.md"
    number = len(CHECKER_FAULTS)
    for result, status in ((proof, 0), (everything, 1)):
        monkeypatch.setattr(
            lockstep.studies.prove.run,
            "prove",
            lambda faults, libraries, report, result=result: result,
        )
        assert run("prove", "--out", str(out)) == status
        line = f"{number} faults of the checker: {number} exposed"
        assert line in capsys.readouterr().out
        rows = [row for row in out.read_text().splitlines() if row.startswith("| `")]
        named = {row.split("`")[1] for row in rows}
        keys = {outcome.fault.key for outcome in result.outcomes}
        assert named >= keys | {fault.key for fault in (*CHECKER_FAULTS, *DEFAULT_FAULTS)}
        survives = any(row.startswith("| `idle`") and "survives" in row for row in rows)
        assert survives == bool(status)


def test_words_that_choose_no_fault_are_bad_input(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("prove", "no such fault") == 2
    assert "no fault's key, text, stage, cause or function holds that" in capsys.readouterr().err
    assert run("prove", "lr", "--unpatched", "2") == 2


def test_right_runs_raise_no_alarm_and_one_that_is_called_wrong_does(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = right_runs(2, report=lambda name, done, total: None)
    assert [run.twin for run in runs] == ["torch", "jax"]
    assert all(0 < run.ratio < 1 for run in runs)
    wrong = Difference("loss", "loss", 0, (), 2.0, 1.0, 1.0, 0.0, np.inf)
    with_alarm = [runs[0], replace(runs[1], first=wrong)]
    for result, status in ((runs, 0), (with_alarm, 1)):
        monkeypatch.setattr(
            lockstep.studies.prove.false_alarms,
            "right_runs",
            lambda number, report, result=result: result,
        )
        assert run("prove", "--unpatched", "2") == status
        printed = capsys.readouterr().out
        assert f"2 right runs, {status} false alarms" in printed
        line = "relu, float32, seed 0, jax: at update 0, loss, loss: 2.0 and 1.0"
        assert (line in printed) == bool(status)


@pytest.mark.sweep
def test_no_false_alarm_in_400_right_runs() -> None:
    assert run("prove", "--unpatched", "400") == 0
