"""Learning-rate schedules: literal tables, and properties of every recipe."""

from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lockstep.errors import InputError
from lockstep.recipe import Optimizer, Recipe, Schedule, Training, load_recipe
from lockstep.recipe.schedules.cosine_restarts import cosine_restarts
from lockstep.recipe.schedules.exponential import exponential_decay
from lockstep.recipe.schedules.inverse_sqrt import inverse_sqrt_decay
from lockstep.recipe.schedules.shapes import FALLS, cosine_fall, linear_fall, phase, sqrt_fall
from lockstep.run.everywhere import contrast_schedule
from lockstep.schedules.formulas import RAMPS, exponential_warmup, learning_rates, linear_warmup

A, B, C = "(t+1)/W", "t/W", "(t+1)/(W+1)"


def rates(updates_per_epoch=1, *, epochs=20, peak=1.0, beta2=None, **schedule):
    optimizer = Optimizer() if beta2 is None else Optimizer(name="adamw", beta2=beta2)
    recipe = Recipe(
        schedule=Schedule(peak=peak, **schedule),
        optimizer=optimizer,
        training=Training(epochs=epochs),
    )
    return learning_rates(recipe, updates_per_epoch)


# ---- literal tables


def test_seed_recipe_epoch_by_epoch():
    lr_T = learning_rates(load_recipe("seed"), 32)
    assert lr_T.shape == (320,)
    assert lr_T.dtype == np.float64
    # epochs 1 to 4, and the peak from epoch 5 to epoch 10
    rate_E = [0.01 * (1 / 5), 0.01 * (2 / 5), 0.01 * (3 / 5), 0.01 * (4 / 5), *[0.01] * 6]
    np.testing.assert_array_equal(lr_T, np.repeat(rate_E, 32))
    lr_E = [f"{rate:.6g}" for rate in lr_T[::32].astype(np.float32)]
    assert lr_E == ["0.002", "0.004", "0.006", "0.008", *["0.01"] * 6]


START_EARLY = {"decay_start": "W-1"}
EARLY = START_EARLY | {"decay_end": "T-1"}
UNDER_WAY = {"decay_start": "0", "warmup_of": "schedule"}
ON = {"after_end": "continue"}
WSD6 = {"decay_length": 6}
LOWER_CYCLES = {"cycle": 8, "cycle_decay": 0.5, "floor": 0.2}

# W=4, T=20, peak 1; measured with the libraries named
TABLE = [
    # name, ramp, knobs, t=0, t=W-1, t=W, t=T-1, t=T, t=T+1
    ("constant", A, {}, 0.25, 1, 1, 1, 1, 1),  # torch LinearLR(1/W, total_iters=W-1)
    # optax warmup_constant_schedule, HF constant_with_warmup
    ("constant", B, {}, 0, 0.75, 1, 1, 1, 1),
    ("constant", C, {}, 0.2, 0.8, 1, 1, 1, 1),
    ("linear", B, {}, 0, 0.75, 1, 0.0625, 0, 0),  # HF, optax join
    ("linear", A, ON, 0.25, 1, 1, 0.0625, 0, -0.0625),  # torchtitan
    ("polynomial", B, {"power": 2.0}, 0, 0.75, 1, 0.0039, 0, 0),
    ("cosine", B, {}, 0, 0.75, 1, 0.0096, 0, 0),  # optax, timm prefix=True
    ("cosine", B, ON, 0, 0.75, 1, 0.0096, 0, 0.0096),  # HF
    # torch SequentialLR([LinearLR, CosineAnnealingLR(T-W)], [W])
    ("cosine", A, ON, 0.25, 1, 1, 0.0096, 0, 0.0096),
    ("cosine", C, {}, 0.2, 0.8, 1, 0.0096, 0, 0),  # nanoGPT
    ("cosine", B, {"decay_start": "0"}, 0, 0.75, 0.9045, 0.0062, 0, 0),  # timm default
    # HF cosine_warmup_with_min_lr
    ("cosine", A, EARLY | ON | {"floor": 0.1}, 0.25, 1, 0.9914, 0.1, 0.1086, 0.1343),
    # torch ChainedScheduler(LinearLR, CosineAnnealingLR(T))
    ("cosine", A, UNDER_WAY | ON, 0.25, 0.9455, 0.9045, 0.0062, 0, 0.0062),
    # HF, fairseq, T5X normalized, big_vision
    ("inverse_sqrt", B, {}, 0, 0.75, 1, 0.4588, 0.4472, 0.4364),
    ("inverse_sqrt", A, START_EARLY, 0.25, 1, 0.8944, 0.4472, 0.4364, 0.4264),  # Noam, normalized
    ("wsd", B, WSD6, 0, 0.75, 1, 0.1667, 0, 0),  # HF, timm, Megatron
    ("wsd", A, WSD6 | ON, 0.25, 1, 1, 0.1667, 0, -0.1667),  # torchtitan
    ("exponential", A, {"factor": 0.5, "every": 8}, 0.25, 1, 1, 0.2726, 0.25, 0.2293),
    ("step", A, {"factor": 0.5, "every": 15}, 0.25, 1, 1, 0.5, 0.5, 0.5),
    ("multistep", A, {"factor": 0.5, "milestones": (16, 17)}, 0.25, 1, 1, 1, 0.5, 0.25),
    ("cosine_restarts", A, {"cycles": 2}, 0.25, 1, 1, 0.0381, 0, 0),
    ("cosine_restarts", A, {"cycles": 2} | ON, 0.25, 1, 1, 0.0381, 1, 0.9619),
    ("cosine_restarts", A, {"cycle": 17}, 0.25, 1, 1, 0.0338, 0.0085, 1),
    ("cosine_restarts", A, LOWER_CYCLES, 0.25, 1, 1, 0.2114, 0.2, 0.2),
]


