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
    "torch.constant": lambda draw: (
        draw.warmup(),
        torch_joined(draw, lambda optimizer: lrs.LambdaLR(optimizer, lambda t: 1.0)),
    ),
    "torch.constant_lr": lambda draw: (
        draw.warmup() | {"warmup_start": draw.start},
        torch_alone(draw.peak, lambda optimizer: lrs.ConstantLR(optimizer, draw.start, draw.W)),
    ),
    "torch.linear": lambda draw: (
        draw.length() | {"floor": draw.floor},
        torch_joined(
            draw,
            lambda optimizer: lrs.LinearLR(optimizer, 1.0, draw.floor, total_iters=draw.T - draw.W),
        ),
    ),
    "torch.polynomial": lambda draw: (
        draw.length() | {"power": draw.power},
        torch_joined(
            draw,
            lambda optimizer: lrs.PolynomialLR(
                optimizer, total_iters=draw.T - draw.W, power=draw.power
            ),
        ),
    ),
    "torch.cosine": lambda draw: (
        draw.length() | {"floor": draw.floor},
        torch_joined(
            draw,
            lambda optimizer: lrs.CosineAnnealingLR(
                optimizer, draw.T - draw.W, eta_min=draw.floor * draw.peak
            ),
        ),
    ),
    "torch.exponential": lambda draw: (
        draw.warmup() | {"factor": draw.factor},
        torch_joined(draw, lambda optimizer: lrs.ExponentialLR(optimizer, draw.factor)),
    ),
    "torch.step": lambda draw: (
        draw.warmup() | {"factor": draw.factor, "every": draw.every},
        torch_joined(draw, lambda optimizer: lrs.StepLR(optimizer, draw.every, draw.factor)),
    ),
    "torch.multistep": lambda draw: (
        draw.warmup() | {"factor": draw.factor, "milestones": draw.milestones},
        torch_joined(
            draw, lambda optimizer: lrs.MultiStepLR(optimizer, draw.milestones, draw.factor)
        ),
    ),
    "torch.cosine_restarts": lambda draw: (
        draw.warmup() | {"cycle": draw.every, "cycle_growth": 1 + draw.T % 3, "floor": draw.floor},
        torch_joined(
            draw,
            lambda optimizer: lrs.CosineAnnealingWarmRestarts(
                optimizer, draw.every, 1 + draw.T % 3, draw.floor * draw.peak
            ),
        ),
    ),
    "torch.one_cycle": lambda draw: torch_one_cycle(draw, False),
    "torch.one_cycle_three_phase": lambda draw: torch_one_cycle(draw, True),
}


# ---- optax, in x64


def in_x64(schedule: Callable[[], Any]) -> Rates:
    def rates(updates: int) -> np.ndarray:
        with jax.enable_x64(True):  # of one length, so that JAX compiles each operation once
            return np.asarray(jax.vmap(schedule())(jnp.arange(LONGEST)), dtype=np.float64)[:updates]

    return rates


def optax_joined(draw: Draw, schedule: Callable[[], Any]) -> Rates:
    return in_x64(
        lambda: optax.join_schedules(
            [optax.linear_schedule(draw.start * draw.peak, draw.peak, draw.W), schedule()], [draw.W]
        )
    )


def optax_exponential(draw: Draw, staircase: bool) -> tuple[Knobs, Rates]:
    knobs = draw.warmup() | {
        "warmup_start": draw.start,
        "factor": draw.factor,
        "every": draw.every,
        "delay": draw.decay,
    }
    floor = 0.0 if staircase else draw.floor
    if not staircase:
        knobs["floor"] = floor
    return knobs, in_x64(
        lambda: optax.warmup_exponential_decay_schedule(
            draw.start * draw.peak,
            draw.peak,
            draw.W,
            draw.every,
            draw.factor,
            draw.decay,
            staircase,
            floor * draw.peak if floor else None,
        )
    )


def optax_multistep(draw: Draw) -> tuple[Knobs, Rates]:
    factors = [float(factor) for factor in draw.rng.uniform(0, 1.2, len(draw.milestones))]
    if draw.T % 2:
        factors = [draw.factor] * len(draw.milestones)
    knobs = {"factors": factors} if draw.T % 2 == 0 else {"factor": draw.factor}
    scales = dict(zip(draw.milestones, factors))
    knobs |= draw.warmup() | {"warmup_start": draw.start, "milestones": draw.milestones}
    return knobs, optax_joined(draw, lambda: optax.piecewise_constant_schedule(draw.peak, scales))


