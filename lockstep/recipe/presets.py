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
from lockstep.recipe.schedules import Schedule
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

SCHEDULE_ORDER = (
    "torch.constant",
    "torch.constant_lr",
    "torch.linear",
    "torch.polynomial",
    "torch.cosine",
    "torch.exponential",
    "torch.step",
    "torch.multistep",
    "torch.one_cycle",
    "torch.one_cycle_three_phase",
    "torch.cosine_restarts",
    "optax.constant",
    "optax.linear",
    "optax.polynomial",
    "optax.cosine",
    "optax.exponential",
    "optax.step",
    "optax.multistep",
    "optax.one_cycle",
    "optax.one_cycle_linear",
    "optax.cosine_restarts",
    "hf.constant",
    "hf.constant_with_warmup",
    "hf.linear",
    "hf.cosine",
    "hf.cosine_with_min_lr",
    "hf.cosine_warmup_with_min_lr",
    "hf.cosine_warmup_from_lr_rate",
    "hf.cosine_with_restarts",
    "hf.polynomial",
    "hf.inverse_sqrt",
    "hf.warmup_stable_decay",
    "timm.cosine",
    "timm.cosine_prefix",
    "timm.cosine_restarts",
    "timm.polynomial",
    "timm.polynomial_prefix",
    "timm.step",
    "timm.step_without_prefix",
    "timm.multistep_prefix",
    "timm.wsd",
    "nanogpt.cosine",
    "torchtitan.linear",
    "torchtitan.cosine",
    "torchtitan.wsd",
    "megatron.constant",
    "megatron.linear",
    "megatron.cosine",
    "megatron.inverse_sqrt",
    "megatron.wsd",
    "t5.inverse_sqrt",
    "t5.linear_warmup",
    "t5.decay_every",
    "t5.cosine_decay",
    "noam",
    "pytorch_warmup.linear",
    "pytorch_warmup.exponential",
    "pytorch_warmup.untuned_linear",
    "pytorch_warmup.untuned_exponential",
    "deepspeed.warmup",
    "bolts.cosine",
)
"""The order in which the catalogue lists the first presets of schedules; later ones follow."""


def _in_order(presets: dict[str, Preset]) -> dict[str, Preset]:
    return {name: presets[name] for name in dict.fromkeys([*SCHEDULE_ORDER, *presets])}


SCHEDULE_PRESETS = _in_order(
    {
        name: preset
        for kind in Schedule.variants.values()
        for name, preset in kind.spec.presets.items()
    }
)
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
