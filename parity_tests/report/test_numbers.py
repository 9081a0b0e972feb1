"""Numbers as text: a factor reads apart from 1, and a fitted value apart from the right one."""

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from lockstep.numbers import factor, number_beside, ratio, written

SMALL = st.floats(2**-52, 10, exclude_min=True)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.0, "1"),
        (1 + 1e-6, "1 + 1.0e-6"),
        (1 - 2.5e-5, "1 - 2.5e-5"),
        (1 + 2**-52, "1 + 2.2e-16"),
        (1.004, "1.004"),
        (0.97, "0.97"),
        (2.5, "2.5"),
        (-1.0, "-1"),
        (0.0, "0"),
        (1e-30, "1e-30"),
        (math.nan, "nan"),
        (math.inf, "inf"),
    ],
)
def test_a_factor_as_text(value: float, text: str) -> None:
    assert factor(value) == text


def distance_from_one(text: str) -> float:
    """How far from 1 a factor says that it is."""
    one, sign, apart = text.replace(" + ", " +").replace(" - ", " -").partition(" ")
    return float(apart) if sign else float(one) - 1


@given(SMALL, st.sampled_from([2, 4]), st.booleans())
def test_a_factor_says_how_far_from_one_it_is(apart: float, digits: int, above: bool) -> None:
    value = 1 + apart if above else 1 - apart
    assert distance_from_one(factor(value, digits)) == pytest.approx(value - 1, rel=0.06)


@given(st.floats(-1e6, 1e6), SMALL)
def test_a_number_is_told_from_the_one_beside_it(other: float, apart: float) -> None:
    value = other * (1 + apart) + apart
    assume(value != other)  # a difference that rounding took is none
    text = number_beside(value, other)
    assert abs(float(text) - value) <= 0.05 * abs(value - other)


def test_numbers_that_are_alike_are_written_short() -> None:
    assert number_beside(0.89, 0.9) == "0.89"
    assert number_beside(0.9000001, 0.9) == "0.9000001"
    assert number_beside(1 / 3, 1 / 3) == "0.3333"
    assert number_beside(1 / 3, math.nan) == "0.3333"


def test_a_setting_is_written_as_in_a_recipe() -> None:
    assert [written(value) for value in (0.01, 1e-08, 0.123456)] == ["0.01", "1e-08", "0.123456"]


def test_how_many_times_larger() -> None:
    assert ratio(5, 1) == "5.0 times"
    assert ratio(1, 1) == "1.0 times"
    assert ratio(1.02, 1) == "1.02 times"
    assert ratio(1 + 1e-7, 1) == "1 + 1.0e-7 times"
    assert ratio(1, 0) == ""
