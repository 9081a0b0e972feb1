"""Faults in the learning rates of a loop of 40 updates, of which the series alone are recorded."""

from collections.abc import Iterator
from typing import Any

from lockstep.studies.prove.own_loops.faults import LoopFault, planted

__all__ = ["RATE_FAULTS"]


def _planted(
    key: str,
    text: str,
    cause: str,
    update: int,
    right: str,
    mirrored: str = "",
    precisions: tuple[str, ...] = ("float32", "float64"),
    **wrong: Any,
) -> Iterator[LoopFault]:
    """A fault in a schedule; the precision of a rate is that of the loop's own arithmetic."""
    loop = {"updates": 40, "is_detailed": False, "schedule": right}
    yield from planted(
        key,
        text,
        "lr",
        cause,
        ("perceptron",),
        update=update,
        right=loop,
        precisions=precisions,
        mirrored=mirrored,
        **wrong,
    )


RATE_FAULTS: tuple[LoopFault, ...] = (
    *_planted("first-rate-0", "the first rate is 0", "lr-one-update", 0, "cosine", rates="first-0"),
    *_planted(
        "rates-constant",
        "the schedule is never stepped",
        "lr-constant",
        0,
        "cosine",
        rates="constant",
    ),
    *_planted(
        "rates-twice-as-fast",
        "the schedule is stepped twice an update",
        "lr-stride",
        1,
        "cosine",
        rates="twice-as-fast",
    ),
    *_planted(
        "rates-once-in-4",
        "the schedule is stepped at every 4th update",
        "lr-stride",
        1,
        "cosine",
        rates="once-in-4",
    ),
    *_planted(
        "rates-held",
        "the rate is set at every 4th update",
        "lr-held",
        1,
        "cosine",
        rates="held-for-4",
    ),
    *_planted(
        "rates-tenth-and-late",
        "a tenth of the rate before",
        "lr-factor-and-shift",
        0,
        "cosine",
        rates="tenth-and-late",
    ),
    *_planted(
        "rates-3-late",
        "rates three updates late",
        "lr-late",
        1,
        "cosine",
        mirrored="lr-early",
        rates="3-late",
    ),
    *_planted(
        "rates-bounded",
        "rates do not fall below a fifth of the peak",
        "lr-bounded",
        0,
        "cosine",
        rates="bounded",
    ),
    *_planted(
        "rates-halved-in-part",
        "half of the rate from update 20 on",
        "lr-factor-in-part",
        20,
        "cosine-squared-ramp",
        rates="half-from-20",
    ),
    *_planted(
        "warmup-left-out", "no warmup", "lr-warmup", 0, "cosine", schedule="cosine-without-warmup"
    ),
    *_planted(
        "warmup-longer",
        "10 updates of warmup for 8",
        "lr-warmup",
        0,
        "cosine",
        schedule="cosine-warmup-10",
    ),
    *_planted(
        "warmup-from-0",
        "the climb is t / 8, not (t + 1) / 8",
        "lr-ramp",
        0,
        "cosine",
        schedule="cosine-warmup-from-0",
    ),
    *_planted(
        "decay-from-update-0",
        "the decay counts from update 0",
        "lr-decay-start",
        8,
        "cosine",
        schedule="cosine-from-update-0",
    ),
    *_planted(
        "decay-too-long",
        "the decay takes T updates for T - W",
        "lr-decay-end",
        9,
        "cosine",
        schedule="cosine-too-long",
    ),
    *_planted(
        "decay-to-a-floor",
        "the decay ends at a tenth of the peak",
        "lr-floor",
        9,
        "cosine",
        schedule="cosine-floor",
    ),
    *_planted(
        "decay-linear", "a line for a cosine", "other-schedule", 9, "cosine", schedule="linear"
    ),
    *_planted(
        "peak-and-floor",
        "twice the peak, and a floor",
        "lr-peak",
        0,
        "cosine",
        schedule="cosine-floor",
        lr=0.1,
    ),
    *_planted(
        "climbs-back",
        "the cosine climbs back after its end",
        "lr-after-end",
        21,
        "cosine-20",
        schedule="cosine-20-turning-back",
    ),
    *_planted(
        "cycles-of-8",
        "restarts after 8 updates for 20",
        "lr-cycles",
        1,
        "restarts",
        schedule="restarts-of-8",
    ),
    *_planted(
        "decay-faster",
        "a factor of 0.9 an update for 0.95",
        "lr-decay",
        1,
        "exponential",
        schedule="exponential-faster",
    ),
    *_planted(
        "warmup-begins-higher",
        "the warmup begins at 0.3 of the peak, not at 0.1",
        "lr-warmup-start",
        0,
        "line-from-tenth",
        schedule="line-from-third",
    ),
    *_planted(
        "rates-rounded",
        "rates are rounded to float32",
        "lr-rounded",
        0,
        "cosine",
        precisions=("float64",),
        rates="rounded",
    ),
    *_planted(
        "steps-by-tenths",
        "steps by the factor 0.1 for 0.5",
        "lr-steps",
        10,
        "steps",
        schedule="steps-by-tenths",
    ),
)
"""In the order of the relations that the diagnosis tries."""
