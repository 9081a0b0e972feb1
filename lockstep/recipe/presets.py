"""Presets: the knobs of a section as a library sets them, under the library's name.

A recipe may say `preset = "hf.cosine"` in a section. It is expanded when the recipe is read, which
then holds the knobs alone. What a preset fixes cannot be set beside it; what it leaves free can, as
the library's own arguments can.
"""

from collections.abc import Mapping
from typing import Any

from lockstep.errors import InputError
from lockstep.recipe.optimizers import Optimizer
from lockstep.recipe.preset import Preset
from lockstep.recipe.wording import near_miss

__all__ = ["PRESETS", "UNSAID", "Preset", "expand"]


def expand(section: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """A section's values with its `preset` replaced by the knobs that it stands for.

    Example: `expand("schedule", {"preset": "noam", "warmup": 4000, "unit": "update"})` has name =
    "inverse_sqrt".

    Raises:
        InputError: no such preset, or a knob that it does not leave free.
    """
    given = {knob: value for knob, value in values.items() if knob != "preset"}
    name, presets = values["preset"], PRESETS[section]
    if not isinstance(name, str) or name not in presets:
        unsaid = UNSAID.get(section, {}).get(str(name))
        if unsaid:
            raise InputError(f"{section}.preset: {name}: {unsaid}")
        raise InputError(f"{section}.preset: no preset {name!r}{_nearest(str(name), presets)}")
    preset = presets[name]
    for knob, value in given.items():
        if knob not in preset.free:
            shown = knob if knob.isprintable() else repr(knob)
            raise InputError(
                f"{section}.{shown}: {name} has no such knob; it has {', '.join(preset.free)}"
            )
        if knob in preset.only and value not in preset.only[knob]:
            raise InputError(
                f"{section}.{knob}: {name} has {', '.join(preset.only[knob])}, got {value!r}"
            )
        if knob in preset.least and isinstance(value, int | float) and value < preset.least[knob]:
            raise InputError(
                f"{section}.{knob}: {name} takes at least {preset.least[knob]:g}, got {value!r}"
            )
    free = {knob: value for knob, value in preset.free.items() if value is not None} | given
    for knob in preset.derived.keys() - given.keys():
        value = preset.derived[knob](free)
        free.pop(knob, None)
        if value is not None:
            free[knob] = value
    return {
        **preset.fixed,
        **free,
        **{knob: free[other] for knob, other in preset.ties.items() if other in free},
    }


def _nearest(name: str, presets: Mapping[str, Preset]) -> str:
    library = [known for known in presets if known.startswith(name.partition(".")[0] + ".")]
    close = near_miss(name, presets)
    hint = f"; did you mean {close}? There" if close else "; there"
    return f"{hint} are {', '.join(library or presets)}"


# ---- schedules

ANY: dict[str, Any] = {"peak": None, "unit": None}
WARMUP = ANY | {"warmup": None}
LENGTH = WARMUP | {"length": None}
A = {"warmup_shape": "linear", "ramp": "(t+1)/W", "warmup_start": 0.0}
B = {"warmup_shape": "linear", "ramp": "t/W", "warmup_start": 0.0}
C = {"warmup_shape": "linear", "ramp": "(t+1)/(W+1)", "warmup_start": 0.0}
B_FROM = {"warmup_shape": "linear", "ramp": "t/W"}  # from a rate of the user's choice
FROM = {"warmup_start": 0.0}
AFTER = {"decay_start": "W", "warmup_of": "peak"}
HOLD = {"decay_end": "T", "after_end": "hold"}
GO_ON = {"decay_end": "T", "after_end": "continue"}
ZERO = {"floor": 0.0}
TIMM = {"decay_start": "0", "warmup_of": "peak", "edges": "timm"}
HF_EARLY = {"decay_start": "W-1", "warmup_of": "peak", "decay_end": "T-1", "after_end": "continue"}
TIMM_PREFIX = AFTER | {"edges": "timm"}
OPTAX, HF, MEGATRON, TORCHTITAN = (
    {"edges": name} for name in ("optax", "hf", "megatron", "torchtitan")
)
TORCH_EDGES, T5X = {"edges": "torch"}, {"edges": "t5x"}
LEAST = {"least_rate": 1e-8}
PYTORCH_WARMUP = {"edges": "pytorch_warmup"}
THREE = ("linear", "1-sqrt", "cosine")
IN_FLOAT32 = (
    "{} without x64 computes its schedules in float32: under jit they are not this closed "
    "form rounded once at many an "
    "update, in a cosine by up to 1.5e-07 of the peak (lockstep atlas "
    "schedule-in-float32-under-jit)"
)
OPTAX_NOTE, T5X_NOTE = IN_FLOAT32.format("Optax"), IN_FLOAT32.format("T5X")

SCHEDULE_PRESETS: dict[str, Preset] = {
    # torch: LinearLR(1/W, total_iters=W-1), then what is named, in a SequentialLR with milestone W
    "torch.constant": Preset("torch 2.13 LinearLR", {"name": "constant"} | A, WARMUP),
    "torch.constant_lr": Preset(
        "torch 2.13 ConstantLR(factor=warmup_start, total_iters=W), alone",
        {"name": "constant", "warmup_curve": "constant", "warmup_shape": "linear", "ramp": "t/W"}
        | TORCH_EDGES,
        ANY | {"warmup": 5, "warmup_start": 1 / 3},
    ),
    "torch.linear": Preset(
        "torch 2.13 LinearLR(1, floor, T-W)",
        {"name": "linear"} | A | AFTER | HOLD | TORCH_EDGES,
        LENGTH | {"floor": 0.0},
    ),
    "torch.polynomial": Preset(
        "torch 2.13 PolynomialLR(T-W, power)",
        {"name": "polynomial", "decay_end": "T"} | A | AFTER | ZERO | TORCH_EDGES,
        LENGTH | {"power": 1.0},
    ),
    "torch.cosine": Preset(
        "torch 2.13 CosineAnnealingLR(T-W, eta_min)",
        {"name": "cosine"} | A | AFTER | GO_ON | TORCH_EDGES,
        LENGTH | {"floor": 0.0},
    ),
    "torch.exponential": Preset(
        "torch 2.13 ExponentialLR(factor)",
        {"name": "exponential", "every": 1} | A | AFTER | ZERO,
        WARMUP | {"factor": None},
    ),
    "torch.step": Preset(
        "torch 2.13 StepLR(every, factor)",
        {"name": "step"} | A | AFTER,
        WARMUP | {"factor": 0.1, "every": None},
    ),
    "torch.multistep": Preset(
        "torch 2.13 MultiStepLR(milestones, factor)",
        {"name": "multistep"} | A | AFTER,
        WARMUP | {"factor": 0.1, "milestones": None},
    ),
    "torch.one_cycle": Preset(
        "torch 2.13 OneCycleLR(total_steps=T, pct_start=rise)",
        {"name": "one_cycle", "warmup": 0, "decay_end": "T-1", "fall": 0.0} | TORCH_EDGES,
        ANY
        | {"length": None, "anneal": "cosine", "first": 1 / 25, "rise": 0.3, "floor": 1 / 25 / 1e4},
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
            "fall": lambda knobs: 2 * knobs["rise"] if isinstance(knobs["rise"], float) else None
        },
    ),
    "torch.cosine_restarts": Preset(
        "torch 2.13 CosineAnnealingWarmRestarts(T_0=cycle, T_mult=cycle_growth, eta_min)",
        {
            "name": "cosine_restarts",
            "length": 0,
            "cycles": 1,
            "cycle_decay": 1.0,
            "after_end": "continue",
        }
        | A
        | AFTER,
        WARMUP | {"cycle": 10, "cycle_growth": 1, "floor": 0.0},
    ),
    "optax.constant": Preset(
        "optax 0.2.8 warmup_constant_schedule",
        {"name": "constant"} | B_FROM | OPTAX,
        WARMUP | FROM,
        note=OPTAX_NOTE,
    ),
    "optax.linear": Preset(
        "optax 0.2.8 linear_schedule, twice, in join_schedules",
        {"name": "linear"} | B_FROM | AFTER | HOLD | OPTAX,
        LENGTH | FROM | {"floor": 0.0},
        note=OPTAX_NOTE,
    ),
    "optax.polynomial": Preset(
        "optax 0.2.8 linear_schedule, then polynomial_schedule, in join_schedules",
        {"name": "polynomial", "decay_end": "T"} | B_FROM | AFTER | OPTAX,
        LENGTH | FROM | {"power": 1.0, "floor": 0.0},
        note=OPTAX_NOTE,
    ),
    "optax.cosine": Preset(
        "optax 0.2.8 warmup_cosine_decay_schedule(decay_steps=T, exponent=power)",
        {"name": "cosine"} | B_FROM | AFTER | HOLD | OPTAX,
        LENGTH | FROM | {"floor": 0.0, "power": None},
        note=OPTAX_NOTE,
    ),
    "optax.exponential": Preset(
        "optax 0.2.8 warmup_exponential_decay_schedule(transition_steps=every, decay_rate=factor, "
        "transition_begin=delay); floor 0 is no end_value",
        {"name": "exponential"} | B_FROM | AFTER | OPTAX,
        WARMUP | FROM | {"factor": None, "every": None, "delay": None, "floor": 0.0},
        note=OPTAX_NOTE,
    ),
    "optax.step": Preset(
        "optax 0.2.8 warmup_exponential_decay_schedule(..., staircase=True)",
        {"name": "step"} | B_FROM | AFTER,
        WARMUP | FROM | {"factor": None, "every": None, "delay": None},
        note=OPTAX_NOTE,
    ),
    "optax.multistep": Preset(
        "optax 0.2.8 linear_schedule, then piecewise_constant_schedule, in join_schedules; "
        "unequal scales are factors",
        {"name": "multistep"} | B_FROM | AFTER,
        WARMUP | FROM | {"factor": None, "milestones": None, "factors": None},
        note=OPTAX_NOTE,
    ),
    "optax.one_cycle": Preset(
        "optax 0.2.8 cosine_onecycle_schedule(transition_steps=T, pct_start=rise)",
        {"name": "one_cycle", "warmup": 0, "decay_end": "T", "fall": 0.0, "anneal": "cosine"}
        | OPTAX,
        ANY | {"length": None, "first": 1 / 25, "rise": 0.3, "floor": 1 / 25 / 1e4},
        note=OPTAX_NOTE,
    ),
    "optax.one_cycle_linear": Preset(
        "optax 0.2.8 linear_onecycle_schedule(transition_steps=T, pct_start=rise, pct_final=fall)",
        {"name": "one_cycle", "warmup": 0, "decay_end": "T", "anneal": "linear"} | OPTAX,
        ANY | {"length": None, "first": 1 / 25, "rise": 0.3, "fall": 0.85, "floor": 1 / 25 / 1e4},
        note=OPTAX_NOTE,
    ),
    "optax.cosine_restarts": Preset(
        "optax 0.2.8 linear_schedule, then sgdr_schedule with warmup_steps = 0, in join_schedules",
        {"name": "cosine_restarts", "length": 0, "after_end": "hold", "cycle_decay": 1.0}
        | B_FROM
        | AFTER,
        WARMUP | FROM | {"cycle": None, "cycles": None, "cycle_growth": 1, "floor": 0.0},
        note=OPTAX_NOTE,
    ),
    "hf.constant": Preset(
        "transformers 5.23 get_constant_schedule", {"name": "constant", "warmup": 0}, ANY
    ),
    "hf.constant_with_warmup": Preset(
        "transformers 5.23 get_constant_schedule_with_warmup", {"name": "constant"} | B, WARMUP
    ),
    "hf.linear": Preset(
        "transformers 5.23 get_linear_schedule_with_warmup",
        {"name": "linear"} | B | AFTER | HOLD | ZERO | HF,
        LENGTH,
    ),
    "hf.cosine": Preset(
        "transformers 5.23 get_cosine_schedule_with_warmup; waves is num_cycles",
        {"name": "cosine"} | B | AFTER | GO_ON | ZERO | HF,
        LENGTH | {"waves": None},
    ),
    "hf.cosine_with_min_lr": Preset(
        "transformers 5.23 get_cosine_with_min_lr_schedule_with_warmup; floor is min_lr_rate",
        {"name": "cosine"} | B | AFTER | GO_ON | HF,
        LENGTH | {"floor": None, "waves": None},
    ),
    "hf.cosine_warmup_with_min_lr": Preset(
        "transformers 5.23 get_cosine_with_min_lr_schedule_with_warmup_lr_rate; floor is "
        "min_lr_rate",
        {"name": "cosine"} | HF_EARLY | A | HF,
        LENGTH | {"floor": None, "waves": None},
    ),
    "hf.cosine_warmup_from_lr_rate": Preset(
        "transformers 5.23 "
        "get_cosine_with_min_lr_schedule_with_warmup_lr_rate(warmup_lr_rate=warmup_start)",
        {"name": "cosine", "warmup_shape": "linear", "ramp": "t/W", "warmup_top": "W-1"}
        | HF_EARLY
        | HF,
        LENGTH | {"warmup_start": None, "floor": None, "waves": None},
    ),
    "hf.cosine_with_restarts": Preset(
        "transformers 5.23 get_cosine_with_hard_restarts_schedule_with_warmup",
        {
            "name": "cosine_restarts",
            "cycle": 0,
            "cycle_growth": 1,
            "cycle_decay": 1.0,
            "after_end": "hold",
        }
        | B
        | AFTER
        | ZERO
        | HF,
        LENGTH | {"cycles": 1},
    ),
    "hf.polynomial": Preset(
        "transformers 5.23 get_polynomial_decay_schedule_with_warmup; end_rate is lr_end, "
        "or floor is lr_end / lr",
        {"name": "polynomial", "decay_end": "T"} | B | AFTER | HF,
        LENGTH | {"power": 1.0, "floor": None, "end_rate": 1e-7},
        derived={"end_rate": lambda knobs: None if "floor" in knobs else 1e-7},
    ),
    "hf.inverse_sqrt": Preset(
        "transformers 5.23 get_inverse_sqrt_schedule",
        {"name": "inverse_sqrt"} | B | AFTER | ZERO | HF,
        WARMUP | {"timescale": None},
    ),
    "hf.warmup_stable_decay": Preset(
        "transformers 5.23 get_wsd_schedule(num_training_steps=T, num_decay_steps=decay_length)",
        {"name": "wsd", "ramp": "t/W"} | HOLD | HF,
        LENGTH
        | {"warmup_shape": "linear", "warmup_curve": None}
        | {"decay_length": None, "decay_shape": "cosine", "floor": 0.0},
        {"warmup_start": "floor"},
        only={
            "warmup_shape": ("linear", "cosine"),
            "warmup_curve": ("1-sqrt",),
            "decay_shape": THREE,
        },
    ),
    # timm: without warmup_prefix the warmup covers the decay's first steps; with it the decay comes
    # after
    "timm.cosine": Preset(
        "timm 1.0.31 CosineLRScheduler(t_initial=T)",
        {"name": "cosine"} | B_FROM | TIMM | HOLD,
        LENGTH | FROM | {"floor": 0.0, "k_decay": None},
    ),
    "timm.cosine_prefix": Preset(
        "timm 1.0.31 CosineLRScheduler(t_initial=T-W, warmup_prefix=True)",
        {"name": "cosine"} | B_FROM | TIMM_PREFIX | HOLD,
        LENGTH | FROM | {"floor": 0.0, "k_decay": None},
    ),
    "timm.cosine_restarts": Preset(
        "timm 1.0.31 CosineLRScheduler(t_initial=cycle, cycle_limit=cycles, cycle_mul, "
        "warmup_prefix=True)",
        {"name": "cosine_restarts", "length": 0, "after_end": "hold"} | B_FROM | AFTER,
        WARMUP
        | FROM
        | {"cycle": None, "cycles": 1, "cycle_growth": 1, "cycle_decay": 1.0, "floor": 0.0},
    ),
    "timm.polynomial": Preset(
        "timm 1.0.31 PolyLRScheduler(t_initial=T)",
        {"name": "polynomial", "decay_end": "T"} | B_FROM | TIMM,
        LENGTH | FROM | {"power": 0.5, "floor": 0.0, "k_decay": None},
    ),
    "timm.polynomial_prefix": Preset(
        "timm 1.0.31 PolyLRScheduler(t_initial=T-W, warmup_prefix=True)",
        {"name": "polynomial", "decay_end": "T"} | B_FROM | TIMM_PREFIX,
        LENGTH | FROM | {"power": 0.5, "floor": 0.0, "k_decay": None},
    ),
    "timm.step": Preset(
        "timm 1.0.31 StepLRScheduler(decay_t=every, decay_rate=factor), whose steps count "
        "from the warmup's end",
        {"name": "step"} | B_FROM | TIMM_PREFIX,
        WARMUP | FROM | {"factor": 1.0, "every": None},
    ),
    "timm.step_without_prefix": Preset(
        "timm 1.0.31 StepLRScheduler(decay_t=every, decay_rate=factor, "
        "warmup_prefix=False), as create_scheduler_v2 "
        "makes it, whose decay_rate is 0.1",
        {"name": "step"} | B_FROM | TIMM,
        WARMUP | FROM | {"factor": 1.0, "every": None},
    ),
    "timm.multistep_prefix": Preset(
        "timm 1.0.31 MultiStepLRScheduler(decay_t=milestones, warmup_prefix=True), whose "
        "steps come one update early",
        {"name": "multistep", "decay_start": "W-1", "warmup_of": "peak", "edges": "timm"} | B_FROM,
        WARMUP | FROM | {"factor": 1.0, "milestones": None},
    ),
    "timm.wsd": Preset(
        "timm 1.0.31 WSDLRScheduler(t_initial=T-W, decay_t=decay_length); power is decay_power",
        {"name": "wsd", "edges": "timm"} | B_FROM | HOLD,
        LENGTH
        | FROM
        | {"decay_length": None, "decay_shape": "1-sqrt", "floor": 0.0}
        | {"decay_ratio": None, "power": None},
        derived={
            "decay_ratio": lambda knobs: 0.1 if knobs["decay_shape"] == "exponential" else None
        },
    ),
    "nanogpt.cosine": Preset(
        "nanoGPT train.py get_lr (older versions have the ramp t/W); floor is min_lr / "
        "learning_rate",
        {"name": "cosine"} | C | AFTER | HOLD | {"edges": "nanogpt"},
        LENGTH | {"floor": 0.1},
    ),
    "torchtitan.linear": Preset(
        'torchtitan lr_scheduler, "linear"',
        {"name": "linear"} | A | AFTER | GO_ON | TORCHTITAN,
        LENGTH | {"floor": 0.0},
    ),
    "torchtitan.cosine": Preset(
        'torchtitan lr_scheduler, "cosine"',
        {"name": "cosine"} | A | AFTER | GO_ON | TORCHTITAN,
        LENGTH | {"floor": 0.0},
    ),
    "torchtitan.wsd": Preset(
        "torchtitan lr_scheduler (older versions differ); decay_ratio is decay_length / T",
        {"name": "wsd"} | A | GO_ON | TORCHTITAN,
        LENGTH | {"decay_length": None, "decay_shape": "linear", "floor": 0.0},
        only={"decay_shape": THREE},
    ),
    "megatron.constant": Preset(
        'Megatron-LM OptimizerParamScheduler, "constant"',
        {"name": "constant"} | B_FROM,
        WARMUP | FROM,
    ),
    "megatron.linear": Preset(
        'Megatron-LM OptimizerParamScheduler, "linear"',
        {"name": "linear"} | B_FROM | AFTER | HOLD | MEGATRON,
        LENGTH | FROM | {"floor": 0.0},
    ),
    "megatron.cosine": Preset(
        'Megatron-LM OptimizerParamScheduler, "cosine"',
        {"name": "cosine"} | B_FROM | AFTER | HOLD | MEGATRON,
        LENGTH | FROM | {"floor": 0.0},
    ),
    "megatron.inverse_sqrt": Preset(
        'Megatron-LM OptimizerParamScheduler, "inverse-square-root"; length is '
        "lr_decay_steps, and unset past the run",
        {"name": "inverse_sqrt", "timescale": 0} | B_FROM | AFTER | MEGATRON,
        WARMUP | FROM | {"length": None, "floor": 0.0},
    ),
    "megatron.wsd": Preset(
        'Megatron-LM OptimizerParamScheduler, "WSD"; decay_shape is lr_wsd_decay_style, '
        "1-sqrt being minus_sqrt",
        {"name": "wsd"} | B_FROM | HOLD | MEGATRON,
        LENGTH | FROM | {"decay_length": None, "decay_shape": "exponential", "floor": 0.0},
        only={"decay_shape": (*THREE, "exponential")},
    ),
    "t5.inverse_sqrt": Preset(
        "Raffel et al., arXiv:1910.10683, section 3.1.2: 1 / sqrt(max(t, W)), whose peak "
        "is 1 / sqrt(W)",
        {
            "name": "inverse_sqrt",
            "warmup_shape": "linear",
            "ramp": "t/W",
            "warmup_start": 1.0,
            "timescale": 0,
        }
        | AFTER
        | ZERO,
        WARMUP,
    ),
    "t5.linear_warmup": Preset(
        'T5X create_learning_rate_scheduler("constant * linear_warmup * '
        'rsqrt_normalized_decay"); least_rate is '
        "min_learning_rate",
        {"name": "inverse_sqrt", "timescale": 0} | B | AFTER | ZERO | T5X,
        WARMUP | LEAST,
        note=T5X_NOTE,
    ),
    "t5.decay_every": Preset(
        'T5X create_learning_rate_scheduler("constant * linear_warmup * decay_every"); '
        "factor is decay_factor, every "
        "steps_per_decay",
        {"name": "step", "decay_start": "0", "warmup_of": "schedule"} | B | T5X,
        WARMUP | {"factor": 0.5, "every": 20_000} | LEAST,
        note=T5X_NOTE,
    ),
    "t5.cosine_decay": Preset(
        'T5X create_learning_rate_scheduler("constant * linear_warmup * cosine_decay"); '
        "cycle is steps_per_cycle",
        {"name": "cosine_restarts", "length": 0, "cycles": 1, "cycle_growth": 1, "cycle_decay": 1.0}
        | {"after_end": "continue"}
        | B
        | AFTER
        | ZERO
        | T5X,
        WARMUP | {"cycle": 100_000} | LEAST,
        note=T5X_NOTE,
    ),
    "noam": Preset(
        "Vaswani et al., arXiv:1706.03762, section 5.3, whose peak is 1 / sqrt(d_model W)",
        {"name": "inverse_sqrt", "timescale": 0, "decay_start": "W-1", "warmup_of": "peak"}
        | A
        | ZERO,
        WARMUP,
    ),
    "pytorch_warmup.linear": Preset(
        "pytorch_warmup 0.2 LinearWarmup(W)", {"name": "constant"} | A | PYTORCH_WARMUP, WARMUP
    ),
    "pytorch_warmup.exponential": Preset(
        "pytorch_warmup 0.2 ExponentialWarmup(W)",
        {"name": "constant", "warmup_shape": "exponential", "ramp": "(t+1)/W", "warmup_start": 0.0}
        | PYTORCH_WARMUP,
        WARMUP,
    ),
    "pytorch_warmup.untuned_linear": Preset(
        "pytorch_warmup 0.2 UntunedLinearWarmup, whose period is int(2 / (1 - beta2))",
        {"name": "constant", "warmup_shape": "untuned_linear", "warmup": 0, "unit": "update"}
        | {"ramp": "(t+1)/W", "warmup_start": 0.0}
        | PYTORCH_WARMUP,
        {"peak": None},
    ),
    "pytorch_warmup.untuned_exponential": Preset(
        "pytorch_warmup 0.2 UntunedExponentialWarmup, whose period is int(1 / (1 - beta2))",
        {"name": "constant", "warmup_shape": "untuned_exponential", "warmup": 0, "unit": "update"}
        | {"ramp": "(t+1)/W", "warmup_start": 0.0}
        | PYTORCH_WARMUP,
        {"peak": None},
    ),
    "deepspeed.warmup": Preset(
        "DeepSpeed WarmupLR(warmup_type='log'), whose first two updates have warmup_min_lr",
        {
            "name": "constant",
            "warmup_curve": "log",
            "warmup_shape": "linear",
            "ramp": "t/W",
            "edges": "deepspeed",
        },
        ANY | {"warmup": 1000, "warmup_start": 0.0},
    ),
    "bolts.cosine": Preset(
        "lightning-bolts 0.7 LinearWarmupCosineAnnealingLR(warmup_epochs=W, max_epochs=T)",
        {
            "name": "cosine",
            "warmup_shape": "linear",
            "ramp": "t/W",
            "warmup_top": "W-1",
            "edges": "bolts",
        }
        | AFTER
        | GO_ON,
        LENGTH | {"warmup_start": 0.0, "floor": 0.0},
    ),
}
"""Schedules as the libraries have them."""

