"""Every optimizer: the forms of it that train differently, and the library's own class of each
preset.

A new optimizer is one line of CASES.
"""

import inspect
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np
import optax
import optax.contrib
import torch

from lockstep.recipe import Optimizer
from lockstep.recipe.presets import PRESETS
from lockstep.studies.matrix_entries import entries

__all__ = [
    "CASES",
    "KIN",
    "LIBRARIES",
    "Case",
    "Draw",
    "at_defaults",
    "drawn",
    "forms",
    "other_knobs",
]

Knobs = dict[str, Any]
Make = Callable[[Any], Any]
"""Parameters -> the optimizers of PyTorch that step them, or the transformation of Optax."""


def muon_beside_adamw(
    parameters: list[torch.Tensor], lr: float, adamw: Knobs | None = None, **settings: Any
) -> list[Any]:
    """`torch.optim.Muon`, which takes weights alone, and AdamW with the same decay for the rest."""
    decay = {"weight_decay": settings.setdefault("weight_decay", 0.1)}
    weights = [parameter for parameter in parameters if parameter.ndim == 2]
    rest = [parameter for parameter in parameters if parameter.ndim != 2]
    return [
        torch.optim.Muon(weights, lr=lr, **settings),
        torch.optim.AdamW(rest, lr=lr, **decay, **(adamw or {})),
    ]


class Case(NamedTuple):
    """What is tested of an optimizer."""

    libraries: Mapping[str, Callable[..., Any]]
    """Preset -> the class or function of the library that it stands for."""
    forms: Mapping[str, Knobs] | None = None
    """Label -> knobs; None is the defaults, and all knobs at their second values of the matrix."""
    peak: float = 0.01
    """A learning rate at which it trains; at far higher ones is chaos, in which no two runs
    agree.
    """


