"""Every contender by name. None of their packages is loaded here."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lockstep.backends import TWINS
from lockstep.diagnose.compare import SEMANTICS

if TYPE_CHECKING:
    from lockstep.bench.prepared import Prepared

__all__ = ["ALWAYS", "CONTENDERS", "ENSEMBLES", "GROUPS", "Entry", "chosen", "is_there", "make"]


CHECKOUT = Path(__file__).parents[2] / "benchmarks"
"""The folder of floors, peers and parts of an update. A checkout has it; an installed lockstep does
not.
"""
PARTS = ("rate", "forward", "gradient", "step")
"""The parts of an update that `benchmarks.micro` times alone."""
FLOAT32 = 1e-7
"""The bound for a contender that always computes a part in float32."""


@dataclass(frozen=True)
class Entry:
    """A contender."""

    make: str
    """Full name of the function that prepares it; an argument follows a colon."""
    group: str
    """The name that `--against` takes; "own" is a twin."""
    imports: str
    """The module whose import is timed, after `environment` is set."""
    extra: str = ""
    """Which of lockstep's extras installs it."""
    environment: dict[str, str] = field(default_factory=dict)
    bound: float = SEMANTICS
    """How far from the oracle it may end in float64."""
    trains_all: bool = False
    """Whether it trains all members where there are many."""


def _keras(make: str, backend: str, bound: float = SEMANTICS) -> Entry:
    return Entry(
        f"benchmarks.peers.{make}", "keras", "keras", "peers", {"KERAS_BACKEND": backend}, bound
    )


def _floor(make: str, group: str, imports: str, extra: str = "") -> Entry:
    return Entry(f"benchmarks.floors.{make}", group, imports, extra, trains_all=True)


ALONE = {
    "c": _floor("c_floor", "c", "ctypes"),
    "torch products": _floor("torch_products", "products", "torch", "torch"),
    "jax products": _floor("jax_products", "products", "jax", "jax"),
    "numpy products": _floor("numpy_products", "products", "numpy"),
    "torch steps": Entry("pt_impl.bench.engines.steps", "own", "pt_impl.train", "torch"),
    "torch fast": Entry("pt_impl.bench.engines.fast", "own", "pt_impl.fast.train", "torch"),
    "torch unrecorded": Entry(
        "pt_impl.bench.engines.unrecorded", "recording", "pt_impl.fast.train", "torch"
    ),
    "torch graph": Entry("pt_impl.bench.engines.graph", "own", "pt_impl.model", "torch"),
    "torch compiled": Entry("pt_impl.bench.engines.compiled", "compiled", "pt_impl.train", "torch"),
    "jax steps": Entry("jax_impl.bench.engines.steps", "own", "jax_impl.train", "jax"),
    "jax whole run": Entry("jax_impl.bench.engines.compiled", "own", "jax_impl.train", "jax"),
    "jax fast": Entry("jax_impl.bench.engines.fast", "own", "jax_impl.fast.train", "jax"),
    "jax unrecorded": Entry(
        "jax_impl.bench.engines.unrecorded", "recording", "jax_impl.fast.train", "jax"
    ),
    "numpy": Entry("benchmarks.peers.numpy_loop", "numpy", "numpy"),
    "sklearn": Entry("benchmarks.peers.sklearn_classifier", "sklearn", "sklearn.neural_network"),
    "keras torch": _keras("keras_fit", "torch", FLOAT32),
    "keras jax": _keras("keras_fit", "jax"),
    "keras jax, its own rule": _keras("keras_stock", "jax"),
    "lightning": Entry("benchmarks.peers.lightning_fit", "lightning", "lightning", "peers"),
    "skorch": Entry("benchmarks.peers.skorch_fit", "skorch", "skorch", "peers"),
}

ALONE |= {
    f"{backend} {part}": Entry(
        f"benchmarks.micro.{backend}_part:{part}", "micro", f"{twin}.train", backend
    )
    for backend, twin in TWINS.items()
    for part in PARTS
}
"""The contenders that train one seed, and the parts of an update alone."""

ENSEMBLES = {
    "c": ALONE["c"],
    "torch steps": ALONE["torch steps"],
    "torch ensemble": Entry(
        "pt_impl.bench.ensemble.many_seeds",
        "own",
        "pt_impl.fast.ensemble",
        "torch",
        trains_all=True,
    ),
    "jax ensemble": Entry(
        "jax_impl.bench.ensemble.many_seeds",
        "own",
        "jax_impl.fast.ensemble",
        "jax",
        {"XLA_FLAGS": f"--xla_force_host_platform_device_count={os.cpu_count()}"},
        trains_all=True,
    ),
}
"""The contenders that train many seeds, and one that trains a single seed for comparison."""
CONTENDERS = ALONE | ENSEMBLES

GROUPS = tuple(dict.fromkeys(entry.group for entry in CONTENDERS.values() if entry.group != "own"))
"""The names that `--against` takes."""

ALWAYS = ("c", "products")
"""The floors, which stand in every benchmark that does not choose others."""


def chosen(against: tuple[str, ...], *, ensemble: bool = False) -> list[str]:
    """The names of the twins and of these groups, in the registry's order."""
    groups = ("own", *against)
    entries = ENSEMBLES if ensemble else ALONE
    return [name for name, entry in entries.items() if entry.group in groups]


def is_there(name: str) -> bool:
    """Whether this lockstep has the contender; an installed one has the twins alone."""
    return not CONTENDERS[name].make.startswith("benchmarks.") or CHECKOUT.is_dir()


def make(name: str) -> "Callable[..., Prepared]":
    """The function that prepares a contender."""
    path, _, argument = CONTENDERS[name].make.partition(":")
    module, _, function = path.rpartition(".")
    prepare: Callable[..., Any] = getattr(import_module(module), function)
    return prepare(argument) if argument else prepare
