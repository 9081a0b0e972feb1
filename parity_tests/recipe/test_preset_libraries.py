"""Every preset against the library itself, on 40 draws of all its knobs, edges included; run with
`make sweep`.

Each rate of a schedule is held within 1e-12 of the peak. Where the library raises or gives NaN,
lockstep must refuse; where lockstep refuses, the library must raise, or the line must say what it
does. Optax runs in x64. What is on no package index is a formula here, written from its source.
"""

import importlib.util
import logging
import math
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from torch.optim import lr_scheduler as lrs

from lockstep.errors import InputError
from lockstep.recipe import Recipe
from lockstep.recipe.presets import PRESETS
from lockstep.schedules.formulas import learning_rates

pytestmark = [
    pytest.mark.sweep,
    pytest.mark.filterwarnings("ignore:The epoch parameter in `scheduler.step:UserWarning"),
    pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step:UserWarning"),
]

DRAWS = 40
CLOSE = 1e-12  # of the peak; lengths are small
BEYOND = 7  # updates past the end
LONGEST = 80

Rates = Callable[[int], np.ndarray]
Knobs = dict[str, Any]


class Draw:
    """Draws of the knobs that presets share."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.peak = float(10 ** self.rng.uniform(-5, 0))
        self.T = int(self.rng.choice([1, 2, self.rng.integers(3, 60)], p=[0.05, 0.1, 0.85]))
        drawn = self.rng.integers(0, self.T + 1)
        self.W = int(
            self.rng.choice(
                [0, 1, self.T - 1, self.T, self.T + 3, drawn], p=[0.1, 0.1, 0.1, 0.1, 0.05, 0.55]
            )
        )
        self.floor = float(self.rng.choice([0.0, 1.0, self.rng.uniform(0, 1)], p=[0.3, 0.05, 0.65]))
        self.start = float(self.rng.choice([0.0, 1.0, self.rng.uniform(0, 1)], p=[0.3, 0.05, 0.65]))
        self.power = float(self.rng.choice([1.0, 2.0, self.rng.uniform(0.2, 3)]))
        self.every = int(self.rng.integers(1, 12))
        factors = [1.0, self.rng.uniform(0.2, 1), self.rng.uniform(1, 1.3)]
        self.factor = float(self.rng.choice(factors, p=[0.1, 0.6, 0.3]))
        self.milestones = sorted(
            {int(m) for m in self.rng.integers(1, 30, self.rng.integers(1, 5))}
        )
        self.decay = int(self.rng.integers(1, max(2, self.T)))
        self.waves = float(self.rng.choice([0.5, 1.0, self.rng.uniform(0.1, 3)]))

    def choice(self, *values: Any) -> Any:
        return values[self.rng.integers(len(values))]

    def length(self) -> Knobs:
        return {"peak": self.peak, "warmup": self.W, "length": self.T}

    def warmup(self) -> Knobs:
        return {"peak": self.peak, "warmup": self.W}


def optimizer_of(peak: float, kind: Any = torch.optim.SGD, **settings: Any) -> Any:
    parameter = torch.zeros(1, requires_grad=True)
    parameter.grad = torch.zeros(1)
    return kind([parameter], lr=peak, **settings)


def stepped(optimizer: Any, step: Callable[[int], None], updates: int) -> np.ndarray:
    """The rate of each update; `step(t)` is called after update t - 1."""
    rates = []
    for t in range(updates):
        if t:
            optimizer.step()
            step(t)
        rates.append(optimizer.param_groups[0]["lr"])
    step(updates)  # what the loop calls after the last update
    return np.array(rates, dtype=np.float64)


# ---- torch


def torch_alone(peak: float, make: Any) -> Rates:
    def rates(updates: int) -> np.ndarray:
        optimizer = optimizer_of(peak)
        scheduler = make(optimizer)
        return stepped(optimizer, lambda t: scheduler.step(), updates)

    return rates


def torch_joined(draw: Draw, make: Any) -> Rates:
    def both(optimizer: Any) -> Any:
        if not draw.W:
            return make(optimizer)
        warmup = lrs.LinearLR(optimizer, 1 / draw.W, 1.0, total_iters=draw.W - 1)
        return lrs.SequentialLR(optimizer, [warmup, make(optimizer)], [draw.W])

    return torch_alone(draw.peak, both)


def torch_one_cycle(draw: Draw, three: bool) -> tuple[Knobs, Rates]:
    first = float(draw.rng.uniform(0.01, 1))
    rise = float(draw.choice(draw.rng.uniform(0.01, 1), 1 / draw.T, 1.0))
    floor = float(first * draw.rng.uniform(0.001, 1))
    anneal = draw.choice("cosine", "linear")
    knobs = {
        "peak": draw.peak,
        "length": draw.T,
        "first": first,
        "rise": rise,
        "floor": floor,
        "anneal": anneal,
    }

    def rates(updates: int) -> np.ndarray:
        optimizer = optimizer_of(draw.peak)
        how = {
            "pct_start": rise,
            "three_phase": three,
            "anneal_strategy": {"cosine": "cos"}.get(anneal, anneal),
        }
        how |= {"div_factor": 1 / first, "final_div_factor": first / floor, "cycle_momentum": False}
        scheduler = lrs.OneCycleLR(optimizer, draw.peak, total_steps=draw.T, **how)
        return stepped(optimizer, lambda t: scheduler.step() if t < draw.T else None, updates)

    return knobs, rates


TORCH: dict[str, Callable[[Draw], tuple[Knobs, Rates]]] = {
    "torch.constant": lambda d: (
        d.warmup(),
        torch_joined(d, lambda o: lrs.LambdaLR(o, lambda t: 1.0)),
    ),
    "torch.constant_lr": lambda d: (
        d.warmup() | {"warmup_start": d.start},
        torch_alone(d.peak, lambda o: lrs.ConstantLR(o, d.start, d.W)),
    ),
    "torch.linear": lambda d: (
        d.length() | {"floor": d.floor},
        torch_joined(d, lambda o: lrs.LinearLR(o, 1.0, d.floor, total_iters=d.T - d.W)),
    ),
    "torch.polynomial": lambda d: (
        d.length() | {"power": d.power},
        torch_joined(d, lambda o: lrs.PolynomialLR(o, total_iters=d.T - d.W, power=d.power)),
    ),
    "torch.cosine": lambda d: (
        d.length() | {"floor": d.floor},
        torch_joined(d, lambda o: lrs.CosineAnnealingLR(o, d.T - d.W, eta_min=d.floor * d.peak)),
    ),
    "torch.exponential": lambda d: (
        d.warmup() | {"factor": d.factor},
        torch_joined(d, lambda o: lrs.ExponentialLR(o, d.factor)),
    ),
    "torch.step": lambda d: (
        d.warmup() | {"factor": d.factor, "every": d.every},
        torch_joined(d, lambda o: lrs.StepLR(o, d.every, d.factor)),
    ),
    "torch.multistep": lambda d: (
        d.warmup() | {"factor": d.factor, "milestones": d.milestones},
        torch_joined(d, lambda o: lrs.MultiStepLR(o, d.milestones, d.factor)),
    ),
    "torch.cosine_restarts": lambda d: (
        d.warmup() | {"cycle": d.every, "cycle_growth": 1 + d.T % 3, "floor": d.floor},
        torch_joined(
            d, lambda o: lrs.CosineAnnealingWarmRestarts(o, d.every, 1 + d.T % 3, d.floor * d.peak)
        ),
    ),
    "torch.one_cycle": lambda d: torch_one_cycle(d, False),
    "torch.one_cycle_three_phase": lambda d: torch_one_cycle(d, True),
}


# ---- optax, in x64


def in_x64(schedule: Callable[[], Any]) -> Rates:
    def rates(updates: int) -> np.ndarray:
        with jax.enable_x64(True):  # of one length, so that JAX compiles each operation once
            return np.asarray(jax.vmap(schedule())(jnp.arange(LONGEST)), dtype=np.float64)[:updates]

    return rates


def optax_joined(d: Draw, schedule: Callable[[], Any]) -> Rates:
    return in_x64(
        lambda: optax.join_schedules(
            [optax.linear_schedule(d.start * d.peak, d.peak, d.W), schedule()], [d.W]
        )
    )


def optax_exponential(d: Draw, staircase: bool) -> tuple[Knobs, Rates]:
    knobs = d.warmup() | {
        "warmup_start": d.start,
        "factor": d.factor,
        "every": d.every,
        "delay": d.decay,
    }
    floor = 0.0 if staircase else d.floor
    if not staircase:
        knobs["floor"] = floor
    return knobs, in_x64(
        lambda: optax.warmup_exponential_decay_schedule(
            d.start * d.peak,
            d.peak,
            d.W,
            d.every,
            d.factor,
            d.decay,
            staircase,
            floor * d.peak if floor else None,
        )
    )


def optax_multistep(d: Draw) -> tuple[Knobs, Rates]:
    factors = [float(factor) for factor in d.rng.uniform(0, 1.2, len(d.milestones))]
    if d.T % 2:
        factors = [d.factor] * len(d.milestones)
    knobs = {"factors": factors} if d.T % 2 == 0 else {"factor": d.factor}
    scales = dict(zip(d.milestones, factors))
    knobs |= d.warmup() | {"warmup_start": d.start, "milestones": d.milestones}
    return knobs, optax_joined(d, lambda: optax.piecewise_constant_schedule(d.peak, scales))


def optax_one_cycle(d: Draw) -> tuple[Knobs, Rates]:
    first, rise = float(d.rng.uniform(0.01, 1)), float(d.choice(d.rng.uniform(0, 1), 0.0, 1.0))
    floor = float(first * d.rng.uniform(0.001, 1))
    knobs = {"peak": d.peak, "length": d.T, "first": first, "rise": rise, "floor": floor}
    return knobs, in_x64(
        lambda: optax.cosine_onecycle_schedule(d.T, d.peak, rise, 1 / first, first / floor)
    )


def optax_one_cycle_linear(d: Draw) -> tuple[Knobs, Rates]:
    first, rise = float(d.rng.uniform(0.01, 1)), float(d.rng.uniform(0, 0.6))
    floor, fall = float(first * d.rng.uniform(0.001, 1)), float(rise + d.rng.uniform(0.01, 0.4))
    knobs = {
        "peak": d.peak,
        "length": d.T,
        "first": first,
        "rise": rise,
        "fall": fall,
        "floor": floor,
    }
    return knobs, in_x64(
        lambda: optax.linear_onecycle_schedule(d.T, d.peak, rise, fall, 1 / first, first / floor)
    )


def optax_restarts(d: Draw) -> tuple[Knobs, Rates]:
    growth, cycles = 1 + d.T % 3, 1 + d.T % 4
    knobs = d.warmup() | {
        "warmup_start": d.start,
        "cycle": d.every,
        "cycle_growth": growth,
        "cycles": cycles,
    }
    lengths = [d.every * growth**k for k in range(cycles)]
    same = {
        "init_value": d.peak,
        "peak_value": d.peak,
        "warmup_steps": 0,
        "end_value": d.floor * d.peak,
    }
    each = [same | {"decay_steps": length} for length in lengths]
    return knobs | {"floor": d.floor}, optax_joined(d, lambda: optax.sgdr_schedule(each))


OPTAX: dict[str, Callable[[Draw], tuple[Knobs, Rates]]] = {
    "optax.constant": lambda d: (
        d.warmup() | {"warmup_start": d.start},
        in_x64(lambda: optax.warmup_constant_schedule(d.start * d.peak, d.peak, d.W)),
    ),
    "optax.linear": lambda d: (
        d.length() | {"warmup_start": d.start, "floor": d.floor},
        optax_joined(d, lambda: optax.linear_schedule(d.peak, d.floor * d.peak, d.T - d.W)),
    ),
    "optax.polynomial": lambda d: (
        d.length() | {"warmup_start": d.start, "floor": d.floor, "power": d.power},
        optax_joined(
            d, lambda: optax.polynomial_schedule(d.peak, d.floor * d.peak, d.power, d.T - d.W)
        ),
    ),
    "optax.cosine": lambda d: (
        d.length() | {"warmup_start": d.start, "floor": d.floor, "power": d.power},
        in_x64(
            lambda: optax.warmup_cosine_decay_schedule(
                d.start * d.peak, d.peak, d.W, d.T, d.floor * d.peak, d.power
            )
        ),
    ),
    "optax.exponential": lambda d: optax_exponential(d, False),
    "optax.step": lambda d: optax_exponential(d, True),
    "optax.multistep": optax_multistep,
    "optax.one_cycle": optax_one_cycle,
    "optax.one_cycle_linear": optax_one_cycle_linear,
    "optax.cosine_restarts": optax_restarts,
}


# ---- transformers


def hf(d: Draw, name: str, *arguments: Any, **settings: Any) -> Rates:
    def rates(updates: int) -> np.ndarray:
        make = getattr(sys.modules["transformers.optimization"], name)
        optimizer = optimizer_of(d.peak)
        scheduler = make(optimizer, *arguments, **settings)
        return stepped(optimizer, lambda t: scheduler.step(), updates)

    return rates


def hf_polynomial(d: Draw) -> tuple[Knobs, Rates]:
    how = {"power": d.power}
    if d.T % 3 == 0:
        return d.length() | how, hf(
            d, "get_polynomial_decay_schedule_with_warmup", d.W, d.T, power=d.power
        )
    floor = d.floor if d.T % 3 == 1 else 0.0
    end = floor * d.peak
    return d.length() | how | {"floor": floor}, hf(
        d, "get_polynomial_decay_schedule_with_warmup", d.W, d.T, lr_end=end, power=d.power
    )


def hf_wsd(d: Draw) -> tuple[Knobs, Rates]:
    up, down = d.choice("linear", "cosine", "1-sqrt"), d.choice("linear", "cosine", "1-sqrt")
    knobs = d.length() | {"decay_length": d.decay, "decay_shape": down, "floor": d.floor}
    knobs |= {"warmup_curve": up} if up == "1-sqrt" else {"warmup_shape": up}
    how = {"warmup_type": up, "decay_type": down, "min_lr_ratio": d.floor}
    return knobs, hf(d, "get_wsd_schedule", d.W, d.decay, d.T, **how)


HF_MIN, HF_EARLY = (
    "get_cosine_with_min_lr_schedule_with_warmup",
    "get_cosine_with_min_lr_schedule_with_warmup_lr_rate",
)
HF: dict[str, Callable[[Draw], tuple[Knobs, Rates]]] = {
    "hf.constant": lambda d: ({"peak": d.peak}, hf(d, "get_constant_schedule")),
    "hf.constant_with_warmup": lambda d: (
        d.warmup(),
        hf(d, "get_constant_schedule_with_warmup", d.W),
    ),
    "hf.linear": lambda d: (d.length(), hf(d, "get_linear_schedule_with_warmup", d.W, d.T)),
    "hf.cosine": lambda d: (
        d.length() | {"waves": d.waves},
        hf(d, "get_cosine_schedule_with_warmup", d.W, d.T, num_cycles=d.waves),
    ),
    "hf.cosine_with_min_lr": lambda d: (
        d.length() | {"waves": d.waves, "floor": d.floor},
        hf(d, HF_MIN, d.W, d.T, num_cycles=d.waves, min_lr_rate=d.floor),
    ),
    "hf.cosine_warmup_with_min_lr": lambda d: (
        d.length() | {"waves": d.waves, "floor": d.floor},
        hf(d, HF_EARLY, d.W, d.T, num_cycles=d.waves, min_lr_rate=d.floor),
    ),
    "hf.cosine_warmup_from_lr_rate": lambda d: (
        d.length() | {"waves": d.waves, "floor": d.floor, "warmup_start": d.start},
        hf(d, HF_EARLY, d.W, d.T, num_cycles=d.waves, min_lr_rate=d.floor, warmup_lr_rate=d.start),
    ),
    "hf.cosine_with_restarts": lambda d: (
        d.length() | {"cycles": d.every},
        hf(d, "get_cosine_with_hard_restarts_schedule_with_warmup", d.W, d.T, num_cycles=d.every),
    ),
    "hf.polynomial": hf_polynomial,
    "hf.inverse_sqrt": lambda d: (
        d.warmup() | ({"timescale": d.every} if d.T % 2 else {}),
        hf(d, "get_inverse_sqrt_schedule", d.W, d.every if d.T % 2 else None),
    ),
    "hf.warmup_stable_decay": hf_wsd,
}


# ---- timm


def timm(d: Draw, name: str, *arguments: Any, **settings: Any) -> Rates:
    def rates(updates: int) -> np.ndarray:
        make = getattr(sys.modules["timm.scheduler"], name)
        optimizer = optimizer_of(d.peak)
        warmup = {"warmup_t": d.W, "warmup_lr_init": d.start * d.peak, "t_in_epochs": False}
        scheduler = make(optimizer, *arguments, **settings, **warmup)
        return stepped(optimizer, scheduler.step_update, updates)

    return rates


def timm_kind(d: Draw, kind: str, prefix: bool) -> tuple[Knobs, Rates]:
    how = {"warmup_prefix": True} if prefix else {}
    knobs = d.length() | {"warmup_start": d.start, "floor": d.floor, "k_decay": d.waves}
    if kind == "PolyLRScheduler":
        knobs, how = knobs | {"power": d.power}, how | {"power": d.power}
    how |= {"lr_min": d.floor * d.peak, "k_decay": d.waves}
    return knobs, timm(d, kind, d.T - d.W if prefix else d.T, **how)


def timm_step(d: Draw, prefix: bool) -> tuple[Knobs, Rates]:
    knobs = d.warmup() | {"warmup_start": d.start, "every": d.every}
    settings = {} if prefix else {"warmup_prefix": False}
    if d.T % 3:
        knobs |= {"factor": d.factor}
        settings |= {"decay_rate": d.factor}
    return knobs, timm(d, "StepLRScheduler", d.every, **settings)


def timm_multistep(d: Draw) -> tuple[Knobs, Rates]:
    knobs = d.warmup() | {"warmup_start": d.start, "milestones": d.milestones}
    settings = {}
    if d.T % 3:
        knobs |= {"factor": d.factor}
        settings = {"decay_rate": d.factor}
    return knobs, timm(d, "MultiStepLRScheduler", d.milestones, **settings)


def timm_restarts(d: Draw) -> tuple[Knobs, Rates]:
    growth, cycles, decay = 1 + d.T % 2, 1 + d.T % 4, float(d.rng.uniform(0.3, 1))
    knobs = d.warmup() | {"warmup_start": d.start, "floor": d.floor, "cycle": d.every}
    knobs |= {"cycles": cycles, "cycle_growth": growth, "cycle_decay": decay}
    how = {
        "cycle_mul": float(growth),
        "cycle_limit": cycles,
        "cycle_decay": decay,
        "lr_min": d.floor * d.peak,
    }
    return knobs, timm(d, "CosineLRScheduler", d.every, warmup_prefix=True, **how)


def timm_wsd(d: Draw) -> tuple[Knobs, Rates]:
    shape = d.choice("linear", "1-sqrt", "cosine", "power", "exponential")
    knobs = d.length() | {
        "warmup_start": d.start,
        "floor": d.floor,
        "decay_length": d.decay,
        "decay_shape": shape,
    }
    how: Knobs = {"decay_fn": {"exponential": "exp"}.get(shape, shape), "lr_min": d.floor * d.peak}
    if shape == "power":
        knobs, how = knobs | {"power": d.power}, how | {"decay_power": d.power}
    if shape == "exponential" and d.T % 2:
        knobs, how = (
            knobs | {"decay_ratio": 0.03 + d.floor / 2},
            how | {"decay_ratio": 0.03 + d.floor / 2},
        )
    return knobs, timm(d, "WSDLRScheduler", d.T - d.W, d.decay, **how)


TIMM: dict[str, Callable[[Draw], tuple[Knobs, Rates]]] = {
    "timm.cosine": lambda d: timm_kind(d, "CosineLRScheduler", False),
    "timm.cosine_prefix": lambda d: timm_kind(d, "CosineLRScheduler", True),
    "timm.cosine_restarts": timm_restarts,
    "timm.polynomial": lambda d: timm_kind(d, "PolyLRScheduler", False),
    "timm.polynomial_prefix": lambda d: timm_kind(d, "PolyLRScheduler", True),
    "timm.step": lambda d: timm_step(d, True),
    "timm.step_without_prefix": lambda d: timm_step(d, False),
    "timm.multistep_prefix": timm_multistep,
    "timm.wsd": timm_wsd,
}


# ---- pytorch_warmup


def pytorch_warmup(peak: float, name: str, *arguments: Any, beta2: float = 0.999) -> Rates:
    def rates(updates: int) -> np.ndarray:
        make = getattr(sys.modules["pytorch_warmup"], name)
        optimizer = optimizer_of(peak, torch.optim.AdamW, betas=(0.9, beta2))
        warmup = make(optimizer, *arguments)

        def step(t: int) -> None:
            with warmup.dampening():
                pass

        return stepped(optimizer, step, updates)

    return rates


def untuned(d: Draw, name: str) -> tuple[Knobs, Rates]:
    beta2 = float(d.choice(0.999, 0.95, 0.9, 0.99, d.rng.uniform(0, 0.999)))
    return {"peak": d.peak, "beta2": beta2}, pytorch_warmup(d.peak, name, beta2=beta2)


PYTORCH_WARMUP: dict[str, Callable[[Draw], tuple[Knobs, Rates]]] = {
    "pytorch_warmup.linear": lambda d: (d.warmup(), pytorch_warmup(d.peak, "LinearWarmup", d.W)),
    "pytorch_warmup.exponential": lambda d: (
        d.warmup(),
        pytorch_warmup(d.peak, "ExponentialWarmup", d.W),
    ),
    "pytorch_warmup.untuned_linear": lambda d: untuned(d, "UntunedLinearWarmup"),
    "pytorch_warmup.untuned_exponential": lambda d: untuned(d, "UntunedExponentialWarmup"),
}


# ---- what is on no package index, written from its source


def from_formula(formula: Callable[[int], float]) -> Rates:
    return lambda updates: np.array([formula(t) for t in range(updates)], dtype=np.float64)


def nanogpt(d: Draw) -> tuple[Knobs, Rates]:
    """karpathy/nanoGPT, train.py, get_lr."""
    least = d.floor * d.peak

    def rate(it: int) -> float:
        if it < d.W:
            return d.peak * (it + 1) / (d.W + 1)
        if it > d.T:
            return least
        ratio = (it - d.W) / (d.T - d.W)
        return least + 0.5 * (1.0 + math.cos(math.pi * ratio)) * (d.peak - least)

    return d.length() | {"floor": d.floor}, from_formula(rate)


def torchtitan(d: Draw, kind: str) -> tuple[Knobs, Rates]:
    """pytorch/torchtitan, components/lr_scheduler.py, linear_warmup_stable_decay."""
    shape = {"linear": "linear", "cosine": "cosine"}.get(kind) or d.choice(
        "linear", "1-sqrt", "cosine"
    )
    warmup = min(d.W, d.T)
    decay = d.decay if kind == "wsd" else d.T - warmup
    decay = min(decay, d.T - warmup)
    stable = d.T + 1 - warmup - decay
    knobs = d.length() | {"floor": d.floor}
    if kind == "wsd":
        knobs |= {"decay_length": d.decay, "decay_shape": shape}

    def rate(step: int) -> float:
        if step < warmup:
            return d.peak * (step + 1) / warmup
        if step < warmup + stable:
            return d.peak
        if decay == 0:
            raise AssertionError("decay_steps must not be zero to reach this branch")
        progress = (step + 1 - (warmup + stable)) / decay
        falls = {"linear": 1 - progress, "1-sqrt": 1 - math.sqrt(progress)}
        falls["cosine"] = 0.5 * (1.0 + math.cos(math.pi * progress))
        return d.peak * (d.floor + (1 - d.floor) * falls[shape])

    return knobs, from_formula(rate)


def megatron(d: Draw, style: str) -> tuple[Knobs, Rates]:
    """NVIDIA/Megatron-LM, core/optimizer_param_scheduler.py, get_lr."""
    shape = d.choice("exponential", "linear", "cosine", "1-sqrt", None)
    knobs = d.warmup() | {"warmup_start": d.start}
    if style != "constant":
        knobs |= {"length": d.T, "floor": d.floor}
    if style == "WSD":
        knobs |= {"decay_length": d.decay} | ({"decay_shape": shape} if shape else {})
    first, least = d.start * d.peak, d.floor * d.peak

    def coefficient(t: int) -> float:
        ratio = (t - d.W) / (d.T - d.W)
        if style == "linear":
            return 1.0 - ratio
        if style == "cosine":
            return 0.5 * (math.cos(math.pi * ratio) + 1.0)
        anneal_start = d.T - d.decay
        if t <= anneal_start:
            return 1.0
        ratio = (t - anneal_start) / d.decay
        if shape in (None, "exponential"):
            return 2.0 * math.pow(0.5, ratio) - 1.0
        falls = {"linear": 1 - ratio, "1-sqrt": 1 - math.sqrt(ratio)}
        return falls.get(shape, 0.5 * (math.cos(math.pi * ratio) + 1))

    def rate(t: int) -> float:
        assert style == "constant" or d.W < d.T
        if d.W > 0 and t <= d.W:
            return first + (d.peak - first) * t / d.W
        if style == "constant":
            return d.peak
        if t > d.T:
            return least
        if style == "inverse-square-root":
            return max(least, d.peak * max(d.W, 1) ** 0.5 / max(t, 1) ** 0.5)
        return least + coefficient(t) * (d.peak - least)

    return knobs, from_formula(rate)


def t5x(d: Draw, factors: str) -> tuple[Knobs, Rates]:
    """google-research/t5x, utils.py, create_learning_rate_scheduler."""
    knobs = d.warmup() | {"least_rate": 1e-8}
    if factors == "decay_every":
        knobs |= {"factor": d.factor, "every": d.every}
    if factors == "cosine_decay":
        knobs |= {"cycle": d.every}

    def rate(step: int) -> float:
        ret = d.peak * np.minimum(1.0, np.float64(step) / d.W)
        if factors == "rsqrt_normalized_decay":
            ret = ret * math.sqrt(d.W) / math.sqrt(max(step, d.W))
        elif factors == "decay_every":
            ret *= d.factor ** (step // d.every)
        else:
            progress = max(0.0, (step - d.W) / float(d.every))
            ret *= max(0.0, 0.5 * (1.0 + math.cos(math.pi * (progress % 1.0))))
        return float(np.maximum(ret, 1e-8))

    return knobs, from_formula(rate)


def deepspeed(d: Draw) -> tuple[Knobs, Rates]:
    """deepspeedai/DeepSpeed, runtime/lr_schedules.py, WarmupLR; update t has the rate of
    last_batch_iteration t - 1.
    """
    first, warmup = d.start * d.peak, max(2, d.W)

    def rate(t: int) -> float:
        if t == 0:
            return first
        gamma = math.log(t) / math.log(warmup) if t - 1 < warmup else 1.0
        return first + (d.peak - first) * gamma

    return d.warmup() | {"warmup_start": d.start}, from_formula(rate)


def bolts(d: Draw) -> tuple[Knobs, Rates]:
    """Lightning-Universe/lightning-bolts, optimizers/lr_scheduler.py, _get_closed_form_lr."""
    first, least = d.start * d.peak, d.floor * d.peak

    def rate(t: int) -> float:
        if d.W == 0 or d.W > d.T:
            raise ValueError
        if t < d.W:
            return first + t * (d.peak - first) / max(1, d.W - 1)
        return least + 0.5 * (d.peak - least) * (1 + math.cos(math.pi * (t - d.W) / (d.T - d.W)))

    return d.length() | {"warmup_start": d.start, "floor": d.floor}, from_formula(rate)


FORMULAS: dict[str, Callable[[Draw], tuple[Knobs, Rates]]] = {
    "nanogpt.cosine": nanogpt,
    "torchtitan.linear": lambda d: torchtitan(d, "linear"),
    "torchtitan.cosine": lambda d: torchtitan(d, "cosine"),
    "torchtitan.wsd": lambda d: torchtitan(d, "wsd"),
    "megatron.constant": lambda d: megatron(d, "constant"),
    "megatron.linear": lambda d: megatron(d, "linear"),
    "megatron.cosine": lambda d: megatron(d, "cosine"),
    "megatron.inverse_sqrt": lambda d: megatron(d, "inverse-square-root"),
    "megatron.wsd": lambda d: megatron(d, "WSD"),
    "t5.linear_warmup": lambda d: t5x(d, "rsqrt_normalized_decay"),
    "t5.decay_every": lambda d: t5x(d, "decay_every"),
    "t5.cosine_decay": lambda d: t5x(d, "cosine_decay"),
    "t5.inverse_sqrt": lambda d: (
        d.warmup(),
        from_formula(lambda t: d.peak * math.sqrt(d.W) / math.sqrt(max(t, d.W))),
    ),
    "noam": lambda d: (
        d.warmup(),
        from_formula(lambda t: d.peak * math.sqrt(d.W) * min((t + 1) ** -0.5, (t + 1) * d.W**-1.5)),
    ),
    "deepspeed.warmup": deepspeed,
    "bolts.cosine": bolts,
}

PROOFS = {**TORCH, **OPTAX, **HF, **TIMM, **PYTORCH_WARMUP, **FORMULAS}


# ---- the check


@pytest.fixture(scope="module", autouse=True)
def quiet() -> Iterator[None]:
    """timm warns by logging of a cycle of one update."""
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


def load(library: str) -> None:
    """Import a library's schedulers, or skip."""
    if library == "hf":
        pytest.importorskip(
            "transformers.optimization",
            reason="transformers is not installed; make sweep installs it",
        )
    elif library == "pytorch_warmup":
        pytest.importorskip(
            "pytorch_warmup", reason="pytorch_warmup is not installed; make sweep installs it"
        )
    elif library == "timm" and "timm.scheduler" not in sys.modules:
        spec = importlib.util.find_spec("timm")
        if spec is None:
            pytest.skip("timm is not installed; make sweep installs it")
        # its schedulers alone: the rest needs torchvision, whose wheels on the package index are
        # made for CUDA
        package = types.ModuleType("timm")
        package.__path__ = list(spec.submodule_search_locations or [])
        sys.modules["timm"] = package
        importlib.import_module("timm.scheduler")


