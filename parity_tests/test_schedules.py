"""Learning-rate schedules: literal tables, 40-digit arithmetic, and what holds for every recipe."""

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lockstep.errors import InputError
from lockstep.recipe import Recipe, Schedule, Training, load_recipe
from lockstep.schedules import RAMPS, cosine_decay, learning_rates, linear_warmup

A, B, C = "(t+1)/W", "t/W", "(t+1)/(W+1)"


def rates(updates_per_epoch=1, *, epochs=20, peak=1.0, **schedule):
    recipe = Recipe(schedule=Schedule(peak=peak, **schedule), training=Training(epochs=epochs))
    return learning_rates(recipe, updates_per_epoch)


# ---- literal tables


def test_seed_recipe_epoch_by_epoch():
    lr_T = learning_rates(load_recipe("seed"), 32)
    assert lr_T.shape == (320,)
    assert lr_T.dtype == np.float64
    np.testing.assert_array_equal(
        lr_T.reshape(10, 32),
        np.repeat(
            [
                [0.01 * (1 / 5)],  # epoch 1
                [0.01 * (2 / 5)],
                [0.01 * (3 / 5)],
                [0.01 * (4 / 5)],
                [0.01],  # epoch 5: the peak
                [0.01],
                [0.01],
                [0.01],
                [0.01],
                [0.01],  # epoch 10
            ],
            32,
            axis=1,
        ),
    )
    lr_E = [f"{rate:.6g}" for rate in lr_T[::32].astype(np.float32)]
    assert lr_E == ["0.002", "0.004", "0.006", "0.008", *["0.01"] * 6]


# W=4, T=20, peak 1; measured with the libraries named
TABLE = [
    # name, ramp, t=0, t=W-1, t=W, t=T-1
    ("warmup_constant", A, 0.25, 1.0, 1.0, 1.0),  # torch LinearLR(1/W, total_iters=W-1)
    ("warmup_constant", B, 0.0, 0.75, 1.0, 1.0),  # optax warmup_constant_schedule, HF constant_with_warmup
    ("warmup_constant", C, 0.2, 0.8, 1.0, 1.0),
    ("warmup_cosine", A, 0.25, 1.0, 1.0, 0.0096),  # torch SequentialLR([LinearLR, CosineAnnealingLR(T-W)], [W])
    ("warmup_cosine", B, 0.0, 0.75, 1.0, 0.0096),  # optax warmup_cosine_decay_schedule, HF, timm prefix=True
    ("warmup_cosine", C, 0.2, 0.8, 1.0, 0.0096),  # nanoGPT
    ("constant", A, 1.0, 1.0, 1.0, 1.0),  # no warmup, whatever schedule.warmup says
]


@pytest.mark.parametrize(("name", "ramp", "first", "last_of_warmup", "after_warmup", "last"), TABLE)
@pytest.mark.parametrize("unit", ["epoch", "update"])
def test_table_of_four_warmup_steps_in_twenty(name, ramp, first, last_of_warmup, after_warmup, last, unit):
    lr_T = rates(name=name, ramp=ramp, warmup=4, unit=unit)
    assert lr_T.shape == (20,)
    assert (lr_T[0], lr_T[3], lr_T[4]) == (first, last_of_warmup, after_warmup)
    assert lr_T[19] == pytest.approx(last, abs=5e-5)  # the table has four digits


@pytest.mark.parametrize(
    ("ramp", "expected"),
    [
        (A, [1 / 4, 2 / 4, 3 / 4, 1, 1, 1]),
        (B, [0 / 4, 1 / 4, 2 / 4, 3 / 4, 1, 1]),
        (C, [1 / 5, 2 / 5, 3 / 5, 4 / 5, 1, 1]),
    ],
)
def test_every_step_of_a_ramp(ramp, expected):
    np.testing.assert_array_equal(linear_warmup(np.arange(6.0), 4, ramp), expected)


def test_linear_warmup_example_of_its_docstring():
    np.testing.assert_array_equal(linear_warmup(np.arange(6.0), 5, A), [1 / 5, 2 / 5, 3 / 5, 4 / 5, 1, 1])


def test_cosine_reaches_the_floor_at_the_end_and_stays():
    share = cosine_decay(np.array([0.0, 4, 12, 20, 21, 1e6]), 4, 20, 0.25)
    np.testing.assert_allclose(share, [1, 1, 0.625, 0.25, 0.25, 0.25], rtol=0, atol=1e-15)
    assert share[3] == 0.25


