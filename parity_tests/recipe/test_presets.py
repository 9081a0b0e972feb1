"""Presets: the knobs they set, and the libraries whose schedules they are."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from torch.optim import lr_scheduler as lrs

from lockstep.errors import InputError
from lockstep.recipe import KNOBS, Recipe, field_infos, load_recipe
from lockstep.recipe.presets import PRESETS
from lockstep.recipe.schedules import Schedule
from lockstep.schedules.formulas import learning_rates

EVERY = [(section, name) for section, presets in PRESETS.items() for name in presets]
NEEDED = {"factor": 0.5, "every": 3, "milestones": (2, 5), "timescale": 4}
NEEDED |= {"cycle": 8, "cycles": 2, "decay_length": 5, "floor": 0.1}


def preset_recipe(name, *, epochs=100, **knobs):
    return Recipe.from_dict({"schedule": {"preset": name, **knobs}, "training": {"epochs": epochs}})


def rates(name, *, T=22, **knobs):
    return learning_rates(preset_recipe(name, epochs=T, **knobs), 1)


def refusal(call, *arguments):
    with pytest.raises(InputError) as caught:
        call(*arguments)
    (line,) = str(caught.value).splitlines()
    return line


# ---- the mechanism


@pytest.mark.parametrize(("section", "name"), EVERY)
def test_a_preset_fixes_or_leaves_free_every_knob_that_there_is(section, name):
    preset = PRESETS[section][name]
    assert preset.source
    assert not preset.fixed.keys() & preset.free.keys()
    knobs = KNOBS[section].get(preset.fixed.get("name"), {}) if section in KNOBS else {}
    fields = field_infos(section).keys()
    assert preset.fixed.keys() | preset.free.keys() | preset.ties.keys() <= fields
    written = preset.fixed.keys() | preset.free.keys() | preset.ties.keys()
    if preset.fixed.get("warmup") == 0 and "untuned" not in preset.fixed.get("warmup_shape", ""):
        written |= {"ramp", "warmup_shape", "warmup_start"}  # without a warmup they mean nothing
    assert knobs.keys() <= written


@pytest.mark.parametrize("name", PRESETS["schedule"])
def test_a_recipe_stores_the_knobs_alone(name):
    preset = PRESETS["schedule"][name]
    unset = {knob for knob, value in preset.free.items() if value is None}
    needed = {knob: value for knob, value in NEEDED.items() if knob in unset}
    content = {"schedule": {"preset": name, **needed}}
    content["optimizer"] = {"name": "adamw", "beta2": 0.9}
    content["training"] = {"epochs": 1000}  # enough for a default of 1000
    recipe = Recipe.from_dict(content)
    assert recipe.schedule.name in Schedule.variants
    assert "preset" not in recipe.to_toml()
    for knob, value in preset.fixed.items():
        assert getattr(recipe.schedule, knob) == value


def test_a_preset_in_a_file_and_on_the_command_line(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('[schedule]\npreset = "hf.cosine"\npeak = 3e-4\nunit = "update"\nwarmup = 9\n')
    recipe = load_recipe(str(path))
    changes = ["schedule.preset=hf.cosine", "schedule.peak=3e-4"]
    changes += ["schedule.unit=update", "schedule.warmup=9"]
    assert recipe.hash == load_recipe("seed", changes).hash
    assert (recipe.schedule.ramp, recipe.schedule.after_end) == ("t/W", "continue")


def test_of_the_recipe_before_stays_what_was_changed_and_is_left_free():
    floored = load_recipe("digits", ["schedule.floor=0.3"])
    recipe = floored.with_overrides(["schedule.preset=hf.cosine"])
    assert (recipe.schedule.peak, recipe.schedule.warmup) == (0.05, 3)
    assert recipe.schedule.floor == 0.0
    assert recipe.with_overrides(["schedule.preset=nanogpt.cosine"]).schedule.floor == 0.1


def test_what_a_preset_lacks_is_refused_with_what_it_has():
    line = refusal(Recipe.from_dict, {"schedule": {"preset": "hf.cosine", "floor": 0.1}})
    has = "it has peak, unit, warmup, length, waves"
    assert line == f"schedule.floor: hf.cosine has no such knob; {has}"
    line = refusal(load_recipe, "seed", ["schedule.preset=torch.one_cycle", "schedule.warmup=3"])
    has = "it has peak, unit, length, anneal"
    assert line.startswith(f"schedule.warmup: torch.one_cycle has no such knob; {has}")


def test_an_unknown_preset_names_the_nearest_and_those_of_its_library():
    line = refusal(Recipe.from_dict, {"schedule": {"preset": "nanogpt.cosin"}})
    assert line == (
        "schedule.preset: no preset 'nanogpt.cosin'; did you mean nanogpt.cosine? There "
        "are nanogpt.cosine"
    )
    assert "there are torch.constant," in refusal(Recipe.from_dict, {"schedule": {"preset": "x"}})
    assert "no preset 3" in refusal(Recipe.from_dict, {"schedule": {"preset": 3}})
    line = refusal(Recipe.from_dict, {"data": {"preset": "x"}})
    assert line.startswith("data.preset: no such field")
    line = refusal(load_recipe, "seed", ["schedule.preset=hf.cosin"])
    assert line.startswith("schedule.preset: no preset")


def test_a_wrong_value_beside_a_preset_is_refused_by_its_field():
    line = refusal(Recipe.from_dict, {"schedule": {"preset": "hf.cosine", "warmup": -1}})
    assert line == "schedule.warmup: input should be greater than or equal to 0, got -1"


# ---- torch: the same float32 bits as the real schedulers

PEAKS = (0.01, 3e-4, 1.0)


def torch_rates(peak, T, make):
    """The rates that a real scheduler sets, before each update."""
    parameter = torch.zeros(1, requires_grad=True)
    parameter.grad = torch.zeros(1)
    optimizer = torch.optim.SGD([parameter], lr=peak)
    scheduler = make(optimizer)
    lr_T = np.empty(T)
    for t in range(T):
        lr_T[t] = optimizer.param_groups[0]["lr"]
        optimizer.step()
        if t < T - 1:  # OneCycleLR refuses a step after its end
            scheduler.step()
    return lr_T


def after_warmup(W, make):
    """LinearLR over W updates, then the scheduler that `make` gives."""

    def both(optimizer):
        warmup = lrs.LinearLR(optimizer, 1 / W, 1.0, total_iters=W - 1)
        return lrs.SequentialLR(optimizer, [warmup, make(optimizer)], [W])

    return both


TORCH = {
    "torch.constant": (lambda W, T: lambda optimizer: lrs.LambdaLR(optimizer, lambda t: 1.0), {}),
    "torch.linear": (
        lambda W, T: lambda optimizer: lrs.LinearLR(optimizer, 1.0, 0.1, total_iters=T - W),
        {"floor": 0.1},
    ),
    "torch.polynomial": (
        lambda W, T: lambda optimizer: lrs.PolynomialLR(optimizer, total_iters=T - W, power=1.7),
        {"power": 1.7},
    ),
    "torch.cosine": (
        lambda W, T: (
            lambda optimizer: lrs.CosineAnnealingLR(
                optimizer, T - W, eta_min=optimizer.defaults["lr"] * 0.1
            )
        ),
        {"floor": 0.1},
    ),
    "torch.exponential": (
        lambda W, T: lambda optimizer: lrs.ExponentialLR(optimizer, 0.97),
        {"factor": 0.97},
    ),
    "torch.step": (
        lambda W, T: lambda optimizer: lrs.StepLR(optimizer, 7, 0.3),
        {"every": 7, "factor": 0.3},
    ),
    "torch.multistep": (
        lambda W, T: lambda optimizer: lrs.MultiStepLR(optimizer, [3, 20, 50], 0.3),
        {"milestones": (3, 20, 50), "factor": 0.3},
    ),
    "torch.cosine_restarts": (
        lambda W, T: (
            lambda optimizer: lrs.CosineAnnealingWarmRestarts(
                optimizer, 6, 2, optimizer.defaults["lr"] * 0.01
            )
        ),
        {"cycle": 6, "cycle_growth": 2, "floor": 0.01},
    ),
}


@pytest.mark.filterwarnings("ignore:The epoch parameter in `scheduler.step:UserWarning")
@pytest.mark.parametrize("peak", PEAKS)
@pytest.mark.parametrize("W", [1, 5, 37])
@pytest.mark.parametrize("name", TORCH)
def test_torch_preset_is_the_real_scheduler_bit_for_bit(name, W, peak):
    T, run = 300, 400
    make, knobs = TORCH[name]
    if "length" in PRESETS["schedule"][name].free:
        knobs = knobs | {"length": T}
    expected = torch_rates(peak, run, after_warmup(W, make(W, T)))
    lr_T = rates(name, T=run, warmup=W, peak=peak, **knobs)
    np.testing.assert_array_equal(lr_T.astype(np.float32), expected.astype(np.float32))


@pytest.mark.filterwarnings("ignore:The epoch parameter in `scheduler.step:UserWarning")
@pytest.mark.parametrize(
    "wrong",
    [
        {"ramp": "t/W"},
        {"ramp": "(t+1)/(W+1)"},
        {"decay_start": "W-1"},
        {"decay_end": "T-1"},
        {"after_end": "hold"},
        {"warmup_start": 1e-6},
        {"floor": 0.1000001},
        {"warmup": 6},
        {"length": 301},
    ],
    ids=str,
)
def test_one_wrong_knob_differs_from_the_real_scheduler(wrong):
    W, T, run = 5, 300, 400
    make, knobs = TORCH["torch.cosine"]
    expected = torch_rates(0.01, run, after_warmup(W, make(W, T))).astype(np.float32)
    preset = preset_recipe("torch.cosine", epochs=run, warmup=W, peak=0.01, length=T, **knobs)
    right_T = learning_rates(preset, 1).astype(np.float32)
    np.testing.assert_array_equal(right_T, expected)
    changed = preset.with_values({f"schedule.{knob}": value for knob, value in wrong.items()})
    wrong_T = learning_rates(changed, 1).astype(np.float32)
    assert (wrong_T != expected).any()


ONE_CYCLES = [
    # anneal, three phases, rise, first, floor
    ("cosine", False, 0.3, 1 / 25, 1 / 25 / 1e4),
    ("linear", False, 0.3, 1 / 25, 1 / 25 / 1e4),
    ("cosine", True, 0.3, 1 / 25, 1 / 25 / 1e4),
    ("linear", True, 0.23, 0.1, 0.01),
    ("cosine", False, 0.37, 0.5, 0.5 / 3),
]


@pytest.mark.parametrize("peak", PEAKS)
@pytest.mark.parametrize("T", [20, 97, 1000])
@pytest.mark.parametrize(("anneal", "three", "rise", "first", "floor"), ONE_CYCLES)
def test_torch_one_cycle_is_the_real_scheduler_bit_for_bit(
    anneal, three, rise, first, floor, T, peak
):
    def make(optimizer):
        return lrs.OneCycleLR(
            optimizer,
            peak,
            total_steps=T,
            pct_start=rise,
            three_phase=three,
            cycle_momentum=False,
            anneal_strategy={"cosine": "cos"}.get(anneal, anneal),
            div_factor=1 / first,
            final_div_factor=first / floor,
        )

    knobs = {"anneal": anneal, "rise": rise, "first": first, "floor": floor}
    name = "torch.one_cycle"
    if three:
        name, knobs = "torch.one_cycle_three_phase", knobs | {"fall": 2 * rise}
    lr_T, expected = rates(name, T=T, peak=peak, **knobs), torch_rates(peak, T, make)
    np.testing.assert_array_equal(lr_T.astype(np.float32), expected.astype(np.float32))


@pytest.mark.parametrize("W", [4, 5, 37])
def test_torch_chained_and_other_start_factors(W):
    # knobs say two further habits, which are no presets
    T = 90

    def chained(optimizer):
        warmup = lrs.LinearLR(optimizer, 1 / W, 1.0, total_iters=W - 1)
        return lrs.ChainedScheduler([warmup, lrs.CosineAnnealingLR(optimizer, T)])

    def started(optimizer):
        return lrs.LinearLR(optimizer, 1 / W, 1.0, total_iters=W)

    schedule = {"name": "cosine", "unit": "epoch", "warmup": W, "peak": 1.0}
    schedule |= {"decay_start": "0", "warmup_of": "schedule"}
    recipe = Recipe.from_dict({"schedule": schedule, "training": {"epochs": T}})
    lr_T = learning_rates(recipe, 1)
    np.testing.assert_allclose(lr_T, torch_rates(1.0, T, chained), rtol=0, atol=1e-14)
    schedule = {"warmup": W, "ramp": "t/W", "warmup_start": 1 / W, "peak": 0.01}
    recipe = Recipe.from_dict({"schedule": schedule, "training": {"epochs": T}})
    lr_T, expected = learning_rates(recipe, 1), torch_rates(0.01, T, started)
    np.testing.assert_array_equal(lr_T.astype(np.float32), expected.astype(np.float32))


# ---- optax: the real schedules within 3e-7 of the peak, which is what their float32 arithmetic
# leaves

OPTAX_CLOSE = 3e-7


def optax_rates(schedule, T):
    """The schedule's rates under jit, at every update of T."""
    return np.asarray(jax.jit(jax.vmap(schedule))(jnp.arange(T)), dtype=np.float64)


