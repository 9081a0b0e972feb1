"""Presets where a phase has no length, a factor is 1, or a default is the library's. They give the
library's numbers or are refused.
"""

import numpy as np
import pytest

from lockstep.cli import main
from lockstep.errors import InputError
from lockstep.recipe import Optimizer, Recipe, Schedule, Training, load_recipe
from lockstep.recipe.presets import PRESETS, UNSAID, expand
from lockstep.recipe.schedules.shapes import (
    cosine_waves,
    exponential_fall,
    phase,
    power_fall,
    stretched,
)
from lockstep.run.everywhere import contrast_schedule
from lockstep.schedules.curve import preset_curve
from lockstep.schedules.formulas import learning_rates, linear_warmup


def rates(written, updates):
    return preset_curve(written, peak=None, warmup=None, updates=updates, length=None).rates_T


def refused(written, updates=12):
    with pytest.raises(InputError) as caught:
        rates(written, updates)
    (line,) = str(caught.value).splitlines()
    return line


# each value is the library's (timm 1.0.31, transformers 5.23, optax 0.2.8 in x64, pytorch_warmup
# 0.2, torch 2.13) or that of the formula of Megatron-LM, T5X and torchtitan, at a peak of 2 unless
# the preset says otherwise
VALUES = [
    # preset, {update: rate}
    ("timm.step,peak=2,warmup=5,every=4,factor=0.5", {4: 1.6, 8: 2, 9: 1, 12: 1, 13: 0.5}),
    (
        "timm.step_without_prefix,peak=2,warmup=5,every=4,factor=0.5",
        {4: 1.6, 5: 1, 8: 0.5, 12: 0.25},
    ),
    ("timm.step,peak=2,warmup=5,every=1", {5: 2, 13: 2}),
    ("timm.multistep_prefix,peak=2,warmup=5,milestones=[2,3]", {6: 2, 13: 2}),
    (
        "timm.multistep_prefix,peak=2,warmup=0,milestones=[1,3],factor=0.5",
        {0: 2, 1: 1, 2: 0.5, 13: 0.5},
    ),
    ("timm.multistep_prefix,peak=2,warmup=1,milestones=[1],factor=0.5", {0: 0, 1: 1}),
    ("timm.cosine,peak=2,warmup=6,length=4,floor=0.1", {3: 1, 5: 5 / 3, 6: 0.2, 13: 0.2}),
    ("hf.polynomial,peak=1e-3,warmup=4,length=10", {4: 1e-3, 7: 5.0005e-4, 10: 1e-7, 13: 1e-7}),
    ("hf.polynomial,peak=1e-3,warmup=4,length=10,floor=0.5", {7: 7.5e-4, 10: 5e-4}),
    ("hf.polynomial,peak=1e-3,warmup=10,length=8", {9: 9e-4, 10: 1e-7}),
    ("hf.cosine,peak=2,warmup=6,length=6", {5: 5 / 3, 6: 2, 7: 0, 8: 2}),
    ("hf.cosine,peak=2,warmup=8,length=6", {7: 1.75, 8: 2, 9: 0, 10: 2}),
    ("hf.cosine,peak=2,warmup=2,length=10,waves=1.0", {2: 2, 4: 1, 6: 0, 8: 1, 10: 2}),
    ("hf.cosine_with_min_lr,peak=2,warmup=6,length=6,floor=0.25", {6: 2, 7: 0.5, 8: 2}),
    (
        "hf.cosine_warmup_with_min_lr,peak=2,warmup=6,length=6,floor=0.25",
        {5: 2, 6: 0.5, 7: 2, 8: 0.5},
    ),
    ("hf.cosine_with_restarts,peak=2,warmup=9,length=10,cycles=4", {8: 16 / 9, 9: 2, 10: 0}),
    ("hf.cosine_with_restarts,peak=2,warmup=10,length=10,cycles=4", {9: 1.8, 10: 2, 11: 0}),
    ("hf.linear,peak=2,warmup=8,length=6", {5: 1.25, 7: 1.75, 8: 0, 13: 0}),
    (
        "hf.warmup_stable_decay,peak=2,warmup=6,length=8,decay_length=4,decay_shape=linear",
        {5: 5 / 3, 6: 1, 7: 0.5, 8: 0},
    ),
    (
        "hf.warmup_stable_decay,peak=2,warmup=4,length=12,decay_length=2,warmup_curve=1-sqrt",
        {3: 1, 4: 2},
    ),
    ("hf.inverse_sqrt,peak=2,warmup=0", {0: 2, 13: 2 / np.sqrt(1.0013)}),
    ("t5.linear_warmup,peak=1e-6,warmup=4", {0: 1e-8, 1: 2.5e-7, 9: 1e-6 * 2 / 3}),
    ("optax.constant,peak=2,warmup=0,warmup_start=0.75", {0: 1.5, 13: 1.5}),
    ("optax.constant,peak=2,warmup=0", {0: 0, 13: 0}),
    ("optax.exponential,peak=2,warmup=3,factor=1.0,every=2,floor=0.1", {2: 4 / 3, 3: 0.2, 13: 0.2}),
    ("optax.exponential,peak=2,warmup=3,factor=2.0,every=1,floor=0.7", {3: 1.4, 4: 1.4}),
    ("optax.exponential,peak=2,warmup=3,factor=2.0,every=1", {3: 2, 4: 4, 6: 16}),
    ("optax.exponential,peak=2,warmup=3,factor=0.5,every=1,delay=4", {3: 2, 7: 2, 8: 1}),
    ("optax.linear,peak=2,warmup=6,length=6,floor=0.3", {5: 5 / 3, 6: 2, 13: 2}),
    ("optax.polynomial,peak=2,warmup=7,length=6,floor=0.3,power=2.0", {6: 12 / 7, 7: 2, 13: 2}),
    ("optax.cosine,peak=2,warmup=2,length=10,power=2.0", {2: 2, 6: 0.5, 10: 0}),
    (
        "optax.multistep,peak=2,warmup=1,milestones=[5,3],factors=[0.5,0.1]",
        {3: 2, 4: 0.2, 5: 0.2, 6: 0.1},
    ),
    ("torch.exponential,peak=2,warmup=1,factor=1.5", {1: 2, 2: 3, 3: 4.5}),
    ("torch.constant_lr,peak=2", {0: 2 / 3, 4: 2 / 3, 5: 2}),
    ("torch.constant_lr,peak=2,warmup=0,warmup_start=0.5", {0: 1, 13: 1}),
    ("torch.one_cycle_three_phase,peak=2,length=11,rise=0.2", {0: 0.08}),
    ("nanogpt.cosine,peak=2,warmup=7,length=5", {6: 1.75, 7: 0.2}),
    ("torchtitan.linear,peak=2,warmup=13,length=13", {12: 2, 13: 2}),
    (
        "megatron.wsd,peak=2,warmup=2,length=10,decay_length=4",
        {6: 2, 8: 2 * (np.sqrt(2) - 1), 10: 0, 13: 0},
    ),
    (
        "megatron.wsd,peak=2,warmup=4,length=6,decay_length=4,decay_shape=linear",
        {3: 1.5, 4: 2, 5: 0.5, 6: 0},
    ),
    (
        "megatron.inverse_sqrt,peak=2,warmup=4,length=9,floor=0.1",
        {4: 2, 9: 4 / 3, 10: 0.2, 13: 0.2},
    ),
    ("megatron.inverse_sqrt,peak=2,warmup=0", {0: 2, 1: 2, 4: 1, 9: 2 / 3}),
    ("pytorch_warmup.untuned_linear,peak=1999.0", {0: 1, 1: 2, 1997: 1998, 1998: 1999}),
    (
        "timm.wsd,peak=2,warmup=0,length=10,decay_length=4,decay_shape=exponential",
        {6: 2, 8: 2 * (np.sqrt(0.1) - 0.1) / 0.9, 10: 0},
    ),
    (
        "timm.cosine_prefix,peak=2,warmup=1,length=9,k_decay=2.0",
        {1: 2, 5: 1 + np.cos(np.pi / 4), 9: 0},
    ),
    ("bolts.cosine,peak=2,warmup=5,length=13", {0: 0, 1: 0.5, 4: 2, 5: 2, 9: 1, 13: 0}),
    ("deepspeed.warmup,peak=2,warmup=9", {0: 0, 1: 0, 3: 1, 9: 2}),
]


