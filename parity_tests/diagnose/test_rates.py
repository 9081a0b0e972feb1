"""The cause of other learning rates of two loops: what one series is of the other, or of the
schedule that its loop declares; and the schedules that both are read to be.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import optax
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch.optim import lr_scheduler

import lockstep
from lockstep.diagnose.between.rates.differences import difference
from lockstep.diagnose.between.rates.series import RateSeries
from lockstep.diagnose.causes.alternatives import Cause
from lockstep.records.trace import Trace

Array = NDArray[Any]
DTYPES = ("float64", "float32")
T, W, PEAK = 60, 12, 1e-3


def cosine(
    updates: int = T,
    *,
    warmup: int = W,
    start: int | None = None,
    end: int = T,
    floor: float = 0.0,
    holds: bool = True,
    added: int = 0,
) -> Array:
    """A climb of (t + added) / (warmup + added), then half a cosine from `start` to `end`."""
    t = np.arange(updates, dtype=np.float64)
    begin = warmup if start is None else start
    share = (t - begin) / (end - begin)
    share = np.minimum(share, 1) if holds else share
    fall = floor + (PEAK - floor) * (1 + np.cos(np.pi * share)) / 2
    climb = PEAK * (t + added) / max(warmup + added, 1)
    return np.where(t < warmup, climb, fall)


def line(updates: int = T, end: int = T) -> Array:
    """From the peak to 0 at `end`."""
    return PEAK * np.maximum(1 - np.arange(updates) / end, 0)


def torch_rates(
    schedule: Callable[[torch.optim.Optimizer], lr_scheduler.LRScheduler],
    updates: int = T,
    *,
    steps: int = 1,
    before: int = 0,
) -> Array:
    """The rates that PyTorch's scheduler gives, stepped so many times at every update."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=PEAK)
    scheduler = schedule(optimizer)
    rates = []
    optimizer.step()
    for _ in range(before):
        scheduler.step()
    for _ in range(updates):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        for _ in range(steps):
            scheduler.step()
    return np.array(rates)


def loop(
    folder: Path, rates: Array, settings: dict[str, Any] | None = None, others: Array | None = None
) -> Trace:
    """A loop that was recorded with these rates, and with those of a second group where there is
    one; nothing else differs.
    """
    number = len(list(folder.iterdir()))
    recorder = lockstep.Recorder(folder / f"{number}.trace", backend="torch", settings=settings)
    parameters = {"p": np.ones(3, rates.dtype)}
    recorder.start(parameters)
    for update, rate in enumerate(rates):
        both = rate if others is None else [rate, others[update]]
        recorder.update(parameters=parameters, lr=both, loss=1.0)
    return recorder.finish()


def cause_of(folder: Path, a: Array, b: Array, dtype: str = "float64") -> Cause | None:
    """The cause that two loops with these rates get."""
    traces = [loop(folder, rates.astype(dtype)) for rates in (a, b)]
    return lockstep.diagnose(*traces).cause


def said(folder: Path, a: Array, b: Array, dtype: str = "float64") -> str:
    """The text of that cause, and who is blamed."""
    cause = cause_of(folder, a, b, dtype)
    return "none" if cause is None else f"{cause.text} [{cause.side}]"


Case = tuple[str, Array, Array, str, str]
"""A name, the rates of a and of b, and what is said of b and, with the sides exchanged, of b."""


