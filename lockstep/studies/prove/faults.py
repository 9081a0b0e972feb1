"""The planted faults: what goes wrong in a twin, on which recipe, and what must be found."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lockstep.backends import BACKENDS
from lockstep.data_prep import PreparedData
from lockstep.recipe import Recipe
from lockstep.studies.prove import wrong_feeds
from lockstep.studies.prove.wrong_feeds import Feed

__all__ = ["BASE", "FAULTS", "PlantedFault"]

Float64 = NDArray[np.float64]

BASE: dict[str, Any] = {
    # 90 rows in batches of 32: two full ones and one of 26; 4 epochs of 3 updates are 12
    "data.rows": 90,
    "data.features": 6,
    "data.classes": 3,
    "data.held_out": 0.999,  # as many rows: JAX compiles the evaluation once
    "model.hidden": (6,),
    "schedule.warmup": 2,
    "schedule.peak": 0.05,
    "training.epochs": 4,
    "training.dtype": "float64",
}


@dataclass(frozen=True, kw_only=True)
class PlantedFault:
    """One fault, planted in one twin at a time.

    It lies in the recipe that the twin trains (`wrong`), in the data that the twin is fed (`feed`),
    or in the twin's code, under this key in `pt_impl.proof.faults` and `jax_impl.proof.faults`.
    """

    key: str
    text: str
    """What goes wrong."""
    stage: str
    """The stage of the first difference."""
    update: int
    """The update of the first difference, counted from 0; -1 is before training."""
    cause: str
    """The key of the cause that explains it, in `lockstep.diagnose.causes`."""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """Fields that differ from `BASE`."""
    wrong: Mapping[str, Any] = field(default_factory=dict)
    """Fields that the twin gets wrong."""
    feed: Feed | None = None
    """Makes what the twin is fed in place of the data."""
    is_bounded: bool = True
    """Whether the oracle and its bounds judge. The bounds let a ReLU fall on either side of its
    kink.
    """
    twins: tuple[str, ...] = BACKENDS

    @property
    def is_in_code(self) -> bool:
        """Whether it is planted in the plain engine's code, which the fast one does not run."""
        return not (self.wrong or self.feed)

    @property
    def right(self) -> Recipe:
        """The recipe, in float64."""
        return Recipe().with_values(BASE | dict(self.recipe))


def _float32(name: str, array: Float64) -> Float64:
    return array.astype(np.float32).astype(np.float64)


def _raw(data: PreparedData, x_ND: Float64) -> Float64:
    return x_ND * data.scale_D + data.mean_D


def _scaled_by_n_minus_1(data: PreparedData, x_ND: Float64) -> Float64:
    rows = len(data.train_y_N)
    scaled: Float64 = x_ND * np.sqrt((rows - 1) / rows)
    return scaled


SQUARE = {"model.hidden": (6,), "data.classes": 6, "data.rows": 120}
DROPOUT = {"model.dropout": 0.25}
AT_THE_KINK = {"model.hidden": (3, 5), "model.dropout": 0.75, "model.init": "flax"}
"""Dropout leaves a row no unit of the first layer, and biases begin at 0. The second ReLU then gets
exactly 0.
"""
LAYER_NORM = {"model.norm": "layer"}
BATCH_NORM = {"model.norm": "batch"}
GELU = {"model.activation": "gelu"}
MSE = {"loss.name": "mse"}
HUBER = {"loss.name": "huber"}
BINARY = {"loss.name": "binary_cross_entropy", "data.classes": 2}
WEIGHTED = {"loss.class_weights": (0.5, 1.0, 2.0)}
IGNORING = {"loss.ignored_class": "1"}
ACCUMULATING = {"gradient.accumulate": 2, "data.rows": 128}
CLIPPING = {"gradient.clip": "norm", "gradient.clip_at": 0.05}
DECAYING = {"optimizer.weight_decay": 0.05}
ADAM = {"optimizer.name": "adam", "schedule.peak": 0.01}
ADAM_L2 = ADAM | DECAYING
ADAMW = ADAM_L2 | {"optimizer.name": "adamw"}
AVERAGING = {"average.decay": 0.9}