CASES: dict[str, Case] = {
    "sgd": Case(
        {"torch.sgd": torch.optim.SGD, "optax.sgd": optax.sgd},
        {
            "sgd": {"momentum": 0.0},
            "sgd, momentum": {},
            "sgd, dampening": {"dampening": 0.4},
            "sgd, dampening L2": {"dampening": 0.4, "weight_decay": 0.05},
            "sgd, nesterov L2": {"nesterov": True, "weight_decay": 0.05},
        },
    ),
    "adam": Case(
        {
            "torch.adam": torch.optim.Adam,
            "optax.adam": optax.adam,
            "torch.amsgrad": partial(torch.optim.Adam, amsgrad=True),
            "optax.amsgrad": optax.amsgrad,
        },
        {
            "adam": {},
            "adam, L2": {"weight_decay": 0.05},
            "adam, eps in root": {"eps_in_root": True, "eps": 1e-6},
            "adam, amsgrad": {"amsgrad": "raw", "beta2": 0.9},
            "adam, amsgrad corrected": {"amsgrad": "corrected", "beta2": 0.9},
            "adam, amsgrad eps in root L2": {
                "amsgrad": "raw",
                "beta2": 0.9,
                "eps_in_root": True,
                "eps": 1e-6,
                "weight_decay": 0.05,
            },
            "adam, L2 groups": {
                "weight_decay": 0.05,
                "decay_on": "weights",
                "multipliers": (0.0, 1.0),
            },
        },
    ),
    "adamw": Case(
        {"torch.adamw": torch.optim.AdamW, "optax.adamw": optax.adamw},
        {
            "adamw": {},
            "adamw, step": {"decay_form": "step", "weight_decay": 0.05},
            "adamw, amsgrad corrected step": {
                "amsgrad": "corrected",
                "beta2": 0.9,
                "decay_form": "step",
                "weight_decay": 0.05,
            },
            "adamw, groups": {
                "weight_decay": 0.5,
                "decay_on": "weights",
                "multipliers": (0.5, 2.0),
            },
        },
    ),
    "nadam": Case(
        {"torch.nadam_full_precision": torch.optim.NAdam, "optax.nadam": optax.nadam},
        {
            "nadam": {},
            "nadam, L2, no ramp": {"weight_decay": 0.05, "momentum_ramp": False},
            "nadam, quick ramp": {"momentum_decay": 0.5},
        },
    ),
    "nadamw": Case(
        {
            "torch.nadamw_full_precision": partial(torch.optim.NAdam, decoupled_weight_decay=True),
            "optax.nadamw": optax.nadamw,
        },
        {
            "nadamw": {"weight_decay": 0.05},
            "nadamw, step": {"weight_decay": 0.05, "decay_form": "step"},
            "nadamw, step, no ramp": {
                "weight_decay": 0.05,
                "decay_form": "step",
                "momentum_ramp": False,
            },
            "nadamw, factor, weights": {"weight_decay": 0.5, "decay_on": "weights"},
        },
    ),
    "radam": Case(
        {"torch.radam": torch.optim.RAdam, "optax.radam": optax.radam},
        {
            "radam": {},
            "radam, eps corrected L2": {"eps_corrected": True, "eps": 1e-3, "weight_decay": 0.05},
            "radam, eps": {"eps": 1e-3},
            "radam, beta2 0.9999": {"beta2": 0.9999},
        },
    ),
    "adamax": Case(
        {"torch.adamax": torch.optim.Adamax, "optax.adamax": optax.adamax},
        {"adamax": {}, "adamax, L2": {"weight_decay": 0.05, "beta2": 0.9}},
    ),
    "lamb": Case(
        {"optax.lamb": optax.lamb},
        {"lamb": {}, "lamb, weights": {"weight_decay": 0.5, "decay_on": "weights"}},
    ),
    "lion": Case({"optax.lion": optax.lion}, {"lion": {}}),
    "adagrad": Case(
        {"torch.adagrad": torch.optim.Adagrad, "optax.adagrad": optax.adagrad},
        {
            "adagrad": {},
            "adagrad, all knobs": {
                "eps": 1e-7,
                "eps_in_root": True,
                "initial_accumulator": 0.1,
                "lr_decay": 0.01,
                "weight_decay": 0.01,
            },
            "adagrad, groups": {
                "lr_decay": 0.01,
                "weight_decay": 0.01,
                "decay_on": "weights",
                "multipliers": (1.0, 0.0, 2.0),
            },
        },
        peak=0.02,
    ),
    "rmsprop": Case(
        {"torch.rmsprop": torch.optim.RMSprop, "optax.rmsprop": optax.rmsprop},
        {
            "rmsprop": {},
            "rmsprop, centered": {"centered": True, "momentum": 0.8, "weight_decay": 0.01},
            "rmsprop, eps in the root": {"centered": True, "eps_in_root": True},
            "rmsprop, Optax": {
                "decay": 0.9,
                "eps_in_root": True,
                "rate_in_momentum": True,
                "momentum": 0.8,
            },
        },
        peak=0.003,
    ),
    "adadelta": Case(
        {"torch.adadelta": torch.optim.Adadelta, "optax.adadelta": optax.adadelta},
        {"adadelta": {"weight_decay": 0.01}},
        peak=1.0,
    ),
    "rprop": Case(
        {"torch.rprop": torch.optim.Rprop},
        {
            "rprop": {},
            "rprop, all knobs": {
                "shrink": 0.4,
                "grow": 1.3,
                "step_min": 1e-3,
                "step_max": 0.02,
                "multipliers": (1, 0.5, 2),
            },
        },
    ),
    "adafactor": Case(
        {
            # its eps follows from the dtype: that of float32, in float64
            "torch.adafactor": partial(torch.optim.Adafactor, eps=(2.0**-23, 1e-3)),
            "optax.adafactor_full_precision": optax.adafactor,
        },
        {
            "adafactor": {"weight_decay": 0.01},
            "adafactor, Optax": {
                "eps": 1e-30,
                "eps_in_root": True,
                "rate_cap": False,
                "min_factored": 128,
                "weight_decay": 0.01,
            },
            "adafactor, some factored": {
                "eps_in_root": True,
                "min_factored": 6,
                "clip_threshold": 0.5,
                "decay_on": "weights",
            },
        },
        peak=0.05,
    ),
    "muon": Case(
        {"torch.muon_full_precision": muon_beside_adamw, "optax.muon": optax.contrib.muon},
        {
            "muon": {},
            "muon, Optax": {
                "momentum_correction": True,
                "nesterov_rest": True,
                "eps_norm": 1e-8,
                "eps_norm_added": True,
                "decay_on": "weights",
            },
            "muon, plain": {
                "nesterov": False,
                "adjust": "match_rms_adamw",
                "multipliers": (1.0, 0.5, 0.1),
            },
            "muon, plain, corrected": {
                "nesterov": False,
                "momentum_correction": True,
                "orthogonalisations": 3,
            },
        },
        peak=0.02,
    ),
    "signum": Case({"optax.signum": optax.signum, "optax.sign_sgd": optax.sign_sgd}),
    "adabelief": Case({"optax.adabelief": optax.adabelief}),
    "adan": Case({"optax.adan": optax.adan}),
}
"""Optimizer -> what is tested of it."""

KIN = ("sgd", "adam", "adamw", "nadam", "nadamw", "radam", "adamax", "lamb", "lion")
"""What `twins/test_optimizers.py` trains; `twins/test_other_optimizers.py` trains all else."""


