"""The float64 closed forms, rounded to float32, against the textbook formulas in 40 digits."""

import mpmath
import numpy as np
import pytest
from mpmath import mpf

from lockstep.schedules.formulas import learning_rates
from parity_tests.shared.schedules import WARMUPS, recipe_of, schedules_over

MILLION = 1_000_000


def to_float32(values):
    """40-digit numbers rounded once to the 24 bits of float32, which float64 holds exactly."""
    with mpmath.workprec(24):
        return np.array([float(+value) for value in values]).astype(np.float32)


def cosine(p):
    return (1 + mpmath.cospi(p)) / 2


def warmup_share(s, t, W):
    if s.warmup_shape.endswith("exponential"):
        share = 1 - mpmath.exp(mpf(-(t + 1)) / W) if W else mpf(1)
        return s.warmup_start + (1 - mpf(s.warmup_start)) * share
    if t >= W:
        return mpf(1)
    r = {"(t+1)/W": mpf(t + 1) / W, "t/W": mpf(t) / W, "(t+1)/(W+1)": mpf(t + 1) / (W + 1)}[s.ramp]
    if s.warmup_shape == "cosine":
        r = (1 - mpmath.cospi(r)) / 2
    return s.warmup_start + (1 - mpf(s.warmup_start)) * r


def one_cycle_share(s, t, T):
    # in float64, as the library's own arguments are
    early = [s.rise * T - 1, s.fall * T - 2, T - 1]
    ends = early if s.decay_end == "T-1" else [int(s.rise * T), int(s.fall * T), T]
    values = [mpf(s.first), mpf(1), mpf(s.first), mpf(s.floor)]
    if not s.fall:
        ends, values = [ends[0], ends[2]], [values[0], values[1], values[3]]
    begin = mpf(0)
    for i, end in enumerate(ends):
        if t <= end:
            p = (t - begin) / (mpf(end) - begin)
            fall = cosine(p) if s.anneal == "cosine" else 1 - p
            return values[i + 1] + (values[i] - values[i + 1]) * fall
        begin = mpf(end)
    return mpf(s.floor)


def restarts_share(s, t, T, start):
    k, begin = 0, mpf(start)
    length = mpf(s.cycle or mpf(T - start) / sum(s.cycle_growth**i for i in range(s.cycles)))
    if not s.cycle and s.cycle_growth == 1:
        k = (t - start) * s.cycles // (T - start)
        begin += k * mpf(T - start) / s.cycles
    else:
        while t >= begin + length:
            begin, length, k = begin + length, length * s.cycle_growth, k + 1
    if k >= s.cycles and s.after_end == "hold":
        return mpf(s.floor)
    return s.floor + (mpf(s.cycle_decay) ** k - s.floor) * cosine((t - begin) / length)


def followed_share(s, t, W, T):
    """The share of the peak after the warmup."""
    if s.name == "constant":
        return mpf(1)
    if s.name == "one_cycle":
        return one_cycle_share(s, t - W, T - W)
    if s.name == "wsd":
        start = T - (s.decay_end == "T-1") - s.decay_length
    else:
        start = {"W": W, "W-1": W - 1, "0": 0}[s.decay_start]
    past = t - start
    if past <= 0:
        return mpf(1)
    if s.name == "inverse_sqrt":
        scale = s.timescale or W
        return max(mpmath.sqrt(mpf(scale) / (scale + past)), mpf(s.floor))
    if s.name == "exponential":
        return max(mpmath.exp(mpmath.log(mpf(s.factor)) * past / s.every), mpf(s.floor))
    if s.name == "step":
        return mpf(s.factor) ** (past // s.every)
    if s.name == "multistep":
        return mpf(s.factor) ** sum(past >= milestone for milestone in s.milestones)
    if s.name == "cosine_restarts":
        return restarts_share(s, t, T, start)
    p = mpf(past) / (T - (s.decay_end == "T-1") - start)
    if s.name == "polynomial" or s.after_end != "continue":
        p = min(p, mpf(1))
    shape = s.decay_shape if s.name == "wsd" else s.name
    fall = {
        "linear": lambda: 1 - p,
        "polynomial": lambda: (1 - p) ** mpf(s.power),
        "cosine": lambda: cosine(p),
        "1-sqrt": lambda: 1 - mpmath.sqrt(p),
    }[shape]()
    return s.floor + (1 - mpf(s.floor)) * fall


def exact_rates(recipe, t):
    """The learning rate of each update of t in 40-digit arithmetic, rounded once to float32."""
    s, W, T = recipe.schedule, recipe.warmup, recipe.schedule.length or recipe.training.epochs
    first = mpf(s.first) if s.name == "one_cycle" else mpf(1)
    values = []
    with mpmath.workdps(40):
        for k in map(int, t):
            is_before = k < W and s.warmup_of != "schedule"
            followed = first if is_before else followed_share(s, k, W, T)
            values.append(s.peak * warmup_share(s, k, W) * followed)
    return to_float32(values)


def some_updates(T, W):
    """Drawn updates, and all of those where rounding is hardest: around the beginning, W, the ends
    of phases and the end.
    """
    centres = (0, W, T // 5, T // 2, T - T // 10, 8 * T // 10)
    around = [np.arange(centre - 60, centre + 60) for centre in centres]
    drawn = np.random.default_rng(0).integers(0, T, 800)
    t = np.unique(np.concatenate([*around, drawn, np.arange(T - 600, T)]))
    return t[(t >= 0) & (t < T)]


def assert_exact(recipe, t):
    lr_T = learning_rates(recipe, 1)[t].astype(np.float32)
    np.testing.assert_array_equal(lr_T, exact_rates(recipe, t))


@pytest.mark.parametrize("name", schedules_over(MILLION))
def test_closed_form_equals_forty_digit_arithmetic_in_float32(name):
    recipe = recipe_of(schedules_over(MILLION)[name], MILLION, warmup=3_000)
    assert_exact(recipe, some_updates(MILLION, 3_000))


@pytest.mark.parametrize("W", [1, 3, 7, 999, MILLION])
@pytest.mark.parametrize("name", WARMUPS)
def test_warmup_equals_forty_digit_arithmetic_in_float32(name, W):
    recipe = recipe_of({"name": "constant", "warmup": W} | WARMUPS[name], MILLION, warmup=W)
    assert_exact(recipe, some_updates(MILLION, W))


@pytest.mark.parametrize("name", schedules_over(97))
@pytest.mark.parametrize("warmup", WARMUPS)
def test_short_runs_equal_forty_digit_arithmetic_at_every_update(name, warmup):
    knobs = schedules_over(397)[name] | ({} if name.startswith("one_cycle") else WARMUPS[warmup])
    assert_exact(recipe_of(knobs, 397, warmup=11, peak=1.0), np.arange(397))


@pytest.mark.sweep
@pytest.mark.parametrize("name", schedules_over(MILLION))
def test_closed_form_equals_forty_digit_arithmetic_at_every_one_of_a_million_updates(name):
    recipe = recipe_of(schedules_over(MILLION)[name], MILLION, warmup=3_000)
    assert_exact(recipe, np.arange(MILLION))


# ---- the plain cosine fails the tests above, so they can fail


def test_the_plain_cosine_fails_in_the_tail():
    recipe = recipe_of({"name": "cosine"}, MILLION, warmup=0)
    t = np.arange(MILLION - 2000, MILLION)
    plain = (0.01 * 0.5 * (1 + np.cos(np.pi * t / MILLION))).astype(np.float32)
    assert (plain != exact_rates(recipe, t)).any()
    assert_exact(recipe, t)
