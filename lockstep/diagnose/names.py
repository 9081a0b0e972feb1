"""The name map of two loops: what trace B calls and lays out otherwise than trace A.

A TOML file, as `lockstep names` proposes it. Names that are alike in both need no line.

    [names]                                   # parameters; so too gradients, moments, statistics
    "fc.bias" = "Dense_0.bias"
    "fc.weight" = { name = "Dense_0.kernel", layout = "transpose" }
    "conv.weight" = { name = "Conv_0.kernel", axes = [3, 2, 0, 1] }
    "query.weight" = { name = "query.kernel", reshape = [32, 32], axes = [1, 0] }
    "in_proj_weight" = { join = ["q.kernel", "k.kernel", "v.kernel"], layout = "transpose" }
    "key.weight" = { name = "c_attn.kernel", slice = [32, 64], axis = 1, layout = "transpose" }
    "lstm.weight_hh" = { name = "cell.h.kernel", gates = [0, 2, 1, 3], axis = 1, axes = [1, 0] }
    "up.weight" = { name = "up.kernel", axes = [2, 3, 0, 1], flip = [2, 3] }

    [forward]                                 # outputs of layers
    "conv" = { name = "conv", axes = [0, 3, 1, 2] }

    [batch]                                   # arrays of a batch
    "x" = { name = "x", axes = [0, 3, 1, 2] }

    [sums]                                    # arrays of which only the sum can be compared
    "lstm.bias" = { a = ["lstm.bias_ih", "lstm.bias_hh"], b = ["cell.bias"] }

    [same]                                    # second names of a side's own tensors: tied weights
    a = { "lm_head.weight" = "wte.weight" }
    b = {}

    [only]                                    # names without a counterpart in the other trace
    a = ["position_ids"]
    b = []

The steps lead from B's array to A's, in this order: `slice` (begin and end) and `gates` (block i is
B's block gates[i]), both along `axis` of B's own array; `reshape`; `axes`, as `numpy.transpose`
takes them ("transpose" stands for axes 1, 0); `flip`, the axes of A's array that are mirrored;
`shape`, the shape in the end. A `join` puts arrays one after another along `axis` of A's array; its
other keys are those of all its parts.
"""

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from lockstep.diagnose.naming.layouts import Arrays, Join, Layout, Source, Sum, Values
from lockstep.diagnose.naming.name_file import load_names, save_names
from lockstep.diagnose.naming.name_map import FAMILY_TABLE, NameMap, split_name
from lockstep.errors import InputError
from lockstep.records.trace import Trace
from lockstep.tensor_file import Header

__all__ = [
    "Join",
    "Layout",
    "NameMap",
    "Sum",
    "apply",
    "load_names",
    "reduced",
    "save_names",
    "split_name",
]

NAMED = 5
"""Names in a message; more are counted."""
TABLE_OF_LISTS = {"layers": "forward", "buffers": "names", "parameter_order": "names"}
"""Field of a header that lists names -> the table that maps them."""

Key = tuple[str, str]
"""What stands before a tensor's name in an array's name, and the family."""


def apply(names: NameMap, trace: Trace) -> Trace:
    """Trace B in A's names and layouts, of every family.

    What a layout cannot lead over is left out: statistics of a slice, moments of a sum, moments
    that are not of their parameter's shape.

    Raises:
        InputError: a name that the trace does not hold, two arrays that end up with one name, or a
            layout that does not fit.
    """
    _refuse_missing(names, trace)
    terms = {label: of_both.b for label, of_both in names.sums.items()}
    side = _Side(trace, names.names, names.only_b | names.same_b.keys(), terms, _term_names(names))
    new_names = {
        "names": _new_names(names.names),
        "forward": _new_names(names.forward),
        "batch": _new_names(names.batch),
    }

    def rename(arrays: Arrays) -> dict[str, Values]:
        renamed: dict[str, Values] = {}
        for key, tensors in _by_prefix(arrays).items():
            prefix, family = key
            table = FAMILY_TABLE.get(family, "")
            if table == "names":
                named = side.renamed(key, tensors)
            elif table:
                named = _renamed_outputs(getattr(names, table), prefix, tensors, trace.backend)
            else:
                named = dict(tensors)
            renamed |= {prefix + name: array for name, array in named.items()}
        return renamed

    header = _renamed_header(trace.header, new_names) | _renamed_shapes(trace.header, rename)
    return Trace(header, rename(trace.arrays))


