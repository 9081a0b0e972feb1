"""A setting of one side, measured from that side's own tensors."""

from typing import NamedTuple

__all__ = ["Measurement"]


class Measurement(NamedTuple):
    """A setting of a loop as its tensors give it.

    Attributes:
        stage: the stage that was recomputed, such as "forward" or "update".
        tensor: the layer or parameter it is of; "" for all.
        update: counted from 0.
        quantity: what is measured, in words: "weight decay", "eps".
        value: the least-squares estimate.
        error: the standard error of the value that the roundings of the operation leave, by the
            residuals; 0 where the value is exact.
        page: the atlas page on a difference in it, or "".
    """

    stage: str
    tensor: str
    update: int
    quantity: str
    value: float
    error: float
    page: str = ""
