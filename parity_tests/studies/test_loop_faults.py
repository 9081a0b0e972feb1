"""The tests of the tests, in own loops: every planted fault is placed and named in either side, and
of right pairs and of faults without a name nothing wrong is said.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch

import lockstep.studies.prove.own_loops.run
from lockstep.cli import main
from lockstep.studies.prove.own_loops.fault_list import DEFAULT_FAULTS, LOOP_FAULTS
from lockstep.studies.prove.own_loops.faults import BASES, DTYPES, LoopFault
from lockstep.studies.prove.own_loops.pairs import ODD_FAULTS, NamelessPair, nameless_pairs
from lockstep.studies.prove.own_loops.right_pairs import RIGHT_PAIRS
from lockstep.studies.prove.own_loops.run import LoopProof, prove_loops
from lockstep.studies.prove.own_loops.start import start_of
from pt_impl.proof.own_loops.models import build

BY_STAGE = {
    fault.stages[0]: fault
    for fault in reversed(LOOP_FAULTS)
    if (fault.model, fault.precision) == ("perceptron", "float32")
}
PLANTED = BY_STAGE["lr"]

# one fault is said to be planted and is not; the others are expected elsewhere, or as another
IDLE = replace(PLANTED, key="idle", wrong=PLANTED.right)
MISPLACED = replace(PLANTED, key="misplaced", update=3)
OTHERWISE = replace(PLANTED, key="otherwise", cause="momentum", mirrored="")
BROKEN = replace(PLANTED, key="broken", wrong=replace(PLANTED.wrong, wrong="no such fault"))
WRONG = (IDLE, MISPLACED, OTHERWISE, BROKEN)
# a pair that is said to be right and is not, and one that is said to have no name and has one
RIGHT, ODD = nameless_pairs(2)
CALLED_RIGHT = NamelessPair("called right", PLANTED.right, PLANTED.wrong)
CALLED_ODD = NamelessPair("called odd", PLANTED.right, PLANTED.wrong, "odd")
CALLED_CAUGHT = NamelessPair("called caught", PLANTED.right, PLANTED.right, "odd")


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.fixture(scope="module")
def everything() -> LoopProof:
    pairs = (RIGHT, ODD, CALLED_RIGHT, CALLED_ODD, CALLED_CAUGHT)
    faults = (*BY_STAGE.values(), *WRONG)
    return prove_loops(faults, pairs, report=lambda name, done, total: None)


@pytest.fixture(scope="module")
def proof(everything: LoopProof) -> LoopProof:
    """The proof of what is expected rightly."""
    outcomes = [outcome for outcome in everything.outcomes if outcome.fault not in WRONG]
    return LoopProof(tuple(outcomes), everything.pairs[:2])


def missed(proof: LoopProof) -> list[object]:
    faults = [
        (outcome.fault.name, outcome.side, outcome.answer)
        for outcome in proof.outcomes
        if not (outcome.is_placed and outcome.is_named)
    ]
    pairs = [
        (outcome.pair.name, outcome.answer)
        for outcome in proof.pairs
        if outcome.is_alarm or outcome.is_missed or outcome.is_named_wrongly
    ]
    return [*faults, *pairs]


def test_a_fault_of_every_stage_is_placed_and_named_in_either_side(proof: LoopProof) -> None:
    assert not missed(proof)
    assert proof.holds
    assert len(proof.outcomes) == 2 * len(BY_STAGE) >= 10


@pytest.mark.parametrize("fault", WRONG, ids=lambda fault: fault.key)
def test_a_wrong_expectation_is_caught(fault: LoopFault, everything: LoopProof) -> None:
    for outcome in everything.outcomes:
        if outcome.fault is fault:
            assert outcome.is_placed == (fault is OTHERWISE)
            assert outcome.is_named == (fault is MISPLACED)
            assert bool(outcome.wrong_causes) == (fault is OTHERWISE)
    assert not everything.holds


def test_a_wrong_pair_that_is_called_right_or_odd_is_caught(everything: LoopProof) -> None:
    right, odd, caught = everything.pairs[2:]
    assert (right.is_alarm, right.is_missed, right.is_named_wrongly) == (True, False, True)
    assert (odd.is_alarm, odd.is_missed, odd.is_named_wrongly) == (False, False, True)
    assert (caught.is_alarm, caught.is_missed, caught.is_named_wrongly) == (False, True, False)


def test_an_error_is_an_answer_and_no_right_one(everything: LoopProof) -> None:
    answers = [outcome.answer for outcome in everything.outcomes if outcome.fault is BROKEN]
    assert [answer.verdict for answer in answers] == ["error", "error"]
    assert all("no such fault" in answer.texts[0] for answer in answers)


def test_the_list_spans_models_and_precisions() -> None:
    assert {fault.model for fault in DEFAULT_FAULTS} == set(BASES)
    assert {fault.precision for fault in DEFAULT_FAULTS} == set(DTYPES)
    names = [fault.name for fault in LOOP_FAULTS]
    assert len(set(names)) == len(names)
    assert {fault.key for fault in DEFAULT_FAULTS} == {fault.key for fault in LOOP_FAULTS}


def test_the_pairs_span_what_is_right_and_what_is_odd() -> None:
    pairs = nameless_pairs(400)
    assert len({(pair.a, pair.b) for pair in pairs}) == len(pairs)
    assert {pair.odd for pair in pairs} == {"", *ODD_FAULTS}
    right = {pair.name.partition(",")[0] for pair in pairs if not pair.odd}
    assert right == {name for name, pair in RIGHT_PAIRS.items() if not pair.seeds}
    assert "jax" in {pair.b.framework for pair in pairs}


@pytest.mark.parametrize("model", BASES)
@pytest.mark.parametrize("written", ["library", "written"])
def test_initial_parameters_are_those_of_the_model(model: str, written: str) -> None:
    loop = replace(BASES[model], layers=written)
    state = build(loop).state_dict()
    start = start_of(loop)
    assert {name: tuple(array.shape) for name, array in start.items()} == {
        name: tuple(tensor.shape) for name, tensor in state.items()
    }
    for array in start.values():
        np.testing.assert_array_equal(array, array.astype(np.float32))
    assert isinstance(build(loop), torch.nn.Module)


def test_the_command_judges_own_loops_and_fails_where_one_is_missed(
    everything: LoopProof,
    proof: LoopProof,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for result, status in ((proof, 0), (everything, 1)):
        monkeypatch.setattr(
            lockstep.studies.prove.own_loops.run,
            "prove_loops",
            lambda faults, pairs, report, result=result: result,
        )
        assert run("prove", "--pairs", "2") == status
        printed = capsys.readouterr().out
        planted = len(result.outcomes)
        assert f"planted {planted} times in own loops" in printed
        missing = "called right: called wrong, with a cause: update 0, lr"
        assert (missing in printed) == bool(status)
    assert run("prove", "lr", "--pairs", "2") == 2


@pytest.mark.sweep
def test_every_fault_is_placed_and_named_in_every_model_and_precision() -> None:
    proof = prove_loops(LOOP_FAULTS, report=lambda name, done, total: None)
    assert not missed(proof)


@pytest.mark.sweep
def test_no_false_alarm_and_no_wrong_cause_in_400_pairs() -> None:
    assert run("prove", "--pairs", "400") == 0
