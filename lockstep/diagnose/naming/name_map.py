"""The name map of two loops, and the names of arrays in a trace."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from lockstep.diagnose.naming.layouts import Layout, Source, Sum

__all__ = ["FAMILY_TABLE", "TABLES", "NameMap", "split_name"]

TABLES = ("names", "forward", "batch")
FAMILY_TABLE = {
    "parameters": "names",
    "average": "names",
    "gradients": "names",
    "clip": "names",
    "moments": "names",
    "forward": "forward",
    "batch": "batch",
    "summaries": "names",
    "hashes": "names",
}
"""Family of arrays in a trace -> the table that maps its names."""
PREFIX_PARTS = {
    "detail": 3,
    "statistics": 2,
    "sketches": 2,
    "parameters": 2,
    "average": 2,
    "summaries": 2,
    "hashes": 2,
}
"""First part of an array's name -> how many parts stand before the tensor's; 1 for all others."""


@dataclass(frozen=True)
class NameMap:
    """A's name -> what it is made of in B, of parameters, layers and arrays of a batch; and the
    names that only one of them has.

    Attributes:
        names: parameters, and so gradients, moments and statistics.
        forward: outputs of layers.
        batch: arrays of a batch.
        only_a: A's parameters without a counterpart.
        only_b: B's.
        sums: a name for a sum -> the terms of both sides, whose sums alone can be compared.
        same_a: a second name of A's -> A's own tensor that it stands for, and its layout there.
        same_b: likewise of B.
    """

    names: Mapping[str, Source] = field(default_factory=dict)
    forward: Mapping[str, Layout] = field(default_factory=dict)
    batch: Mapping[str, Layout] = field(default_factory=dict)
    only_a: frozenset[str] = frozenset()
    only_b: frozenset[str] = frozenset()
    sums: Mapping[str, Sum] = field(default_factory=dict)
    same_a: Mapping[str, Layout] = field(default_factory=dict)
    same_b: Mapping[str, Layout] = field(default_factory=dict)

    @property
    def leaves_out(self) -> bool:
        """Whether tensors of a side are not compared one by one, so that norms over all of them
        cannot be either.
        """
        return bool(self.only_a or self.only_b or self.sums or self.same_a or self.same_b)


def split_name(key: str) -> tuple[str, str, str]:
    """An array's name in a trace as (what stands before the tensor, family, tensor):
    "detail/3/moments/first/fc.weight" is ("detail/3/moments/first/", "moments", "fc.weight").
    """
    parts = key.split("/")
    begin = int(parts[0] == "bounds")
    kind = parts[begin]
    cut = begin + PREFIX_PARTS.get(kind, 1)
    is_below = kind in ("detail", "statistics", "sketches")
    family = parts[cut - 1] if is_below else kind
    cut += family == "moments"
    prefix = "".join(f"{part}/" for part in parts[:cut])
    return prefix, family, "/".join(parts[cut:])
