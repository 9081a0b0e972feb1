"""The laws that initial parameters are drawn from, by shape, and how wide an array lies."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Law", "Width", "laws_of", "width_of", "widths_apart"]

SURE = 4.0
"""Standard errors beyond which two widths are apart."""
NEAR = 3.0
"""Standard errors within which a width is a law's."""
UNIFORM = 1.8
"""The kurtosis of a uniform law; that of a normal one is 3."""
NOT_NORMAL = 2.3
REACH = 1.15
"""The largest of 64 values of a normal law is beyond so many times the end of a uniform one with
its deviation."""
PACKED = (3, 4, 2)
"""How many matrices of one kind may be packed in one: q, k and v; the gates of an LSTM."""


class Width(NamedTuple):
    """The deviation of an array's values, with its standard error, and whether it looks uniform:
    None where there are too few values to tell.
    """

    deviation: float
    error: float
    mean: float
    size: int
    is_uniform: bool | None


class Law(NamedTuple):
    """A way to draw an array: in words, its deviation, and how far-fetched it is."""

    words: str
    deviation: float
    is_uniform: bool
    pieces: int = 1


FEWEST_FOR_SHAPE = 64
"""Values from which a uniform law is told from a normal one."""


def width_of(array: NDArray[Any]) -> Width:
    """How wide an array's values lie."""
    values = np.asarray(array, np.float64).ravel()
    size = values.size
    mean = float(values.mean())
    deviation = float(values.std())
    centred = values - mean
    fourth = float((centred**4).mean())
    kurtosis = fourth / deviation**4 if deviation else 3.0
    is_uniform: bool | None = None
    if size >= FEWEST_FOR_SHAPE:
        # the error of a kurtosis is sqrt(24 / n) for a normal law and less for a uniform one
        root = float(np.sqrt(np.square(values).mean()))
        reach = math.sqrt(3) * REACH * root
        is_uniform = kurtosis < NOT_NORMAL and float(np.abs(values).max()) <= reach
    spread = max(kurtosis, 3.0 if size < FEWEST_FOR_SHAPE else UNIFORM) - 1
    error = deviation * math.sqrt(spread / (4 * size))
    if is_uniform:
        # the largest of n values of a uniform law is within 1 / n of its end
        deviation = float(np.abs(values).max()) * (size + 1) / size / math.sqrt(3)
        error = deviation * 2 / size
    return Width(deviation, error, mean, size, is_uniform)


def widths_apart(one: Width, other: Width) -> bool:
    """Whether two widths are of two laws."""
    if not one.deviation or not other.deviation:
        return one.deviation != other.deviation
    relative = math.hypot(one.error / one.deviation, other.error / other.deviation)
    return abs(math.log(one.deviation / other.deviation)) > SURE * relative


def laws_of(shape: tuple[int, ...], width: Width) -> list[Law]:
    """The known laws whose deviation for a shape is what was measured, the plainest first."""
    return [
        law
        for law in _laws(shape)
        if abs(law.deviation - width.deviation) <= NEAR * width.error
        and width.is_uniform in (None, law.is_uniform)
    ]


def _laws(shape: tuple[int, ...]) -> Iterator[Law]:
    """The laws for a shape in PyTorch's layout (out, in, ...), then for the same transposed, and
    for several matrices packed in it.
    """
    for words, deviation in (("a deviation of 0.02", 0.02), ("a deviation of 1", 1.0)):
        yield Law(words, deviation, False)
    yield Law("a deviation of 0.01", 0.01, False)
    yield Law("values within 0.05", 0.05 / math.sqrt(3), True)
    yield Law("values from 0 to 1", 1 / math.sqrt(12), True)
    if len(shape) < 2:
        return
    field = math.prod(shape[2:])
    # the fans of (out, in, height, width) and of (height, width, in, out) agree where these do
    fans = [(shape[1] * field, shape[0] * field, "", 1)]
    if shape[0] != shape[1]:
        fans.append((shape[0] * field, shape[1] * field, " with fan_in and fan_out exchanged", 1))
    for pieces in PACKED:
        for axis in (0, 1):
            # packed matrices are as a rule square: q, k and v of a width, the gates of a state
            if len(shape) == 2 and shape[axis] == pieces * shape[1 - axis]:
                inner = shape[1 - axis]
                fans.append((inner, shape[axis] // pieces, "", pieces))
    for fan_in, fan_out, more, pieces in fans:
        for words, deviation in _of_fans(fan_in, fan_out):
            for is_uniform in (True, False):
                kind = "uniform" if is_uniform else "normal"
                yield Law(f"{words} ({kind}){more}", deviation, is_uniform, pieces)


def _of_fans(fan_in: int, fan_out: int) -> Iterator[tuple[str, float]]:
    """Deviations by what goes in and out."""
    yield "Xavier", math.sqrt(2 / (fan_in + fan_out))
    yield "1 / sqrt(fan_in) as the bound, as PyTorch's default", 1 / math.sqrt(3 * fan_in)
    yield "LeCun", 1 / math.sqrt(fan_in)
    yield "He (Kaiming)", math.sqrt(2 / fan_in)
    yield "Xavier with a gain of 5/3", 5 / 3 * math.sqrt(2 / (fan_in + fan_out))
    yield "Xavier with a gain of sqrt(2)", math.sqrt(4 / (fan_in + fan_out))
    yield "He (Kaiming) by fan_out", math.sqrt(2 / fan_out)
