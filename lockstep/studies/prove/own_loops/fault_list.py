"""All faults that are planted in own loops, and the share that is planted by default."""

from lockstep.studies.prove.own_loops.attention_faults import ATTENTION_FAULTS
from lockstep.studies.prove.own_loops.batch_faults import BATCH_FAULTS
from lockstep.studies.prove.own_loops.code_faults import CODE_FAULTS
from lockstep.studies.prove.own_loops.faults import LoopFault
from lockstep.studies.prove.own_loops.fed_faults import FED_FAULTS
from lockstep.studies.prove.own_loops.layer_faults import LAYER_FAULTS
from lockstep.studies.prove.own_loops.loss_faults import LOSS_FAULTS
from lockstep.studies.prove.own_loops.model_faults import MODEL_FAULTS
from lockstep.studies.prove.own_loops.optimizer_faults import OPTIMIZER_FAULTS
from lockstep.studies.prove.own_loops.rate_faults import RATE_FAULTS
from lockstep.studies.prove.own_loops.step_faults import STEP_FAULTS

__all__ = ["DEFAULT_FAULTS", "LOOP_FAULTS"]

LOOP_FAULTS: tuple[LoopFault, ...] = (
    *FED_FAULTS,
    *BATCH_FAULTS,
    *RATE_FAULTS,
    *ATTENTION_FAULTS,
    *LAYER_FAULTS,
    *MODEL_FAULTS,
    *CODE_FAULTS,
    *LOSS_FAULTS,
    *STEP_FAULTS,
    *OPTIMIZER_FAULTS,
)
"""Every fault in every model and precision."""


def _share() -> tuple[LoopFault, ...]:
    by_key: dict[str, list[LoopFault]] = {}
    for fault in LOOP_FAULTS:
        by_key.setdefault(fault.key, []).append(fault)
    # 5 has no factor in common with the number of precisions
    return tuple(group[5 * i % len(group)] for i, group in enumerate(by_key.values()))


DEFAULT_FAULTS = _share()
"""Each fault once, the models and precisions in turn."""