def reduced(names: NameMap, trace: Trace) -> Trace:
    """Trace A as it is compared: with sums in the place of their terms, and without second names
    and what it alone has.

    Raises:
        InputError: a term of a sum that the trace does not hold, or that does not fit.
    """
    if not names.leaves_out:
        return trace
    terms = {label: of_both.a for label, of_both in names.sums.items()}
    _refuse_unknown("sums", _used(terms.values()), trace, "names")
    side = _Side(trace, {}, names.only_a | names.same_a.keys(), terms, _term_names(names))

    def rename(arrays: Arrays) -> dict[str, Values]:
        renamed: dict[str, Values] = {}
        for key, tensors in _by_prefix(arrays).items():
            prefix, family = key
            is_named = FAMILY_TABLE.get(family) == "names"
            named = side.renamed(key, tensors) if is_named else tensors
            renamed |= {prefix + name: array for name, array in named.items()}
        return renamed

    header = trace.header | _renamed_shapes(trace.header, rename)
    return Trace(header, rename(trace.arrays))


class _Side(NamedTuple):
    """How the tensors of a side are renamed.

    Attributes:
        trace: the side as it was recorded.
        sources: A's name -> what it is made of.
        left_out: names that are not compared.
        terms: name of a sum -> this side's terms.
        term_names: name of a sum -> the names of the gradients of its terms.
    """

    trace: Trace
    sources: Mapping[str, Source]
    left_out: Collection[str]
    terms: Mapping[str, tuple[Source, ...]]
    term_names: Mapping[str, tuple[str, ...]]

    def renamed(self, key: Key, tensors: Arrays) -> dict[str, Values]:
        """The tensors of one family at one update, by A's names."""
        used = _used([*self.terms.values(), tuple(self.sources.values())])
        apart = used.union(self.left_out)
        named = {name: array for name, array in tensors.items() if name not in apart}
        for new, source in self.sources.items():
            array = self._taken(key, source, tensors)
            if new in named:
                raise InputError(
                    f"names: {new}: two arrays of {self.trace.backend} would have this name"
                )
            if array is not None:
                named[new] = array
        for label in self.terms:
            named |= self._added(key, label, tensors)
        return named

    def _taken(self, key: Key, source: Source, tensors: Arrays) -> Values | None:
        """A's array; None where this family has not all its parts, or a layout says nothing."""
        prefix, family = key
        if any(name not in tensors for name in source.names):
            return None
        if prefix.startswith(("sketches/", "summaries/", "hashes/")):
            if not isinstance(source, Layout) or not source.is_plain:
                return None
            # a hash is of the elements in their order
            is_lost = prefix.startswith("hashes/") and source.axes
            return None if is_lost else tensors[source.name]
        if prefix.startswith(("statistics/", "bounds/")):
            return self._summary(source, tensors)
        if family == "moments" and not self._are_of_parameters(source, tensors):
            is_kept = isinstance(source, Layout) and source == Layout(source.name)
            return tensors[source.names[0]] if is_kept else None
        return source.take(tensors)

    def _are_of_parameters(self, source: Source, tensors: Arrays) -> bool:
        """Whether slots have the shapes of their parameters, where these are known."""
        shapes = self.trace.shapes
        return all(
            name not in shapes or tensors[name].shape == shapes[name] for name in source.names
        )

    def _summary(self, source: Source, tensors: Arrays) -> Values | None:
        """Mean, root mean square and largest value (T, 3) of an array that is laid out otherwise,
        or of the join of several; None of slices.
        """
        parts = source.parts if isinstance(source, Join) else (source,)
        shapes = self.trace.shapes
        if any(part.span for part in parts):
            return None
        if len(parts) == 1:
            return tensors[parts[0].name]
        if any(part.name not in shapes for part in parts):
            return None
        rows = min(len(tensors[part.name]) for part in parts)
        sizes = np.array([math.prod(shapes[part.name]) for part in parts], np.float64)
        table = np.stack([tensors[part.name][:rows] for part in parts], axis=-1)
        share = sizes / sizes.sum()
        mean_T = table[:, 0] @ share
        rms_T = np.sqrt(np.square(table[:, 1]) @ share)
        return np.stack([mean_T, rms_T, table[:, 2].max(axis=-1)], axis=-1)

    def _added(self, key: Key, label: str, tensors: Arrays) -> dict[str, Values]:
        """What can be compared of a sum: the sum of parameters; the gradient of each term."""
        prefix, family = key
        terms = self.terms[label]
        is_whole = all(name in tensors for term in terms for name in term.names)
        is_summary = prefix.startswith(("statistics/", "sketches/", "summaries/", "hashes/"))
        if is_summary or not is_whole:
            return {}
        arrays = [term.take(tensors) for term in terms]
        if family in ("parameters", "average"):
            try:
                return {label: np.asarray(sum(arrays[1:], arrays[0]))}
            except ValueError:
                shapes = ", ".join(str(array.shape) for array in arrays)
                raise InputError(f"names: sums.{label}: shapes {shapes} do not add up") from None
        if family not in ("gradients", "clip"):
            return {}
        last = len(arrays) - 1
        return {name: arrays[min(place, last)] for place, name in enumerate(self.term_names[label])}