def optax_join(W, schedule):
    return optax.join_schedules([optax.linear_schedule(0.0, 1.0, W), schedule], [W])


def sgdr(W, cycle, growth, cycles):
    kinds = [
        {"init_value": 1.0, "peak_value": 1.0, "warmup_steps": 0, "decay_steps": cycle * growth**k}
        for k in range(cycles)
    ]
    return optax_join(W, optax.sgdr_schedule(kinds))


OPTAX = {
    "optax.constant": (lambda W, T: optax.warmup_constant_schedule(0.0, 1.0, W), {}),
    "optax.linear": (
        lambda W, T: optax_join(W, optax.linear_schedule(1.0, 0.1, T - W)),
        {"floor": 0.1},
    ),
    "optax.polynomial": (
        lambda W, T: optax_join(W, optax.polynomial_schedule(1.0, 0.1, 1.7, T - W)),
        {"floor": 0.1, "power": 1.7},
    ),
    "optax.cosine": (
        lambda W, T: optax.warmup_cosine_decay_schedule(0.0, 1.0, W, T, 0.1),
        {"floor": 0.1},
    ),
    "optax.exponential": (
        lambda W, T: optax.warmup_exponential_decay_schedule(0.0, 1.0, W, 70, 0.5, end_value=0.2),
        {"factor": 0.5, "every": 70, "floor": 0.2},
    ),
    "optax.step": (
        lambda W, T: optax.warmup_exponential_decay_schedule(0.0, 1.0, W, 70, 0.5, staircase=True),
        {"factor": 0.5, "every": 70},
    ),
    "optax.multistep": (
        lambda W, T: optax_join(W, optax.piecewise_constant_schedule(1.0, {3: 0.3, 50: 0.3})),
        {"factor": 0.3, "milestones": (3, 50)},
    ),
    "optax.cosine_restarts": (
        lambda W, T: sgdr(W, 40, 2, 3),
        {"cycle": 40, "cycle_growth": 2, "cycles": 3},
    ),
}


