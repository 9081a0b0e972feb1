"""The edges of a schedule, where a phase has no length (W = 0, W >= T) and libraries differ.

`schedule.edges` names the library. A recipe without it takes the limit: a warmup of no length is
over at once, and so is a decay of no length.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lockstep.recipe.schedules.base import Schedule

__all__ = ["changes_rates", "refusal", "takes_a_long_warmup", "warmup_refusal"]


def changes_rates(schedule: "Schedule", warmup: int) -> bool:
    """Whether the rates of a schedule differ from those of the same schedule without `edges`."""
    edges = schedule.edges
    if schedule.length and warmup >= schedule.length:
        return edges is not None
    if edges == "pytorch_warmup":
        return schedule.warmup_shape.startswith("untuned")
    return warmup == 0 and (edges, schedule.name) in ALONE


ALONE = {
    ("optax", "constant"),
    ("torch", "constant"),
    ("hf", "inverse_sqrt"),
    ("megatron", "inverse_sqrt"),
    ("timm", "multistep"),
}
"""The libraries, with schedules, whose rates without a warmup are not the limit."""


def takes_a_long_warmup(schedule: "Schedule") -> bool:
    """Whether the library has rates for W > T, where the warmup runs on until W."""
    if schedule.edges == "timm":
        return schedule.decay_start == "0" and schedule.name in ("cosine", "polynomial")
    return schedule.name in LONG_WARMUP.get(schedule.edges, ())


LONG_WARMUP: dict[str | None, tuple[str, ...]] = {
    "hf": ("linear", "polynomial", "cosine", "wsd", "cosine_restarts"),
    "optax": ("linear", "polynomial"),
    "nanogpt": ("cosine",),
}
"""Library -> the schedules for which it takes W > T."""


def warmup_refusal(schedule: "Schedule") -> str:
    """The library's reason not to take this warmup, or ""."""
    edges = schedule.edges
    warmup = schedule.warmup
    stays_at_zero = schedule.warmup_curve == "constant" and not schedule.warmup_start
    if edges == "torch" and warmup and stays_at_zero:
        return "PyTorch divides by the factor warmup_start = 0 (ZeroDivisionError)"
    if edges == "pytorch_warmup" and warmup < 1:
        return "pytorch_warmup takes a warmup_period of at least 1 (ValueError)"
    if edges == "deepspeed" and warmup < 2:
        return "DeepSpeed takes a warmup_num_steps of at least 2"
    if edges == "t5x" and warmup < 1:
        return "T5X divides 0 by 0 at the first update (NaN)"
    if edges == "bolts" and warmup < 1:
        return "lightning-bolts stays at warmup_start_lr where warmup_epochs is 0"
    return ""


def refusal(schedule: "Schedule", warmup: int, length: int) -> str:
    """The library's reason not to take W = `warmup` with T = `length`, or ""."""
    left = length - warmup
    reason = "" if left > 0 else _reason(schedule, left)
    return f"{warmup} of T = {length} {schedule.unit}s: {reason}" if reason else ""


def _reason(schedule: "Schedule", left: int) -> str:
    """The library's reason to refuse a decay of length `left` = T - W <= 0, or ""."""
    edges = schedule.edges
    name = schedule.name
    has_end = schedule.length is not None and not getattr(schedule, "cycle", 0)
    if edges == "torch" and name in ("linear", "polynomial", "cosine"):
        if left == 0:
            return "PyTorch divides by T - W = 0 (ZeroDivisionError)"
        return f"PyTorch would get a decay of T - W = {left}"
    if edges == "optax" and name == "cosine":
        return f"Optax refuses decay_steps - warmup_steps = {left} (ValueError)"
    if edges == "hf" and name == "polynomial" and left == 0:
        return "transformers divides by T - W = 0 (ZeroDivisionError)"
    if edges == "timm" and has_end and schedule.decay_start != "0":
        error = "ValueError" if name == "wsd" else "AssertionError"
        return f"timm refuses t_initial = T - W = {left} ({error})"
    if edges == "megatron" and has_end:
        return "Megatron-LM asserts lr_warmup_steps < lr_decay_steps (AssertionError)"
    if edges == "nanogpt" and left == 0:
        return "nanoGPT divides by T - W = 0 (ZeroDivisionError)"
    if edges == "bolts":
        return f"lightning-bolts would get a decay of max_epochs - warmup_epochs = {left}"
    if edges == "torchtitan" and left < 0:
        return "torchtitan would shorten the warmup to T"
    return ""