def optax_one_cycle(draw: Draw) -> tuple[Knobs, Rates]:
    first, rise = (
        float(draw.rng.uniform(0.01, 1)),
        float(draw.choice(draw.rng.uniform(0, 1), 0.0, 1.0)),
    )
    floor = float(first * draw.rng.uniform(0.001, 1))
    knobs = {"peak": draw.peak, "length": draw.T, "first": first, "rise": rise, "floor": floor}
    return knobs, in_x64(
        lambda: optax.cosine_onecycle_schedule(draw.T, draw.peak, rise, 1 / first, first / floor)
    )


def optax_one_cycle_linear(draw: Draw) -> tuple[Knobs, Rates]:
    first, rise = float(draw.rng.uniform(0.01, 1)), float(draw.rng.uniform(0, 0.6))
    floor, fall = (
        float(first * draw.rng.uniform(0.001, 1)),
        float(rise + draw.rng.uniform(0.01, 0.4)),
    )
    knobs = {
        "peak": draw.peak,
        "length": draw.T,
        "first": first,
        "rise": rise,
        "fall": fall,
        "floor": floor,
    }
    return knobs, in_x64(
        lambda: optax.linear_onecycle_schedule(
            draw.T, draw.peak, rise, fall, 1 / first, first / floor
        )
    )


def optax_restarts(draw: Draw) -> tuple[Knobs, Rates]:
    growth, cycles = 1 + draw.T % 3, 1 + draw.T % 4
    knobs = draw.warmup() | {
        "warmup_start": draw.start,
        "cycle": draw.every,
        "cycle_growth": growth,
        "cycles": cycles,
    }
    lengths = [draw.every * growth**k for k in range(cycles)]
    same = {
        "init_value": draw.peak,
        "peak_value": draw.peak,
        "warmup_steps": 0,
        "end_value": draw.floor * draw.peak,
    }
    each = [same | {"decay_steps": length} for length in lengths]
    return knobs | {"floor": draw.floor}, optax_joined(draw, lambda: optax.sgdr_schedule(each))


OPTAX: dict[str, Callable[[Draw], tuple[Knobs, Rates]]] = {
    "optax.constant": lambda draw: (
        draw.warmup() | {"warmup_start": draw.start},
        in_x64(lambda: optax.warmup_constant_schedule(draw.start * draw.peak, draw.peak, draw.W)),
    ),
    "optax.linear": lambda draw: (
        draw.length() | {"warmup_start": draw.start, "floor": draw.floor},
        optax_joined(
            draw, lambda: optax.linear_schedule(draw.peak, draw.floor * draw.peak, draw.T - draw.W)
        ),
    ),
    "optax.polynomial": lambda draw: (
        draw.length() | {"warmup_start": draw.start, "floor": draw.floor, "power": draw.power},
        optax_joined(
            draw,
            lambda: optax.polynomial_schedule(
                draw.peak, draw.floor * draw.peak, draw.power, draw.T - draw.W
            ),
        ),
    ),
    "optax.cosine": lambda draw: (
        draw.length() | {"warmup_start": draw.start, "floor": draw.floor, "power": draw.power},
        in_x64(
            lambda: optax.warmup_cosine_decay_schedule(
                draw.start * draw.peak,
                draw.peak,
                draw.W,
                draw.T,
                draw.floor * draw.peak,
                draw.power,
            )
        ),
    ),
    "optax.exponential": lambda draw: optax_exponential(draw, False),
    "optax.step": lambda draw: optax_exponential(draw, True),
    "optax.multistep": optax_multistep,
    "optax.one_cycle": optax_one_cycle,
    "optax.one_cycle_linear": optax_one_cycle_linear,
    "optax.cosine_restarts": optax_restarts,
}


# ---- transformers


def hf(draw: Draw, name: str, *arguments: Any, **settings: Any) -> Rates:
    def rates(updates: int) -> np.ndarray:
        make = getattr(sys.modules["transformers.optimization"], name)
        optimizer = optimizer_of(draw.peak)
        scheduler = make(optimizer, *arguments, **settings)
        return stepped(optimizer, lambda t: scheduler.step(), updates)

    return rates


