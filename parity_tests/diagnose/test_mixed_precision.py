"""Faults planted under autocast to bfloat16, on both sides or on the wrong one alone: each is
found, placed and named.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lockstep import diagnose
from lockstep.diagnose.diagnosis import Diagnosis
from lockstep.studies.prove.own_loops.right_pairs import MIXED_MLP, Pair
from parity_tests.shared.own_loops.planted_faults import FAULTS
from parity_tests.shared.own_loops.record import record

NOT_PLACED: set[str] = set()
NOT_NAMED: set[str] = set()


def faults(not_yet: set[str]) -> Iterator[Any]:
    """All faults; those in `not_yet` are not judged right."""
    for name in FAULTS:
        marks = [pytest.mark.xfail(reason="not yet", strict=True)] if name in not_yet else []
        yield pytest.param(name, marks=marks, id=name)


@pytest.fixture(scope="module")
def diagnosis_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Diagnosis]:
    """The diagnosis of a fault, which is recorded once."""
    diagnoses: dict[str, Diagnosis] = {}

    def of(name: str) -> Diagnosis:
        if name not in diagnoses:
            recording = record(FAULTS[name].pair, tmp_path_factory.mktemp(name))
            diagnoses[name] = diagnose(recording.a, recording.b)
        return diagnoses[name]

    return of


@pytest.mark.parametrize("name", [*faults(NOT_PLACED)])
def test_a_fault_is_found_at_its_place(name: str, diagnosis_of: Callable[[str], Diagnosis]) -> None:
    fault, diagnosis = FAULTS[name], diagnosis_of(name)
    assert diagnosis.verdict == "diverged"
    first = diagnosis.first
    assert first is not None
    assert first.update == fault.update, first
    assert first.stage in fault.stages, first
    assert first.tensor.startswith(fault.tensors), first


@pytest.mark.parametrize("name", [*faults(NOT_NAMED)])
def test_a_fault_is_named(name: str, diagnosis_of: Callable[[str], Diagnosis]) -> None:
    diagnosis = diagnosis_of(name)
    assert diagnosis.verdict == "diverged"
    text = diagnosis.cause.text if diagnosis.cause is not None else ""
    settings = [" ".join(map(str, setting)) for setting in diagnosis.unequal]
    text = " ".join([text, *settings]).lower()
    for words in FAULTS[name].cause:
        assert any(word.lower() in text for word in words.split("|")), text


def test_gradients_that_are_no_numbers_are_diagnosed(tmp_path: Path) -> None:
    recording = record(Pair(MIXED_MLP, replace(MIXED_MLP, feed="not-a-number")), tmp_path)
    for sides in ((recording.a, recording.b), (recording.b, recording.a)):
        diagnosis = diagnose(*sides)
        assert diagnosis.cause is not None
        assert diagnosis.cause.key == "not-a-number"
