"""Faults in the gradients and in the step of an optimizer."""

from lockstep.studies.prove.own_loops.faults import ADAMW, EXACT, STEP, LoopFault, planted

__all__ = ["STEP_FAULTS"]

STEP_FAULTS: tuple[LoopFault, ...] = (
    *planted(
        "zero-grad-forgotten",
        "gradients are not cleared",
        "gradients",
        "gradient-stale",
        also=("gradients-stale",),
        update=1,
        is_zeroed=False,
    ),
    *planted(
        "accumulation-sum",
        "gradients of micro-batches are not averaged",
        "gradients",
        "accumulation-sum",
        ("perceptron",),
        right={"micro": 2},
        precisions=EXACT,
        is_divided=False,
    ),
    *planted(
        "accumulation-sum-of-texts",
        "gradients of micro-batches of texts are not averaged",
        "gradients",
        "gradient-scaled",
        ("transformer",),
        right={"micro": 2},
        precisions=EXACT,
        is_divided=False,
    ),
    *planted(
        "accumulation-sum-in-bfloat16",
        "gradients of micro-batches in mixed precision are not averaged",
        "gradients",
        "gradient-scaled",
        ("transformer", "perceptron"),
        right={"micro": 2},
        precisions=("mixed",),
        also=("gradients-scaled",),
        is_divided=False,
    ),
    *planted(
        "clip-forgotten",
        "gradients are not clipped",
        f"clip {STEP}",
        "clip-norm",
        ("transformer", "perceptron"),
        right={"clip": 0.1},
        clip=0.0,
    ),
    *planted(
        "momentum", "momentum 0.95 for 0.9", f"moments {STEP}", "momentum", update=1, momentum=0.95
    ),
    *planted("nesterov", "Nesterov's step", STEP, "nesterov", is_nesterov=True),
    *planted(
        "dampening",
        "momentum dampened by 0.1",
        f"moments {STEP}",
        "dampening",
        update=1,
        dampening=0.1,
    ),
    *planted(
        "l2-in-sgd",
        "weight decay 0.01 for 0",
        f"moments {STEP}",
        "weight-decay-in-the-gradient",
        weight_decay=0.01,
    ),
    *planted(
        "beta1", "beta1 0.95 for 0.9", "moments", "beta1", ("perceptron",), right=ADAMW, beta1=0.95
    ),
    *planted(
        "beta2",
        "beta2 0.95 for 0.999",
        "moments",
        "beta2",
        ("perceptron",),
        right=ADAMW,
        beta2=0.95,
    ),
    *planted(
        "adam-eps", "eps 1e-6 for 1e-8", STEP, "eps", ("perceptron",), right=ADAMW, adam_eps=1e-6
    ),
    *planted(
        "weight-decay",
        "weight decay 0.01 for 0.1",
        STEP,
        "weight-decay",
        ("perceptron",),
        right=ADAMW,
        weight_decay=0.01,
    ),
    *planted(
        "decay-of-norms",
        "norms and biases decay too",
        STEP,
        "weight-decay",
        ("perceptron",),
        right=ADAMW | {"groups": 2},
        decays_norms=True,
    ),
    *planted(
        "adam-for-adamw",
        "the decay is in the gradient",
        f"moments {STEP}",
        "weight-decay-in-the-gradient",
        ("perceptron",),
        right=ADAMW,
        optimizer="adam",
    ),
    *planted(
        "amsgrad",
        "the largest second moment divides",
        f"moments {STEP}",
        "optimizer",
        ("perceptron",),
        right=ADAMW,
        is_amsgrad=True,
    ),
    *planted(
        "no-bias-correction",
        "moments are not corrected",
        STEP,
        "bias-correction",
        ("perceptron",),
        right=ADAMW | {"optimizer_code": "written"},
        is_bias_corrected=False,
    ),
    *planted(
        "rmsprop-decay",
        "RMSprop's decay 0.9 for 0.99",
        f"moments {STEP}",
        "decay",
        ("perceptron",),
        right={"optimizer": "rmsprop", "lr": 1e-3},
        decay=0.9,
    ),
)
"""In the order of the stages."""