@pytest.mark.parametrize("W", [1, 5, 37])
@pytest.mark.parametrize("name", OPTAX)
def test_optax_preset_is_the_real_schedule(name, W):
    T, run = 330, 400
    make, knobs = OPTAX[name]
    if "length" in PRESETS["schedule"][name].free:
        knobs = knobs | {"length": T}
    lr_T = rates(name, T=run, warmup=W, peak=1.0, **knobs)
    real_T = optax_rates(make(W, T), run)
    if name == "optax.polynomial":
        # under jit 1 - count/T may end below 0, and a power of it is no number
        real_T[T:] = np.where(np.isnan(real_T[T:]), lr_T[T:], real_T[T:])
    np.testing.assert_allclose(real_T, lr_T, rtol=0, atol=OPTAX_CLOSE)


@pytest.mark.parametrize("T", [20, 97, 1000])
def test_optax_one_cycles_are_the_real_schedules(T):
    for name, real in (
        ("optax.one_cycle", optax.cosine_onecycle_schedule(T, 1.0, 0.3, 25.0, 1e4)),
        ("optax.one_cycle_linear", optax.linear_onecycle_schedule(T, 1.0, 0.3, 0.85, 25.0, 1e4)),
    ):
        lr_T = rates(name, T=T + 5, length=T, peak=1.0)
        np.testing.assert_allclose(optax_rates(real, T + 5), lr_T, rtol=0, atol=OPTAX_CLOSE)


