"""A comparison or a diagnosis for programs: one JSON document with a versioned schema."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from lockstep.diagnose.causes import Cause
from lockstep.diagnose.compare import Comparison, Difference, Limit
from lockstep.diagnose.diagnosis import Diagnosis
from lockstep.diagnose.unequal import Unequal
from lockstep.diagnose.verdict import EXIT_STATUS
from lockstep.numbers import json_number
from lockstep.version import __version__

__all__ = ["comparison_json", "diagnosis_json"]

COMPARISON = "lockstep.comparison/1"
DIAGNOSIS = "lockstep.diagnosis/1"


def comparison_json(
    comparison: Comparison,
    names: tuple[str, str],
    *,
    notes: Sequence[str] = (),
    unequal: Sequence[Unequal] = (),
) -> str:
    """What `lockstep compare` says, as strict JSON: null in place of NaN and infinities.

    Args:
        comparison: what to write.
        names: the names of the two sides.
        notes: remarks to read before the numbers.
        unequal: the settings that differ.
    """
    content = {"schema": COMPARISON} | _judged(comparison, comparison.verdict, names)
    content |= {
        "limit": _limit(comparison.limit),
        "first": _difference(comparison.first),
        "differs": [_setting(setting) for setting in unequal],
        "notes": list(notes),
        "stages": _stages(comparison),
    }
    return _written(content)


def diagnosis_json(
    diagnosis: Diagnosis,
    names: tuple[str, str],
    *,
    notes: Sequence[str] = (),
    replayed: Mapping[str, bool] | None = None,
) -> str:
    """All that `lockstep diagnose` says, as strict JSON: null in place of NaN and infinities.

    Args:
        diagnosis: what to write.
        names: the names of the two sides.
        notes: remarks to read before the numbers.
        replayed: side -> whether training it again gave the same bits.
    """
    causes = [cause for cause in (diagnosis.cause, *diagnosis.further) if cause is not None]
    operation = diagnosis.operation
    content = {"schema": DIAGNOSIS} | _judged(diagnosis.comparison, diagnosis.verdict, names)
    content |= {
        "limit": _limit(diagnosis.limit),
        "first": _difference(diagnosis.first),
        "most": _difference(diagnosis.most),
        "off": diagnosis.off,
        "oracle": None if diagnosis.truth is None else json_number(diagnosis.truth),
        "causes": [_cause(cause, diagnosis.first) for cause in causes],
        "ruled_out": [
            {"idea": tried.idea, "residual": json_number(tried.residual)}
            for tried in diagnosis.ruled_out
        ],
        "to_record": list(diagnosis.to_record),
        "operation": None if operation is None else asdict(operation),
        "not_compared": diagnosis.skipped,
        "differs": [_setting(setting) for setting in diagnosis.unequal],
        "notes": list(notes),
        "replayed": replayed,
        "stages": _stages(diagnosis.comparison),
    }
    return _written(content)


def _written(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=1, allow_nan=False, default=str) + "\n"


def _judged(comparison: Comparison, verdict: str, names: tuple[str, str]) -> dict[str, Any]:
    return {
        "lockstep": __version__,
        "a": names[0],
        "b": names[1],
        "verdict": verdict,
        "exit_status": EXIT_STATUS[verdict],
        "compared": comparison.compared,
    }


def _stages(comparison: Comparison) -> dict[str, Any]:
    return {stage: _difference(worst) for stage, worst in comparison.worst.items()}


def _difference(difference: Difference | None) -> dict[str, Any] | None:
    if difference is None:
        return None
    return {
        "update": difference.update,
        "stage": difference.stage,
        "tensor": difference.tensor,
        "element": list(difference.element),
        "quantity": difference.quantity,
        "a": json_number(difference.a),
        "b": json_number(difference.b),
        "difference": json_number(difference.difference),
        "bound": json_number(difference.bound),
        "ratio": json_number(difference.ratio),
        "share": json_number(difference.share),
    }


def _cause(cause: Cause, first: Difference | None) -> dict[str, Any]:
    """A cause and what speaks for it; without a place of its own it is at the first divergence."""
    is_placed = bool(cause.stage) or first is None
    update, stage, tensor = cause.update, cause.stage, cause.tensor
    if not is_placed and first is not None:
        update, stage, tensor = first.update, first.stage, first.tensor
    runner_up = None
    if cause.runner_up:
        residual = json_number(cause.runner_up_residual)
        runner_up = {"text": cause.runner_up, "residual": residual, "as_good": cause.is_open}
    return {
        "key": cause.key,
        "text": cause.text,
        "side": cause.side,
        "page": cause.page,
        "update": update,
        "stage": stage,
        "tensor": tensor,
        "evidence": cause.evidence,
        "residual": None if cause.evidence else json_number(cause.residual),
        "residual_without": None if cause.evidence else json_number(cause.null_residual),
        "runner_up": runner_up,
        "lines": dict(cause.lines),
    }


def _limit(limit: Limit | None) -> dict[str, Any] | None:
    return None if limit is None else limit._asdict()


def _setting(setting: Unequal) -> dict[str, Any]:
    return setting._asdict()
