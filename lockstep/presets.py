"""Presets: the knobs of a section as a library sets them, under the library's name.

A recipe may say `preset = "hf.cosine"` in a section. It is expanded when the recipe is read, which then holds the knobs
alone. What a preset fixes cannot be set beside it; what it leaves free can, as the library's own arguments can.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lockstep.errors import InputError

__all__ = ["PRESETS", "Preset", "expand"]


@dataclass(frozen=True)
class Preset:
    """Knobs that a library fixes and knobs that it leaves to its user.

    `free` has the library's own default for each, or None where the recipe's default stays; `ties` are fixed knobs
    that take the value of a free one; `source` is what is meant, with its version.
    """

    source: str
    fixed: Mapping[str, Any]
    free: Mapping[str, Any]
    ties: Mapping[str, str] = field(default_factory=dict)


def expand(section: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """A section's values with its `preset` replaced by the knobs that it stands for.

    Example: `expand("schedule", {"preset": "noam", "warmup": 4000, "unit": "update"})` has name = "inverse_sqrt".

    Raises:
        InputError: no such preset, or a knob that it does not leave free.
    """
    given = {knob: value for knob, value in values.items() if knob != "preset"}
    name, presets = values["preset"], PRESETS[section]
    if not isinstance(name, str) or name not in presets:
        raise InputError(f"{section}.preset: no preset {name!r}{_nearest(str(name), presets)}")
    preset = presets[name]
    for knob in given:
        if knob not in preset.free:
            shown = knob if knob.isprintable() else repr(knob)
            raise InputError(f"{section}.{shown}: {name} has no such knob; it has {', '.join(preset.free)}")
    free = {knob: value for knob, value in preset.free.items() if value is not None} | given
    return {**preset.fixed, **free, **{knob: free[other] for knob, other in preset.ties.items() if other in free}}


def _nearest(name: str, presets: Mapping[str, Preset]) -> str:
    library = [known for known in presets if known.startswith(name.partition(".")[0] + ".")]
    close = difflib.get_close_matches(name, presets, n=1, cutoff=0.6)
    hint = f"; did you mean {close[0]}? There" if close else "; there"
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
TIMM = {"decay_start": "0", "warmup_of": "peak"}

SCHEDULE_PRESETS: dict[str, Preset] = {
    # torch: LinearLR(1/W, total_iters=W-1), then what is named, in a SequentialLR with milestone W
    "torch.constant": Preset("torch 2.13 LinearLR", {"name": "constant"} | A, WARMUP),
    "torch.linear": Preset(
        "torch 2.13 LinearLR(1, floor, T-W)", {"name": "linear"} | A | AFTER | HOLD, LENGTH | {"floor": 0.0}
    ),
    "torch.polynomial": Preset(
        "torch 2.13 PolynomialLR(T-W, power)",
        {"name": "polynomial", "decay_end": "T"} | A | AFTER | ZERO,
        LENGTH | {"power": 1.0},
    ),
    "torch.cosine": Preset(
        "torch 2.13 CosineAnnealingLR(T-W, eta_min)", {"name": "cosine"} | A | AFTER | GO_ON, LENGTH | {"floor": 0.0}
    ),
    "torch.exponential": Preset(
        "torch 2.13 ExponentialLR(factor)",
        {"name": "exponential", "every": 1} | A | AFTER | ZERO,
        WARMUP | {"factor": None},
    ),
    "torch.step": Preset(
        "torch 2.13 StepLR(every, factor)", {"name": "step"} | A | AFTER, WARMUP | {"factor": 0.1, "every": None}
    ),
    "torch.multistep": Preset(
        "torch 2.13 MultiStepLR(milestones, factor)",
        {"name": "multistep"} | A | AFTER,
        WARMUP | {"factor": 0.1, "milestones": None},
    ),
    "torch.one_cycle": Preset(
        "torch 2.13 OneCycleLR(total_steps=T, pct_start=rise)",
        {"name": "one_cycle", "warmup": 0, "decay_end": "T-1", "fall": 0.0},
        ANY | {"length": None, "anneal": "cosine", "first": 1 / 25, "rise": 0.3, "floor": 1 / 25 / 1e4},
    ),
    "torch.one_cycle_three_phase": Preset(
        "torch 2.13 OneCycleLR(total_steps=T, pct_start=rise, three_phase=True); fall is twice rise",
        {"name": "one_cycle", "warmup": 0, "decay_end": "T-1"},
        ANY | {"length": None, "anneal": "cosine", "first": 1 / 25, "rise": 0.3, "fall": 0.6, "floor": 1 / 25 / 1e4},
    ),
    "torch.cosine_restarts": Preset(
        "torch 2.13 CosineAnnealingWarmRestarts(T_0=cycle, T_mult=cycle_growth, eta_min)",
        {"name": "cosine_restarts", "length": 0, "cycles": 1, "cycle_decay": 1.0, "after_end": "continue"} | A | AFTER,
        WARMUP | {"cycle": 10, "cycle_growth": 1, "floor": 0.0},
    ),
    "optax.constant": Preset("optax 0.2.8 warmup_constant_schedule", {"name": "constant"} | B_FROM, WARMUP | FROM),
    "optax.linear": Preset(
        "optax 0.2.8 linear_schedule, twice, in join_schedules",
        {"name": "linear"} | B_FROM | AFTER | HOLD,
        LENGTH | FROM | {"floor": 0.0},
    ),
    "optax.polynomial": Preset(
        "optax 0.2.8 linear_schedule, then polynomial_schedule, in join_schedules",
        {"name": "polynomial", "decay_end": "T"} | B_FROM | AFTER,
        LENGTH | FROM | {"power": 1.0, "floor": 0.0},
    ),
    "optax.cosine": Preset(
        "optax 0.2.8 warmup_cosine_decay_schedule(decay_steps=T)",
        {"name": "cosine"} | B_FROM | AFTER | HOLD,
        LENGTH | FROM | {"floor": 0.0},
    ),
    "optax.exponential": Preset(
        "optax 0.2.8 warmup_exponential_decay_schedule(transition_steps=every, decay_rate=factor)",
        {"name": "exponential"} | B_FROM | AFTER,
        WARMUP | FROM | {"factor": None, "every": None, "floor": 0.0},
    ),
    "optax.step": Preset(
        "optax 0.2.8 warmup_exponential_decay_schedule(..., staircase=True)",
        {"name": "step"} | B_FROM | AFTER,
        WARMUP | FROM | {"factor": None, "every": None},
    ),
    "optax.multistep": Preset(
        "optax 0.2.8 linear_schedule, then piecewise_constant_schedule, in join_schedules",
        {"name": "multistep"} | B_FROM | AFTER,
        WARMUP | FROM | {"factor": None, "milestones": None},
    ),
    "optax.one_cycle": Preset(
        "optax 0.2.8 cosine_onecycle_schedule(transition_steps=T, pct_start=rise)",
        {"name": "one_cycle", "warmup": 0, "decay_end": "T", "fall": 0.0, "anneal": "cosine"},
        ANY | {"length": None, "first": 1 / 25, "rise": 0.3, "floor": 1 / 25 / 1e4},
    ),
    "optax.one_cycle_linear": Preset(
        "optax 0.2.8 linear_onecycle_schedule(transition_steps=T, pct_start=rise, pct_final=fall)",
        {"name": "one_cycle", "warmup": 0, "decay_end": "T", "anneal": "linear"},
        ANY | {"length": None, "first": 1 / 25, "rise": 0.3, "fall": 0.85, "floor": 1 / 25 / 1e4},
    ),
    "optax.cosine_restarts": Preset(
        "optax 0.2.8 linear_schedule, then sgdr_schedule with warmup_steps = 0, in join_schedules",
        {"name": "cosine_restarts", "length": 0, "after_end": "hold", "cycle_decay": 1.0} | B_FROM | AFTER,
        WARMUP | FROM | {"cycle": None, "cycles": None, "cycle_growth": 1, "floor": 0.0},
    ),
    "hf.constant": Preset("transformers 5.23 get_constant_schedule", {"name": "constant", "warmup": 0}, ANY),
    "hf.constant_with_warmup": Preset(
        "transformers 5.23 get_constant_schedule_with_warmup", {"name": "constant"} | B, WARMUP
    ),
    "hf.linear": Preset(
        "transformers 5.23 get_linear_schedule_with_warmup", {"name": "linear"} | B | AFTER | HOLD | ZERO, LENGTH
    ),
    "hf.cosine": Preset(
        "transformers 5.23 get_cosine_schedule_with_warmup", {"name": "cosine"} | B | AFTER | GO_ON | ZERO, LENGTH
    ),
    "hf.cosine_with_min_lr": Preset(
        "transformers 5.23 get_cosine_with_min_lr_schedule_with_warmup",
        {"name": "cosine"} | B | AFTER | GO_ON,
        LENGTH | {"floor": None},
    ),
    "hf.cosine_warmup_with_min_lr": Preset(
        "transformers 5.23 get_cosine_with_min_lr_schedule_with_warmup_lr_rate",
        {"name": "cosine", "decay_start": "W-1", "warmup_of": "peak", "decay_end": "T-1", "after_end": "continue"} | A,
        LENGTH | {"floor": None},
    ),
    "hf.cosine_with_restarts": Preset(
        "transformers 5.23 get_cosine_with_hard_restarts_schedule_with_warmup",
        {"name": "cosine_restarts", "cycle": 0, "cycle_growth": 1, "cycle_decay": 1.0, "after_end": "hold"}
        | B
        | AFTER
        | ZERO,
        LENGTH | {"cycles": 1},
    ),
    "hf.polynomial": Preset(
        "transformers 5.23 get_polynomial_decay_schedule_with_warmup; floor is lr_end / lr",
        {"name": "polynomial", "decay_end": "T"} | B | AFTER,
        LENGTH | {"power": 1.0, "floor": None},
    ),
    "hf.inverse_sqrt": Preset(
        "transformers 5.23 get_inverse_sqrt_schedule",
        {"name": "inverse_sqrt"} | B | AFTER | ZERO,
        WARMUP | {"timescale": None},
    ),
    "hf.warmup_stable_decay": Preset(
        "transformers 5.23 get_wsd_schedule(num_training_steps=T, num_decay_steps=decay_length)",
        {"name": "wsd", "ramp": "t/W", "warmup_shape": "linear"} | HOLD,
        LENGTH | {"decay_length": None, "decay_shape": "cosine", "floor": 0.0},
        {"warmup_start": "floor"},
    ),
    # timm: without warmup_prefix the warmup covers the decay's first steps; with it the decay comes after
    "timm.cosine": Preset(
        "timm 1.0.31 CosineLRScheduler(t_initial=T)",
        {"name": "cosine"} | B_FROM | TIMM | HOLD,
        LENGTH | FROM | {"floor": 0.0},
    ),
    "timm.cosine_prefix": Preset(
        "timm 1.0.31 CosineLRScheduler(t_initial=T-W, warmup_prefix=True)",
        {"name": "cosine"} | B_FROM | AFTER | HOLD,
        LENGTH | FROM | {"floor": 0.0},
    ),
    "timm.cosine_restarts": Preset(
        "timm 1.0.31 CosineLRScheduler(t_initial=cycle, cycle_limit=cycles, cycle_mul, warmup_prefix=True)",
        {"name": "cosine_restarts", "length": 0, "after_end": "hold"} | B_FROM | AFTER,
        WARMUP | FROM | {"cycle": None, "cycles": 1, "cycle_growth": 1, "cycle_decay": 1.0, "floor": 0.0},
    ),
    "timm.polynomial": Preset(
        "timm 1.0.31 PolyLRScheduler(t_initial=T)",
        {"name": "polynomial", "decay_end": "T"} | B_FROM | TIMM,
        LENGTH | FROM | {"power": 0.5, "floor": 0.0},
    ),
    "timm.step": Preset(
        "timm 1.0.31 StepLRScheduler(decay_t=every, decay_rate=factor)",
        {"name": "step"} | B_FROM | TIMM,
        WARMUP | FROM | {"factor": None, "every": None},
    ),
    "timm.multistep_prefix": Preset(
        "timm 1.0.31 MultiStepLRScheduler(decay_t=milestones, warmup_prefix=True), whose steps come one update early",
        {"name": "multistep", "decay_start": "W-1", "warmup_of": "peak"} | B_FROM,
        WARMUP | FROM | {"factor": None, "milestones": None},
    ),
    "timm.wsd": Preset(
        "timm 1.0.31 WSDLRScheduler(t_initial=T-W, decay_t=decay_length)",
        {"name": "wsd"} | B_FROM | HOLD,
        LENGTH | FROM | {"decay_length": None, "decay_shape": "1-sqrt", "floor": 0.0},
    ),
    "nanogpt.cosine": Preset(
        "nanoGPT train.py get_lr (older versions have the ramp t/W); floor is min_lr / learning_rate",
        {"name": "cosine"} | C | AFTER | HOLD,
        LENGTH | {"floor": 0.1},
    ),
    "torchtitan.linear": Preset(
        'torchtitan lr_scheduler, "linear"',
        {"name": "linear"} | A | AFTER | GO_ON,
        LENGTH | {"floor": 0.0},
    ),
    "torchtitan.cosine": Preset(
        'torchtitan lr_scheduler, "cosine"',
        {"name": "cosine"} | A | AFTER | GO_ON,
        LENGTH | {"floor": 0.0},
    ),
    "torchtitan.wsd": Preset(
        "torchtitan lr_scheduler (older versions differ); decay_ratio is decay_length / T",
        {"name": "wsd"} | A | GO_ON,
        LENGTH | {"decay_length": None, "decay_shape": "linear", "floor": 0.0},
    ),
    "megatron.constant": Preset(
        'Megatron-LM OptimizerParamScheduler, "constant"', {"name": "constant"} | B_FROM, WARMUP | FROM
    ),
    "megatron.linear": Preset(
        'Megatron-LM OptimizerParamScheduler, "linear"',
        {"name": "linear"} | B_FROM | AFTER | HOLD,
        LENGTH | FROM | {"floor": 0.0},
    ),
    "megatron.cosine": Preset(
        'Megatron-LM OptimizerParamScheduler, "cosine"',
        {"name": "cosine"} | B_FROM | AFTER | HOLD,
        LENGTH | FROM | {"floor": 0.0},
    ),
    "megatron.inverse_sqrt": Preset(
        'Megatron-LM OptimizerParamScheduler, "inverse-square-root", until lr_decay_steps',
        {"name": "inverse_sqrt", "timescale": 0} | B_FROM | AFTER,
        WARMUP | FROM | {"floor": 0.0},
    ),
    "megatron.wsd": Preset(
        'Megatron-LM OptimizerParamScheduler, "WSD"',
        {"name": "wsd"} | B_FROM | HOLD,
        LENGTH | FROM | {"decay_length": None, "decay_shape": "linear", "floor": 0.0},
    ),
    "t5.inverse_sqrt": Preset(
        "Raffel et al., arXiv:1910.10683, section 3.1.2: 1 / sqrt(max(t, W)), whose peak is 1 / sqrt(W)",
        {"name": "inverse_sqrt", "warmup_shape": "linear", "ramp": "t/W", "warmup_start": 1.0, "timescale": 0}
        | AFTER
        | ZERO,
        WARMUP,
    ),
    "t5.linear_warmup": Preset(
        'T5X create_learning_rate_scheduler("constant * linear_warmup * rsqrt_normalized_decay")',
        {"name": "inverse_sqrt", "timescale": 0} | B | AFTER | ZERO,
        WARMUP,
    ),
    "noam": Preset(
        "Vaswani et al., arXiv:1706.03762, section 5.3, whose peak is 1 / sqrt(d_model W)",
        {"name": "inverse_sqrt", "timescale": 0, "decay_start": "W-1", "warmup_of": "peak"} | A | ZERO,
        WARMUP,
    ),
    "pytorch_warmup.linear": Preset("pytorch_warmup 0.2 LinearWarmup(W)", {"name": "constant"} | A, WARMUP),
    "pytorch_warmup.exponential": Preset(
        "pytorch_warmup 0.2 ExponentialWarmup(W)",
        {"name": "constant", "warmup_shape": "exponential", "ramp": "(t+1)/W", "warmup_start": 0.0},
        WARMUP,
    ),
    "pytorch_warmup.untuned_linear": Preset(
        "pytorch_warmup 0.2 UntunedLinearWarmup, but with a rounded period",
        {"name": "constant", "warmup_shape": "untuned_linear", "warmup": 0, "unit": "update"}
        | {"ramp": "(t+1)/W", "warmup_start": 0.0},
        {"peak": None},
    ),
    "pytorch_warmup.untuned_exponential": Preset(
        "pytorch_warmup 0.2 UntunedExponentialWarmup, but with a rounded period",
        {"name": "constant", "warmup_shape": "untuned_exponential", "warmup": 0, "unit": "update"}
        | {"ramp": "(t+1)/W", "warmup_start": 0.0},
        {"peak": None},
    ),
}
"""Schedules as the libraries have them."""

TRAINED: dict[str, Any] = {"decay_on": None, "multipliers": None}
DECAYED: dict[str, Any] = TRAINED | {"weight_decay": 0.0}
RPROP = {"shrink": 0.5, "grow": 1.2, "step_min": 1e-6, "step_max": 50.0}
MUON = {"momentum": 0.95, "nesterov": True, "beta1": 0.9, "beta2": 0.999, "orthogonalisations": 5, "adjust": "original"}

SGD: dict[str, Any] = DECAYED | {"momentum": 0.0, "nesterov": False}
BETAS: dict[str, Any] = TRAINED | {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8}
L2 = BETAS | {"weight_decay": 0.0}
AFTER_DECAY = "; with a weight decay after add_decayed_weights"
ADAM = {"name": "adam", "eps_in_root": False}
ADAMW = {"name": "adamw", "eps_in_root": False}
CONSTANT_MOMENTUM = {"momentum_ramp": False, "momentum_decay": 0.004}  # without a ramp its pace is no matter

OPTIMIZER_PRESETS: dict[str, Preset] = {
    "torch.sgd": Preset("torch 2.13 SGD", {"name": "sgd"}, SGD | {"dampening": 0.0}),
    "optax.sgd": Preset(f"optax 0.2.8 sgd{AFTER_DECAY}", {"name": "sgd", "dampening": 0.0}, SGD),
    "torch.adam": Preset("torch 2.13 Adam", ADAM | {"amsgrad": "off"}, L2),
    "optax.adam": Preset(f"optax 0.2.8 adam{AFTER_DECAY}", ADAM | {"amsgrad": "off"}, L2),
    "torch.amsgrad": Preset("torch 2.13 Adam(amsgrad=True)", ADAM | {"amsgrad": "raw"}, L2),
    "optax.amsgrad": Preset(f"optax 0.2.8 amsgrad{AFTER_DECAY}", ADAM | {"amsgrad": "corrected"}, L2),
    "torch.adamw": Preset(
        "torch 2.13 AdamW", ADAMW | {"amsgrad": "off", "decay_form": "factor"}, BETAS | {"weight_decay": 0.01}
    ),
    "optax.adamw": Preset(
        "optax 0.2.8 adamw", ADAMW | {"amsgrad": "off", "decay_form": "step"}, BETAS | {"weight_decay": 1e-4}
    ),
    "torch.nadam": Preset(
        "torch 2.13 NAdam, but with its mu_product in the recipe's dtype",
        {"name": "nadam", "momentum_ramp": True},
        L2 | {"momentum_decay": 0.004},
    ),
    "optax.nadam": Preset(f"optax 0.2.8 nadam{AFTER_DECAY}", {"name": "nadam"} | CONSTANT_MOMENTUM, L2),
    "torch.nadamw": Preset(
        "torch 2.13 NAdam(decoupled_weight_decay=True), but with its mu_product in the recipe's dtype",
        {"name": "nadamw", "momentum_ramp": True, "decay_form": "factor"},
        L2 | {"momentum_decay": 0.004},
    ),
    "optax.nadamw": Preset(
        "optax 0.2.8 nadamw",
        {"name": "nadamw", "decay_form": "step"} | CONSTANT_MOMENTUM,
        BETAS | {"weight_decay": 1e-4},
    ),
    "torch.radam": Preset("torch 2.13 RAdam", {"name": "radam", "eps_corrected": False}, L2),
    "optax.radam": Preset(f"optax 0.2.8 radam{AFTER_DECAY}", {"name": "radam", "eps_corrected": True}, L2),
    "torch.adamax": Preset("torch 2.13 Adamax", {"name": "adamax"}, L2),
    "optax.adamax": Preset(f"optax 0.2.8 adamax{AFTER_DECAY}", {"name": "adamax"}, L2),
    # PyTorch has neither LAMB nor Lion
    "optax.lamb": Preset("optax 0.2.8 lamb", {"name": "lamb"}, L2 | {"eps": 1e-6}),
    "optax.lion": Preset(
        "optax 0.2.8 lion", {"name": "lion"}, TRAINED | {"beta1": 0.9, "beta2": 0.99, "weight_decay": 1e-3}
    ),
    "torch.adagrad": Preset(
        "torch 2.13 Adagrad",
        {"name": "adagrad", "eps_in_root": False},
        DECAYED | {"eps": 1e-10, "initial_accumulator": 0.0, "lr_decay": 0.0},
    ),
    "optax.adagrad": Preset(
        "optax 0.2.8 adagrad; with a weight decay after add_decayed_weights",
        {"name": "adagrad", "eps_in_root": True, "lr_decay": 0.0},
        DECAYED | {"eps": 1e-7, "initial_accumulator": 0.1},
    ),
    "torch.rmsprop": Preset(
        "torch 2.13 RMSprop(alpha=decay)",
        {"name": "rmsprop", "eps_in_root": False, "rate_in_momentum": False},
        DECAYED | {"decay": 0.99, "eps": 1e-8, "centered": False, "momentum": 0.0},
    ),
    "optax.rmsprop": Preset(
        "optax 0.2.8 rmsprop without bias correction or nesterov; with a weight decay after add_decayed_weights",
        {"name": "rmsprop", "rate_in_momentum": True},
        DECAYED | {"decay": 0.9, "eps": 1e-8, "eps_in_root": True, "centered": False, "momentum": 0.0},
    ),
    "torch.adadelta": Preset(
        "torch 2.13 Adadelta(rho=decay)", {"name": "adadelta"}, DECAYED | {"decay": 0.9, "eps": 1e-6}
    ),
    "optax.adadelta": Preset(
        "optax 0.2.8 adadelta(learning_rate, rho=decay); without a learning rate it ascends",
        {"name": "adadelta"},
        DECAYED | {"decay": 0.9, "eps": 1e-6},
    ),
    # there is no optax.rprop: it takes each step one update late
    "torch.rprop": Preset("torch 2.13 Rprop(etas=(shrink, grow))", {"name": "rprop"}, TRAINED | RPROP),
    "torch.adafactor": Preset(
        "torch 2.13 Adafactor(beta2_decay=-decay_power, eps=(eps, eps_scale), d=clip_threshold) in float32: its "
        "default eps is the machine epsilon of the dtype",
        {"name": "adafactor", "eps_in_root": False, "rate_cap": True, "min_factored": 1},
        DECAYED | {"decay_power": 0.8, "eps": 2.0**-23, "eps_scale": 1e-3, "clip_threshold": 1.0},
    ),
    "optax.adafactor": Preset(
        "optax 0.2.8 adafactor, but for what a recipe cannot say: a momentum, no clipping, steps that are not scaled "
        "by the parameter, a weight decay that is not times the learning rate",
        {"name": "adafactor", "eps_in_root": True, "rate_cap": False, "eps_scale": 1e-3, "weight_decay": 0.0},
        TRAINED | {"decay_power": 0.8, "eps": 1e-30, "clip_threshold": 1.0, "min_factored": 128},
    ),
    "torch.muon": Preset(
        "torch 2.13 Muon for the weights, but not in bfloat16, beside AdamW with the same weight decay",
        {"name": "muon", "momentum_correction": False, "nesterov_rest": False, "eps_norm_added": False},
        TRAINED | MUON | {"eps": 1e-8, "eps_norm": 1e-7, "weight_decay": 0.1},
    ),
    "optax.muon": Preset(
        "optax 0.2.8 contrib.muon; adjust match_rms_adamw is consistent_rms=0.2",
        {"name": "muon", "momentum_correction": True, "eps_norm_added": True, "decay_on": "weights"},
        MUON | {"eps": 1e-8, "weight_decay": 0.0, "multipliers": None},
        {"nesterov_rest": "nesterov", "eps_norm": "eps"},
    ),
}
"""Optimizers as the libraries have them."""

SHAPE: dict[str, Any] = {"hidden": None, "bias": True, "dropout": None}
ACTIVATED = SHAPE | {"activation": None}
TORCH = {"init": "torch", "norm_eps": 1e-5, "norm_momentum": 0.1, "norm_variance": "unbiased"}
FLAX: dict[str, Any] = {"init": "flax", "norm": "none"}
FLAX_LAYER: dict[str, Any] = {"init": "flax", "norm": "layer", "norm_eps": 1e-6}

MODEL_PRESETS: dict[str, Preset] = {
    "torch": Preset("torch 2.13 nn.Linear, nn.LayerNorm, nn.BatchNorm1d", TORCH, ACTIVATED | {"norm": None}),
    "torch.gelu": Preset("torch 2.13, with nn.GELU", TORCH | {"activation": "gelu"}, SHAPE | {"norm": None}),
    # which eps is Flax's depends on the normalisation
    "flax": Preset("flax 0.12 nnx.Linear", FLAX, ACTIVATED),
    "flax.gelu": Preset("flax 0.12 nnx.Linear, with nnx.gelu", FLAX | {"activation": "gelu_tanh"}, SHAPE),
    "flax.layer_norm": Preset(
        "flax 0.12 nnx.Linear, nnx.LayerNorm, but with use_fast_variance=False", FLAX_LAYER, ACTIVATED
    ),
    "flax.gelu_layer_norm": Preset(
        "flax 0.12 nnx.Linear, nnx.LayerNorm, but with use_fast_variance=False, and nnx.gelu",
        FLAX_LAYER | {"activation": "gelu_tanh"},
        SHAPE,
    ),
    "flax.batch_norm": Preset(
        "flax 0.12 nnx.Linear, nnx.BatchNorm, but with use_fast_variance=False",
        {"init": "flax", "norm": "batch", "norm_eps": 1e-5, "norm_momentum": 0.01, "norm_variance": "biased"},
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