# ---- the other libraries: values that were measured with them, W=4, T=20, peak 1

WSD6 = {"decay_length": 6}
VALUES = [
    # preset, knobs, t=0, W-1, W, T-1, T, T+1
    ("hf.constant_with_warmup", {}, 0, 0.75, 1, 1, 1, 1),
    ("hf.linear", {}, 0, 0.75, 1, 0.0625, 0, 0),
    ("torchtitan.linear", {}, 0.25, 1, 1, 0.0625, 0, -0.0625),
    ("hf.cosine", {}, 0, 0.75, 1, 0.0096, 0, 0.0096),
    ("optax.cosine", {}, 0, 0.75, 1, 0.0096, 0, 0),
    ("timm.cosine_prefix", {}, 0, 0.75, 1, 0.0096, 0, 0),
    ("torch.cosine", {}, 0.25, 1, 1, 0.0096, 0, 0.0096),
    ("nanogpt.cosine", {"floor": 0.0}, 0.2, 0.8, 1, 0.0096, 0, 0),
    ("timm.cosine", {}, 0, 0.75, 0.905, 0.0062, 0, 0),
    ("hf.cosine_warmup_with_min_lr", {"floor": 0.1}, 0.25, 1, 0.991, 0.1, 0.109, 0.134),
    ("hf.inverse_sqrt", {}, 0, 0.75, 1, 0.4588, 0.4472, 0.4364),
    # past lr_decay_steps it is min_lr
    ("megatron.inverse_sqrt", {}, 0, 0.75, 1, 0.4588, 0.4472, 0),
    ("t5.linear_warmup", {}, 0, 0.75, 1, 0.4588, 0.4472, 0.4364),
    ("noam", {}, 0.25, 1, 0.894, 0.447, 0.436, 0.426),
    ("hf.warmup_stable_decay", WSD6 | {"decay_shape": "linear"}, 0, 0.75, 1, 0.1667, 0, 0),
    ("timm.wsd", WSD6 | {"decay_shape": "linear"}, 0, 0.75, 1, 0.1667, 0, 0),
    ("megatron.wsd", WSD6 | {"decay_shape": "linear"}, 0, 0.75, 1, 0.1667, 0, 0),
    ("torchtitan.wsd", WSD6, 0.25, 1, 1, 0.1667, 0, -0.1667),
    ("pytorch_warmup.exponential", {}, 0.221, 0.632, 0.713, 0.993, 0.995, 0.996),
]