def lockstep_rates(name: str, knobs: Knobs, updates: int) -> np.ndarray:
    schedule = {"preset": name} | {knob: value for knob, value in knobs.items() if knob != "beta2"}
    optimizer = {"name": "adamw"} | ({"beta2": knobs["beta2"]} if "beta2" in knobs else {})
    if "beta2" not in knobs:
        schedule["unit"] = "update"
    content = {"schedule": schedule, "optimizer": optimizer, "training": {"epochs": updates}}
    return learning_rates(Recipe.from_dict(content), 1)


SAID = ("longer than", "would get a decay", "would shorten", "keeps the last", "at least 2")
"""Refusals where the library goes on, which say what it does."""


def outcome(call: Callable[..., np.ndarray], *arguments: Any) -> tuple[np.ndarray | None, str]:
    """Finite rates, or why there are none."""
    try:
        with np.errstate(all="ignore"):
            rates = call(*arguments)
    except (InputError, ArithmeticError, ValueError, AssertionError, IndexError) as error:
        return None, str(error)
    return (rates, "") if np.isfinite(rates).all() else (None, "not finite")


def worst_difference(name: str) -> float:
    worst = 0.0
    for seed in range(DRAWS):
        draw = Draw(seed)
        knobs, library = PROOFS[name](draw)
        updates = max(draw.T, draw.W + 1, math.ceil(2 / (1 - knobs.get("beta2", 0)))) + BEYOND
        updates = draw.T if "one_cycle" in name and name.startswith("torch.") else updates
        expected, raised = outcome(library, updates)
        rates, refused = outcome(lockstep_rates, name, knobs, updates)
        if rates is None:
            assert expected is None or any(said in refused for said in SAID), (
                name,
                knobs,
                refused,
                expected,
            )
            continue
        assert expected is not None, (name, knobs, raised)
        differences = np.abs(rates - expected) / np.maximum(
            draw.peak, expected
        )  # a factor above 1 grows
        assert differences.max() <= CLOSE, (name, knobs, int(differences.argmax()), rates, expected)
        worst = max(worst, float(differences.max()))
    return worst


def test_every_preset_of_a_schedule_is_held_against_its_library() -> None:
    assert PROOFS.keys() == PRESETS["schedule"].keys()


@pytest.mark.parametrize("name", PROOFS)
def test_a_schedule_is_the_library_on_forty_draws(name: str) -> None:
    load(name.partition(".")[0])
    print(f"{name}: at most {worst_difference(name):.1e} of the peak apart")  # pytest -rP shows it
