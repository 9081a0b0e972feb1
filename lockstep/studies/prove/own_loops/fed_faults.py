"""Faults in what a loop is fed: initial parameters, batches and learning rates."""

from lockstep.studies.prove.own_loops.faults import BASE, LoopFault, planted

__all__ = ["FED_FAULTS"]

FED_FAULTS: tuple[LoopFault, ...] = (
    *planted(
        "init-transposed",
        "square kernels begin transposed",
        "init",
        "init-transposed",
        ("transformer",),
        update=-1,
        right={"is_tied": False},
        start="transposed",
    ),
    *planted(
        "init-scaled",
        "kernels begin sqrt(2) times as large",
        "init",
        "init-scaled",
        update=-1,
        start="scaled",
    ),
    *planted(
        "rows-shuffled", "rows in another order", "batch", "other-order", feed="rows-shuffled"
    ),
    *planted(
        "features-over-n",
        "features standardised over n, not n - 1",
        "batch",
        "features-scaled",
        ("perceptron", "convolutional", "gru"),
        feed="features-over-n",
    ),
    *planted(
        "not-a-number",
        "a feature is NaN",
        "batch",
        "not-a-number",
        ("perceptron", "convolutional", "gru"),
        update=1,
        feed="not-a-number",
    ),
    *planted("lr-factor", "rates 1.05 times as high", "lr", "lr-factor", lr=1.05 * BASE.lr),
    *planted(
        "lr-early",
        "rates one update early",
        "lr",
        "lr-one-early",
        mirrored="lr-one-late",
        lr_offset=1,
    ),
    *planted(
        "lr-late",
        "rates one update late",
        "lr",
        "lr-one-late",
        mirrored="lr-one-early",
        lr_offset=-1,
    ),
)
"""In the order of the stages."""
