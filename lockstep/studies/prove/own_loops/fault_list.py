"""All faults that are planted in own loops, and the share that is planted by default."""

from lockstep.studies.prove.own_loops.faults import LoopFault
from lockstep.studies.prove.own_loops.fed_faults import FED_FAULTS
from lockstep.studies.prove.own_loops.model_faults import MODEL_FAULTS
from lockstep.studies.prove.own_loops.step_faults import STEP_FAULTS

__all__ = ["DEFAULT_FAULTS", "LOOP_FAULTS"]

LOOP_FAULTS: tuple[LoopFault, ...] = (*FED_FAULTS, *MODEL_FAULTS, *STEP_FAULTS)
"""Every fault in every model and precision."""


def _share() -> tuple[LoopFault, ...]:
    by_place: dict[tuple[str, str], list[LoopFault]] = {}
    for fault in LOOP_FAULTS:
        by_place.setdefault((fault.key, fault.model), []).append(fault)
    return tuple(group[i % len(group)] for i, group in enumerate(by_place.values()))


DEFAULT_FAULTS = _share()
"""Each fault once in each model, the precisions in turn."""