@pytest.mark.parametrize(
    ("name", "ramp", "knobs", "first", "before", "at", "last", "end", "after"), TABLE
)
@pytest.mark.parametrize("unit", ["epoch", "update"])
def test_table_of_four_warmup_steps_in_twenty(
    name, ramp, knobs, first, before, at, last, end, after, unit
):
    length = {"length": 20} if "length" in Schedule.variants[name].knobs() else {}
    lr_T = rates(epochs=22, name=name, ramp=ramp, warmup=4, unit=unit, **knobs, **length)
    chosen = lr_T[[0, 3, 4, 19, 20, 21]]
    expected = [first, before, at, last, end, after]  # four digits
    np.testing.assert_allclose(chosen, expected, rtol=0, atol=5e-5)
    exact = [value in (0, 0.2, 0.25, 0.75, 0.8, 1) for value in (first, before)]
    assert (chosen[:2] == [first, before])[exact].all()


ONE_CYCLES = [
    # knobs, t=0, 3, 4, 19, 20, 21: the facts' W=4 of T=20 is rise = 0.2
    ({"rise": 0.2, "decay_end": "T-1"}, 0.04, 1, 0.9904, 4e-6, 4e-6, 4e-6),
    ({"rise": 0.2, "decay_end": "T"}, 0.04, 0.8594, 1, 0.0096, 4e-6, 4e-6),
    # rise 0.3, torch and optax
    ({"decay_end": "T-1"}, 0.04, 0.6683, 0.9083, 4e-6, 4e-6, 4e-6),
    ({"decay_end": "T"}, 0.04, 0.52, 0.76, 0.0125, 4e-6, 4e-6),
    ({"decay_end": "T", "anneal": "linear", "fall": 0.85}, 0.04, 0.52, 0.68, 0.0133, 4e-6, 4e-6),
    ({"decay_end": "T-1", "anneal": "linear", "fall": 0.6}, 0.04, 0.616, 0.808, 4e-6, 4e-6, 4e-6),
]


@pytest.mark.parametrize(("knobs", "first", "third", "fourth", "last", "end", "after"), ONE_CYCLES)
def test_table_of_one_cycle(knobs, first, third, fourth, last, end, after):
    lr_T = rates(epochs=22, name="one_cycle", length=20, **knobs)
    expected = [first, third, fourth, last, end, after]
    np.testing.assert_allclose(lr_T[[0, 3, 4, 19, 20, 21]], expected, rtol=0, atol=5e-5)