def hf_polynomial(draw: Draw) -> tuple[Knobs, Rates]:
    how = {"power": draw.power}
    if draw.T % 3 == 0:
        return draw.length() | how, hf(
            draw, "get_polynomial_decay_schedule_with_warmup", draw.W, draw.T, power=draw.power
        )
    floor = draw.floor if draw.T % 3 == 1 else 0.0
    end = floor * draw.peak
    return draw.length() | how | {"floor": floor}, hf(
        draw,
        "get_polynomial_decay_schedule_with_warmup",
        draw.W,
        draw.T,
        lr_end=end,
        power=draw.power,
    )


def hf_wsd(draw: Draw) -> tuple[Knobs, Rates]:
    up, down = draw.choice("linear", "cosine", "1-sqrt"), draw.choice("linear", "cosine", "1-sqrt")
    knobs = draw.length() | {"decay_length": draw.decay, "decay_shape": down, "floor": draw.floor}
    knobs |= {"warmup_curve": up} if up == "1-sqrt" else {"warmup_shape": up}
    how = {"warmup_type": up, "decay_type": down, "min_lr_ratio": draw.floor}
    return knobs, hf(draw, "get_wsd_schedule", draw.W, draw.decay, draw.T, **how)


HF_MIN, HF_EARLY = (
    "get_cosine_with_min_lr_schedule_with_warmup",
    "get_cosine_with_min_lr_schedule_with_warmup_lr_rate",
)
HF: dict[str, Callable[[Draw], tuple[Knobs, Rates]]] = {
    "hf.constant": lambda draw: ({"peak": draw.peak}, hf(draw, "get_constant_schedule")),
    "hf.constant_with_warmup": lambda draw: (
        draw.warmup(),
        hf(draw, "get_constant_schedule_with_warmup", draw.W),
    ),
    "hf.linear": lambda draw: (
        draw.length(),
        hf(draw, "get_linear_schedule_with_warmup", draw.W, draw.T),
    ),
    "hf.cosine": lambda draw: (
        draw.length() | {"waves": draw.waves},
        hf(draw, "get_cosine_schedule_with_warmup", draw.W, draw.T, num_cycles=draw.waves),
    ),
    "hf.cosine_with_min_lr": lambda draw: (
        draw.length() | {"waves": draw.waves, "floor": draw.floor},
        hf(draw, HF_MIN, draw.W, draw.T, num_cycles=draw.waves, min_lr_rate=draw.floor),
    ),
    "hf.cosine_warmup_with_min_lr": lambda draw: (
        draw.length() | {"waves": draw.waves, "floor": draw.floor},
        hf(draw, HF_EARLY, draw.W, draw.T, num_cycles=draw.waves, min_lr_rate=draw.floor),
    ),
    "hf.cosine_warmup_from_lr_rate": lambda draw: (
        draw.length() | {"waves": draw.waves, "floor": draw.floor, "warmup_start": draw.start},
        hf(
            draw,
            HF_EARLY,
            draw.W,
            draw.T,
            num_cycles=draw.waves,
            min_lr_rate=draw.floor,
            warmup_lr_rate=draw.start,
        ),
    ),
    "hf.cosine_with_restarts": lambda draw: (
        draw.length() | {"cycles": draw.every},
        hf(
            draw,
            "get_cosine_with_hard_restarts_schedule_with_warmup",
            draw.W,
            draw.T,
            num_cycles=draw.every,
        ),
    ),
    "hf.polynomial": hf_polynomial,
    "hf.inverse_sqrt": lambda draw: (
        draw.warmup() | ({"timescale": draw.every} if draw.T % 2 else {}),
        hf(draw, "get_inverse_sqrt_schedule", draw.W, draw.every if draw.T % 2 else None),
    ),
    "hf.warmup_stable_decay": hf_wsd,
}


# ---- timm


def timm(draw: Draw, name: str, *arguments: Any, **settings: Any) -> Rates:
    def rates(updates: int) -> np.ndarray:
        make = getattr(sys.modules["timm.scheduler"], name)
        optimizer = optimizer_of(draw.peak)
        warmup = {
            "warmup_t": draw.W,
            "warmup_lr_init": draw.start * draw.peak,
            "t_in_epochs": False,
        }
        scheduler = make(optimizer, *arguments, **settings, **warmup)
        return stepped(optimizer, scheduler.step_update, updates)

    return rates


