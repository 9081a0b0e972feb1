"""The fields of all schedules (peak, unit of time, warmup), and those that several share."""

import dataclasses
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from lockstep.recipe.edges import changes_rates, refusal, takes_a_long_warmup, warmup_refusal
from lockstep.recipe.preset import Preset
from lockstep.recipe.schedules.shapes import Float64, Phase, phase
from lockstep.recipe.values import CONFIG, Count, Positive
from lockstep.recipe.variants import Cause, NamedSection, Spec

__all__ = [
    "AfterEnd",
    "DecayEnd",
    "DecayStart",
    "Delay",
    "Every",
    "Factor",
    "Floor",
    "KDecay",
    "Length",
    "Schedule",
    "ScheduleSpec",
    "WarmupOf",
    "decay",
    "decay_end_of",
    "decay_start_of",
]

WarmupOf = Annotated[
    Literal["peak", "schedule"],
    Field(
        description="The warmup is a share of the peak, or of the schedule that is under way "
        'meanwhile (decay_start = "0").'
    ),
]
Length = Annotated[
    int,
    Field(ge=0, description="The end T of the schedule, in `unit`s; 0 is the length of the run."),
]
DecayStart = Annotated[
    Literal["W", "W-1", "0"],
    Field(description="The t at which what follows the warmup begins, still at the peak."),
]
DecayEnd = Annotated[Literal["T", "T-1"], Field(description="The t at which the floor is reached.")]
Floor = Annotated[
    float,
    Field(
        ge=0,
        le=1,
        description="Share of the peak at which a decay ends; in inverse_sqrt and exponential, the "
        "share below which it does not go.",
    ),
]
AfterEnd = Annotated[
    Literal["hold", "continue"],
    Field(
        description="What follows the end: the floor, or the formula's continuation, which is a "
        "line below the floor, a cosine up again, or another cycle."
    ),
]
KDecay = Annotated[
    float,
    Field(
        gt=0,
        description="Exponent of the share done (Zhang & Li, arXiv:2004.05909); 1 unless set.",
    ),
]
Factor = Annotated[
    float,
    Field(gt=0, description="Factor of the rate at each step; above 1 the rate grows."),
]
Every = Annotated[Count, Field(description="The number of `unit`s for one `factor`.")]
Delay = Annotated[int, Field(ge=0, description="`unit`s at the peak before the decay.")]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScheduleSpec(Spec):
    """The facts about a schedule; `title` is its verb after the warmup: "falls along a cosine"."""

    alone: str = (
        "This recipe has no warmup; its learning rate is {peak} from the first update, "
        "then {title}."
    )
    """The report's sentence for a recipe without a warmup."""
    counts: bool = False
    """Whether it counts lengths of its own in `unit`s, beside its warmup and its end."""
    presets: Mapping[str, Preset] = dataclasses.field(default_factory=dict)
    """"hf.cosine" -> the knobs that a library fixes and leaves free."""


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Schedule(NamedSection):
    """The learning rate of every update: a warmup, times the decay that follows it.

    t counts from 0; W is `warmup`, and T is `length`. The method `share` of each schedule has its
    formula, and `lockstep.schedules.formulas` has those of the warmups.
    """

    name: str = "constant"
    """The schedule that follows the warmup."""
    peak: Positive = 0.01
    """The highest learning rate; with a `factor` above 1, the first rate after the warmup."""
    unit: Literal["epoch", "update"] = "epoch"
    """The unit of t, W, T and every other length: epochs (the rate is held within one) or optimizer
    updates."""
    warmup: Annotated[int, Field(ge=0)] = 5
    """Length W of the warmup, in `unit`s; 0 is no warmup. An exponential warmup has W as its time
    constant and never quite ends. An untuned one takes W from `optimizer.beta2`, and `warmup` must
    be 0."""
    warmup_shape: Literal[
        "linear", "cosine", "exponential", "untuned_linear", "untuned_exponential"
    ] = "linear"
    """Shape of the warmup. exponential is 1 - exp(-(t+1)/W). An untuned one has a W of 2 / (1 -
    beta2) updates if linear, and of 1 / (1 - beta2) if exponential, rounded."""
    ramp: Literal["(t+1)/W", "t/W", "(t+1)/(W+1)"] = "(t+1)/W"
    """Share of the way up at t during a linear or cosine warmup."""
    warmup_start: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the peak from which the warmup rises."""
    warmup_curve: Literal["1-sqrt", "log", "constant"] | None = None
    """Shape of a linear warmup instead of its ramp r: 1 - sqrt(1 - r), the logarithm of the ramp's
    numerator over that of its denominator, or `warmup_start` until W."""
    warmup_top: Literal["W-1"] | None = None
    """The t at which the ramp t/W is at the peak; W unless set."""
    least_rate: Positive | None = None
    """The least learning rate, in the warmup too."""
    edges: (
        Literal[
            "torch",
            "optax",
            "hf",
            "timm",
            "megatron",
            "nanogpt",
            "torchtitan",
            "pytorch_warmup",
            "t5x",
            "deepspeed",
            "bolts",
        ]
        | None
    ) = None
    """The library to follow where a phase has no length (W = 0, W >= T) or a factor is 1: the
    schedule has its rates, and is refused where it raises. Unless set, such a phase is over at
    once. Presets set it."""

    spec: ClassVar[ScheduleSpec]
    common = ("name", "peak", "unit")
    own = ("edges",)
    section_causes: ClassVar[dict[str, Cause]] = {
        "peak": Cause("lr-scaled"),
        "ramp": Cause("other-ramp", "linearlr-total-iters"),
        "warmup": Cause("other-schedule", "decay-steps-include-the-warmup"),
        "length": Cause("other-schedule", "decay-steps-include-the-warmup"),
        "decay_start": Cause("other-schedule", "decay-steps-include-the-warmup"),
        "after_end": Cause("other-schedule", "cosine-climbs-back"),
        "decay_end": Cause("other-schedule", "one-cycle-phase-ends"),
    }

    @property
    def length(self) -> int | None:
        """The end T, in `unit`s; None for a schedule without one, 0 for the length of the run."""
        return None

    @property
    def decay_start(self) -> str:
        """The t at which the decay begins."""
        return "W"

    @property
    def warmup_of(self) -> str:
        """The whole of which the warmup is a share: "peak" or "schedule"."""
        return "peak"

    @property
    def first(self) -> float:
        """Share of the peak that the warmup rises to."""
        return 1.0

    @property
    def warmup_form(self) -> str:
        """The name of the warmup's shape, whichever knob says it."""
        return self.warmup_curve or self.warmup_shape.removeprefix("untuned_")

    @property
    def untuned(self) -> bool:
        """Whether the optimizer's beta2 gives the length of the warmup."""
        return self.warmup_shape.startswith("untuned")

    def share(self, t: Float64, W: int, T: int) -> Float64:
        """The share of the peak at t, without unit, for W and T; the warmup is not in it.

        Args:
            t: times, counted from 0; any shape.
            W: length of the warmup.
            T: end of the schedule.
        """
        raise NotImplementedError(self.name)

    def edges_change_rates(self, warmup: int) -> bool:
        """Whether the rates differ from those of the same schedule without `edges`."""
        return changes_rates(self, warmup)

    def refusal(self, warmup: int, length: int) -> str:
        """The reason of the library `edges` not to take W = `warmup` with T = `length`, or ""."""
        return refusal(self, warmup, length)

    def misfit(self, warmup: int, length: int, what: str) -> str:
        """The reason why warmup and decay do not fit into T = `length`, or "".

        Args:
            warmup: W in `unit`s.
            length: T in `unit`s.
            what: the words for T in the message.

        Returns:
            "field: reason", or "".
        """
        knob = "warmup_shape" if self.untuned else "warmup"
        reason = self.refusal(warmup, length)
        if reason:
            return f"{knob}: {reason}"
        # a library's rates beyond T are followed, but not where the run would be all warmup
        goes_beyond = bool(self.length) and takes_a_long_warmup(self)
        if warmup > length and not goes_beyond:
            return f"{knob}: {warmup} {self.unit}s of warmup are longer than {what}"
        return ""

    def contradiction(self) -> str:
        """The reason why fields contradict one another, as "field: reason", or ""."""
        if self.untuned and self.warmup:
            return f"warmup: must be 0 with warmup_shape = {self.warmup_shape}, got {self.warmup}"
        if self.untuned and self.unit != "update":
            return (
                f'unit: must be "update" with warmup_shape = {self.warmup_shape}, got {self.unit}'
            )
        refused = "" if self.untuned else warmup_refusal(self)
        if refused:
            return f"warmup: {self.warmup} {self.unit}s: {refused}"
        if self.warmup_curve is not None and self.warmup_shape != "linear":
            return f'warmup_curve: needs warmup_shape = "linear", got {self.warmup_shape}'
        if self.warmup_top is not None and self.ramp != "t/W":
            return f'warmup_top: needs ramp = "t/W", got {self.ramp}'
        return ""

    @model_validator(mode="after")
    def _hangs_together(self) -> Self:
        contradiction = self.contradiction()
        if contradiction:
            raise ValueError(contradiction)
        return self

    def without_warmup(self, warmup: int) -> Self:
        """The schedule without its warmup of W = `warmup`, for a comparison."""
        # without edges, because a library may refuse a warmup of no length, or change the rates
        return replace(
            self, edges=None, warmup_curve=None, warmup_top=None, warmup=0, warmup_shape="linear"
        )

    def with_warmup(self, warmup: int, end: int) -> Self:
        """The schedule with a linear warmup of W = `warmup` in a run that ends at T = `end`."""
        return replace(
            self,
            edges=None,
            warmup_curve=None,
            warmup_top=None,
            warmup=warmup,
            warmup_shape="linear",
            warmup_start=0.0,
            ramp="(t+1)/W",
        )


def decay_start_of(schedule: Schedule, W: int) -> int:
    """The t at which the decay begins."""
    return {"W": W, "W-1": W - 1, "0": 0}[schedule.decay_start]


def decay_end_of(decay_end: str, T: int) -> int:
    """The t at which the floor is reached."""
    return T - 1 if decay_end == "T-1" else T


def decay(schedule: Schedule, t: Float64, start: int, end: int, *, hold: bool) -> Phase:
    """The phase from `start` to `end`; one of no length follows the library `schedule.edges`."""
    if end <= start and schedule.edges in ("optax", "torchtitan"):
        return Phase(0 * t, 0 * t + 1, 1.0)  # the decay never begins
    return phase(t, start, end, hold=hold)
