"""The norms of gradient and step over the tensors that two loops have in common."""

import numpy as np

from lockstep.diagnose.naming.name_map import NameMap
from lockstep.records.trace import Trace
from lockstep.tensor_file import arrays_below

__all__ = ["with_common_norms"]


def with_common_norms(a: Trace, b: Trace, names: NameMap) -> tuple[Trace, Trace, list[str]]:
    """Both traces with norms over the tensors that both have and train, and a note of each norm
    that had to be left out.

    A recorder takes its norms over all tensors of its side. Where the map leaves some out, or one
    side takes running statistics for parameters, they are taken again from the tensors, if these
    were recorded at every update on both sides.
    """
    has_other_buffers = _trained(a) != _trained(b) and bool(_trained(a) and _trained(b))
    norms = []
    if names.leaves_out:
        norms.append("grad_norm")
    if names.leaves_out or has_other_buffers:
        norms.append("update_norm")
    notes = []
    for norm in norms:
        key = f"updates/{norm}"
        if key not in a.arrays or key not in b.arrays:
            continue
        again_a, again_b = (_again(norm, trace, other) for trace, other in ((a, b), (b, a)))
        for trace, again in ((a, again_a), (b, again_b)):
            del trace.arrays[key]
            if again_a is not None and again_b is not None and again is not None:
                trace.arrays[key] = again
        if again_a is None or again_b is None:
            notes.append(
                f"{norm} is not compared: it is over tensors that only one side has, and was not "
                "recorded of each tensor at every update"
            )
    return a, b, notes


def _trained(trace: Trace) -> set[str]:
    return trace.shapes.keys() - set(trace.header["buffers"])


def _again(norm: str, trace: Trace, other: Trace) -> np.ndarray | None:
    """A norm (T,) of a trace over the tensors that the other has as well; None where they were not
    recorded at every update.
    """
    values = []
    for update in range(trace.header["updates"]):
        if norm == "grad_norm":
            arrays = arrays_below(trace.arrays, f"detail/{update}/gradients/")
            common = arrays.keys() & arrays_below(other.arrays, f"detail/{update}/gradients/")
            changes = [arrays[name].astype(np.float64) for name in arrays if name in common]
        else:
            before = trace.parameters(update)
            after = trace.parameters(update + 1)
            common = _trained(trace) & _trained(other) & before.keys() & after.keys()
            changes = [
                after[name].astype(np.float64) - before[name] for name in after if name in common
            ]
        if not changes:
            return None
        with np.errstate(all="ignore"):
            squares = sum(np.square(change).sum() for change in changes)
            values.append(np.sqrt(squares))
    return np.array(values, np.float64)
