"""The comparison as one JSON object."""

from collections.abc import Mapping
from typing import Any

from lockstep.diagnose.verdict import Verdict
from lockstep.numbers import json_number
from lockstep.records.trace import Trace, metric_names
from lockstep.report.package_versions import versions

__all__ = ["summarise"]


def summarise(traces: Mapping[str, Trace], verdict: Verdict) -> dict[str, Any]:
    """Verdict, final metrics, differences, hashes and versions; strict JSON, None in place of NaN.

    Args:
        traces: "torch", "jax" and "oracle".
        verdict: what the comparison came to.
    """
    first = next(iter(traces.values())).header
    return {
        "verdict": verdict.word,
        "judged_updates": _judged_updates(verdict, first["updates"]),
        **{backend: _final(trace) for backend, trace in traces.items()},
        "max_difference": {
            name: json_number(value) for name, value in verdict.max_difference.items()
        },
        "checks": [
            {
                "name": check.name,
                "passed": check.passed,
                "outcome": check.outcome,
                "detail": check.detail,
            }
            for check in verdict.checks
        ],
        "recipe_hash": first["recipe_hash"],
        "data_hash": first["data_hash"],
        "versions": versions(traces),
    }


def _judged_updates(verdict: Verdict, updates: int) -> int:
    """How many updates were judged, from the first on."""
    return updates if verdict.limit is None else max(verdict.limit.update, 0)


def _final(trace: Trace) -> dict[str, float | None]:
    """The last metrics, those of the training rows without their prefix; "mae" in the target's
    unit.
    """
    unit = trace.header["target"]["scale"]
    found = {
        name.removeprefix("train_"): trace.metric(name)[-1]
        for name in metric_names(trace.recipe.loss)
    }
    return {
        name: json_number(value * unit if name.endswith("mae") else value)
        for name, value in found.items()
    }
