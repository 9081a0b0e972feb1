"""The versions of the packages that figures were measured with."""

import platform
from collections.abc import Mapping
from importlib.metadata import version

from lockstep.backends import PACKAGES
from lockstep.records.trace import Trace

__all__ = ["measured_with", "versions"]

RECORDED = ("lockstep", "python", "numpy", "torch", "jax", "jaxlib", "flax", "optax")
"""Of what a trace's environment holds, in the order in which it is shown."""


def measured_with() -> str:
    """The installed versions: "torch 2.13.0, jax 0.10.2, ..., on x86_64"."""
    packages = [package for names in PACKAGES.values() for package in names]
    shown = ", ".join(f"{package} {version(package)}" for package in (*packages, "numpy"))
    return f"{shown}, on {platform.machine()}"


def versions(traces: Mapping[str, Trace]) -> dict[str, str]:
    """Package -> version, over all traces."""
    recorded: dict[str, str] = {}
    for trace in traces.values():
        environment = trace.header["environment"]
        recorded |= {name: str(environment[name]) for name in RECORDED if name in environment}
    return {name: recorded[name] for name in RECORDED if name in recorded}