@pytest.mark.parametrize(("written", "expected"), VALUES, ids=[written for written, _ in VALUES])
def test_a_preset_has_the_librarys_numbers_at_its_edges(written, expected):
    updates, top = (2100, 1999.0) if "untuned" in written else (14, 2.0)
    lr_T = rates(written, max(max(expected) + 1, updates))
    for update, rate in expected.items():
        assert lr_T[update] == pytest.approx(rate, rel=1e-14, abs=1e-15 * top), update


REFUSALS = [
    ("torch.linear,warmup=6,length=6", "PyTorch divides by T - W = 0 (ZeroDivisionError)"),
    ("torch.polynomial,warmup=6,length=6", "PyTorch divides by T - W = 0 (ZeroDivisionError)"),
    ("torch.cosine,warmup=12", "PyTorch divides by T - W = 0 (ZeroDivisionError)"),
    ("torch.cosine,warmup=8,length=6", "PyTorch would get a decay of T - W = -2"),
    (
        "torch.one_cycle,length=10,rise=0.1",
        "PyTorch divides by pct_start T - 1 = 0 (ZeroDivisionError)",
    ),
    ("torch.one_cycle_three_phase,length=10,rise=0.2,fall=0.5", "fall is 2 rise = 0.4"),
    ("torch.constant_lr,warmup_start=0.0", "PyTorch divides by the factor warmup_start = 0"),
    ("optax.cosine,warmup=6,length=6", "Optax refuses decay_steps - warmup_steps = 0 (ValueError)"),
    (
        "optax.cosine,warmup=7,length=6",
        "Optax refuses decay_steps - warmup_steps = -1 (ValueError)",
    ),
    (
        "optax.one_cycle,length=10,rise=1.0",
        "of two that end together Optax keeps the last factor alone",
    ),
    ("hf.polynomial,warmup=6,length=6", "transformers divides by T - W = 0 (ZeroDivisionError)"),
    (
        "hf.polynomial,peak=1e-8,warmup=2",
        "schedule.end_rate: must be below peak = 1e-08, got 1e-07",
    ),
    ("hf.cosine,warmup=13", "13 updates of warmup are longer than the run of 12 updates"),
    (
        "hf.warmup_stable_decay,warmup=2,decay_shape=power",
        "stable_decay has linear, 1-sqrt, cosine, got 'power'",
    ),
    ("timm.cosine_prefix,warmup=6,length=6", "timm refuses t_initial = T - W = 0 (AssertionError)"),
    (
        "timm.wsd,warmup=6,length=6,decay_length=1",
        "timm refuses t_initial = T - W = 0 (ValueError)",
    ),
    ("megatron.cosine,warmup=6,length=6", "Megatron-LM asserts lr_warmup_steps < lr_decay_steps"),
    (
        "megatron.inverse_sqrt,warmup=6,length=6",
        "Megatron-LM asserts lr_warmup_steps < lr_decay_steps",
    ),
    ("nanogpt.cosine,warmup=6,length=6", "nanoGPT divides by T - W = 0 (ZeroDivisionError)"),
    (
        "torchtitan.cosine,warmup=6,length=6",
        "torchtitan ends at T + 1 (AssertionError) where W = T = 6",
    ),
    ("torchtitan.cosine,warmup=8,length=6", "torchtitan would shorten the warmup to T"),
    ("t5.decay_every,warmup=0", "T5X divides 0 by 0 at the first update (NaN)"),
    (
        "pytorch_warmup.linear,warmup=0",
        "pytorch_warmup takes a warmup_period of at least 1 (ValueError)",
    ),
    ("deepspeed.warmup,warmup=1", "DeepSpeed takes a warmup_num_steps of at least 2"),
    ("bolts.cosine,warmup=0", "lightning-bolts stays at warmup_start_lr where warmup_epochs is 0"),
    (
        "torch.exponential,warmup=0,factor=1e60",
        "the learning rate is beyond float32 from update 1 on",
    ),
    (
        "optax.multistep,warmup=0,milestones=[1,2],factors=[0.5]",
        "schedule.factors: 1 for 2 milestones",
    ),
]