@cache
def other_knobs(name: str) -> Knobs:
    """Every knob of an optimizer at the second value that the parity matrix gives it."""
    knobs = Optimizer.variants[name].knobs()
    rows = [entry for entry in entries() if entry.name.startswith(f"{name}, ")]
    others: Knobs = {}
    for row in rows:
        optimizer = row.recipe.optimizer
        others |= {
            knob: optimizer.get(knob) for knob in knobs if optimizer.get(knob) != knobs[knob]
        }
    return others


def forms(name: str) -> Mapping[str, Knobs]:
    """Label -> knobs, of each form of an optimizer that trains differently."""
    return CASES[name].forms or {name: {}, f"{name}, all knobs": other_knobs(name)}


LIBRARIES = {
    preset: library for case in CASES.values() for preset, library in case.libraries.items()
}
"""Preset -> the class or function of the library that it stands for."""


# --- the libraries' own classes


def at_defaults(preset: str, rate: float) -> Make:
    """The library's own class with the settings that it has of itself."""
    return _built(preset, rate, {})


def _built(preset: str, rate: float, settings: Knobs) -> Make:
    library = LIBRARIES[preset]
    if not preset.startswith("torch."):
        transformation = library(rate, **settings)
        return lambda parameters: transformation

    def make(parameters: dict[str, torch.Tensor]) -> list[Any]:
        optimizers = library(list(parameters.values()), lr=rate, **settings)
        return optimizers if isinstance(optimizers, list) else [optimizers]

    return make


class Draw:
    """Draws of the knobs that presets share."""

    def __init__(self, seed: int) -> None:
        rng = self.rng = np.random.default_rng([seed, 2])
        self.seed, self.rate = seed, float(10 ** rng.uniform(-4, -1))
        self.beta1 = float(rng.choice([0.0, rng.uniform(0, 0.99)], p=[0.1, 0.9]))
        self.beta2 = float(rng.uniform(0.5, 0.9999))
        self.eps = float(10 ** rng.uniform(-10, -2))
        self.decay = float(rng.choice([0.0, 10 ** rng.uniform(-5, 0)], p=[0.3, 0.7]))
        self.momentum = float(rng.choice([0.0, rng.uniform(0.1, 0.99)], p=[0.2, 0.8]))
        self.nesterov = bool(self.momentum) and self.flag()

    def flag(self) -> bool:
        return bool(self.rng.integers(2))

    def between(self, low: float, high: float) -> float:
        return float(self.rng.uniform(low, high))


DRAWN: dict[str, Callable[[Draw], Any]] = {
    "beta1": lambda draw: draw.beta1,
    "beta2": lambda draw: draw.beta2,
    "beta3": lambda draw: draw.between(0.5, 0.9999),
    "centered": Draw.flag,
    "dampening": lambda draw: 0.0 if draw.nesterov else draw.between(0, 0.9),
    "decay": lambda draw: draw.beta2,
    "eps": lambda draw: draw.eps,
    "eps_in_root": Draw.flag,
    "initial_accumulator": lambda draw: draw.between(0, 1),
    "lr_decay": lambda draw: draw.between(0, 0.1),
    "momentum": lambda draw: draw.momentum,
    "momentum_decay": lambda draw: draw.between(1e-4, 0.1),
    "nesterov": lambda draw: draw.nesterov,
    "weight_decay": lambda draw: draw.decay,
}
"""Knob -> how a value of it is drawn; any other is drawn by its type."""

ARGUMENTS: dict[str, tuple[str, ...]] = {
    "beta1": ("b1",),
    "beta2": ("b2",),
    "beta3": ("b3",),
    "decay": ("alpha", "rho"),
    "eps_in_root": ("eps_in_sqrt",),
    "initial_accumulator": ("initial_accumulator_value",),
    "momentum": ("beta",),
}
"""Knob -> what libraries call it where it has another name."""


def drawn(preset: str, draw: Draw) -> tuple[Knobs, Make]:
    """Values of all the knobs that a preset leaves free, and the library's own class with them."""
    if preset in BY_HAND:
        knobs, settings = BY_HAND[preset](draw)
        return knobs, _built(preset, draw.rate, settings)
    free = PRESETS["optimizer"][preset].free.keys() - Optimizer.common
    knobs = {knob: _value(preset, knob, draw) for knob in sorted(free)}
    settings = {_argument(preset, knob): value for knob, value in knobs.items()}
    if "betas" in _parameters(preset):
        settings["betas"] = (settings.pop("beta1"), settings.pop("beta2"))
    decay = settings.pop("", None)
    make = _built(preset, draw.rate, settings)
    if decay is None:
        return knobs, make
    return knobs, lambda p: optax.chain(optax.add_decayed_weights(decay), make(p))


