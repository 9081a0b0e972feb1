"""Up to which update two loops have the same bits, and the first tensors that have others."""

from lockstep.diagnose.compare import STAGES, place_in_stage
from lockstep.diagnose.summaries import is_same_at, same_updates
from lockstep.records.trace import Trace

__all__ = ["note_on_bits"]

FAMILIES = ("forward", "gradients", "clip", "moments", "parameters")


def note_on_bits(a: Trace, b: Trace) -> str:
    """A note on the first sketches or statistics that differ in any bit; "" where the first update
    has others, or none has.

    Two runs of one program have the same bits up to what is changed. A bound on rounding says
    nothing then that the bits do not say sooner.

    Args:
        a: a loop's trace.
        b: another's, in the names and layouts of `a`.
    """
    same = same_updates(a, b)
    if not 0 < same < int(a.header["updates"]):
        return ""
    others = []
    for name in a.arrays:
        kind, _, rest = name.partition("/")
        family, _, tensor = rest.partition("/")
        is_table = kind in ("statistics", "sketches") and family in FAMILIES
        if is_table and not is_same_at(a, b, name, same):
            rank = place_in_stage(a, family, tensor)
            others.append((STAGES.index(family), rank, f"{family} of {tensor}"))
    if not others:
        return ""
    texts = list(dict.fromkeys(text for _, _, text in sorted(others)))
    more = f" and {len(texts) - 1} more" if len(texts) > 1 else ""
    return f"the same bits before update {same}; first others there: {texts[0]}{more}"