INIT = (
    PlantedFault(
        key="init-transposed",
        text="square kernels begin transposed",
        stage="init", update=-1, cause="init-transposed",
        recipe=SQUARE, feed=wrong_feeds.parameters_by(lambda name, array: array.T),
    ),
    PlantedFault(
        key="init-scaled",
        text="initial weights sqrt(2) times as wide",
        stage="init", update=-1, cause="init-scaled",
        feed=wrong_feeds.parameters_by(lambda name, array: array * 2**0.5),
    ),
    PlantedFault(
        key="init-rounded",
        text="initial parameters rounded to float32",
        stage="init", update=-1, cause="init-rounded",
        feed=wrong_feeds.parameters_by(_float32),
    ),
    PlantedFault(
        key="init-other-seed",
        text="initial parameters of another seed",
        stage="init", update=-1, cause="other-init",
        feed=wrong_feeds.other_seed,
    ),
)  # fmt: skip

BATCH = (
    PlantedFault(
        key="batch-with-replacement",
        text="rows drawn with replacement",
        stage="batch",
        update=0,
        cause="other-rows",
        feed=wrong_feeds.drawn_anew,
    ),
    PlantedFault(
        key="batch-other-order",
        text="the order of the next epoch",
        stage="batch",
        update=0,
        cause="other-order",
        feed=wrong_feeds.order_of_next_epoch,
    ),
    PlantedFault(
        key="batch-dropped-last",
        text="the short last batch dropped",
        stage="batch",
        update=2,
        cause="dropped-last-batch",
        feed=wrong_feeds.dropped_last,
    ),
    PlantedFault(
        key="batch-padding-counts",
        text="the padding of the short last batch counts",
        stage="batch",
        update=2,
        cause="padded-batch",
        feed=wrong_feeds.padding_counts,
    ),
    PlantedFault(
        key="batch-labels-shifted",
        text="each row has the label of the one before",
        stage="batch",
        update=0,
        cause="labels-shifted",
        feed=wrong_feeds.shifted_labels,
    ),
    PlantedFault(
        key="batch-not-standardised",
        text="features not standardised",
        stage="batch",
        update=0,
        cause="features-scaled",
        feed=wrong_feeds.features_by(_raw),
    ),
    PlantedFault(
        key="batch-scaled-by-n-minus-1",
        text="features standardised by the deviation over n - 1",
        stage="batch",
        update=0,
        cause="features-scaled",
        feed=wrong_feeds.features_by(_scaled_by_n_minus_1),
    ),
    PlantedFault(
        key="batch-not-a-number",
        text="one feature of one row is NaN",
        stage="batch",
        update=1,
        cause="not-a-number",
        feed=wrong_feeds.one_not_a_number,
    ),
)

FORWARD = (
    PlantedFault(
        key="kernel-transposed",
        text="square kernels multiply transposed",
        stage="forward",
        update=0,
        cause="kernel-transposed",
        recipe=SQUARE,
    ),
    PlantedFault(
        key="bias-missing",
        text="linear layers add no bias",
        stage="forward",
        update=0,
        cause="bias-missing",
    ),
    PlantedFault(
        key="activation-leaky",
        text="leaky ReLU for ReLU",
        stage="forward",
        update=0,
        cause="other-activation",
    ),
    PlantedFault(
        key="activation-gelu-tanh",
        text="GELU by its tanh formula for the error function",
        stage="forward",
        update=0,
        cause="gelu-approximation",
        recipe=GELU,
    ),
    PlantedFault(
        key="activation-silu",
        text="SiLU for GELU",
        stage="forward",
        update=0,
        cause="other-activation",
        recipe=GELU,
    ),
    PlantedFault(
        key="norm-eps",
        text="layer normalisation with Flax's eps, 1e-6 for 1e-5",
        stage="forward",
        update=0,
        cause="norm-eps",
        recipe=LAYER_NORM,
        wrong={"model.norm_eps": 1e-6},
    ),
    PlantedFault(
        key="norm-unbiased",
        text="layer normalisation by the variance over n - 1",
        stage="forward",
        update=0,
        cause="norm-variance",
        recipe=LAYER_NORM,
    ),
    PlantedFault(
        key="norm-evaluating",
        text="batch normalisation trains in evaluation mode",
        stage="forward",
        update=0,
        cause="norm-evaluation-mode",
        recipe=BATCH_NORM,
    ),
    PlantedFault(
        key="dropout-not-scaled",
        text="units that stay are not scaled by 1 / (1 - dropout)",
        stage="forward",
        update=0,
        cause="dropout-scale",
        recipe=DROPOUT,
        wrong={"model.dropout": 0.0},
    ),
    PlantedFault(
        key="dropout-missing",
        text="no unit is dropped",
        stage="forward",
        update=0,
        cause="dropout-missing",
        recipe=DROPOUT,
        wrong={"model.dropout": 0.0},
    ),
    PlantedFault(
        key="dropout-inverted",
        text="the mask taken for the units to drop",
        stage="forward",
        update=0,
        cause="other-mask",
        recipe=DROPOUT,
    ),
    PlantedFault(
        key="dropout-other-masks",
        text="the dropout masks of the next epoch",
        stage="batch",
        update=0,
        cause="other-mask",
        recipe=DROPOUT,
        feed=wrong_feeds.masks_of_next_epoch,
    ),
    PlantedFault(
        key="products-in-bfloat16",
        text="factors of products rounded to bfloat16",
        stage="forward",
        update=0,
        cause="low-precision-matmul",
    ),
    PlantedFault(
        key="parameters-stale",
        text="the forward pass keeps the parameters that it was traced with",
        stage="forward",
        update=1,
        cause="stale-parameters",
    ),
)

