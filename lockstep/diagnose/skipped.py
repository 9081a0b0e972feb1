"""The layers before the first divergence of two loops that were not compared: the fault may be in
one of these.
"""

from lockstep.diagnose.compare import Difference
from lockstep.diagnose.loops import is_loop
from lockstep.diagnose.names import split_name
from lockstep.records.trace import Trace

__all__ = ["skipped_before"]

NAMED = 5
"""Names in a line; more are counted."""
INPUT = ".input"
"""End of the name of a layer's recorded input, which says nothing of a layer before it."""


def skipped_before(first: Difference, a: Trace, b: Trace) -> str:
    """The layers between the last one that agrees and the first divergence of a forward pass or a
    loss, of either side, in words; "" where there are none, or where no layer was compared.
    """
    if not is_loop(a) or first.stage not in ("forward", "loss"):
        return ""
    compared = _outputs(a, first.update) & _outputs(b, first.update)
    if not compared:
        return ""
    layer = split_name(first.array)[2] if first.stage == "forward" else ""
    words = []
    for side, trace in (("a", a), ("b", b)):
        names = _skipped(trace, layer, compared)
        if names:
            words.append(f"{side}'s {_listed(names)}")
    return "; ".join(words)


def _outputs(trace: Trace, update: int) -> set[str]:
    """The layers of which an update has an output, or statistics of one."""
    names: set[str] = set()
    for key in trace.arrays:
        prefix, family, name = split_name(key)
        if family == "forward" and prefix in (f"detail/{update}/forward/", "statistics/forward/"):
            names.add(name)
    return names


def _skipped(trace: Trace, layer: str, compared: set[str]) -> list[str]:
    """The layers behind the last compared one before `layer`, or before the loss."""
    layers = [name for name in trace.header["layers"] if not name.endswith(INPUT)]
    if layer in layers:
        layers = layers[: layers.index(layer)]
    elif layer:
        return []
    skipped: list[str] = []
    while layers and layers[-1] not in compared:
        skipped.insert(0, layers.pop())
    return skipped


def _listed(names: list[str]) -> str:
    text = ", ".join(names[:NAMED])
    return f"{text} and {len(names) - NAMED} more" if len(names) > NAMED else text