def timm_kind(draw: Draw, kind: str, prefix: bool) -> tuple[Knobs, Rates]:
    how = {"warmup_prefix": True} if prefix else {}
    knobs = draw.length() | {"warmup_start": draw.start, "floor": draw.floor, "k_decay": draw.waves}
    if kind == "PolyLRScheduler":
        knobs, how = knobs | {"power": draw.power}, how | {"power": draw.power}
    how |= {"lr_min": draw.floor * draw.peak, "k_decay": draw.waves}
    return knobs, timm(draw, kind, draw.T - draw.W if prefix else draw.T, **how)


def timm_step(draw: Draw, prefix: bool) -> tuple[Knobs, Rates]:
    knobs = draw.warmup() | {"warmup_start": draw.start, "every": draw.every}
    settings = {} if prefix else {"warmup_prefix": False}
    if draw.T % 3:
        knobs |= {"factor": draw.factor}
        settings |= {"decay_rate": draw.factor}
    return knobs, timm(draw, "StepLRScheduler", draw.every, **settings)


def timm_multistep(draw: Draw) -> tuple[Knobs, Rates]:
    knobs = draw.warmup() | {"warmup_start": draw.start, "milestones": draw.milestones}
    settings = {}
    if draw.T % 3:
        knobs |= {"factor": draw.factor}
        settings = {"decay_rate": draw.factor}
    return knobs, timm(draw, "MultiStepLRScheduler", draw.milestones, **settings)


def timm_restarts(draw: Draw) -> tuple[Knobs, Rates]:
    growth, cycles, decay = 1 + draw.T % 2, 1 + draw.T % 4, float(draw.rng.uniform(0.3, 1))
    knobs = draw.warmup() | {"warmup_start": draw.start, "floor": draw.floor, "cycle": draw.every}
    knobs |= {"cycles": cycles, "cycle_growth": growth, "cycle_decay": decay}
    how = {
        "cycle_mul": float(growth),
        "cycle_limit": cycles,
        "cycle_decay": decay,
        "lr_min": draw.floor * draw.peak,
    }
    return knobs, timm(draw, "CosineLRScheduler", draw.every, warmup_prefix=True, **how)


def timm_wsd(draw: Draw) -> tuple[Knobs, Rates]:
    shape = draw.choice("linear", "1-sqrt", "cosine", "power", "exponential")
    knobs = draw.length() | {
        "warmup_start": draw.start,
        "floor": draw.floor,
        "decay_length": draw.decay,
        "decay_shape": shape,
    }
    how: Knobs = {
        "decay_fn": {"exponential": "exp"}.get(shape, shape),
        "lr_min": draw.floor * draw.peak,
    }
    if shape == "power":
        knobs, how = knobs | {"power": draw.power}, how | {"decay_power": draw.power}
    if shape == "exponential" and draw.T % 2:
        knobs, how = (
            knobs | {"decay_ratio": 0.03 + draw.floor / 2},
            how | {"decay_ratio": 0.03 + draw.floor / 2},
        )
    return knobs, timm(draw, "WSDLRScheduler", draw.T - draw.W, draw.decay, **how)


