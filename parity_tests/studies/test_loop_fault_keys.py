"""Every cause that lockstep can name in own loops has a planted fault, or stands in a list of those
that still lack one: a new cause without a fault fails.
"""

from lockstep.studies.prove.own_loops.fault_list import LOOP_FAULTS
from parity_tests.shared.cause_keys import cause_keys

UNPLANTED = {
    "accumulation-sum",
    "amsgrad",
    "another-draw",
    "ascent",
    "attention-mask-value",
    "attention-projection",
    "clip-missing",
    "clip-zero-by-zero",
    "cross-entropy",
    "dropout-in-evaluation",
    "dropout-left-on",
    "features-moved",
    "features-rounded",
    "gradient-clipped",
    "gradient-cut",
    "gradient-missing",
    "init-constant",
    "init-law",
    "init-rounded",
    "kernel-norm",
    "kernel-transposed",
    "l2-in-gradient",
    "labels-merged",
    "labels-not-shifted",
    "labels-numbered",
    "labels-offset",
    "labels-renumbered",
    "labels-replaced",
    "labels-shifted",
    "learning-rate",
    "linear-scaled",
    "log-probabilities",
    "loss-halved",
    "loss-of-another-crop",
    "loss-over-pads",
    "loss-penalty",
    "loss-reduced",
    "loss-scaled",
    "low-precision-matmul",
    "lr-cycles",
    "lr-decay",
    "lr-rounded",
    "lr-scaled",
    "lr-warmup-start",
    "norm-axis",
    "norm-eps-place",
    "norm-input",
    "other-backward",
    "other-decay",
    "other-input",
    "other-kernel",
    "other-loss",
    "other-norm",
    "other-rows",
    "output-zero",
    "padding-row",
    "padding-row-begins-at-0",
    "padding-side",
    "position-offset",
    "rope-base-and-position",
    "rope-halves-or-pairs",
    "spectral-norm-iterations",
    "spectral-norm-start",
    "state-stale",
    "statistics-moved",
    "sum-of-terms",
    "transposed-convolution",
    "update-skipped",
    "gradient-sign",
}
"""Causes without a planted fault so far, and texts with hyphens that are none."""
PLANTED = {
    key for fault in LOOP_FAULTS for key in (fault.cause, fault.mirrored, *fault.also) if key
}


def test_every_cause_has_a_planted_fault() -> None:
    assert cause_keys() - PLANTED - UNPLANTED == set()


def test_what_is_planted_is_not_listed_as_missing() -> None:
    assert not PLANTED & UNPLANTED


def test_keys_are_read_out_of_the_code() -> None:
    keys = cause_keys()
    assert {"gradient-stale", "norm-eps", "lr-factor", "attention-mask", "dropout"} <= keys
    assert len(keys) > 60