def _value(preset: str, knob: str, draw: Draw) -> Any:
    if knob in DRAWN:
        return DRAWN[knob](draw)
    default = Optimizer.variants[PRESETS["optimizer"][preset].fixed["name"]].knobs()[knob]
    if isinstance(default, bool):
        return draw.flag()
    if knob.startswith("eps"):
        return float(10 ** draw.between(-10, -2))
    raise NotImplementedError(f"{preset}: DRAWN does not say how {knob} is drawn")


def _argument(preset: str, knob: str) -> str:
    """What the library calls a knob; "" for a decay that it leaves to `add_decayed_weights`."""
    parameters = _parameters(preset)
    for name in (knob, *ARGUMENTS.get(knob, ())):
        if name in parameters or (name in ("beta1", "beta2") and "betas" in parameters):
            return name
    if knob == "weight_decay" and preset.startswith("optax."):
        return ""
    raise NotImplementedError(f"{preset}: ARGUMENTS does not say what {knob} is called there")


@cache
def _parameters(preset: str) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(LIBRARIES[preset]).parameters


# --- where an argument is not one knob


def torch_rprop(draw: Draw) -> tuple[Knobs, Knobs]:
    knobs = {"shrink": draw.between(0.1, 0.9), "grow": draw.between(1.01, 1.9)}
    knobs |= {"step_min": 1e-5, "step_max": draw.between(0.1, 9)}
    return knobs, {
        "etas": (knobs["shrink"], knobs["grow"]),
        "step_sizes": (knobs["step_min"], knobs["step_max"]),
    }


def torch_adafactor(draw: Draw) -> tuple[Knobs, Knobs]:
    power, scale, threshold = draw.between(0.1, 1), draw.between(0, 0.1), draw.between(1, 2)
    knobs = {"decay_power": power, "eps": draw.eps, "eps_scale": scale, "clip_threshold": threshold}
    knobs |= {"weight_decay": draw.decay}
    return knobs, {
        "beta2_decay": -power,
        "eps": (draw.eps, scale),
        "d": threshold,
        "weight_decay": draw.decay,
    }


def optax_adafactor(draw: Draw) -> tuple[Knobs, Knobs]:
    power, threshold, least = draw.between(0.1, 1), draw.between(0.2, 2), 2 if draw.flag() else 128
    knobs = {
        "decay_power": power,
        "eps": draw.eps**2,
        "clip_threshold": threshold,
        "min_factored": least,
    }
    return knobs, {
        "decay_rate": power,
        "eps": draw.eps**2,
        "clipping_threshold": threshold,
        "min_dim_size_to_factor": least,
    }


def muon_knobs(draw: Draw) -> Knobs:
    return {
        "beta1": draw.beta1,
        "beta2": draw.beta2,
        "weight_decay": draw.decay,
        "momentum": draw.momentum or 0.9,
        "nesterov": draw.flag(),
        "orthogonalisations": int(draw.rng.integers(1, 6)),
        "eps": draw.eps,
        "adjust": "match_rms_adamw" if draw.flag() else "original",
    }


def torch_muon(draw: Draw) -> tuple[Knobs, Knobs]:
    knobs = muon_knobs(draw)
    return knobs, {
        "momentum": knobs["momentum"],
        "nesterov": knobs["nesterov"],
        "ns_steps": knobs["orthogonalisations"],
        "weight_decay": draw.decay,
        "adjust_lr_fn": knobs["adjust"],
        "adamw": {"betas": (draw.beta1, draw.beta2), "eps": draw.eps},
    }


def optax_muon(draw: Draw) -> tuple[Knobs, Knobs]:
    knobs = muon_knobs(draw)
    return knobs, {
        "beta": knobs["momentum"],
        "nesterov": knobs["nesterov"],
        "ns_steps": knobs["orthogonalisations"],
        "eps": draw.eps,
        "adam_b1": draw.beta1,
        "adam_b2": draw.beta2,
        "weight_decay": draw.decay,
        "consistent_rms": 0.2 if knobs["adjust"] == "match_rms_adamw" else None,
    }


BY_HAND: dict[str, Callable[[Draw], tuple[Knobs, Knobs]]] = {
    "torch.rprop": torch_rprop,
    "torch.adafactor": torch_adafactor,
    "optax.adafactor_full_precision": optax_adafactor,
    "torch.muon_full_precision": torch_muon,
    "optax.muon": optax_muon,
}
"""Preset -> draws of its knobs, and the same as the library's own settings."""
