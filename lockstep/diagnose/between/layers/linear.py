"""Linear layers: the kernel that is used, whether its bias is added, and the precision of the
product.
"""

from collections.abc import Iterator

import numpy as np

from lockstep.diagnose.between.explanation import Explanation
from lockstep.diagnose.between.layers.places import Place, contrast_of, gap
from lockstep.diagnose.between.layers.ways import Topic, Way, Words, told_apart
from lockstep.diagnose.between.pair import LoopPair
from lockstep.diagnose.causes.precision import FORMATS, rounded_to
from lockstep.diagnose.local.normed_kernels import kernel_parts
from lockstep.numbers import number
from lockstep.oracle.arithmetic import Array

__all__ = ["linear"]

IDEA = "another kernel, bias or precision of a linear layer"
TOPICS = {
    "kernel": Topic("other-kernel", "kernel-layout"),
    "bias": Topic("bias-missing", ""),
    "product": Topic("low-precision-matmul", ""),
    "scale": Topic("linear-scaled", ""),
    "input": Topic("other-input", ""),
}
MOST_KERNELS = 40
WIDE = Words("multiplies in", "full precision")
TIED = ("embed", "wte", "token")


def linear(pair: LoopPair) -> Iterator[Explanation]:
    """That a linear layer uses another kernel, bias, factor or precision on either side."""
    place = contrast_of(pair)
    if place is None or place.mine.ndim < 2:
        return
    if kernel_parts(place.own) is not None:  # its factor is that of the normalisation
        return
    if not place.is_finite:
        return
    explanation = told_apart(pair, place, TOPICS, _ways(place), IDEA)
    if explanation is None:
        return
    if explanation.text.endswith((" b adds no bias, a its bias", " b adds its bias, a no bias")):
        without = "b" if "b adds no bias" in explanation.text else "a"
        explanation = explanation._replace(text=f"{without}'s {place.layer} is without its bias")
    yield explanation


def _ways(place: Place) -> Iterator[Way]:
    own = [name for name, kernel in place.parameters.items() if _is_own(kernel, place)]
    others = [
        name for name, kernel in place.parameters.items() if kernel.ndim == 2 and name not in own
    ]
    for source, x in place.floats():
        if x.ndim < 2 or x.shape[:-1] != place.mine.shape[:-1]:
            continue
        for name in (*own, *others[:MOST_KERNELS]):
            is_own = name in own
            for words, kernel in _turned(name, place.parameters[name], is_own=is_own):
                if kernel.shape == (x.shape[-1], place.mine.shape[-1]):
                    yield from _products(place, Words("takes in", source), x, words, kernel)


def _is_own(kernel: Array, place: Place) -> bool:
    return kernel.ndim == 2 and any(kernel is other for other in place.own.values())


def _turned(name: str, kernel: Array, *, is_own: bool) -> Iterator[tuple[Words, Array]]:
    """A kernel as it is and transposed. One that is not square fits in one layout alone."""
    verb = "multiplies by"
    is_square = kernel.shape[0] == kernel.shape[1]
    is_tied = any(word in name.lower() for word in TIED)
    for turned, word in ((kernel.T, f"{name} as (out, in)"), (kernel, f"{name} as (in, out)")):
        if is_own and not is_square:
            yield Words(verb, "its own kernel"), turned
        elif is_own:
            yield Words(verb, word), turned
        else:
            yield Words(verb, f"{name} (tied)" if is_tied else name), turned


def _products(place: Place, source: Words, x: Array, words: Words, kernel: Array) -> Iterator[Way]:
    product = x @ kernel
    shape = place.mine.shape[-1:]
    bias = next((v for role, v in place.own.items() if v.shape == shape), None)
    one = Words("scales its product", "not at all", 1.0)
    with_bias, without = Words("adds", "its bias"), Words("adds", "no bias")

    def way(array: Array, scale: Words, added: Words, precision: Words) -> Way:
        knobs = {
            "kernel": words,
            "bias": added,
            "scale": scale,
            "product": precision,
            "input": source,
        }
        return Way(knobs, array)

    shifts = [(without, np.zeros(1))]
    if bias is not None:
        shifts.insert(0, (with_bias, bias))
    for added, shift in shifts:
        yield way(product + shift, one, added, WIDE)
        if min(gap(product + shift, target) for target in place.targets) > 10 * place.tolerance:
            squares = float(np.square(product).sum())
            for target in place.targets:
                factor = float((product * (target - shift)).sum()) / max(squares, 1e-300)
                scaled = Words("scales its product", f"by {number(factor)}", factor)
                yield way(factor * product + shift, scaled, added, WIDE)
        for name in FORMATS:
            low = rounded_to(name, x) @ rounded_to(name, kernel) + shift
            yield way(low, one, added, Words("multiplies in", name))
            rounded = rounded_to(name, low)
            yield way(rounded, one, added, Words("multiplies in", f"{name}, and rounds to it"))
            stored = rounded_to(name, product + shift)
            yield way(stored, one, added, Words("multiplies in", f"full and rounds to {name}"))