def _term_names(names: NameMap) -> dict[str, tuple[str, ...]]:
    """Name of a sum -> the names of the gradients of its terms, which are those of the side that
    has more of them.
    """
    of_label: dict[str, tuple[str, ...]] = {}
    for label, of_both in names.sums.items():
        longer = of_both.a if len(of_both.a) >= len(of_both.b) else of_both.b
        of_label[label] = tuple(map(_shown, longer)) if len(longer) > 1 else (label,)
    return of_label


def _shown(term: Source) -> str:
    if isinstance(term, Join):
        return " and ".join(map(_shown, term.parts))
    return f"{term.name}[{term.span[0]}:{term.span[1]}]" if term.span else term.name


def _renamed_outputs(
    table: Mapping[str, Layout], prefix: str, tensors: Arrays, backend: str
) -> dict[str, Values]:
    new_names = _new_names(table)
    is_summary = prefix.startswith(("statistics/", "sketches/", "bounds/"))
    named: dict[str, Values] = {}
    for name, array in tensors.items():
        for new in new_names.get(name, (name,)):
            if new in named:
                raise InputError(f"names: {new}: two arrays of {backend} would have this name")
            layout = table[new] if name in new_names else Layout(name)
            if prefix.startswith("sketches/") and not layout.is_plain:
                continue
            named[new] = array if is_summary else layout.turn(array)
    return named


def _by_prefix(arrays: Arrays) -> dict[Key, dict[str, Values]]:
    """A trace's arrays by what stands before their tensors' names, and by these names."""
    by_prefix: dict[Key, dict[str, Values]] = {}
    for key, array in arrays.items():
        prefix, family, name = split_name(key)
        by_prefix.setdefault((prefix, family), {})[name] = array
    return by_prefix


def _used(sources: Iterable[Iterable[Source]]) -> set[str]:
    """The names of the arrays that these are made of."""
    used: set[str] = set()
    for group in sources:
        for source in group:
            used.update(source.names)
    return used


def _new_names(table: Mapping[str, Source]) -> dict[str, tuple[str, ...]]:
    """B's name -> the names of A that are made of it."""
    new_names: dict[str, tuple[str, ...]] = {}
    for name, source in table.items():
        for part in dict.fromkeys(source.names):
            new_names[part] = (*new_names.get(part, ()), name)
    return new_names


# ---- the header