def test_cosine_halfway_is_half():
    assert rates(name="warmup_cosine", warmup=0, epochs=20)[10] == pytest.approx(0.5, abs=2e-16)


def test_floor_is_a_share_of_the_peak():
    lr_T = rates(name="warmup_cosine", warmup=2, epochs=5000, peak=0.01, floor=0.1)
    assert lr_T[-1] == pytest.approx(0.001, rel=1e-6)


# ---- the edges of W


@pytest.mark.parametrize("name", ["constant", "warmup_constant"])
@pytest.mark.parametrize("ramp", RAMPS)
def test_no_warmup_is_the_peak_at_once(name, ramp):
    # optax stays at 0 for ever here: warmup_constant_schedule(0, peak, 0)
    np.testing.assert_array_equal(rates(name=name, ramp=ramp, warmup=0), np.ones(20))


def test_no_warmup_cosine_starts_at_the_peak():
    lr_T = rates(name="warmup_cosine", warmup=0)
    assert lr_T[0] == 1
    assert lr_T[1] < 1


@pytest.mark.parametrize(("ramp", "first"), [(A, 1.0), (B, 0.0), (C, 0.5)])
def test_a_warmup_of_one(ramp, first):
    np.testing.assert_array_equal(rates(ramp=ramp, warmup=1, epochs=3), [first, 1, 1])


@pytest.mark.parametrize("name", ["warmup_constant", "warmup_cosine"])
@pytest.mark.parametrize(
    ("ramp", "expected"), [(A, [1 / 3, 2 / 3, 1]), (B, [0, 1 / 3, 2 / 3]), (C, [1 / 4, 2 / 4, 3 / 4])]
)
@pytest.mark.parametrize("unit", ["epoch", "update"])
def test_a_warmup_as_long_as_the_run(name, ramp, expected, unit):
    # optax raises here
    np.testing.assert_array_equal(rates(name=name, ramp=ramp, warmup=3, epochs=3, unit=unit), expected)


def test_a_warmup_in_updates_longer_than_the_run_is_refused():
    with pytest.raises(InputError) as caught:
        rates(4, epochs=3, warmup=13, unit="update")
    assert str(caught.value) == (
        "schedule.warmup: 13 updates of warmup are longer than the run of 12 updates (3 epochs of 4 updates)"
    )
    assert rates(4, epochs=3, warmup=12, unit="update")[-1] == 1


def test_a_constant_schedule_ignores_a_long_warmup():
    np.testing.assert_array_equal(rates(epochs=3, name="constant", warmup=1000, unit="update"), np.ones(3))


def test_a_run_of_one_update():
    np.testing.assert_array_equal(rates(epochs=1, name="warmup_cosine", warmup=0), [1.0])


# ---- epochs and updates


@pytest.mark.parametrize("name", ["warmup_constant", "warmup_cosine"])
def test_unit_epoch_holds_the_rate_within_an_epoch(name):
    lr_TU = rates(7, name=name, warmup=3, epochs=9, unit="epoch").reshape(9, 7)
    assert (lr_TU == lr_TU[:, :1]).all()
    np.testing.assert_array_equal(lr_TU[:, 0], rates(1, name=name, warmup=3, epochs=9, unit="epoch"))


def test_unit_update_moves_within_an_epoch():
    lr_T = rates(7, warmup=10, epochs=9, unit="update")
    np.testing.assert_array_equal(lr_T[:10], np.arange(1, 11) / 10)
    assert len(lr_T) == 63


def test_what_stands_in_the_schedule_counts_updates_of_the_whole_run():
    np.testing.assert_array_equal(
        rates(10, name="warmup_cosine", warmup=30, epochs=10, unit="update"),
        rates(1, name="warmup_cosine", warmup=30, epochs=100, unit="epoch"),
    )


# ---- what holds for every schedule


