"""A cycle up to the peak and down to the floor, in two phases or, by way of `first`, in three.

Sources: Smith & Topin, arXiv:1708.07120; torch 2.13 `OneCycleLR`; optax 0.2.8
`cosine_onecycle_schedule`, `linear_onecycle_schedule`.
"""

from collections.abc import Callable
from typing import Annotated, Literal

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from lockstep.recipe.preset import Preset
from lockstep.recipe.schedules.base import DecayEnd, Floor, Length, Schedule, ScheduleSpec
from lockstep.recipe.schedules.library_knobs import ANY, OPTAX, OPTAX_NOTE, TORCH_EDGES
from lockstep.recipe.schedules.shapes import FALLS, Float64, Phase, between, phase
from lockstep.recipe.values import CONFIG

__all__ = ["OneCycle"]


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class OneCycle(Schedule):
    """The rate goes through one cycle, up to the peak and down again."""

    name: Literal["one_cycle"] = "one_cycle"
    warmup: Annotated[int, Field(ge=0)] = 0
    """Length W of a warmup before the cycle, in `unit`s; 0 is none."""
    length: Length = 0
    decay_end: DecayEnd = "T"
    floor: Floor = 4e-6
    anneal: Literal["cosine", "linear"] = "cosine"
    """Shape of the phases."""
    first: Annotated[float, Field(ge=0, le=1)] = 0.04
    """Share of the peak at which the cycle begins."""
    rise: Annotated[float, Field(ge=0, le=1)] = 0.3
    """Share of T at which the peak is reached; rounded down with decay_end = "T", 1 earlier with
    "T-1"."""
    fall: Annotated[float, Field(ge=0, le=2)] = 0.0
    """Share of T at which the rate is back at `first`; rounded down with decay_end = "T", 2 earlier
    with "T-1". 0 is two phases: from the peak straight to the floor."""

    def share(self, t: Float64, W: int, T: int) -> Float64:
        """The cycle from `first` to 1, back to `first` and to `floor`; with two phases, from 1 to
        `floor`.

        The phases end at rise T, fall T and T, counted from W.
        """
        t = t - W
        ends = self._ends(T - W)
        values = [self.first, 1.0, self.first, self.floor]
        if not self.fall:
            del ends[1]
            del values[2]
        starts = [0.0, *ends[:-1]]
        share = np.full_like(t, self.floor)
        for i in reversed(range(len(ends))):
            p = phase(t, starts[i], ends[i])
            annealed = _anneal(p, values[i], values[i + 1], FALLS[self.anneal])
            share = np.where(t <= ends[i], annealed, share)
        if self.edges != "torch":
            # a last phase of no length is over at once; in PyTorch it never begins
            share = np.where(t >= ends[-1], self.floor, share)
        return share

    def _ends(self, T: int) -> list[float]:
        """The ends of the three phases, counted from W."""
        rise = self.rise * T
        fall = self.fall * T
        if self.decay_end == "T-1":
            return [rise - 1, fall - 2, T - 1.0]
        return [float(int(rise)), float(int(fall)), float(T)]

    def refusal(self, warmup: int, length: int) -> str:
        """The reason of the library `edges` not to take these phases, or ""."""
        T = length - warmup
        rise = self.rise * T
        fall = self.fall * T
        if self.edges == "torch" and self.fall and self.fall != 2 * self.rise:
            return (
                "PyTorch's second phase is as long as its first: fall is 2 rise = "
                f"{2 * self.rise:g}"
            )
        if self.edges == "torch" and rise == 1:
            return (
                "PyTorch divides by pct_start T - 1 = 0 (ZeroDivisionError): rise = "
                f"{self.rise:g}, T = {T}"
            )
        ends = [int(rise), int(fall), T] if fall else [int(rise), T]
        if self.edges == "optax" and len(set(ends)) < len(ends):
            return (
                f"the phases end at {ends}, and of two that end together Optax keeps the last "
                "factor alone"
            )
        return ""

    def misfit(self, warmup: int, length: int, what: str) -> str:
        """The misfit of all schedules; the library's refusal names `rise` where the warmup fits."""
        reason = self.refusal(warmup, length)
        if reason and warmup <= length:
            return f"rise: {reason}"
        return super().misfit(warmup, length, what)

    def contradiction(self) -> str:
        """Refuse a `fall` that does not lie between `rise` and the end."""
        if self.fall and self.fall <= self.rise:
            return f"fall: must be 0 or above rise = {self.rise}, got {self.fall}"
        if self.fall > 1 and self.decay_end == "T":
            return f'fall: must be at most 1 with decay_end = "T", got {self.fall}'
        return super().contradiction()


def _anneal(p: Phase, begin: float, end: float, fall: Callable[[Phase], Float64]) -> Float64:
    """The way from `begin` to `end` within a phase; upwards, the fall is read backwards."""
    if begin > end:
        return between(end, begin, fall(p))
    return between(begin, end, fall(Phase(p.left, p.done, p.length)))


OneCycle.spec = ScheduleSpec(
    title="goes through one cycle, up and down again",
    alone="The learning rate rises to {peak} and falls again, in one cycle.",
    counts=True,
    others={"first": 0.3, "rise": 0.5, "fall": 0.7},
    presets={
        "torch.one_cycle": Preset(
            "torch 2.13 OneCycleLR(total_steps=T, pct_start=rise)",
            {"name": "one_cycle", "warmup": 0, "decay_end": "T-1", "fall": 0.0} | TORCH_EDGES,
            ANY
            | {
                "length": None,
                "anneal": "cosine",
                "first": 1 / 25,
                "rise": 0.3,
                "floor": 1 / 25 / 1e4,
            },
        ),
        "torch.one_cycle_three_phase": Preset(
            "torch 2.13 OneCycleLR(total_steps=T, pct_start=rise, three_phase=True); fall is "
            "twice rise",
            {"name": "one_cycle", "warmup": 0, "decay_end": "T-1"} | TORCH_EDGES,
            ANY
            | {
                "length": None,
                "anneal": "cosine",
                "first": 1 / 25,
                "rise": 0.3,
                "fall": None,
                "floor": 1 / 25 / 1e4,
            },
            derived={
                "fall": lambda knobs: (
                    2 * knobs["rise"] if isinstance(knobs["rise"], float) else None
                )
            },
        ),
        "optax.one_cycle": Preset(
            "optax 0.2.8 cosine_onecycle_schedule(transition_steps=T, pct_start=rise)",
            {"name": "one_cycle", "warmup": 0, "decay_end": "T", "fall": 0.0, "anneal": "cosine"}
            | OPTAX,
            ANY | {"length": None, "first": 1 / 25, "rise": 0.3, "floor": 1 / 25 / 1e4},
            note=OPTAX_NOTE,
        ),
        "optax.one_cycle_linear": Preset(
            "optax 0.2.8 linear_onecycle_schedule(transition_steps=T, pct_start=rise, "
            "pct_final=fall)",
            {"name": "one_cycle", "warmup": 0, "decay_end": "T", "anneal": "linear"} | OPTAX,
            ANY
            | {"length": None, "first": 1 / 25, "rise": 0.3, "fall": 0.85, "floor": 1 / 25 / 1e4},
            note=OPTAX_NOTE,
        ),
    },
)