def test_exponential_warmup_of_pytorch_warmup():
    # tau = 4, T = 20: t = 0, W-1, W, T-1, T, T+1
    lr_T = rates(epochs=22, warmup=4, warmup_shape="exponential")
    expected = [0.2212, 0.6321, 0.7135, 0.9933, 0.9948, 0.9959]
    np.testing.assert_allclose(lr_T[[0, 3, 4, 19, 20, 21]], expected, rtol=0, atol=5e-5)


@pytest.mark.parametrize(
    ("shape", "beta2", "W"),
    [
        ("linear", 0.999, 2000),
        ("linear", 0.95, 40),
        ("exponential", 0.999, 1000),
        ("exponential", 0.0, 1),
    ],
)
def test_untuned_warmups_take_their_rounded_length_from_beta2(shape, beta2, W):
    untuned = {"warmup": 0, "warmup_shape": f"untuned_{shape}"}
    np.testing.assert_array_equal(
        rates(epochs=2100, unit="update", beta2=beta2, **untuned),
        rates(epochs=2100, unit="update", warmup=W, warmup_shape=shape),
    )


def test_torch_linear_lr_with_a_start_factor():
    # torch LinearLR(1/W, total_iters=W) is none of the three ramps
    lr_T = rates(warmup=4, ramp=B, warmup_start=0.25)
    np.testing.assert_array_equal(lr_T[:6], [0.25, 0.4375, 0.625, 0.8125, 1, 1])


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


def test_examples_of_the_docstrings():
    shares = linear_warmup(np.arange(6.0), 5, A)
    np.testing.assert_array_equal(shares, [1 / 5, 2 / 5, 3 / 5, 4 / 5, 1, 1])
    assert exponential_warmup(np.array([3.0]), 4)[0] == pytest.approx(0.632, abs=5e-4)
    middle = phase(np.array([0.0, 4, 9]), 2, 6)
    np.testing.assert_array_equal([middle.done, middle.left], [[0, 2, 4], [4, 2, 0]])
    np.testing.assert_array_equal(linear_fall(phase(np.arange(5.0), 0, 4)), [1, 0.75, 0.5, 0.25, 0])
    shares = cosine_fall(phase(np.array([0.0, 2, 4]), 0, 4))
    np.testing.assert_allclose(shares, [1, 0.5, 0], atol=1e-15)
    assert sqrt_fall(phase(np.arange(5.0), 0, 4))[1] == 0.5
    np.testing.assert_array_equal(inverse_sqrt_decay(np.array([4.0, 16]), 4, 4), [1, 0.5])
    np.testing.assert_array_equal(exponential_decay(np.array([4.0, 6]), 2, 0.5, 2), [0.5, 0.25])
    shares = cosine_restarts(np.array([0.0, 2, 4, 6, 8]), 4, 1, 2)
    np.testing.assert_allclose(shares, [1, 0.5, 1, 0.5, 0], atol=1e-15)


def test_cosine_reaches_the_floor_at_the_end_and_stays():
    lr_T = rates(epochs=1000, name="cosine", warmup=4, length=20, floor=0.25)
    chosen, expected = lr_T[[3, 4, 12, 20, 21, 999]], [1, 1, 0.625, 0.25, 0.25, 0.25]
    np.testing.assert_allclose(chosen, expected, rtol=0, atol=1e-15)
    assert (lr_T[20:] == 0.25).all()


def test_cosine_halfway_is_half():
    assert rates(name="cosine", warmup=0, epochs=20)[10] == pytest.approx(0.5, abs=2e-16)


def test_a_cosine_that_goes_on_repeats_itself():
    lr_T = rates(epochs=100, name="cosine", warmup=0, length=10, after_end="continue")
    wave_T = (1 + np.cos(np.pi * np.arange(100) / 10)) / 2
    np.testing.assert_allclose(lr_T, wave_T, rtol=0, atol=1e-14)
    np.testing.assert_array_equal(lr_T[::20], np.ones(5))
    np.testing.assert_array_equal(lr_T[10::20], np.zeros(5))


@pytest.mark.parametrize("name", ["linear", "polynomial", "cosine", "cosine_restarts", "wsd"])
def test_floor_is_a_share_of_the_peak(name):
    lr_T = rates(name=name, warmup=2, epochs=5000, length=4999, peak=0.01, floor=0.1)
    assert lr_T[-1] == 0.001