TIMM: dict[str, Callable[[Draw], tuple[Knobs, Rates]]] = {
    "timm.cosine": lambda draw: timm_kind(draw, "CosineLRScheduler", False),
    "timm.cosine_prefix": lambda draw: timm_kind(draw, "CosineLRScheduler", True),
    "timm.cosine_restarts": timm_restarts,
    "timm.polynomial": lambda draw: timm_kind(draw, "PolyLRScheduler", False),
    "timm.polynomial_prefix": lambda draw: timm_kind(draw, "PolyLRScheduler", True),
    "timm.step": lambda draw: timm_step(draw, True),
    "timm.step_without_prefix": lambda draw: timm_step(draw, False),
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


def untuned(draw: Draw, name: str) -> tuple[Knobs, Rates]:
    beta2 = float(draw.choice(0.999, 0.95, 0.9, 0.99, draw.rng.uniform(0, 0.999)))
    return {"peak": draw.peak, "beta2": beta2}, pytorch_warmup(draw.peak, name, beta2=beta2)


PYTORCH_WARMUP: dict[str, Callable[[Draw], tuple[Knobs, Rates]]] = {
    "pytorch_warmup.linear": lambda draw: (
        draw.warmup(),
        pytorch_warmup(draw.peak, "LinearWarmup", draw.W),
    ),
    "pytorch_warmup.exponential": lambda draw: (
        draw.warmup(),
        pytorch_warmup(draw.peak, "ExponentialWarmup", draw.W),
    ),
    "pytorch_warmup.untuned_linear": lambda draw: untuned(draw, "UntunedLinearWarmup"),
    "pytorch_warmup.untuned_exponential": lambda draw: untuned(draw, "UntunedExponentialWarmup"),
}


# ---- what is on no package index, written from its source


def from_formula(formula: Callable[[int], float]) -> Rates:
    return lambda updates: np.array([formula(t) for t in range(updates)], dtype=np.float64)


def nanogpt(draw: Draw) -> tuple[Knobs, Rates]:
    """karpathy/nanoGPT, train.py, get_lr."""
    least = draw.floor * draw.peak

    def rate(it: int) -> float:
        if it < draw.W:
            return draw.peak * (it + 1) / (draw.W + 1)
        if it > draw.T:
            return least
        ratio = (it - draw.W) / (draw.T - draw.W)
        return least + 0.5 * (1.0 + math.cos(math.pi * ratio)) * (draw.peak - least)

    return draw.length() | {"floor": draw.floor}, from_formula(rate)


def torchtitan(draw: Draw, kind: str) -> tuple[Knobs, Rates]:
    """pytorch/torchtitan, components/lr_scheduler.py, linear_warmup_stable_decay."""
    shape = {"linear": "linear", "cosine": "cosine"}.get(kind) or draw.choice(
        "linear", "1-sqrt", "cosine"
    )
    warmup = min(draw.W, draw.T)
    decay = draw.decay if kind == "wsd" else draw.T - warmup
    decay = min(decay, draw.T - warmup)
    stable = draw.T + 1 - warmup - decay
    knobs = draw.length() | {"floor": draw.floor}
    if kind == "wsd":
        knobs |= {"decay_length": draw.decay, "decay_shape": shape}

    def rate(step: int) -> float:
        if step < warmup:
            return draw.peak * (step + 1) / warmup
        if step < warmup + stable:
            return draw.peak
        if decay == 0:
            raise AssertionError("decay_steps must not be zero to reach this branch")
        progress = (step + 1 - (warmup + stable)) / decay
        falls = {"linear": 1 - progress, "1-sqrt": 1 - math.sqrt(progress)}
        falls["cosine"] = 0.5 * (1.0 + math.cos(math.pi * progress))
        return draw.peak * (draw.floor + (1 - draw.floor) * falls[shape])

    return knobs, from_formula(rate)


def megatron(draw: Draw, style: str) -> tuple[Knobs, Rates]:
    """NVIDIA/Megatron-LM, core/optimizer_param_scheduler.py, get_lr."""
    shape = draw.choice("exponential", "linear", "cosine", "1-sqrt", None)
    knobs = draw.warmup() | {"warmup_start": draw.start}
    if style != "constant":
        knobs |= {"length": draw.T, "floor": draw.floor}
    if style == "WSD":
        knobs |= {"decay_length": draw.decay} | ({"decay_shape": shape} if shape else {})
    first, least = draw.start * draw.peak, draw.floor * draw.peak

    def coefficient(t: int) -> float:
        ratio = (t - draw.W) / (draw.T - draw.W)
        if style == "linear":
            return 1.0 - ratio
        if style == "cosine":
            return 0.5 * (math.cos(math.pi * ratio) + 1.0)
        anneal_start = draw.T - draw.decay
        if t <= anneal_start:
            return 1.0
        ratio = (t - anneal_start) / draw.decay
        if shape in (None, "exponential"):
            return 2.0 * math.pow(0.5, ratio) - 1.0
        falls = {"linear": 1 - ratio, "1-sqrt": 1 - math.sqrt(ratio)}
        return falls.get(shape, 0.5 * (math.cos(math.pi * ratio) + 1))

    def rate(t: int) -> float:
        assert style == "constant" or draw.W < draw.T
        if draw.W > 0 and t <= draw.W:
            return first + (draw.peak - first) * t / draw.W
        if style == "constant":
            return draw.peak
        if t > draw.T:
            return least
        if style == "inverse-square-root":
            return max(least, draw.peak * max(draw.W, 1) ** 0.5 / max(t, 1) ** 0.5)
        return least + coefficient(t) * (draw.peak - least)

    return knobs, from_formula(rate)


def t5x(draw: Draw, factors: str) -> tuple[Knobs, Rates]:
    """google-research/t5x, utils.py, create_learning_rate_scheduler."""
    knobs = draw.warmup() | {"least_rate": 1e-8}
    if factors == "decay_every":
        knobs |= {"factor": draw.factor, "every": draw.every}
    if factors == "cosine_decay":
        knobs |= {"cycle": draw.every}

    def rate(step: int) -> float:
        ret = draw.peak * np.minimum(1.0, np.float64(step) / draw.W)
        if factors == "rsqrt_normalized_decay":
            ret = ret * math.sqrt(draw.W) / math.sqrt(max(step, draw.W))
        elif factors == "decay_every":
            ret *= draw.factor ** (step // draw.every)
        else:
            progress = max(0.0, (step - draw.W) / float(draw.every))
            ret *= max(0.0, 0.5 * (1.0 + math.cos(math.pi * (progress % 1.0))))
        return float(np.maximum(ret, 1e-8))

    return knobs, from_formula(rate)


def deepspeed(draw: Draw) -> tuple[Knobs, Rates]:
    """deepspeedai/DeepSpeed, runtime/lr_schedules.py, WarmupLR; update t has the rate of
    last_batch_iteration t - 1.
    """
    first, warmup = draw.start * draw.peak, max(2, draw.W)

    def rate(t: int) -> float:
        if t == 0:
            return first
        gamma = math.log(t) / math.log(warmup) if t - 1 < warmup else 1.0
        return first + (draw.peak - first) * gamma

    return draw.warmup() | {"warmup_start": draw.start}, from_formula(rate)


def bolts(draw: Draw) -> tuple[Knobs, Rates]:
    """Lightning-Universe/lightning-bolts, optimizers/lr_scheduler.py, _get_closed_form_lr."""
    first, least = draw.start * draw.peak, draw.floor * draw.peak

    def rate(t: int) -> float:
        if draw.W == 0 or draw.W > draw.T:
            raise ValueError
        if t < draw.W:
            return first + t * (draw.peak - first) / max(1, draw.W - 1)
        return least + 0.5 * (draw.peak - least) * (
            1 + math.cos(math.pi * (t - draw.W) / (draw.T - draw.W))
        )

    return draw.length() | {"warmup_start": draw.start, "floor": draw.floor}, from_formula(rate)


FORMULAS: dict[str, Callable[[Draw], tuple[Knobs, Rates]]] = {
    "nanogpt.cosine": nanogpt,
    "torchtitan.linear": lambda draw: torchtitan(draw, "linear"),
    "torchtitan.cosine": lambda draw: torchtitan(draw, "cosine"),
    "torchtitan.wsd": lambda draw: torchtitan(draw, "wsd"),
    "megatron.constant": lambda draw: megatron(draw, "constant"),
    "megatron.linear": lambda draw: megatron(draw, "linear"),
    "megatron.cosine": lambda draw: megatron(draw, "cosine"),
    "megatron.inverse_sqrt": lambda draw: megatron(draw, "inverse-square-root"),
    "megatron.wsd": lambda draw: megatron(draw, "WSD"),
    "t5.linear_warmup": lambda draw: t5x(draw, "rsqrt_normalized_decay"),
    "t5.decay_every": lambda draw: t5x(draw, "decay_every"),
    "t5.cosine_decay": lambda draw: t5x(draw, "cosine_decay"),
    "t5.inverse_sqrt": lambda draw: (
        draw.warmup(),
        from_formula(lambda t: draw.peak * math.sqrt(draw.W) / math.sqrt(max(t, draw.W))),
    ),
    "noam": lambda draw: (
        draw.warmup(),
        from_formula(
            lambda t: draw.peak * math.sqrt(draw.W) * min((t + 1) ** -0.5, (t + 1) * draw.W**-1.5)
        ),
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