LOSS = (
    PlantedFault(
        key="loss-sum",
        text="sum over the rows for their mean",
        stage="loss", update=0, cause="sum-for-mean",
    ),
    PlantedFault(
        key="loss-full-size",
        text="the short batch divided by the full size",
        stage="loss", update=2, cause="full-size-mean",
    ),
    PlantedFault(
        key="loss-smoothed",
        text="label smoothing of 1e-3",
        stage="loss", update=0, cause="label-smoothing", wrong={"loss.label_smoothing": 1e-3},
    ),
    PlantedFault(
        key="loss-half",
        text="half the squared error (optax.l2_loss)",
        stage="loss", update=0, cause="half-loss", recipe=MSE,
    ),
    PlantedFault(
        key="loss-weighted-by-rows",
        text="class weights, and a mean over the rows",
        stage="loss", update=0, cause="weighted-mean", recipe=WEIGHTED,
    ),
    PlantedFault(
        key="loss-ignored-counts",
        text="ignored rows count as the last class (-1 in Optax)",
        stage="loss", update=0, cause="ignored-label", recipe=IGNORING,
    ),
    PlantedFault(
        key="loss-huber",
        text="Huber's loss for the squared error",
        stage="loss", update=0, cause="other-loss", recipe=MSE, wrong={"loss.name": "huber"},
    ),
    PlantedFault(
        key="loss-huber-delta",
        text="Huber's loss with delta 0.9 for 1",
        stage="loss", update=0, cause="other-loss", recipe=HUBER, wrong={"loss.delta": 0.9},
    ),
)  # fmt: skip

GRADIENTS = (
    PlantedFault(
        key="gradients-doubled",
        text="gradients twice as large",
        stage="gradients",
        update=0,
        cause="gradient-scaled",
    ),
    PlantedFault(
        key="gradients-negated",
        text="gradients with the wrong sign",
        stage="gradients",
        update=0,
        cause="gradient-sign",
    ),
    PlantedFault(
        key="gradients-missing",
        text="no gradient reaches the first layer",
        stage="gradients",
        update=0,
        cause="gradient-missing",
    ),
    PlantedFault(
        key="gradients-summed",
        text="accumulated gradients summed, not averaged",
        stage="gradients",
        update=0,
        cause="accumulation-sum",
        recipe=ACCUMULATING,
    ),
    PlantedFault(
        key="gradients-not-cleared",
        text="gradients not cleared between updates",
        stage="gradients",
        update=1,
        cause="gradient-stale",
        twins=("torch",),
    ),
    PlantedFault(
        key="gradients-at-the-kink",
        text="the slope 1 for ReLU where its input is 0",
        stage="gradients",
        update=0,
        cause="gradient-at-the-kink",
        recipe=AT_THE_KINK,
        is_bounded=False,
    ),
    PlantedFault(
        key="gradients-relu-flipped",
        text="rounding of a 0 in front of a ReLU to 1e-20",
        stage="gradients",
        update=0,
        cause="relu-flip",
        recipe=AT_THE_KINK,
        is_bounded=False,
    ),
)

CLIP = (
    PlantedFault(
        key="clip-eps",
        text="clipping with PyTorch's eps, 1e-6 for 0",
        stage="clip",
        update=0,
        cause="clip-eps",
        recipe=CLIPPING,
        wrong={"gradient.clip_eps": 1e-6},
    ),
    PlantedFault(
        key="clip-missing",
        text="no clipping",
        stage="clip",
        update=0,
        cause="clip-missing",
        recipe=CLIPPING,
    ),
    PlantedFault(
        key="clip-by-value",
        text="clipping by value for by norm",
        stage="clip",
        update=0,
        cause="clip-by-value",
        recipe=CLIPPING,
    ),
    PlantedFault(
        key="clip-per-tensor",
        text="each tensor clipped by its own norm",
        stage="clip",
        update=0,
        cause="clip-per-tensor",
        recipe=CLIPPING,
    ),
)

