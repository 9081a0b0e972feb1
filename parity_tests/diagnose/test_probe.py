"""The probe of matrix products: it tells how many bits a product keeps, whatever it is called."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jax_impl.io.device
import pt_impl.io.device
from lockstep.records.matmul_precision import Precision, measure_precision


def cut(array: Any, bits: int, *, up: bool = True) -> Any:
    """The array as float32 with so many bits of the significand, rounded to nearest or cut off."""
    dropped = 24 - bits
    half = np.uint32(1 << (dropped - 1)) if dropped and up else np.uint32(0)
    raw = np.asarray(array, dtype=np.float32).view(np.uint32) + half
    return (raw >> np.uint32(dropped) << np.uint32(dropped)).view(np.float32)


def test_full_float32_products() -> None:
    assert measure_precision(lambda a, b: a @ b) == Precision(24, True)


@settings(max_examples=30)
@given(st.integers(3, 23))
def test_factors_in_fewer_bits(bits: int) -> None:
    assert measure_precision(lambda a, b: cut(a, bits) @ cut(b, bits)).bits == bits
    # what is cut off may be a whole unit, not half of one
    precision = measure_precision(lambda a, b: cut(a, bits, up=False) @ cut(b, bits, up=False))
    assert precision.bits in (bits - 1, bits)


@settings(max_examples=10)
@given(st.integers(3, 23))
def test_one_factor_in_fewer_bits(bits: int) -> None:
    assert measure_precision(lambda a, b: cut(a, bits) @ b).bits == bits
    assert measure_precision(lambda a, b: a @ cut(b, bits)).bits == bits


@settings(max_examples=10)
@given(st.integers(3, 23))
def test_sums_in_fewer_bits(bits: int) -> None:
    """The factors of this product are whole, and the sum loses the bits."""
    assert measure_precision(lambda a, b: cut(a @ b, bits)).bits == bits


def test_float32_split_into_two_bfloat16_does_not_pass_for_float32() -> None:
    """1 + 2^-20 is the sum of two bfloat16, so a probe with such numbers would show nothing."""

    def product(a: Any, b: Any) -> Any:
        a1, b1 = cut(a, 8), cut(b, 8)
        a2, b2 = cut(a - a1, 8), cut(b - b1, 8)
        return a1 @ b1 + (a1 @ b2 + a2 @ b1)

    assert measure_precision(product).bits in (16, 17)


def test_flushed_subnormals() -> None:
    def product(a: Any, b: Any) -> Any:
        exact = a @ b
        return np.where(np.abs(exact) < np.finfo(np.float32).tiny, np.float32(0), exact)

    assert measure_precision(product) == Precision(24, False)


def test_products_that_are_no_numbers_keep_no_bit() -> None:
    assert measure_precision(lambda a, b: np.full_like(a, np.nan)) == Precision(0, False)


@pytest.mark.parametrize("device", [pt_impl.io.device, jax_impl.io.device])
def test_the_twins_multiply_in_full_precision_and_say_so(device: Any) -> None:
    place = device.select_device("cpu")
    assert device.effective_precision(place).bits == 24
    described = device.describe_environment(place)
    assert (described["matmul_bits"], described["subnormals"]) == device.effective_precision(place)