def cases() -> Iterator[Case]:
    whole = cosine()
    yield "factor", whole, 10 * whole, "b's learning rate is 10 times a's", "is 0.1 times a's"
    late = np.concatenate([whole[:1], whole[:-1]])
    yield "late", whole, late, "one update late", "one update early"
    three = np.concatenate([np.repeat(whole[:1], 3), whole[:-3]])
    yield "three late", whole, three, "3 updates late", "3 updates early"
    fast = "goes through a's schedule 3 times as fast: b[t] = a[3 t]"
    yield "fast", line(), line(end=T // 3), fast, "a goes through b's schedule 3 times as fast"
    slow = "b goes through a's schedule 4 times as slowly: b[t] = a[(t + 1) // 4]"
    fours = (np.arange(T) + 1) // 4
    yield "slow", whole, whole[fours], slow, "a goes through b's schedule 4 times as slowly"
    held = "b's learning rate stays for 5 updates at a time: b[t] = a[5 (t // 5)]"
    fives = np.arange(T) // 5 * 5
    yield "held", whole, whole[fives], held, "a's learning rate stays for 5 updates at a time"
    flat = np.full(T, PEAK)
    first = np.where(np.arange(T) == 0, 0.0, flat)
    first_text = "b's first learning rate is 0 for 0.001; all others equal a's"
    yield "first", flat, first, first_text, "b's first learning rate is 0.001 for 0"
    last = np.where(np.arange(T) == T - 1, 0.0, flat)
    last_text = "b's last recorded learning rate is 0 for 0.001; all others equal a's"
    yield "last", flat, last, last_text, "is 0.001 for 0"
    constant = "b's learning rate never changes: it is 0.001 at every update"
    yield "constant", cosine(warmup=0), flat, constant, "a's learning rate never changes"
    plateau = np.maximum(whole, np.where(np.arange(T) < W, PEAK, 0))
    none = "b has no warmup: its rate is 0.001 up to update 11"
    yield "no warmup", whole, plateau, none, "a has no warmup: its rate is 0.001 up to update 11"
    floor = "b's learning rate does not fall below 0.0003"
    yield "bound", whole, np.maximum(whole, 3e-4), floor, "a's learning rate does not fall below"
    chain = "is 0.1 times a's from the first update, and one update late from update 1 on"
    chained = "a's learning rate is 0.1 times b's from the first update"
    decay = cosine(warmup=0)
    yield "chain", decay, 0.1 * np.append(PEAK, decay[:-1]), chain, chained
    decays = cosine(end=T - W, warmup=0, holds=False)
    climbs = "b has no warmup: its cosine of length 48 begins at update 0 (0.001 for 0)"
    back = "a goes on after its end, climbing back from update 48 on"
    yield "climbs back", whole, decays, climbs, back
    clock = "b's decay counts from update 0 (t / T) where a's counts from the warmup's end"
    yield "clock", whole, cosine(start=0), clock, "from update 12, the warmup's end, where a's"
    longer = "b's decay takes 60 updates for 48: it ends at update T + W = 72 for T = 60"
    shorter = "b's decay takes 48 updates for 60: it ends at update T = 60 for T + W = 72"
    yield "T + W", whole, cosine(end=T + W), longer, shorter
    counted = "b divides by T = 60 where a divides by T - 1 = 59"
    lasts = "b divides by T - 1 = 59 where a divides by T = 60"
    yield "last counted", cosine(warmup=0, end=T - 1), cosine(warmup=0), counted, lasts
    low = "b's decay ends at 0.0001 for 0"
    yield "floor", whole, cosine(floor=1e-4), low, "b's decay ends at 0 for 0.0001"
    longer = "b's warmup takes 20 updates for 12"
    yield "warmup", whole, cosine(warmup=20), longer, "b's warmup takes 12 updates for 20"
    ramp = "b climbs as (t + 1) / 13 where a climbs as t / 12"
    yield "ramp", whole, cosine(added=1), ramp, "b climbs as t / 12 where a climbs as (t + 1) / 13"
    straight = "b falls along a straight line where a falls along a cosine"
    curved = "b falls along a cosine where a falls along a straight line"
    yield "shape", cosine(warmup=0), line(), straight, curved
    goes = "b goes on after its end, climbing back from update 40 on"
    ended = cosine(warmup=0, end=40)
    goes_back = cosine(warmup=0, end=40, holds=False)
    yield "goes on", ended, goes_back, goes, "a goes on after its end"


CASES = {name: rest for name, *rest in cases()}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_change_is_named(name: str, dtype: str, tmp_path: Path) -> None:
    a, b, of_b, exchanged = CASES[name]
    assert of_b in said(tmp_path, a, b, dtype)
    assert exchanged in said(tmp_path, b, a, dtype)


def test_who_climbs_back_is_off(tmp_path: Path) -> None:
    back = cosine(warmup=0, end=T - W, holds=False)
    for rates, side in (((cosine(), back), "b"), ((back, cosine()), "a")):
        cause = cause_of(tmp_path, *rates)
        assert cause is not None
        assert (cause.side, cause.page) == (side, "cosine-climbs-back")


TORCH: dict[str, Callable[[torch.optim.Optimizer], lr_scheduler.LRScheduler]] = {
    "cosine": lambda o: lr_scheduler.CosineAnnealingLR(o, T),
    "polynomial": lambda o: lr_scheduler.PolynomialLR(o, T, 2.0),
    "exponential": lambda o: lr_scheduler.ExponentialLR(o, 0.97),
    "restarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 15, 2),
    "one cycle": lambda o: lr_scheduler.OneCycleLR(o, PEAK, 4 * T),
    "warmup": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, 0.1, 1, 10), lr_scheduler.CosineAnnealingLR(o, 50)], [10]
    ),
}