LR = (
    PlantedFault(
        key="lr-late",
        text="learning rate one update late",
        stage="lr", update=3, cause="lr-late",
    ),
    PlantedFault(
        key="lr-early",
        text="learning rate one update early",
        stage="lr", update=2, cause="lr-early",
    ),
    PlantedFault(
        key="lr-rounded",
        text="learning rate rounded to float32",
        stage="lr", update=0, cause="lr-rounded",
    ),
    PlantedFault(
        key="lr-scaled",
        text="learning rate 0.1 % too high",
        stage="lr", update=0, cause="lr-scaled", wrong={"schedule.peak": 0.05005},
    ),
    PlantedFault(
        key="lr-ramp-from-0",
        text="warmup by t/W for (t+1)/W",
        stage="lr", update=0, cause="other-ramp", wrong={"schedule.ramp": "t/W"},
    ),
    PlantedFault(
        key="lr-ramp-past-end",
        text="warmup by (t+1)/(W+1) for (t+1)/W",
        stage="lr", update=0, cause="other-ramp", wrong={"schedule.ramp": "(t+1)/(W+1)"},
    ),
    PlantedFault(
        key="lr-half-applied",
        text="learning rate reported right, half of it applied",
        stage="update", update=0, cause="lr-not-applied",
    ),
    PlantedFault(
        key="lr-applied-late",
        text="learning rate reported right, applied one update late",
        stage="update", update=3, cause="lr-not-applied", twins=("jax",),
    ),
)  # fmt: skip

UPDATE = (
    PlantedFault(
        key="momentum-complement",
        text="momentum 0.1 for 0.9, as the share of the new",
        stage="moments",
        update=1,
        cause="momentum-complement",
        wrong={"optimizer.momentum": 1 - 0.9},
    ),
    PlantedFault(
        key="momentum-other",
        text="momentum 0.89 for 0.9",
        stage="moments",
        update=1,
        cause="other-momentum",
        wrong={"optimizer.momentum": 0.89},
    ),
    PlantedFault(
        key="momentum-nesterov",
        text="Nesterov's momentum for the plain one",
        stage="update",
        update=0,
        cause="nesterov",
        wrong={"optimizer.nesterov": True},
    ),
    PlantedFault(
        key="momentum-dampened",
        text="dampening of 0.1",
        stage="moments",
        update=1,
        cause="dampening",
        wrong={"optimizer.dampening": 0.1},
    ),
    PlantedFault(
        key="momentum-forgotten",
        text="the optimizer made anew in each epoch",
        stage="moments",
        update=3,
        cause="state-forgotten",
    ),
    PlantedFault(
        key="update-ascends",
        text="updates go up the gradient",
        stage="parameters",
        update=0,
        cause="ascent",
    ),
    PlantedFault(
        key="update-skipped",
        text="update 5 not applied",
        stage="update",
        update=5,
        cause="update-skipped",
    ),
    PlantedFault(
        key="update-not-a-number",
        text="update 5 is NaN",
        stage="update",
        update=5,
        cause="not-a-number",
    ),
    PlantedFault(
        key="decay-missing-sgd",
        text="no weight decay for 1e-4 (L2)",
        stage="moments",
        update=0,
        cause="decay-missing",
        recipe={"optimizer.weight_decay": 1e-4},
        wrong={"optimizer.weight_decay": 0.0},
    ),
    PlantedFault(
        key="decay-after-momentum",
        text="L2 decay added after the momentum",
        stage="moments",
        update=0,
        cause="decay-after-momentum",
        recipe=DECAYING,
    ),
    PlantedFault(
        key="decay-missing",
        text="AdamW without its decay",
        stage="update",
        update=0,
        cause="decay-missing",
        recipe=ADAMW,
        wrong={"optimizer.weight_decay": 0.0},
    ),
    PlantedFault(
        key="decay-of-torch",
        text="weight decay of PyTorch's default, 0.01 for 0.05",
        stage="update",
        update=0,
        cause="other-decay",
        recipe=ADAMW,
        wrong={"optimizer.weight_decay": 0.01},
    ),
    PlantedFault(
        key="decay-of-optax",
        text="weight decay of Optax's default, 1e-4 for 0.05",
        stage="update",
        update=0,
        cause="other-decay",
        recipe=ADAMW,
        wrong={"optimizer.weight_decay": 1e-4},
    ),
    PlantedFault(
        key="decay-on-bias",
        text="biases decay too",
        stage="update",
        update=0,
        cause="decay-on-bias",
        recipe=ADAMW | {"optimizer.decay_on": "weights"},
        wrong={"optimizer.decay_on": "all"},
    ),
    PlantedFault(
        key="decay-l2",
        text="L2 for decoupled weight decay",
        stage="moments",
        update=0,
        cause="l2-for-decoupled",
        recipe=ADAMW,
        wrong={"optimizer.name": "adam"},
    ),
    PlantedFault(
        key="decay-decoupled",
        text="decoupled weight decay for L2",
        stage="moments",
        update=0,
        cause="decoupled-for-l2",
        recipe=ADAM_L2,
        wrong={"optimizer.name": "adamw"},
    ),
    PlantedFault(
        key="adam-no-bias-correction",
        text="Adam without bias correction",
        stage="update",
        update=0,
        cause="no-bias-correction",
        recipe=ADAM,
    ),
    PlantedFault(
        key="adam-eps",
        text="eps 1e-7 for 1e-8",
        stage="update",
        update=0,
        cause="other-eps",
        recipe=ADAM,
        wrong={"optimizer.eps": 1e-7},
    ),
    PlantedFault(
        key="adam-eps-in-root",
        text="eps inside the root",
        stage="update",
        update=0,
        cause="eps-in-root",
        recipe=ADAM,
        wrong={"optimizer.eps_in_root": True},
    ),
    PlantedFault(
        key="adam-beta1",
        text="beta1 0.95 for 0.9",
        stage="moments",
        update=0,
        cause="other-beta",
        recipe=ADAM,
        wrong={"optimizer.beta1": 0.95},
    ),
    PlantedFault(
        key="adam-beta2",
        text="beta2 0.99 for 0.999",
        stage="moments",
        update=0,
        cause="other-beta",
        recipe=ADAM,
        wrong={"optimizer.beta2": 0.99},
    ),
    PlantedFault(
        key="adam-amsgrad",
        text="AMSGrad for Adam",
        stage="update",
        update=3,
        cause="amsgrad",
        recipe=ADAM,
        wrong={"optimizer.amsgrad": "raw"},
    ),
)

