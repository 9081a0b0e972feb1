"""Statistics and sketches of a tensor are right, and survive what they promise to."""

from typing import Any

import numpy as np
import pytest

from lockstep.records import tensor_summary
from lockstep.records.tensor_summary import (
    SKETCHES,
    Summary,
    flat_of,
    sketch_tail,
    squares_of,
    summarise,
)

DRAW = np.random.Generator(np.random.PCG64(0))
SHAPES = [
    (),
    (5,),
    (7, 9),
    (64, 64),
    (3, 4, 5),
    (16, 8, 3, 3),
    (2, 30, 130),
    (2, 140_000),
    (300, 2),
]


def summary_of(array: np.ndarray, **options: int) -> Summary:
    return summarise(array.shape, flat_of(array), sketches=True, **options)


def draw(*shape: int, dtype: Any = np.float64) -> np.ndarray:
    return np.asarray(DRAW.normal(size=shape)).astype(dtype)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_statistics_are_those_of_numpy_and_sketches_survive_any_order_of_axes(
    shape: tuple[int, ...],
) -> None:
    array = draw(*shape)
    wide = array.astype(np.float64)
    summary = summary_of(array)
    expected = [wide.mean(), np.sqrt(np.square(wide).mean()), np.abs(wide).max()]
    np.testing.assert_allclose(summary.statistics, expected, rtol=1e-12, atol=1e-15)
    assert squares_of(flat_of(array), array.size) == pytest.approx(np.square(wide).sum(), rel=1e-12)
    axes = DRAW.permutation(array.ndim)
    turned = summary_of(array.transpose(axes))
    np.testing.assert_allclose(turned.sketches, summary.sketches, rtol=1e-9, atol=1e-12)
    narrow = array.astype(np.float32)
    exact = summarise(shape, flat_of(narrow), sketches=True, hashed=True)
    gaps = np.abs(summary_of(narrow).sketches - exact.sketches)
    assert gaps.max() < 3e-6 * summary.statistics[1]


def test_a_sketch_is_the_sum_over_the_elements_with_the_signs_of_their_indices() -> None:
    array = draw(6, 80)
    units = np.eye(80)
    signs_80 = [summary_of(unit).projections for unit in units]
    signs_6 = [summary_of(unit).projections for unit in units[:6, :6]]
    for table in (signs_80, signs_6):
        assert set(np.unique(table)) == {-1.0, 1.0}
    np.testing.assert_array_equal(signs_80[:6], signs_6)  # the length of an axis does not count
    projections = np.einsum("ij,ik,jk->k", array.astype(np.float64), signs_6, signs_80)
    np.testing.assert_allclose(summary_of(array).sketches, projections / np.sqrt(480), rtol=1e-9)


@pytest.mark.parametrize("shape", [(20,), (20, 3), (20, 8, 70), (20, 500)], ids=str)
def test_the_summaries_of_micro_batches_add_up_to_that_of_the_batch(shape: tuple[int, ...]) -> None:
    array = draw(*shape)
    first = summary_of(array[:8])
    whole = first.followed_by(summary_of(array[8:], first_row=8))
    expected = summary_of(array)
    assert whole.shape == expected.shape
    np.testing.assert_allclose(whole.statistics, expected.statistics, rtol=1e-12)
    np.testing.assert_allclose(whole.sketches, expected.sketches, rtol=1e-9, atol=1e-12)
    shifted = first.followed_by(summary_of(array[8:]))  # a fault: rows counted from 0 again
    assert np.abs(shifted.sketches - expected.sketches).max() > 1e-3


def test_what_keeps_the_statistics_does_not_keep_the_sketches() -> None:
    array = draw(64, 96)
    summary = summary_of(array)
    faults = {
        "heads in another order": np.roll(array, 16, axis=0),
        "two elements exchanged": array.copy(),
        "transposed within its shape": array.T.reshape(64, 96),
    }
    first = faults["two elements exchanged"]
    first[3, 4], first[60, 70] = array[60, 70], array[3, 4]
    for fault, other in faults.items():
        changed = summary_of(other)
        np.testing.assert_allclose(changed.statistics, summary.statistics, rtol=1e-9, err_msg=fault)
        gap = np.abs(changed.sketches - summary.sketches).max()
        assert gap > 1e-4, fault


def test_one_unit_in_the_last_place_of_one_element_is_seen() -> None:
    array = draw(1000, 1000, dtype=np.float32)
    moved = array.copy()
    moved[500, 3] = np.nextafter(moved[500, 3], np.float32(9))
    first, other, turned = [
        summarise(part.shape, flat_of(part), sketches=True, hashed=True)
        for part in (array, moved, array.T)
    ]
    bound = 1e-12 * first.statistics[1]
    assert np.abs(other.sketches - first.sketches).max() > bound
    assert np.abs(turned.sketches - first.sketches).max() < bound


def test_sketches_are_as_large_as_a_difference_and_hardly_ever_beyond_their_tail() -> None:
    squares = [np.square(summary_of(draw(40, 70)).sketches) for _ in range(200)]
    assert np.mean(squares) == pytest.approx(1, abs=0.1)
    largest = [np.abs(summary_of(np.outer(draw(40), draw(70))).sketches) for _ in range(500)]
    assert np.max(largest) < sketch_tail((40, 70))
    assert [round(sketch_tail((2,) * axes), 1) for axes in (1, 2, 3)] == [6.8, 23.0, 60.0]


def test_hashes_are_of_values_and_not_of_dtypes_or_signed_zeros() -> None:
    array = draw(30, 40, dtype=np.float32)
    array[0, 0] = 0.0
    hashed = [
        summarise(other.shape, flat_of(other), hashed=True).digest
        for other in (array, array.astype(np.float64), np.where(array == 0, -0.0, array))
    ]
    assert hashed[0] == hashed[1] == hashed[2]
    array[29, 39] += 1
    assert summarise(array.shape, flat_of(array), hashed=True).digest != hashed[0]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_value_that_is_not_finite_shows(value: float) -> None:
    array = draw(5, 300)
    array[2, 2] = value
    summary = summary_of(array)
    assert not np.isfinite(summary.statistics).any()
    assert not np.isfinite(summary.sketches).any()


def test_the_signs_of_an_axis_do_not_depend_on_how_it_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    array = draw(60, 5000)
    expected = summary_of(array)
    monkeypatch.setattr(tensor_summary, "PIECE", 700)
    pieces = summary_of(array)
    np.testing.assert_allclose(pieces.sketches, expected.sketches, rtol=1e-9)
    assert len(pieces.sketches) == SKETCHES
    monkeypatch.setattr(tensor_summary, "CORES", 1)
    assert summary_of(array).statistics == pieces.statistics  # as many threads as there are
    np.testing.assert_array_equal(summary_of(array).sketches, pieces.sketches)