@pytest.mark.parametrize("name", TORCH)
def test_a_scheduler_of_torch_that_is_stepped_otherwise(name: str, tmp_path: Path) -> None:
    right = torch_rates(TORCH[name])
    twice = torch_rates(TORCH[name], steps=2)
    early = torch_rates(TORCH[name], before=1)
    never = torch_rates(TORCH[name], steps=0)
    assert "2 times as fast" in said(tmp_path, right, twice)
    by_one = "0.97 times" if name == "exponential" else "one update early"
    assert by_one in said(tmp_path, right, early)
    assert "never changes" in said(tmp_path, right, never)


def test_schedules_of_optax(tmp_path: Path) -> None:
    def rates(end: int, floor: float, warmup: int) -> Array:
        schedule = optax.warmup_cosine_decay_schedule(0.0, PEAK, warmup, end, floor)
        return np.array([float(schedule(t)) for t in range(T)])

    a = rates(T, 0.0, 10)
    assert "up to rounding" in said(tmp_path, cosine(warmup=10), a)
    assert "T + W = 70 for T = 60" in said(tmp_path, a, rates(T + 10, 0.0, 10))
    assert "decay ends at 0.0001 for 0" in said(tmp_path, a, rates(T, 1e-4, 10))
    assert "warmup takes 7 updates for 10" in said(tmp_path, a, rates(T, 0.0, 7))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rounded_rates(dtype: str, tmp_path: Path) -> None:
    low = torch.tensor(cosine()).to(getattr(torch, dtype)).double().numpy()
    assert f"rounded to {dtype}" in said(tmp_path, cosine(), low)


def test_other_steps(tmp_path: Path) -> None:
    def steps(milestones: list[int], factor: float = 0.1) -> Array:
        return torch_rates(lambda o: lr_scheduler.MultiStepLR(o, milestones, factor))

    a = steps([20, 40])
    text = said(tmp_path, a, steps([20, 45]))
    assert "b steps at updates 20, 45, a at updates 20, 40" in text
    assert "b steps by the factor 0.5, a by 0.1" in said(tmp_path, a, steps([20, 40], 0.5))
    assert "one update late" in said(tmp_path, a, steps([21, 41]))


DECLARED = {"name": "cosine", "peak": PEAK, "unit": "update", "warmup": W, "ramp": "t/W"}


def test_a_side_that_departs_from_what_it_declares(tmp_path: Path) -> None:
    right = loop(tmp_path, cosine(), {"schedule": DECLARED})
    longer = loop(tmp_path, cosine(end=T + W), {"schedule": DECLARED})
    for pair, side in (((right, longer), "b"), ((longer, right), "a")):
        cause = lockstep.diagnose(*pair).cause
        assert cause is not None
        assert (cause.side, cause.page) == (side, "decay-steps-include-the-warmup")
        assert "T + W = 72 for the declared T = 60" in cause.text
    twice = cosine(2 * T)[::2]
    fast = lockstep.diagnose(right, loop(tmp_path, twice, {"schedule": DECLARED})).cause
    assert fast is not None
    assert fast.side == "b"
    assert "b goes through the declared schedule 2 times as fast" in fast.text


def test_two_declared_schedules_that_are_followed(tmp_path: Path) -> None:
    back = DECLARED | {"warmup": 0, "length": T - W, "after_end": "continue"}
    traces = (
        loop(tmp_path, cosine(), {"schedule": DECLARED}),
        loop(tmp_path, cosine(warmup=0, end=T - W, holds=False), {"schedule": back}),
    )
    cause = lockstep.diagnose(*traces).cause
    assert cause is not None
    assert "the declared schedules differ: warmup 12 in a, 0 in b, length 60 in a, 48" in cause.text
    assert "b's length is 48 and it goes on after its end" in cause.text
    lower = loop(tmp_path, cosine(floor=1e-4), {"schedule": DECLARED | {"floor": 0.1}})
    cause = lockstep.diagnose(traces[0], lower).cause
    assert cause is not None
    assert cause.text == "the declared schedules differ: floor 0 in a, 0.1 in b"
    assert not cause.side


