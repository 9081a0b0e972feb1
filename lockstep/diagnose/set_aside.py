"""Parameters that are not compared, kept beside an aligned trace for whoever recomputes a layer."""

from collections import Counter
from collections.abc import Collection

from lockstep.diagnose.naming.name_map import NameMap
from lockstep.oracle.arithmetic import Array
from lockstep.records.trace import Trace
from lockstep.tensor_file import arrays_below

__all__ = ["UNCOMPARED", "all_parameters", "keep_set_aside"]

UNCOMPARED = "uncompared"
"""Family of parameters that only one side has, or that are part of a sum."""


def keep_set_aside(a: Trace, b: Trace, of_a: Trace, of_b: Trace, names: NameMap) -> None:
    """Add to two aligned traces the parameters that the map leaves out of the comparison.

    Args:
        a: one loop's aligned trace, whose table of arrays is changed.
        b: the other's.
        of_a: the trace that `a` was made of.
        of_b: the trace that `b` was made of.
        names: the map of their names.
    """
    terms_a = {name for both in names.sums.values() for term in both.a for name in term.names}
    terms_b = {name for both in names.sums.values() for term in both.b for name in term.names}
    _keep(a, of_a, names.only_a | terms_a, {})
    _keep(b, of_b, names.only_b | terms_b, _modules(names))


def all_parameters(trace: Trace, updates: int) -> dict[str, Array]:
    """All parameters and buffers after so many updates, those that are not compared among them."""
    aside = arrays_below(trace.arrays, f"{UNCOMPARED}/parameters/{updates}/")
    return {**trace.parameters(updates), **aside}


def _keep(
    aligned: Trace, original: Trace, left_out: Collection[str], modules: dict[str, str]
) -> None:
    for key, array in original.arrays.items():
        family, _, rest = key.partition("/")
        update, _, name = rest.partition("/")
        if family == "parameters" and name in left_out:
            module, dot, role = name.rpartition(".")
            named = f"{modules.get(module, module)}{dot}{role}"
            aligned.arrays[f"{UNCOMPARED}/parameters/{update}/{named}"] = array


def _modules(names: NameMap) -> dict[str, str]:
    """B's module -> A's, by most of the parameters in it."""
    votes: dict[str, Counter[str]] = {}
    for name_a, source in names.names.items():
        for name_b in source.names:
            module_b = name_b.rpartition(".")[0]
            votes.setdefault(module_b, Counter())[name_a.rpartition(".")[0]] += 1
    return {module: counts.most_common(1)[0][0] for module, counts in votes.items()}