def test_cycles_grow_and_restart():
    growing = {"name": "cosine_restarts", "warmup": 2, "cycle": 2, "cycle_growth": 2}
    lr_T = rates(epochs=32, cycles=3, after_end="hold", **growing)
    assert [t for t in range(2, 32) if lr_T[t] == 1] == [2, 4, 8]  # cycles of 2, 4 and 8
    assert (lr_T[16:] == 0).all()
    again = rates(epochs=32, after_end="continue", **growing)
    assert [t for t in range(2, 32) if again[t] == 1] == [2, 4, 8, 16]


def test_cycles_that_fill_the_run_may_begin_between_two_updates():
    # HF get_cosine_with_hard_restarts_schedule_with_warmup: (cycles * progress) % 1
    T = 23
    progress = np.arange(T) / T
    expected = (1 + np.cos(np.pi * ((3 * progress) % 1))) / 2
    lr_T = rates(epochs=T, name="cosine_restarts", warmup=0, cycles=3)
    np.testing.assert_allclose(lr_T, expected, atol=1e-14)


# ---- the edges of W

FAMILIES = {name: {} for name in Schedule.variants} | {
    "wsd": {"decay_length": 1},
    "inverse_sqrt": {"timescale": 3},
    "cosine_restarts": {"cycles": 1},
}


def test_every_schedule_has_a_formula():
    assert Schedule.variants.keys() == FAMILIES.keys()


@pytest.mark.parametrize("ramp", RAMPS)
@pytest.mark.parametrize("shape", ["linear", "cosine", "exponential"])
@pytest.mark.parametrize("name", FAMILIES)
def test_no_warmup_is_the_peak_at_once(name, shape, ramp):
    # optax stays at 0 for ever here: warmup_constant_schedule(0, peak, 0)
    lr_T = rates(name=name, ramp=ramp, warmup=0, warmup_shape=shape, **FAMILIES[name])
    assert lr_T[0] == (0.04 if name == "one_cycle" else 1)
    if name == "constant":
        np.testing.assert_array_equal(lr_T, np.ones(20))


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize(("ramp", "first"), [(A, 1.0), (B, 0.0), (C, 0.5)])
def test_a_warmup_of_one(ramp, first, name):
    lr_T = rates(name=name, ramp=ramp, warmup=1, epochs=6, **FAMILIES[name])
    top = 0.04 if name == "one_cycle" else 1
    assert (lr_T[0], lr_T[1]) == (first * top, top)


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "wsd"])
@pytest.mark.parametrize(
    ("ramp", "expected"),
    [(A, [1 / 3, 2 / 3, 1]), (B, [0, 1 / 3, 2 / 3]), (C, [1 / 4, 2 / 4, 3 / 4])],
)
@pytest.mark.parametrize("unit", ["epoch", "update"])
def test_a_warmup_as_long_as_the_run(name, ramp, expected, unit):
    # optax raises here
    lr_T = rates(name=name, ramp=ramp, warmup=3, epochs=3, unit=unit, **FAMILIES[name])
    np.testing.assert_array_equal(lr_T, np.multiply(expected, 0.04 if name == "one_cycle" else 1))


@pytest.mark.parametrize("decay_end", ["T", "T-1"])
@pytest.mark.parametrize("decay_start", ["W", "W-1", "0"])
@pytest.mark.parametrize("name", ["linear", "cosine", "polynomial"])
def test_a_decay_without_length_ends_at_once(name, decay_start, decay_end):
    decay = {"decay_start": decay_start, "decay_end": decay_end}
    lr_T = rates(name=name, warmup=5, length=5, epochs=8, floor=0.5, **decay)
    np.testing.assert_array_equal(lr_T, [0.2, 0.4, 0.6, 0.8, 1, 0.5, 0.5, 0.5])


def test_a_warmup_in_updates_longer_than_the_run_is_refused():
    with pytest.raises(InputError) as caught:
        rates(4, epochs=3, warmup=13, unit="update")
    assert str(caught.value) == (
        "schedule.warmup: 13 updates of warmup are longer than the run of 12 updates (3 "
        "epochs of 4 updates)"
    )
    assert rates(4, epochs=3, warmup=12, unit="update")[-1] == 1


