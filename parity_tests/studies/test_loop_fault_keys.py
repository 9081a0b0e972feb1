"""Every cause that lockstep can name in own loops has a planted fault, or stands in a list of those
that still lack one: a new cause without a fault fails.
"""

from lockstep.studies.prove.own_loops.fault_list import LOOP_FAULTS
from parity_tests.shared.cause_keys import cause_keys

UNPLANTED = {
    "amsgrad": "the two AMSGrads with another second moment: needs Optax beside PyTorch",
    "ascent": "a step of the other sign: gradient-sign says the same of what is planted",
    "attention-mask-value": "two numbers that mask as well are equal",
    "attention-projection": "needs an attention whose output alone is recorded",
    "clip-missing": "needs an optimizer that is given other gradients than it holds",
    "cross-entropy": "no cause: a kind of loss",
    "dropout-in-evaluation": "needs a loop that records its evaluation",
    "kernel-norm": "no model here has a kernel with a norm",
    "kernel-transposed": "needs a step that flattens before the kernel; planted as other-kernel",
    "labels-merged": "labels that are put into one are said to be replaced, which is tried first",
    "labels-numbered": "needs labels that are numbered in the loss",
    "labels-shifted": "needs labels that are shifted in the loss",
    "learning-rate": "needs a rate that the recorder does not hear",
    "log-probabilities": "no cause: a kind of loss",
    "loss-of-another-crop": "no loop here crops its batch",
    "lr-scaled": "of declared recipes alone",
    "norm-axis": "needs a norm of another axis with as many channels",
    "norm-input": "needs a norm of a sum that is recorded",
    "other-backward": "a GELU that passes its gradient on is placed and not named",
    "other-decay": "of declared recipes alone",
    "other-input": "a layer that takes in an earlier output is placed and not named",
    "padding-row-begins-at-0": "no first table here has a row of 0",
    "position-offset": "positions that are left out are placed and not named",
    "spectral-norm-iterations": "no model here has a spectral norm",
    "spectral-norm-start": "no model here has a spectral norm",
    "state-stale": "needs a memory of two updates before",
    "update-skipped": "of declared recipes alone",
}
"""Cause, or a text with hyphens that is none -> why no fault is planted for it."""
PLANTED = {
    key for fault in LOOP_FAULTS for key in (fault.cause, fault.mirrored, *fault.also) if key
}


def test_every_cause_has_a_planted_fault() -> None:
    assert cause_keys() - PLANTED - UNPLANTED.keys() == set()


def test_what_is_planted_is_not_listed_as_missing() -> None:
    assert not PLANTED & UNPLANTED.keys()


def test_keys_are_read_out_of_the_code() -> None:
    keys = cause_keys()
    assert {"gradient-stale", "norm-eps", "lr-factor", "attention-mask", "dropout"} <= keys
    assert len(keys) > 60