def _renamed_header(header: Header, new_names: Mapping[str, Mapping[str, Any]]) -> Header:
    """The header of trace B with its lists of names, and what is stated by name, in A's words."""
    renamed: Header = {}
    for field, table in TABLE_OF_LISTS.items():
        if field in header:
            renamed[field] = _renamed(header[field], new_names[table])
    of_layer = new_names["forward"]
    if "array_dtypes" in header:
        renamed["array_dtypes"] = {}
        for key, dtype in header["array_dtypes"].items():
            _, family, name = split_name(f"statistics/{key}")
            start = key.removesuffix(name)
            for new in new_names.get(FAMILY_TABLE.get(family, ""), {}).get(name, (name,)):
                renamed["array_dtypes"][start + new] = dtype
    if "inputs" in header:
        renamed["inputs"] = {}
        for layer, fed in header["inputs"].items():
            family, _, name = fed.partition("/")
            source = new_names.get(FAMILY_TABLE.get(family, ""), {}).get(name, (name,))[0]
            renamed["inputs"][_first(of_layer, layer)] = f"{family}/{source}"
    if "operations" in header:
        renamed["operations"] = {}
        for update, operations in header["operations"].items():
            renamed["operations"][update] = [
                operation | {"layer": _first(of_layer, operation.get("layer", ""))}
                for operation in operations
            ]
    if "read" in header:
        renamed["read"] = _renamed_reading(header["read"], new_names)
    return header | renamed


def _renamed_shapes(
    header: Header, rename: Callable[[Arrays], Mapping[str, Values]]
) -> dict[str, Any]:
    """The shapes that a header states, of tensors that are summarised: those of an array of each
    shape, renamed and laid out as the arrays of the trace are.
    """
    if "shapes" not in header:
        return {}
    prefix = "detail/0/"
    arrays = {
        prefix + key: np.broadcast_to(np.zeros((), np.int8), shape)
        for key, shape in header["shapes"].items()
    }
    renamed = rename(arrays)
    return {
        "shapes": {key.removeprefix(prefix): list(array.shape) for key, array in renamed.items()}
    }


def _renamed_reading(
    read: Mapping[str, Any], new_names: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """What was read off loop B: its modules, and the parameters of its optimizers' groups."""
    renamed = dict(read)
    if "modules" in read:
        renamed["modules"] = {
            _first(new_names["forward"], layer): setting
            for layer, setting in read["modules"].items()
        }
    if "optimizers" in read:
        renamed["optimizers"] = []
        for optimizer in read["optimizers"]:
            groups = [
                group | {"parameters": _renamed(group["parameters"], new_names["names"])}
                if "parameters" in group
                else group
                for group in optimizer.get("groups", [])
            ]
            renamed["optimizers"].append(optimizer | {"groups": groups})
    return renamed


def _first(new_names: Mapping[str, Any], name: str) -> str:
    return str(new_names.get(name, (name,))[0])


def _renamed(names: Iterable[str], new_names: Mapping[str, Any]) -> list[str]:
    """Names of B in A's words, where A has others; each once."""
    renamed: dict[str, None] = {}
    for name in names:
        renamed |= dict.fromkeys(new_names.get(name, (name,)))
    return list(renamed)


# ---- what does not fit


def _refuse_missing(names: NameMap, trace: Trace) -> None:
    """Raise InputError where the map names what trace B does not hold."""
    terms = [of_both.b for of_both in names.sums.values()]
    _refuse_unknown("names", _used([tuple(names.names.values())]), trace, "names")
    _refuse_unknown("sums", _used(terms), trace, "names")
    for table in ("forward", "batch"):
        layouts = getattr(names, table).values()
        if any(FAMILY_TABLE.get(split_name(key)[1]) == table for key in trace.arrays):
            _refuse_unknown(table, {layout.name for layout in layouts}, trace, table)


def _refuse_unknown(title: str, names: set[str], trace: Trace, table: str) -> None:
    held: set[str] = set()
    for key in trace.arrays:
        _, family, name = split_name(key)
        if FAMILY_TABLE.get(family) == table:
            held.add(name)
    missing = sorted(names - held)
    if missing:
        more = f" and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
        raise InputError(
            f"names: [{title}]: not in the trace of {trace.backend}: "
            f"{', '.join(missing[:NAMED])}{more}"
        )