def test_an_untuned_warmup_longer_than_the_run_is_refused():
    with pytest.raises(InputError) as caught:
        rates(4, epochs=3, warmup=0, warmup_shape="untuned_linear", beta2=0.99, unit="update")
    assert str(caught.value) == (
        "schedule.warmup_shape: 200 updates of warmup are longer than the run of 12 "
        "updates (3 epochs of 4 updates)"
    )


def test_a_decay_in_updates_longer_than_the_run_is_refused():
    line = r"schedule\.decay_length: 3 \+ 10 updates of warmup and decay are longer"
    with pytest.raises(InputError, match=line):
        rates(4, epochs=3, name="wsd", warmup=3, decay_length=10, unit="update")


def test_a_run_of_one_update():
    np.testing.assert_array_equal(rates(epochs=1, name="cosine", warmup=0), [1.0])


# ---- epochs and updates


@pytest.mark.parametrize("name", FAMILIES)
def test_unit_epoch_holds_the_rate_within_an_epoch(name):
    knobs = {"name": name, "warmup": 3, "epochs": 9, "unit": "epoch"} | FAMILIES[name]
    lr_TU = rates(7, **knobs).reshape(9, 7)
    assert (lr_TU == lr_TU[:, :1]).all()
    np.testing.assert_array_equal(lr_TU[:, 0], rates(1, **knobs))


def test_unit_update_moves_within_an_epoch():
    lr_T = rates(7, warmup=10, epochs=9, unit="update")
    np.testing.assert_array_equal(lr_T[:10], np.arange(1, 11) / 10)
    assert len(lr_T) == 63


@pytest.mark.parametrize("name", FAMILIES)
def test_what_stands_in_the_schedule_counts_updates_of_the_whole_run(name):
    np.testing.assert_array_equal(
        rates(10, name=name, warmup=30, epochs=10, unit="update", **FAMILIES[name]),
        rates(1, name=name, warmup=30, epochs=100, unit="epoch", **FAMILIES[name]),
    )


# ---- the contrast of a run


@pytest.mark.parametrize("warmup", [0, 2])
@pytest.mark.parametrize("unit", ["epoch", "update"])
@pytest.mark.parametrize("name", FAMILIES)
def test_the_contrast_has_a_warmup_where_the_recipe_has_none(name, unit, warmup):
    schedule = Schedule(name=name, unit=unit, warmup=warmup, **FAMILIES[name])
    recipe = Recipe(schedule=schedule, training=Training(epochs=6))
    contrast = Recipe(schedule=contrast_schedule(recipe, 5), training=Training(epochs=6))
    assert contrast.warmup == (0 if warmup else 3 if unit == "epoch" else 15)
    lr_T, contrast_T = learning_rates(recipe, 5), learning_rates(contrast, 5)
    assert (lr_T != contrast_T).any()
    without_warmup_T = contrast_T if warmup else lr_T
    first = 0.04 if name == "one_cycle" else 1
    assert without_warmup_T[0] == recipe.schedule.peak * first


# ---- what holds for every schedule