@pytest.mark.parametrize(("written", "reason"), REFUSALS, ids=[written for written, _ in REFUSALS])
def test_what_the_library_refuses_is_refused_with_its_reason(written, reason):
    line = refused(written)
    assert reason in line
    assert "schedule." in line


def test_the_recipe_that_a_preset_became_is_refused_when_its_run_gets_shorter():
    recipe = load_recipe("seed", ["schedule.preset=torch.cosine", "schedule.warmup=5"])
    assert learning_rates(recipe, 1)[5] == 0.01
    line = r"schedule\.warmup: 5 of T = 5 epochs: PyTorch divides by T - W = 0"
    with pytest.raises(InputError, match=line):
        recipe.with_values({"training.epochs": 5})


def test_without_a_library_a_decay_of_no_length_is_over_at_once():
    schedule = Schedule(name="cosine", warmup=3, length=3, floor=0.5, peak=1.0)
    lr_T = learning_rates(Recipe(schedule=schedule, training=Training(epochs=5)), 1)
    np.testing.assert_array_equal(lr_T, [1 / 3, 2 / 3, 1, 0.5, 0.5])


@pytest.mark.parametrize("beta2", [0.999, 0.99, 0.95, 0.9, 0.5, 0.0])
def test_pytorch_warmup_truncates_what_the_recipe_rounds(beta2):
    for shape, over in (("linear", 2), ("exponential", 1)):
        schedule = {"warmup": 0, "warmup_shape": f"untuned_{shape}", "unit": "update"}
        optimizer = Optimizer(name="adamw", beta2=beta2)
        library = Recipe(schedule=Schedule(**schedule, edges="pytorch_warmup"), optimizer=optimizer)
        assert library.warmup == int(over / (1 - beta2))
        plain = Recipe(schedule=Schedule(**schedule), optimizer=optimizer)
        assert plain.warmup == round(over / (1 - beta2))
        assert plain.hash != library.hash


