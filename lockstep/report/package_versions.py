"""The versions of the packages that figures were measured with."""

import platform
from collections.abc import Mapping
from importlib.metadata import version
from itertools import chain

from lockstep.backends import PACKAGES
from lockstep.records.trace import Trace

__all__ = ["measured_with", "versions"]

RECORDED = ("lockstep", "python", "numpy", "torch", "jax", "jaxlib", "flax", "optax")
"""The names in a trace's environment that reports show, in their order."""


def measured_with() -> str:
    """The installed versions: "torch 2.13.0, jax 0.10.2, ..., on x86_64"."""
    packages = [*chain.from_iterable(PACKAGES.values()), "numpy"]
    installed = ", ".join(f"{package} {version(package)}" for package in packages)
    return f"{installed}, on {platform.machine()}"


def versions(traces: Mapping[str, Trace]) -> dict[str, str]:
    """Package -> version, from the environments of all traces."""
    recorded: dict[str, str] = {}
    for trace in traces.values():
        environment = trace.header["environment"]
        recorded |= {name: str(environment[name]) for name in RECORDED if name in environment}
    return {name: recorded[name] for name in RECORDED if name in recorded}
