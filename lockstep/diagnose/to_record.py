"""What to record of two loops to know more of where they part."""

from collections.abc import Iterator

from lockstep.diagnose.compare import Difference
from lockstep.diagnose.loops import is_loop
from lockstep.diagnose.operations import advice_on_operations
from lockstep.records.trace import Trace

__all__ = ["to_record"]

FED = ("forward", "loss", "gradients")
"""Stages that are computed from the batch."""
STEPPED = ("moments", "update", "parameters")
"""Stages that the optimizer computes."""


def to_record(first: Difference, a: Trace, b: Trace) -> tuple[str, ...]:
    """What either loop did not record and would tell more, the most telling first; empty for traces
    of a recipe.
    """
    if not is_loop(a) or first.update < 0:
        return ()
    return tuple(dict.fromkeys(_missing(first, a, b)))


def _missing(first: Difference, a: Trace, b: Trace) -> Iterator[str]:
    for side, trace in (("a", a), ("b", b)):
        if first.stage == "lr":
            if not (_states(trace, "schedule") or _reads(trace, "schedulers")):
                yield f"{side}: Recorder(settings={{'schedule': ...}}), or the scheduler in watch()"
            continue
        if first.update not in trace.header.get("detail", []):
            window = f"range({first.update}, {first.update + 1})"
            yield f"{side}: Recorder(window={window}) for all tensors"
            continue
        if first.stage in FED and not _holds(trace, first.update, "batch"):
            yield f"{side}: update(batch=...), the rows and labels of the update"
        if first.stage in FED and not _holds(trace, first.update, "forward"):
            yield f"{side}: watch(model, optimizer), for the outputs of the layers"
        if first.stage in STEPPED:
            if not _holds(trace, first.update, "moments"):
                yield f"{side}: the optimizer's moments, as watch() or update(moments=...) does"
            if not (_states(trace, "optimizer") or _reads(trace, "optimizers")):
                yield f"{side}: the optimizer's settings, as watch() reads them"
    advice = advice_on_operations(a, b, first)
    if advice:
        yield f"a and b: Recorder(operations={first.update}) for the first operation that differs"


def _holds(trace: Trace, update: int, family: str) -> bool:
    prefix = f"detail/{update}/{family}/"
    return any(name.startswith(prefix) for name in trace.arrays)


def _states(trace: Trace, section: str) -> bool:
    return bool((trace.header.get("settings") or {}).get(section))


def _reads(trace: Trace, objects: str) -> bool:
    return bool((trace.header.get("read") or {}).get(objects))
