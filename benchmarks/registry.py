"""Every contender by name. Nothing of theirs is loaded here."""

import os
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from benchmarks.micro import PARTS
from lockstep.diagnose.compare import SEMANTICS

__all__ = ["ALWAYS", "CONTENDERS", "ENSEMBLES", "GROUPS", "Entry", "chosen", "make"]


FLOAT32 = 1e-7
"""For one that computes a part in float32 whatever it is told."""


@dataclass(frozen=True)
class Entry:
    """Where a contender is made (an argument follows a colon), the group that `--against` names, and what it imports.

    `environment` is set before that; `extra` is what of lockstep's extras installs it; `bound` is how far from the
    oracle it may end in float64.
    """

    make: str
    group: str
    imports: str
    extra: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    bound: float = SEMANTICS


def _keras(make: str, backend: str, bound: float = SEMANTICS) -> Entry:
    return Entry(f"peers.{make}", "keras", "keras", "peers", {"KERAS_BACKEND": backend}, bound)


CONTENDERS = {
    "c": Entry("floors.c_floor", "c", "ctypes"),
    "torch products": Entry("floors.torch_products", "products", "torch", "torch"),
    "jax products": Entry("floors.jax_products", "products", "jax", "jax"),
    "numpy products": Entry("floors.numpy_products", "products", "numpy"),
    "torch steps": Entry("contenders.torch_steps", "own", "pt_impl.train", "torch"),
    "torch fast": Entry("contenders.torch_fast", "own", "pt_impl.fast.train", "torch"),
    "torch unrecorded": Entry("contenders.torch_unrecorded", "recording", "pt_impl.fast.train", "torch"),
    "torch graph": Entry("contenders.torch_graph", "own", "pt_impl.model", "torch"),
    "torch compiled": Entry("contenders.torch_compiled", "compiled", "pt_impl.train", "torch"),
    "jax steps": Entry("contenders.jax_steps", "own", "jax_impl.train", "jax"),
    "jax whole run": Entry("contenders.jax_compiled", "own", "jax_impl.train", "jax"),
    "jax fast": Entry("contenders.jax_fast", "own", "jax_impl.fast.train", "jax"),
    "jax unrecorded": Entry("contenders.jax_unrecorded", "recording", "jax_impl.fast.train", "jax"),
    "numpy": Entry("peers.numpy_loop", "numpy", "numpy"),
    "sklearn": Entry("peers.sklearn_classifier", "sklearn", "sklearn.neural_network"),
    "keras torch": _keras("keras_fit", "torch", FLOAT32),
    "keras jax": _keras("keras_fit", "jax"),
    "keras jax, its own rule": _keras("keras_stock", "jax"),
    "lightning": Entry("peers.lightning_fit", "lightning", "lightning", "peers"),
    "skorch": Entry("peers.skorch_fit", "skorch", "skorch", "peers"),
}

CONTENDERS |= {
    f"{backend} {part}": Entry(f"micro.{backend}_part:{part}", "micro", f"{twin}.train", backend)
    for backend, twin in (("torch", "pt_impl"), ("jax", "jax_impl"))
    for part in PARTS
}
"""With the parts of an update alone."""

ENSEMBLES = {
    "c": CONTENDERS["c"],
    "torch steps": CONTENDERS["torch steps"],
    "torch ensemble": Entry("ensembles.torch_ensemble", "own", "pt_impl.fast.ensemble", "torch"),
    "jax ensemble": Entry(
        "ensembles.jax_ensemble",
        "own",
        "jax_impl.fast.ensemble",
        "jax",
        {"XLA_FLAGS": f"--xla_force_host_platform_device_count={os.cpu_count()}"},
    ),
}
"""Those that train many seeds, and a single one to hold them against."""
CONTENDERS |= ENSEMBLES

GROUPS = tuple(dict.fromkeys(entry.group for entry in CONTENDERS.values() if entry.group != "own"))
"""What `--against` may name."""

ALWAYS = ("c", "products")
"""The floors: part of every benchmark that does not choose others."""


def chosen(against: tuple[str, ...], *, ensemble: bool = False) -> list[str]:
    """The twins and these groups, in the registry's order; of many seeds or of one."""
    groups = ("own", *against)
    if ensemble:
        return [name for name, entry in ENSEMBLES.items() if entry.group in groups]
    alone = (name for name, entry in CONTENDERS.items() if entry.group in groups)
    return [name for name in alone if not CONTENDERS[name].make.startswith("ensembles.")]


def make(name: str) -> Any:
    """The function that prepares a contender."""
    path, _, argument = CONTENDERS[name].make.partition(":")
    module, _, function = path.rpartition(".")
    found = getattr(import_module(f"benchmarks.{module}"), function)
    return found(argument) if argument else found