@pytest.mark.parametrize(("name", "knobs", "first", "before", "at", "last", "end", "after"), VALUES)
def test_values_measured_with_the_libraries(name, knobs, first, before, at, last, end, after):
    if "length" in PRESETS["schedule"][name].free:
        knobs = knobs | {"length": 20}
    lr_T = rates(name, warmup=4, peak=1.0, **knobs)
    expected = [first, before, at, last, end, after]  # three or four digits
    np.testing.assert_allclose(lr_T[[0, 3, 4, 19, 20, 21]], expected, rtol=0, atol=6e-4)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("torch.one_cycle", [0.04, 0.668, 0.908, 4e-6]),  # phases end at pct T - 1 and T - 1
        ("optax.one_cycle", [0.04, 0.52, 0.76, 0.0125]),  # phases end at int(pct T) and T
    ],
)
def test_values_of_one_cycle(name, values):
    lr_T = rates(name, length=20, peak=1.0)
    np.testing.assert_allclose(lr_T[[0, 3, 4, 19]], values, rtol=0, atol=6e-4)


# ---- and their formulas, written here as they write them


def hf_cosine_with_restarts(t, W, T, cycles):
    if t < W:
        return t / max(1, W)
    progress = (t - W) / max(1, T - W)
    if progress >= 1:
        return 0.0
    return max(0.0, 0.5 * (1 + math.cos(math.pi * ((cycles * progress) % 1.0))))