UNSAID: dict[str, dict[str, str]] = {
    "optimizer": {
        name: line
        for kind in Optimizer.variants.values()
        for name, line in kind.spec.unsaid.items()
    },
    "schedule": {
        "torch.cyclic": "not expressible, for no knob repeats a rise; the nearest is "
        "torch.one_cycle for one cycle",
        "torch.reduce_on_plateau": "not expressible, for its rates follow from the losses of a run",
        "hf.reduce_lr_on_plateau": "not expressible, for its rates follow from the losses of a run",
        "optax.piecewise_interpolate": "not expressible, for no knob joins milestones by lines or "
        "cosines; the nearest "
        "is optax.multistep, which jumps there",
        "optax.sgdr": "not expressible with a warmup in each cycle; the nearest is "
        "optax.cosine_restarts, with one "
        "warmup before all cycles",
        "timm.tanh": "not expressible, for no knob has a hyperbolic tangent; the nearest is "
        "timm.cosine, off by up to "
        "half of the peak",
        "timm.cosine_cycle_mul": "not expressible where cycle_mul is no whole number; the nearest "
        "is "
        "timm.cosine_restarts with a whole cycle_growth",
        "timm.polynomial_cycles": "not expressible, for only cosines restart; the nearest is "
        "timm.polynomial, its "
        "first cycle",
        "timm.multistep": "not expressible with warmup_prefix=False, whose milestones count from "
        "update -1; the "
        "nearest is timm.multistep_prefix, whose count from the warmup's end",
        "timm.wsd_rsqrt": "not expressible, for a wsd stays at its peak; the nearest is timm.wsd, "
        "off by up to "
        "0.4 of it",
        "timm.wsd_power": "not expressible, for a wsd stays at its peak; the nearest is timm.wsd, "
        "off by up to "
        "0.4 of it",
        "deepspeed.warmup_linear": "not expressible, for its ramp is (t-1)/W; the nearest is "
        "hf.constant_with_warmup, "
        "one update earlier",
        "fairseq.cosine": "not expressible where lr_shrink is below 1 and min_lr above 0, for "
        "cycle_decay leaves the "
        "floor; the nearest is timm.cosine_restarts with cycle_decay",
        "t5.linear_decay": "not expressible, for its slope is decay_factor and not a length; the "
        "nearest is "
        "optax.linear with length = W + (1 - floor) / slope",
        "table": "not expressible: a recipe's rates are closed forms; lockstep.Recorder judges "
        "your own loop with "
        "any rates",
    },
}
"""Section -> what libraries have and no preset says -> the one line that says so."""

