"""Faults planted under autocast to bfloat16, on both sides or on the wrong one alone: each is
found, placed and named.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lockstep import diagnose
from lockstep.diagnose.diagnosis import Diagnosis
from parity_tests.shared.own_loops.planted_faults import FAULTS
from parity_tests.shared.own_loops.record import record

PLACED = {
    "warmup-one-early-both",
    "warmup-one-early-one",
    "beta2-both",
    "beta2-one",
    "beta1-both",
    "beta1-one",
    "attention-sees-the-future-both",
    "attention-sees-the-future-one",
    "clipping-forgotten-both",
    "clipping-forgotten-one",
    "dropout-on-mlp-both",
    "dropout-on-mlp-one",
    "decay-of-adam-for-adamw-both",
    "decay-of-adam-for-adamw-one",
}
NAMED = {"beta1-both", "beta2-both"}


def faults(true: set[str]) -> Iterator[Any]:
    """All faults; those that are not in `true` are not yet judged right."""
    for name in FAULTS:
        marks = [] if name in true else [pytest.mark.xfail(reason="not yet", strict=True)]
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


@pytest.mark.parametrize("name", [*faults(PLACED)])
def test_a_fault_is_found_at_its_place(name: str, diagnosis_of: Callable[[str], Diagnosis]) -> None:
    fault, diagnosis = FAULTS[name], diagnosis_of(name)
    assert diagnosis.verdict == "diverged"
    first = diagnosis.first
    assert first is not None
    assert first.update == fault.update, first
    assert first.stage in fault.stages, first
    assert first.tensor.startswith(fault.tensors), first


@pytest.mark.parametrize("name", [*faults(NAMED)])
def test_a_fault_is_named(name: str, diagnosis_of: Callable[[str], Diagnosis]) -> None:
    diagnosis = diagnosis_of(name)
    text = diagnosis.cause.text if diagnosis.cause is not None else ""
    settings = [" ".join(map(str, setting)) for setting in diagnosis.unequal]
    text = " ".join([text, *settings]).lower()
    for words in FAULTS[name].cause:
        assert any(word.lower() in text for word in words.split("|")), text