def nanogpt(t, W, T, floor):
    if t < W:
        return (t + 1) / (W + 1)
    if t > T:
        return floor
    return floor + 0.5 * (1 + math.cos(math.pi * (t - W) / (T - W))) * (1 - floor)


def hf_wsd(t, W, T, D, floor, shape):
    if t < W:
        return t / W * (1 - floor) + floor
    if t < T - D:
        return 1.0
    if t >= T:
        return floor
    p = (t - (T - D)) / D
    fall = {
        "linear": 1 - p,
        "cosine": 0.5 * (1 + math.cos(math.pi * p)),
        "1-sqrt": 1 - math.sqrt(p),
    }[shape]
    return fall * (1 - floor) + floor


def torchtitan_wsd(t, W, T, D, floor, shape):
    if t < W:
        return (t + 1) / W
    stable = W + (T + 1 - W - D)
    if t < stable:
        return 1.0
    p = (t + 1 - stable) / D
    fall = {
        "linear": 1 - p,
        "1-sqrt": 1 - math.sqrt(p),
        "cosine": 0.5 * (1 + math.cos(math.pi * p)),
    }[shape]
    return floor + (1 - floor) * fall


def hf_polynomial(t, W, T, power, floor):
    if t < W:
        return t / W
    return floor if t > T else (1 - floor) * (1 - (t - W) / (T - W)) ** power + floor


def timm_restarts(t, W, cycle, growth, cycles, decay, floor):
    if t < W:
        return t / W
    t, i, length = t - W, 0, cycle
    while t >= length:
        t, i, length = t - length, i + 1, length * growth
    if i >= cycles:
        return floor
    return floor + 0.5 * (decay**i - floor) * (1 + math.cos(math.pi * t / length))


def cosine(p):
    return (1 + math.cos(math.pi * p)) / 2


def hf_early(t, W, T, start, floor):
    if t < W:
        return start + (1 - start) * t / (W - 1)
    return floor + (1 - floor) * cosine((t - W + 1) / (T - W))


def timm_multistep(t, W, milestones, factor):
    if t < W:
        return t / W
    return factor ** sum(milestone <= t - W + 1 for milestone in milestones)