@given(
    name=st.sampled_from(["constant", "warmup_constant", "warmup_cosine"]),
    ramp=st.sampled_from(sorted(RAMPS)),
    unit=st.sampled_from(["epoch", "update"]),
    epochs=st.integers(1, 60),
    updates_per_epoch=st.integers(1, 9),
    share=st.floats(0, 1),
    peak=st.floats(1e-12, 1e3),
    floor=st.floats(0, 1),
)
def test_up_then_down_between_nothing_and_the_peak(name, ramp, unit, epochs, updates_per_epoch, share, peak, floor):
    length = epochs if unit == "epoch" else epochs * updates_per_epoch
    W = int(share * length)
    lr_T = rates(updates_per_epoch, epochs=epochs, name=name, ramp=ramp, unit=unit, warmup=W, peak=peak, floor=floor)
    assert lr_T.shape == (epochs * updates_per_epoch,)
    assert lr_T.dtype == np.float64
    assert (lr_T >= 0).all()
    assert (lr_T <= peak).all()
    warm = 0 if name == "constant" else W * (updates_per_epoch if unit == "epoch" else 1)
    assert (np.diff(lr_T[: warm + 1]) >= 0).all()
    assert (np.diff(lr_T[warm:]) <= 0).all()
    if warm < len(lr_T):
        assert lr_T[warm] == peak
    if name != "warmup_cosine":
        assert (lr_T[warm:] == peak).all()
    else:
        # up to a rounding of floor + (1 - floor) * share
        assert (lr_T[warm:] >= peak * floor * (1 - 1e-15)).all()


# ---- exactness


def to_float32(values):
    """40-digit numbers rounded once to float32: 24 bits, which float64 holds exactly."""
    with mpmath.workprec(24):
        return np.array([float(+value) for value in values]).astype(np.float32)


def exact_cosine(t, start, end, floor, peak):
    """peak * (floor + (1 - floor) * (1 + cos(pi p)) / 2) in 40-digit arithmetic, rounded to float32."""
    with mpmath.workdps(40):
        peak, floor = mpmath.mpf(peak), mpmath.mpf(floor)
        p = (mpmath.mpf(int(k) - start) / (end - start) for k in t)
        values = [peak * (floor + (1 - floor) * (1 + mpmath.cospi(share)) / 2) for share in p]
    return to_float32(values)


def assert_exact(t, T, W, floor, peak):
    lr_T = rates(epochs=T, name="warmup_cosine", warmup=W, floor=floor, peak=peak)[t].astype(np.float32)
    np.testing.assert_array_equal(lr_T, exact_cosine(t, W, T, floor, peak))


# the naive 0.5 * (1 + cos) fails the first two cases in the tail, by up to 77 ULP
EXACT = [(100_000, 0, 0.0, 0.01), (100_000, 1000, 0.0, 0.01), (99_999, 5, 0.0, 1.0), (100_000, 1000, 0.1, 0.01)]


@pytest.mark.parametrize(("T", "W", "floor", "peak"), EXACT)
def test_cosine_equals_forty_digit_arithmetic_in_float32(T, W, floor, peak):
    drawn = np.random.default_rng(0).integers(W, T, 1000)
    head, middle, tail = (
        np.arange(W, W + 200),
        np.arange((W + T) // 2 - 100, (W + T) // 2 + 100),
        np.arange(T - 1600, T),
    )
    assert_exact(np.unique(np.concatenate([drawn, head, middle, tail])), T, W, floor, peak)


def test_the_plain_cosine_would_fail_in_the_tail():
    # so that the test above is known to see it
    T = 1_000_000
    t = np.arange(T - 2000, T)
    plain = (0.01 * 0.5 * (1 + np.cos(np.pi * t / T))).astype(np.float32)
    assert (plain != exact_cosine(t, 0, T, 0.0, 0.01)).any()
    assert_exact(t, T, 0, 0.0, 0.01)


@pytest.mark.sweep
def test_cosine_equals_forty_digit_arithmetic_over_a_million_updates():
    assert_exact(np.arange(1000, 1_000_000), 1_000_000, 1000, 0.0, 0.01)


@pytest.mark.parametrize("ramp", RAMPS)
@pytest.mark.parametrize("W", [3, 7, 999, 100_000])
def test_ramps_equal_rational_arithmetic_in_float32(ramp, W):
    t = np.arange(W)
    over, below = {A: (t + 1, W), B: (t, W), C: (t + 1, W + 1)}[ramp]
    lr_T = rates(epochs=W, ramp=ramp, warmup=W, peak=0.01).astype(np.float32)
    some = np.unique(np.linspace(0, W - 1, 500).astype(int))
    with mpmath.workdps(40):
        exact = [mpmath.mpf(0.01) * int(over[k]) / below for k in some]
    np.testing.assert_array_equal(lr_T[some], to_float32(exact))