@pytest.mark.parametrize(
    "name", ["optax.constant", "hf.inverse_sqrt", "pytorch_warmup.linear", "deepspeed.warmup"]
)
def test_the_contrast_of_a_run_begins_at_the_peak(name):
    recipe = Recipe.from_dict({"schedule": {"preset": name, "peak": 2.0, "warmup": 4}})
    contrast = Recipe(schedule=contrast_schedule(recipe, 1))
    assert learning_rates(contrast, 1)[0] == 2


def test_a_knob_below_what_the_library_takes_is_refused():
    # torch 2.13 Adafactor(d=0.9): "Clipping threshold d should be >= 1 but is: 0.9"
    line = r"clip_threshold: torch\.adafactor takes at least 1, got 0\.9"
    with pytest.raises(InputError, match=line):
        Recipe.from_dict({"optimizer": {"preset": "torch.adafactor", "clip_threshold": 0.9}})
    recipe = Recipe.from_dict({"optimizer": {"preset": "torch.adafactor", "clip_threshold": 1}})
    assert recipe.optimizer.clip_threshold == 1


# ---- what no preset can be


@pytest.mark.parametrize(
    ("section", "name"), [(part, name) for part, having in UNSAID.items() for name in having]
)
def test_what_cannot_be_said_is_refused_in_one_line(section, name):
    with pytest.raises(InputError) as caught:
        expand(section, {"preset": name})
    (line,) = str(caught.value).splitlines()
    assert line == f"{section}.preset: {name}: {UNSAID[section][name]}"
    assert name not in PRESETS[section]
    named = [word.strip(",;") for word in line.split(": ", 2)[2].split()]
    assert section == "schedule" or any(word in PRESETS[section] for word in named)


