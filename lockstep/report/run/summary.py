"""The summary of a run as one JSON object."""

from collections.abc import Mapping
from typing import Any

from lockstep.diagnose.verdict import Verdict
from lockstep.numbers import json_number
from lockstep.records.trace import Trace, metric_names
from lockstep.report.package_versions import versions

__all__ = ["summarise"]


def summarise(traces: Mapping[str, Trace], verdict: Verdict) -> dict[str, Any]:
    """Verdict, final metrics, differences, hashes and versions, as strict JSON with None for NaN.

    Args:
        traces: the traces "torch", "jax" and "oracle".
        verdict: the verdict on them.
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
    """The last metrics; those of the training rows lose their prefix, and "mae" has its unit."""
    unit = trace.header["target"]["scale"]
    metrics = {}
    for name in metric_names(trace.recipe.loss):
        value = trace.metric(name)[-1]
        if name.endswith("mae"):
            value = value * unit
        metrics[name.removeprefix("train_")] = json_number(value)
    return metrics
