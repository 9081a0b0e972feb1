"""Recipes of every schedule over a run of any length, which the exact and the identical tests
share.
"""

from typing import Any

from lockstep.recipe import Optimizer, Recipe, Schedule, Training

A, B, C = "(t+1)/W", "t/W", "(t+1)/(W+1)"


def schedules_over(T: int) -> dict[str, dict[str, Any]]:
    """Every family of schedules with the knobs that change its formula, over T updates."""
    part = T // 10
    return {
        "constant": {"name": "constant"},
        "linear": {"name": "linear", "floor": 0.1},
        "linear below 0": {"name": "linear", "length": T - part, "after_end": "continue"},
        "polynomial": {"name": "polynomial", "power": 1.7, "decay_end": "T-1"},
        "cosine": {"name": "cosine"},
        "cosine with a floor": {
            "name": "cosine",
            "floor": 0.1,
            "decay_start": "W-1",
            "decay_end": "T-1",
        },
        "cosine up again": {"name": "cosine", "length": T - part, "after_end": "continue"},
        "cosine under way": {"name": "cosine", "decay_start": "0", "warmup_of": "schedule"},
        "inverse_sqrt": {"name": "inverse_sqrt", "decay_start": "W-1"},
        "inverse_sqrt, timescale": {"name": "inverse_sqrt", "timescale": part, "floor": 0.4},
        "exponential": {
            "name": "exponential",
            "factor": 0.9,
            "every": max(1, T // 97),
            "floor": 1e-4,
        },
        "step": {"name": "step", "factor": 0.3, "every": part},
        "multistep": {"name": "multistep", "factor": 0.3, "milestones": (part, 3 * part, 5 * part)},
        "wsd, linear": {"name": "wsd", "decay_length": 2 * part},
        "wsd, 1-sqrt": {"name": "wsd", "decay_length": 2 * part, "decay_shape": "1-sqrt"},
        "wsd, cosine": {
            "name": "wsd",
            "decay_length": 2 * part,
            "decay_shape": "cosine",
            "floor": 0.01,
        },
        "one_cycle, torch": {"name": "one_cycle", "warmup": 0, "decay_end": "T-1"},
        "one_cycle, optax": {"name": "one_cycle", "warmup": 0, "rise": 0.237},
        "one_cycle, three phases": {
            "name": "one_cycle",
            "warmup": 0,
            "rise": 0.217,
            "fall": 0.434,
            "decay_end": "T-1",
        },
        "one_cycle, linear": {"name": "one_cycle", "warmup": 0, "anneal": "linear", "fall": 0.85},
        "cosine_restarts": {"name": "cosine_restarts", "cycles": 3, "floor": 0.01},
        "cosine_restarts, growing": {
            "name": "cosine_restarts",
            "cycle": max(1, T // 50),
            "cycle_growth": 2,
            "cycles": 4,
            "cycle_decay": 0.7,
            "after_end": "continue",
        },
    }


WARMUPS: dict[str, dict[str, Any]] = {
    "A": {"ramp": A},
    "B": {"ramp": B},
    "C": {"ramp": C},
    "from a start": {"ramp": B, "warmup_start": 0.1},
    "cosine": {"ramp": A, "warmup_shape": "cosine"},
    "exponential": {"warmup_shape": "exponential"},
    "untuned linear": {"warmup_shape": "untuned_linear", "warmup": 0},
    "untuned exponential": {"warmup_shape": "untuned_exponential", "warmup": 0},
}


def recipe_of(knobs: dict[str, Any], T: int, *, warmup: int, peak: float = 0.01) -> Recipe:
    """The recipe of T updates; an untuned warmup takes its length from an optimizer whose beta2
    gives 2 / 0.01.
    """
    untuned = "untuned" in knobs.get("warmup_shape", "")
    optimizer = Optimizer(name="adamw", beta2=0.99) if untuned else Optimizer()
    schedule = Schedule(**{"unit": "update", "peak": peak, "warmup": warmup} | knobs)
    return Recipe(schedule=schedule, optimizer=optimizer, training=Training(epochs=T))
