"""The comparison as one JSON object."""

from collections.abc import Mapping
from typing import Any

from lockstep.diagnose.verdict import Verdict
from lockstep.report.numbers import json_number
from lockstep.trace import Trace

__all__ = ["summarise"]

PACKAGES = ("lockstep", "python", "numpy", "torch", "jax", "jaxlib", "flax", "optax")


def summarise(traces: Mapping[str, Trace], verdict: Verdict) -> dict[str, Any]:
    """Verdict, final metrics, differences, hashes and versions; strict JSON, None in place of NaN.

    Args:
        traces: "torch", "jax" and "oracle".
        verdict: what the comparison came to.
    """
    first = next(iter(traces.values())).header
    return {
        "verdict": verdict.word,
        **{backend: _final(trace) for backend, trace in traces.items()},
        "max_difference": {name: json_number(value) for name, value in verdict.max_difference.items()},
        "checks": [
            {"name": check.name, "passed": bool(check.passed), "detail": check.detail} for check in verdict.checks
        ],
        "recipe_hash": first["recipe_hash"],
        "data_hash": first["data_hash"],
        "versions": versions(traces),
    }


def versions(traces: Mapping[str, Trace]) -> dict[str, str]:
    """Package -> version, over all traces."""
    found: dict[str, str] = {}
    for trace in traces.values():
        environment = trace.header["environment"]
        found |= {package: str(environment[package]) for package in PACKAGES if package in environment}
    return {package: found[package] for package in PACKAGES if package in found}


def _final(trace: Trace) -> dict[str, float | None]:
    names = {"loss": "train_loss", "accuracy": "train_accuracy"}
    keys = ("loss", "accuracy", "held_out_loss", "held_out_accuracy")
    return {key: json_number(trace.metric(names.get(key, key))[-1]) for key in keys}