def test_a_recording_that_was_cut_short_departs_from_nothing(tmp_path: Path) -> None:
    # without a declared length the run's is taken, and the recording need not be the whole run
    traces = [
        loop(tmp_path, rates, {"schedule": DECLARED})
        for rates in (cosine(40, end=T), 2 * cosine(40, end=T))
    ]
    cause = lockstep.diagnose(*traces).cause
    assert cause is not None
    assert not cause.side
    assert "b's learning rate is 2 times a's" in cause.text


def test_one_of_several_groups(tmp_path: Path) -> None:
    a = loop(tmp_path, cosine(), others=line())
    part = loop(tmp_path, cosine(), others=2 * line())
    both = loop(tmp_path, 2 * cosine(), others=2 * line())
    cause = lockstep.diagnose(a, part).cause
    assert cause is not None
    assert "b's learning rate of group lr1 is 2 times a's" in cause.text
    cause = lockstep.diagnose(a, both).cause
    assert cause is not None
    assert cause.text.startswith("b's learning rate is 2 times a's at every update")
    apart = loop(tmp_path, 2 * cosine(), others=0.5 * line())
    diagnosis = lockstep.diagnose(a, apart)
    assert diagnosis.cause is not None
    texts = [cause.text for cause in (diagnosis.cause, *diagnosis.further)]
    assert sorted("group lr1" in text for text in texts) == [False, True]


def test_what_a_recording_does_not_tell_is_not_said(tmp_path: Path) -> None:
    # a line that falls more slowly, and one with a floor, are one where neither end is recorded
    slower = PEAK * (1 - np.arange(T) / 66)
    text = said(tmp_path, PEAK * (1 - np.arange(T) / T), slower)
    assert "ends at" not in text
    assert "falls by 1.5152e-05 for 1.6667e-05 an update" in text
    # six updates of a cosine in float32 are those of many
    start = cosine(6, warmup=0, end=1000)
    assert "none" in said(tmp_path, start, cosine(6, warmup=0, end=900), "float32")
    # only noise
    draw = np.random.Generator(np.random.PCG64(1))
    noise = 1 + 0.01 * draw.normal(size=T)
    assert said(tmp_path, cosine(), cosine() * noise) == "none"


@pytest.mark.parametrize("dtype", DTYPES)
def test_rates_of_two_schedules_are_read_as_one_change(dtype: str, tmp_path: Path) -> None:
    # a climb of t / 5 and a line to 30 from there have the rates of t / 6 and a line from 0
    t = np.arange(20)
    a = PEAK * np.where(t < 5, t / 5, (30 - t) / 25)
    b = PEAK * np.where(t < 5, t / 5, (30 - t) / 30)
    text = "b's decay counts from update 0 (t / T) where a's counts from the warmup's end"
    assert text in said(tmp_path, a, b, dtype)
    six = PEAK * np.where(t < 5, (t + 1) / 6, (30 - t) / 25)
    beneath = PEAK * np.where(t < 5, (t + 1) / 6, (30 - t) / 30)
    assert text in said(tmp_path, six, beneath, dtype)


@given(
    st.integers(0, 30),
    st.integers(40, 200),
    st.sampled_from([0.0, 1e-5, 1e-4]),
    st.integers(1, 40),
    st.sampled_from(DTYPES),
)
@hypothesis_settings(max_examples=12, deadline=None)
def test_a_longer_decay_is_read_off(
    warmup: int, end: int, floor: float, more: int, dtype: str
) -> None:
    mine, other = (
        RateSeries(f"{name}'s", name, name, rates.astype(dtype).astype(np.float64), UNITS[dtype])
        for name, rates in (
            ("b", cosine(end, warmup=warmup, end=end + more, floor=floor)),
            ("a", cosine(end, warmup=warmup, end=end, floor=floor)),
        )
    )
    by_schedule = difference(mine, other)
    assert by_schedule is not None
    lengths = f"{end + more - warmup}", f"{end - warmup}"
    assert all(length in by_schedule.relation.text for length in lengths)
    assert by_schedule.relation.key == "lr-decay-end"


UNITS = {"float64": 2.0**-53, "float32": 2.0**-24}