@st.composite
def recipes_and_epochs(draw):
    """A recipe of any schedule, whose decay ends within the run or after it, and its updates an
    epoch.
    """
    name = draw(st.sampled_from(sorted(Schedule.variants)))
    unit = draw(st.sampled_from(["epoch", "update"]))
    epochs, updates_per_epoch = draw(st.integers(1, 40)), draw(st.integers(1, 6))
    run = epochs if unit == "epoch" else epochs * updates_per_epoch
    length = draw(st.sampled_from([0, run, max(1, run // 2), run + 3]))
    T = length or run
    choices = {
        "warmup": st.integers(0, T),
        "warmup_shape": st.sampled_from(["linear", "cosine", "exponential"]),
        "ramp": st.sampled_from(sorted(RAMPS)),
        "warmup_start": st.sampled_from([0.0, 0.1, 1.0]),
        "warmup_of": st.sampled_from(["peak", "schedule"]),
        "length": st.just(length),
        "decay_start": st.sampled_from(["W", "W-1", "0"]),
        "decay_end": st.sampled_from(["T", "T-1"]),
        "floor": st.floats(0, 1),
        "power": st.floats(0.1, 5),
        "timescale": st.integers(1, 50),
        "factor": st.floats(0.01, 1),
        "every": st.integers(1, 50),
        "milestones": st.lists(st.integers(1, 50), max_size=4).map(tuple),
        "decay_length": st.integers(1, T),
        "decay_shape": st.sampled_from(sorted(FALLS)),
        "anneal": st.sampled_from(["cosine", "linear"]),
        "first": st.floats(0, 1),
        "rise": st.floats(0, 0.5),
        "fall": st.one_of(st.just(0.0), st.floats(0.6, 1)),
        "cycle": st.integers(1, 20),
        "cycles": st.integers(1, 4),
        "cycle_growth": st.integers(1, 3),
        "cycle_decay": st.floats(0.1, 1),
    }
    drawn = [knob for knob in Schedule.variants[name].knobs() if knob in choices]
    knobs = {knob: draw(choices[knob]) for knob in drawn}
    if name == "wsd":
        knobs["warmup"] = min(knobs["warmup"], T - knobs["decay_length"])
    if "length" not in knobs:
        knobs["warmup"] = min(knobs["warmup"], run)
    schedule = Schedule(name=name, unit=unit, peak=draw(st.floats(1e-12, 1e3)), **knobs)
    return Recipe(schedule=schedule, training=Training(epochs=epochs)), updates_per_epoch


@given(recipes_and_epochs())
def test_between_nothing_and_the_peak(drawn):
    recipe, updates_per_epoch = drawn
    schedule, epochs = recipe.schedule, recipe.training.epochs
    lr_T = learning_rates(recipe, updates_per_epoch)
    assert lr_T.shape == (epochs * updates_per_epoch,)
    assert lr_T.dtype == np.float64
    assert (lr_T >= 0).all()
    assert (lr_T <= schedule.peak).all()


@given(recipes_and_epochs())
def test_up_then_down(drawn):
    recipe, updates_per_epoch = drawn
    schedule = recipe.schedule
    lr_T = learning_rates(recipe, updates_per_epoch)
    if schedule.unit == "epoch":
        lr_T = lr_T[::updates_per_epoch]
    W, slack = recipe.warmup, 4e-16 * schedule.peak
    if schedule.warmup_of != "schedule":
        assert (np.diff(lr_T[:W]) >= 0).all()
    if schedule.warmup_shape == "exponential" and W:
        return  # it never quite ends
    knobs = asdict(schedule)
    if len(lr_T) > W and knobs.get("decay_start") == "W" and schedule.name != "one_cycle":
        end = (schedule.length or len(lr_T)) - (knobs.get("decay_end") == "T-1")
        ended = "length" in schedule.knobs() and end <= W and not knobs.get("cycle")
        assert lr_T[W] == pytest.approx(schedule.peak * (schedule.floor if ended else 1), rel=1e-15)
    if schedule.name not in ("one_cycle", "cosine_restarts"):
        assert (np.diff(lr_T[W:]) <= slack).all()


def cycle_without_last_phase(**knobs):
    """A recipe of four epochs whose cycle takes one, and ends where its second phase ends."""
    schedule = Schedule(name="one_cycle", length=1, rise=0.0, first=1.0, floor=0.0, **knobs)
    return Recipe(schedule=schedule, training=Training(epochs=4)), 2


@given(recipes_and_epochs())
@example(cycle_without_last_phase(fall=1.0))
@example(cycle_without_last_phase(fall=2.0, decay_end="T-1"))
def test_after_the_end_the_floor_holds(drawn):
    recipe, updates_per_epoch = drawn
    schedule = recipe.schedule
    knobs = asdict(schedule)
    if "length" not in schedule.knobs() or not schedule.length or knobs.get("cycle"):
        return
    lr_T = learning_rates(recipe, updates_per_epoch)
    if schedule.unit == "epoch":
        lr_T = lr_T[::updates_per_epoch]
    end = schedule.length - (knobs.get("decay_end") == "T-1")
    after_T = lr_T[end:][recipe.warmup :]
    if schedule.warmup_shape != "exponential":
        np.testing.assert_allclose(after_T, schedule.peak * schedule.floor, rtol=1e-15)