OPTIMIZER_PRESETS = {
    name: preset
    for kind in Optimizer.variants.values()
    for name, preset in kind.spec.presets.items()
}
"""Optimizers as the libraries have them."""

SHAPE: dict[str, Any] = {"hidden": None, "bias": True, "dropout": None}
ACTIVATED = SHAPE | {"activation": None}
TORCH = {"init": "torch", "norm_eps": 1e-5, "norm_momentum": 0.1, "norm_variance": "unbiased"}
FLAX: dict[str, Any] = {"init": "flax", "norm": "none"}
FLAX_LAYER: dict[str, Any] = {"init": "flax", "norm": "layer", "norm_eps": 1e-6}

MODEL_PRESETS: dict[str, Preset] = {
    "torch": Preset(
        "torch 2.13 nn.Linear, nn.LayerNorm, nn.BatchNorm1d", TORCH, ACTIVATED | {"norm": None}
    ),
    "torch.gelu": Preset(
        "torch 2.13, with nn.GELU", TORCH | {"activation": "gelu"}, SHAPE | {"norm": None}
    ),
    # which eps is Flax's depends on the normalisation
    "flax": Preset("flax 0.12 nnx.Linear", FLAX, ACTIVATED),
    "flax.gelu": Preset(
        "flax 0.12 nnx.Linear, with nnx.gelu", FLAX | {"activation": "gelu_tanh"}, SHAPE
    ),
    "flax.layer_norm": Preset(
        "flax 0.12 nnx.Linear, nnx.LayerNorm, but with use_fast_variance=False",
        FLAX_LAYER,
        ACTIVATED,
    ),
    "flax.gelu_layer_norm": Preset(
        "flax 0.12 nnx.Linear, nnx.LayerNorm, but with use_fast_variance=False, and nnx.gelu",
        FLAX_LAYER | {"activation": "gelu_tanh"},
        SHAPE,
    ),
    "flax.batch_norm": Preset(
        "flax 0.12 nnx.Linear, nnx.BatchNorm, but with use_fast_variance=False",
        {
            "init": "flax",
            "norm": "batch",
            "norm_eps": 1e-5,
            "norm_momentum": 0.01,
            "norm_variance": "biased",
        },
        ACTIVATED,
    ),
}
"""Layers as the libraries have them."""

PRESETS: dict[str, dict[str, Preset]] = {
    "schedule": SCHEDULE_PRESETS,
    "optimizer": OPTIMIZER_PRESETS,
    "model": MODEL_PRESETS,
}
"""Section -> preset -> what it stands for."""
