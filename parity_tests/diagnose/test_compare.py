"""The comparison: what it must call equal, what not, and what it must refuse."""

from typing import Any

import numpy as np
import pytest

from lockstep.diagnose.compare import bounds_of, compare
from lockstep.diagnose.verdict import judge
from lockstep.errors import InputError
from lockstep.records.trace import Trace
from parity_tests.shared.recipes import oracle_trace, small_recipe

RECIPE = small_recipe(training__dtype="float64")


def changed(trace: Trace, name: str, change: Any, **header: Any) -> Trace:
    arrays = {key: array.copy() for key, array in trace.arrays.items()}
    arrays[name] = change(arrays[name])
    return Trace({**trace.header, "backend": "torch", **header}, arrays)


def nudged(index: Any, by: float) -> Any:
    def change(array: Any) -> Any:
        array[index] += by * np.abs(array).max()
        return array

    return change


def test_a_trace_is_identical_to_itself() -> None:
    comparison = compare(oracle_trace(RECIPE), oracle_trace(RECIPE), {})
    assert comparison.verdict == "identical"
    assert comparison.first is None


@pytest.mark.parametrize(
    ("name", "index", "stage", "update"),
    [
        ("parameters/0/linear1.weight", (2, 3), "init", -1),
        ("updates/lr", 4, "lr", 4),
        ("updates/loss", 5, "loss", 5),
        ("updates/grad_norm", 0, "gradients", 0),
        ("updates/update_norm", 11, "update", 11),
        ("parameters/7/linear2.bias", 1, "parameters", 6),
        ("epochs/held_out_loss", 2, "metrics", 8),
        ("epochs/train_accuracy", 0, "metrics", 2),
    ],
)
def test_one_element_of_one_tensor_is_enough(
    name: str, index: Any, stage: str, update: int
) -> None:
    truth = oracle_trace(RECIPE)
    comparison = compare(changed(truth, name, nudged(index, 1e-11)), truth, {})
    assert comparison.verdict == "diverged"
    assert comparison.first is not None
    assert (comparison.first.stage, comparison.first.update) == (stage, update)
    assert comparison.first.tensor in name
    if stage in ("init", "parameters"):
        assert comparison.first.element == (index if isinstance(index, tuple) else (index,))


def test_within_the_tolerance_is_rounding_except_where_bits_must_agree() -> None:
    truth = oracle_trace(RECIPE)
    close = changed(truth, "updates/loss", nudged(5, 1e-13))
    assert compare(close, truth, {}).verdict == "rounding"
    for name in ("updates/lr", "parameters/0/linear1.bias"):
        assert compare(changed(truth, name, nudged(1, 1e-15)), truth, {}).verdict == "diverged"


def test_nan_is_compared_as_such() -> None:
    truth = oracle_trace(RECIPE)
    nan = changed(truth, "updates/loss", nudged(3, np.nan))
    one_side = compare(nan, truth, {})
    assert one_side.verdict == "diverged"
    assert one_side.first is not None
    assert (one_side.first.stage, one_side.first.update) == ("loss", 3)
    # what is finite on neither side was not judged, though all before it was
    both_sides = compare(nan, nan, {})
    assert both_sides.verdict == "inconclusive"
    assert both_sides.limit == (3, "the loss is finite on neither side")
    infinite = changed(truth, "updates/loss", nudged(3, np.inf))
    assert compare(infinite, truth, {}).verdict == "diverged"
    negative = changed(truth, "updates/loss", nudged(3, -np.inf))
    assert compare(infinite, negative, {}).verdict == "diverged"


def test_differences_that_cancel_in_the_mean_are_seen() -> None:
    truth = oracle_trace(RECIPE)
    swapped = changed(truth, "parameters/3/linear1.weight", lambda array: array[::-1])
    assert compare(swapped, truth, {}).verdict == "diverged"


def test_nothing_in_common_is_an_error() -> None:
    truth = oracle_trace(RECIPE)
    arrays = truth.arrays
    others = {name: arrays[name] for name in arrays if not name.startswith("parameters/")}
    without = Trace(truth.header, others)
    for pair in ((without, truth), (truth, without), (Trace(truth.header, {}), truth)):
        with pytest.raises(InputError, match="nothing to compare"):
            compare(*pair, {})


def test_other_recipe_other_data_other_shape_are_refused() -> None:
    truth = oracle_trace(RECIPE)
    other = oracle_trace(small_recipe(training__dtype="float64", schedule__warmup=1))
    with pytest.raises(InputError, match=r"different recipes: schedule\.warmup 2 and 1$"):
        compare(truth, other, {})
    with pytest.raises(InputError, match="different data"):
        compare(changed(truth, "updates/lr", lambda array: array, data_hash="0" * 64), truth, {})
    with pytest.raises(InputError, match=r"updates/loss: shapes differ, \(11,\) and \(12,\)"):
        compare(changed(truth, "updates/loss", lambda array: array[:-1]), truth, {})


def test_bounds_come_from_the_oracle_and_catch_more_than_rounding() -> None:
    recipe = small_recipe()
    truth = oracle_trace(recipe)
    bounds = bounds_of(truth)
    assert bounds
    assert set(bounds) >= {"updates/loss", "epochs/train_loss", "parameters/12/linear1.weight"}
    bound = float(bounds["parameters/12/linear1.weight"])
    largest = np.abs(truth.parameters(12)["linear1.weight"]).max()
    # some roundings of float32, far below what a wrong recipe does
    assert 1e-8 < bound / largest < 1e-4
    twin = changed(truth, "updates/lr", lambda array: array)
    for times, verdict in ((0.5, "rounding"), (1.5, "diverged")):
        change = nudged((0, 0), times * bound / largest)
        moved = changed(truth, "parameters/12/linear1.weight", change)
        assert compare(moved, truth, bounds).verdict == verdict
        # each side may stray by its own bound
        assert compare(moved, twin, bounds).verdict == "rounding"


def test_the_verdict_on_a_run_names_what_fails() -> None:
    recipe = small_recipe()
    float32, float64 = oracle_trace(recipe), oracle_trace(RECIPE)

    def as_twins(trace: Trace) -> dict[str, Trace]:
        header = {**trace.header, "dtype": trace.header["recipe"]["training"]["dtype"]}
        torch = Trace({**header, "backend": "torch"}, trace.arrays)
        jax = Trace({**header, "backend": "jax"}, trace.arrays)
        return {"torch": torch, "jax": jax, "oracle": trace}

    traces, semantics = as_twins(float32), as_twins(float64)
    assert judge(traces, semantics).word == "identical"
    semantics["jax"] = changed(float64, "updates/update_norm", nudged(4, 1e-9), backend="jax")
    verdict = judge(traces, semantics)
    assert verdict.word == "diverged"
    failed = [check for check in verdict.checks if not check.passed]
    assert [check.name for check in failed] == ["same semantics, in float64"]
    assert "jax against oracle: at update 4, update, update_norm" in failed[0].detail
    traces["torch"] = changed(float32, "updates/lr", nudged(4, 1e-6))
    passed = {check.name: check.passed for check in judge(traces, semantics).checks}
    assert not passed["same learning rate, bit for bit"]
    unbounded = Trace({**float32.header}, {})
    with pytest.raises(InputError, match="no rounding bounds"):
        judge({**traces, "oracle": unbounded}, semantics)