def timm_step(t, W, every, factor, prefix):
    return t / W if t < W else factor ** ((t - W * prefix) // every)


def timm_polynomial(t, W, T, power):
    return t / W if t < W else (1 - t / T) ** power if t < T else 0.0


W, T = 7, 61
FORMULAS = [
    ("hf.cosine_with_restarts", {"cycles": 3}, lambda t: hf_cosine_with_restarts(t, W, T, 3)),
    ("nanogpt.cosine", {}, lambda t: nanogpt(t, W, T, 0.1)),
    ("nanogpt.cosine", {"floor": 0.3}, lambda t: nanogpt(t, W, T, 0.3)),
    ("hf.polynomial", {"power": 2.0, "floor": 0.01}, lambda t: hf_polynomial(t, W, T, 2.0, 0.01)),
    *(
        (
            "hf.warmup_stable_decay",
            {"decay_length": 9, "decay_shape": shape, "floor": 0.2},
            lambda t, shape=shape: hf_wsd(t, W, T, 9, 0.2, shape),
        )
        for shape in ("linear", "cosine", "1-sqrt")
    ),
    *(
        (
            "torchtitan.wsd",
            {"decay_length": 9, "decay_shape": shape, "floor": 0.2},
            lambda t, shape=shape: torchtitan_wsd(t, W, T, 9, 0.2, shape),
        )
        for shape in ("linear", "cosine", "1-sqrt")
    ),
    ("torchtitan.linear", {}, lambda t: torchtitan_wsd(t, W, T, T - W, 0.0, "linear")),
    ("torchtitan.cosine", {}, lambda t: torchtitan_wsd(t, W, T, T - W, 0.0, "cosine")),
    (
        "timm.cosine_restarts",
        {"cycle": 9, "cycle_growth": 2, "cycles": 2, "cycle_decay": 0.5, "floor": 0.1},
        lambda t: timm_restarts(t, W, 9, 2, 2, 0.5, 0.1),
    ),
    (
        "timm.multistep_prefix",
        {"milestones": (3, 20), "factor": 0.3},
        lambda t: timm_multistep(t, W, (3, 20), 0.3),
    ),
    ("timm.step", {"every": 9, "factor": 0.3}, lambda t: timm_step(t, W, 9, 0.3, True)),
    (
        "timm.step_without_prefix",
        {"every": 9, "factor": 0.3},
        lambda t: timm_step(t, W, 9, 0.3, False),
    ),
    ("timm.polynomial", {}, lambda t: timm_polynomial(t, W, T, 0.5)),
    (
        "timm.polynomial_prefix",
        {},
        lambda t: t / W if t < W else max(0, 1 - (t - W) / (T - W)) ** 0.5,
    ),
    ("torch.constant_lr", {}, lambda t: 1 / 3 if t < W else 1.0),
    (
        "hf.cosine_warmup_from_lr_rate",
        {"warmup_start": 0.1, "floor": 0.2},
        lambda t: hf_early(t, W, T, 0.1, 0.2),
    ),
    (
        "t5.decay_every",
        {"factor": 0.3, "every": 9},
        lambda t: max(min(1, t / W) * 0.3 ** (t // 9), 1e-8),
    ),
    (
        "t5.cosine_decay",
        {"cycle": 9},
        lambda t: max(1e-8, t / W if t < W else cosine((t - W) / 9 % 1)),
    ),
    ("deepspeed.warmup", {}, lambda t: math.log(max(t, 1)) / math.log(W) if t < W else 1.0),
    (
        "bolts.cosine",
        {"floor": 0.1},
        lambda t: t / (W - 1) if t < W else 0.1 + 0.9 * cosine((t - W) / (T - W)),
    ),
    (
        "megatron.linear",
        {"floor": 0.1},
        lambda t: t / W if t < W else 0.1 + 0.9 * max(0, T - t) / (T - W),
    ),
    (
        "megatron.inverse_sqrt",
        {"floor": 0.4},
        lambda t: t / W if t < W else max(0.4, math.sqrt(W / t)),
    ),
    ("t5.inverse_sqrt", {}, lambda t: math.sqrt(W) / math.sqrt(max(t, W))),
    ("noam", {}, lambda t: math.sqrt(W) * min((t + 1) ** -0.5, (t + 1) * W**-1.5)),
    (
        "hf.inverse_sqrt",
        {"timescale": 11},
        lambda t: t / W if t < W else ((t + 11 - W) / 11) ** -0.5,
    ),
    ("pytorch_warmup.linear", {}, lambda t: min(1.0, (t + 1) / W)),
]


@pytest.mark.parametrize(("name", "knobs", "formula"), FORMULAS)
def test_formulas_of_the_libraries(name, knobs, formula):
    if "length" in PRESETS["schedule"][name].free:
        knobs = knobs | {"length": T}
    lr_T = rates(name, T=75, warmup=W, peak=1.0, **knobs)
    np.testing.assert_allclose(lr_T, [formula(t) for t in range(75)], rtol=1e-13, atol=2e-15)


def test_every_preset_of_a_schedule_is_held_against_its_library():
    proved = {*TORCH, *OPTAX, *(name for name, *_ in (*VALUES, *FORMULAS))}
    proved |= {"torch.one_cycle", "torch.one_cycle_three_phase"}
    proved |= {"optax.one_cycle", "optax.one_cycle_linear"}
    missing = PRESETS["schedule"].keys() - proved
    # what is left is another preset word for word, or an untuned one, whose length test_schedules
    # tests
    same = {
        "hf.constant": "constant",
        "hf.cosine_with_min_lr": "hf.cosine",
        "torchtitan.sqrt": "torchtitan.wsd",
        "megatron.constant": "optax.constant",
        "megatron.cosine": "optax.cosine",
    }
    assert missing - same.keys() == {
        "pytorch_warmup.untuned_linear",
        "pytorch_warmup.untuned_exponential",
    }


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("megatron.cosine", "optax.cosine"),
        ("megatron.constant", "optax.constant"),
        ("megatron.linear", "optax.linear"),
    ],
)
def test_presets_that_are_the_same_knobs(one, other):
    fixed = [dict(PRESETS["schedule"][name].fixed) for name in (one, other)]
    for knobs in fixed:
        knobs.pop("edges", None)  # where a phase has no length they part
    assert fixed[0] == fixed[1]