AFTER = (
    PlantedFault(
        key="norm-running-variance",
        text="running variance over n for n - 1",
        stage="parameters",
        update=0,
        cause="norm-variance",
        recipe=BATCH_NORM,
        wrong={"model.norm_variance": "biased"},
    ),
    PlantedFault(
        key="norm-running-share",
        text="running statistics keep 0.1 for 0.9 (PyTorch's momentum in Flax)",
        stage="parameters",
        update=0,
        cause="momentum-complement",
        recipe=BATCH_NORM,
        wrong={"model.norm_momentum": 0.9},
    ),
    PlantedFault(
        key="average-from-0",
        text="the average begins at 0, not as a copy",
        stage="init",
        update=-1,
        cause="average-start",
        recipe=AVERAGING,
        wrong={"average.start": "zero"},
    ),
    PlantedFault(
        key="average-decay",
        text="the average keeps 0.99 for 0.9",
        stage="average",
        update=0,
        cause="average-decay",
        recipe=AVERAGING,
        wrong={"average.decay": 0.99},
    ),
    PlantedFault(
        key="metrics-in-training-mode",
        text="evaluated in training mode",
        stage="metrics",
        update=2,
        cause="metrics-in-training-mode",
        recipe=BATCH_NORM,
    ),
    PlantedFault(
        key="metrics-mean-of-means",
        text="the mean of the batches' mean losses",
        stage="metrics",
        update=2,
        cause="mean-of-means",
    ),
    PlantedFault(
        key="metrics-threshold",
        text="a logit taken for a probability: above 0.5 for above 0",
        stage="metrics",
        update=2,
        cause="accuracy-other",
        recipe=BINARY,
    ),
)

FAULTS: dict[str, PlantedFault] = {
    fault.key: fault
    for fault in (*INIT, *BATCH, *FORWARD, *LOSS, *GRADIENTS, *CLIP, *LR, *UPDATE, *AFTER)
}
"""Every planted fault by its key, in causal order."""
