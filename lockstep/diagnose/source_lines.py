"""The lines of source that a cause is about, where an update's operations were recorded."""

from lockstep.records.trace import Trace

__all__ = ["source_lines"]

MOST = 3
"""Lines of a side."""


def source_lines(trace: Trace, update: int, stage: str, tensor: str) -> tuple[str, ...]:
    """The lines of a layer, or of the loss, such as "model.py:12 in forward", in the order of the
    calls; empty where no operations of the update were recorded.

    Args:
        trace: of a loop.
        update: counted from 0.
        stage: "forward" or "loss"; no other stage has lines.
        tensor: the layer, where the stage is "forward".
    """
    entries = (trace.header.get("operations") or {}).get(str(update), [])
    if stage == "forward":
        layer = tensor.removesuffix(".input")
        lines = [entry["line"] for entry in entries if entry["layer"] == layer]
    elif stage == "loss":
        inside = [place for place, entry in enumerate(entries) if entry["layer"]]
        lines = [entry["line"] for entry in entries[inside[-1] + 1 if inside else 0 :]]
    else:
        return ()
    return tuple(dict.fromkeys(filter(None, lines)))[:MOST]