def test_the_list_of_presets_says_what_cannot_be_said(capsys):
    with pytest.raises(SystemExit):
        main(["curve", "--preset", "list"])
    printed = capsys.readouterr().out
    assert "timm.tanh" in printed
    assert UNSAID["schedule"]["timm.tanh"] in printed


# ---- float32


def printed_for(capsys, *presets):
    with pytest.raises(SystemExit) as ended:
        main(["curve", *(f"--preset={preset}" for preset in presets), "--updates", "100"])
    assert ended.value.code == 0
    return " ".join(capsys.readouterr().out.split())


def test_a_curve_of_optax_says_that_optax_computes_it_in_float32(capsys):
    note = (
        "Optax without x64 computes its schedules in float32: under jit they are not this "
        "closed form rounded once"
    )
    assert note in printed_for(capsys, "optax.cosine")
    printed = printed_for(capsys, "hf.cosine", "optax.cosine", "optax.linear")
    assert f"b, c: {note}" in printed
    assert "float32: under jit" not in printed_for(capsys, "hf.cosine")


# ---- the new shapes


def test_examples_of_the_docstrings():
    quarter = phase(np.array([0.0, 2, 4]), 0, 4)
    assert power_fall(phase(np.arange(5.0), 0, 4))[1] == pytest.approx(0.5, abs=2e-16)
    np.testing.assert_allclose(exponential_fall(quarter), [1, np.sqrt(2) - 1, 0], atol=2e-16)
    np.testing.assert_allclose(cosine_waves(quarter, 1.0), [1, 0, 1], atol=2e-16)
    assert stretched(phase(np.array([2.0]), 0, 4), 2).done == 1


def test_a_wave_of_a_half_is_the_cosine_fall_and_keeps_its_tail():
    whole = phase(np.arange(1001.0), 0, 1000)
    tail = np.sin(np.pi / 2 * whole.left / 1000) ** 2
    np.testing.assert_allclose(cosine_waves(whole, 0.5)[500:], tail[500:], rtol=1e-9, atol=0)


@pytest.mark.parametrize("fall", [power_fall, exponential_fall])
def test_the_last_updates_of_a_fall_keep_their_digits(fall):
    length = 10**9
    slope = fall(phase(np.array([length - 1.0]), 0, length)) * length
    # the derivative at the end is 1/2 for p = 1/2, and r log(1/r) / (1 - r), log 2, for r = 1/2
    np.testing.assert_allclose(slope, 0.5 if fall is power_fall else np.log(2), rtol=1e-8)


def test_shapes_of_a_warmup():
    t = np.arange(6.0)
    shares = linear_warmup(t, 4, "t/W", shape="1-sqrt")
    np.testing.assert_allclose(shares, [0, *(1 - np.sqrt([0.75, 0.5, 0.25])), 1, 1])
    shares = linear_warmup(t, 4, "t/W", shape="log")
    np.testing.assert_allclose(shares, [0, 0, 0.5, np.log(3) / np.log(4), 1, 1])
    shares = linear_warmup(t, 4, "t/W", start=0.25, shape="constant")
    np.testing.assert_array_equal(shares, [0.25] * 4 + [1, 1])
    np.testing.assert_array_equal(linear_warmup(t, 5, "t/W", top="W-1"), [0, 0.25, 0.5, 0.75, 1, 1])
    np.testing.assert_array_equal(linear_warmup(t, 1, "t/W", top="W-1"), [0, 1, 1, 1, 1, 1])
