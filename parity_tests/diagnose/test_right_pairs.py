"""Loops that mean the same, written in two ways: convolutional, recurrent and transformers, in
float32, float64 and mixed precision, in one framework and in two. None is ever called wrong.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lockstep import diagnose
from lockstep.studies.prove.own_loops.right_pairs import RIGHT_PAIRS
from parity_tests.shared.own_loops.record import record


def pairs() -> Iterator[Any]:
    for name, pair in RIGHT_PAIRS.items():
        is_slow = "jax" in (pair.a.framework, pair.b.framework)
        marks = [pytest.mark.slow] if is_slow else []
        yield pytest.param(name, marks=marks, id=name)


@pytest.mark.parametrize("name", [*pairs()])
def test_a_right_pair_is_never_called_wrong(name: str, tmp_path: Path) -> None:
    recording = record(RIGHT_PAIRS[name], tmp_path)
    diagnosis = diagnose(recording.a, recording.b, names=recording.names, noise=recording.noise)
    assert diagnosis.verdict in ("identical", "rounding", "inconclusive"), diagnosis.first
    assert diagnosis.cause is None


def test_the_pairs_are_many_and_of_all_kinds() -> None:
    assert len(RIGHT_PAIRS) >= 40
    sides = [side for pair in RIGHT_PAIRS.values() for side in (pair.a, pair.b)]
    assert {side.model for side in sides} == {"gpt", "mlp", "convnet", "lstm", "gru"}
    assert {side.dtype for side in sides} == {"float32", "float64", "bfloat16"}
    assert sum("bfloat16" in (side.compute, side.dtype) for side in sides) >= 40
    assert sum(bool(pair.seeds) for pair in RIGHT_PAIRS.values()) >= 5
