"""The first operation of an update whose result differs, from the listings of two loops.

A result is known by its size and by norms that survive a transposition, so that a listing of
PyTorch and one of JAX can be held together. Two results are the same where their norms are as near
as rounding lets them be. A result of one side **agrees** where the other side has the same result
anywhere. A layer norm is one operation in PyTorch and twenty in JAX: what it gives agrees, and what
lies within has no counterpart.

From the tensor in which the loops part, one walks back over what each operation reads, as long as
that has no counterpart. The walk ends at an operation that has no counterpart although all that it
reads agrees: the first of a side whose result differs. Norms do not tell the order of elements: a
reshape of other axes shows at what is computed from it.

**How near is the same.** Let d be the distance of two results: the largest difference of their
2-norms, and of their sums over the root of their n elements, over the 2-norm. An operation of
results with unit roundoff u adds at most

    (1 + sqrt(m / n)) u + u' max / (4 2-norm)

to the distance of what it reads, where m >= n is the number of elements of its largest input: a sum
of m / n terms errs by some sqrt(m / n) u (Higham & Mary, SIAM J. Sci. Comput. 41(5), 2019), and
the rounding of n separate elements moves a norm by some root of the sum of their squared errors,
which is at most u' max, and a quarter of it in common tensors. Sums of half precision are carried
in float32: u is then float32's, and u' the result's own. What was read has a distance already, and
may grow: by sqrt(m / n) where elements are selected or summed, by the ratio of the sizes where
terms cancel, by the largest argument of an exponential or a sine. `SAFETY` times the sum of both is
allowed. Where one side's rounding explains a distance and the other's does not, the results count
as the same: a difference that may be rounding is not named.

Two tensors that have nothing in common have a distance of some 1 / sqrt(n). Where so much is
allowed that one of the other side's results may lie within it by chance, it is unsure whether a
result agrees, and nothing that reads it is named; it is sure to differ where what it reads does.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lockstep.diagnose.compare import Difference
from lockstep.diagnose.names import split_name
from lockstep.diagnose.units import unit_of_dtype
from lockstep.oracle.arithmetic import SAFETY
from lockstep.own_loops.operations import OUTSIDE, result_norms
from lockstep.records.trace import Trace

__all__ = ["OperationDifference", "advice_on_operations", "first_operation"]

STAGES = ("forward", "loss")
"""The stages that a listing covers."""
SAME = 1e-12
"""Distance below which two results hold the same numbers, summed in another order."""
FOUND = 1e-9
"""Distance at which a recorded tensor is a listed result."""
CHANCE = 0.1
"""Share of the distance of unrelated tensors from which on an allowance proves nothing."""
DIFFERS = "their results differ, and what they read agrees"
NEAR = 2
"""Operations after which one of a side is still held against one of the other."""
NAMED = 6
"""Operations in a list; more are counted."""
Token = tuple[str, int]
"""Kind and size of an operation."""

KINDS = {
    "matmul": ("addmm", "mm", "bmm", "baddbmm", "addbmm", "matmul", "linear", "dot_general"),
    "convolution": ("convolution", "conv_general_dilated", "mkldnn_convolution"),
    "add": ("add", "add_any", "addcmul"),
    "sub": ("sub", "rsub"),
    "mul": ("mul", "multiply"),
    "div": ("div", "true_divide"),
    "pow": ("pow", "integer_pow", "square"),
    "sum": ("sum", "reduce_sum"),
    "max": ("max", "amax", "reduce_max"),
    "where": ("where", "masked_fill", "select_n"),
    "sigmoid": ("sigmoid", "logistic"),
    "cast": ("to_copy", "convert_element_type"),
    "random": (
        "bernoulli",
        "dropout",
        "native_dropout",
        "normal",
        "rand",
        "randn",
        "random_bits",
        "threefry2x32",
        "uniform",
    ),
}
"""What two frameworks do alike -> how they call it."""
KIND_OF = {name: kind for kind, names in KINDS.items() for name in names}
SPREADING = {"broadcast", "broadcast_in_dim", "expand", "repeat"}
"""Operations that repeat the elements of their input; they are passed over."""
CANCELLING = {"add", "sub", "sum", "mean", "log_softmax", "cumsum"}
ORDERED = ("matmul", "convolution", "attention")
"""In the names of operations that give other numbers where they read them in another order."""
STEEP = {"exp", "softmax", "logsumexp", "sin", "cos", "tan", "expm1"}


@dataclass(frozen=True)
class OperationDifference:
    """The first operation whose result differs, on both sides.

    Attributes:
        layer: the layer that it belongs to; "" outside of any.
        op_a: a's operation. Where only b has the operation, the one whose result a goes on with.
        line_a: a's line of source: "model.py:12 in forward", or "".
        op_b: likewise b's.
        line_b: likewise b's.
        what: how they differ, in words.
    """

    layer: str
    op_a: str
    line_a: str
    op_b: str
    line_b: str
    what: str

    @property
    def text(self) -> str:
        """The operation in one line."""
        a = _place(self.op_a, self.line_a)
        b = _place(self.op_b, self.line_b)
        return f"{a} and {b}: {self.what}"


def _place(op: str, line: str) -> str:
    return f"{line} ({op})" if line else op


def first_operation(a: Trace, b: Trace, first: Difference) -> OperationDifference | None:
    """The first operation whose result differs; None where the listings do not tell.

    Args:
        a: a loop's trace.
        b: another's, in the names of `a`.
        first: where they part.
    """
    if first.stage not in STAGES:
        return None
    listing_a = _listing(a, first.update)
    listing_b = _listing(b, first.update)
    if listing_a is None or listing_b is None:
        return None
    starts = [_start(trace, listing, first) for trace, listing in ((a, listing_a), (b, listing_b))]
    is_recorded = None not in starts
    if not is_recorded:
        starts = [_end_of_layer(listing, first) for listing in (listing_a, listing_b)]
    start_a, start_b = starts
    if start_a is None or start_b is None:
        return None
    match_a, match_b = _matches(listing_a, listing_b)
    agrees = match_a.partner[start_a] >= 0 or match_b.partner[start_b] >= 0
    if agrees and not is_recorded:
        return None
    return _first_of(_Side(listing_a, match_a, start_a), _Side(listing_b, match_b, start_b))


def advice_on_operations(a: Trace, b: Trace, first: Difference) -> str:
    """How to record the operations that would tell more; "" where they are there, or would not."""
    traces = (a, b)
    is_loop = all(trace.header.get("kind") == "loop" for trace in traces)
    if not is_loop or first.stage not in STAGES:
        return ""
    if all(f"operations/{first.update}" in trace.arrays for trace in traces):
        return ""
    return f"record with Recorder(..., operations={first.update}) to see the first that differs"


# ---- a listing


class _Listing(NamedTuple):
    """The operations of one side.

    Attributes:
        ops, lines, layers: what was recorded of each.
        sizes: elements of each result.
        norms: (n, 4), as recorded.
        units: unit roundoff of each result's dtype.
        alias: the entry whose values each has: itself, unless it moves or repeats them.
        inputs: what each reads, over what only moves values.
        is_fresh: whether each is made of constants and draws alone.
    """

    ops: list[str]
    lines: list[str]
    layers: list[str]
    shapes: list[list[int]]
    sizes: NDArray[np.int64]
    norms: NDArray[np.float64]
    units: NDArray[np.float64]
    alias: list[int]
    inputs: list[list[int]]
    is_fresh: list[bool]

    def kind(self, entry: int) -> str:
        """What the operation is called in either framework."""
        return _kind(self.ops[entry])


def _kind(op: str) -> str:
    name = op.rpartition(".")[2].strip("_")
    return KIND_OF.get(name, name)


def _listing(trace: Trace, update: int) -> _Listing | None:
    entries: Sequence[Mapping[str, Any]]
    entries = trace.header.get("operations", {}).get(str(update), [])
    norms = trace.arrays.get(f"operations/{update}")
    has_inputs = all("inputs" in entry for entry in entries)
    if norms is None or not entries or not has_inputs:
        return None
    listing = _Listing(
        ops=[entry["op"] for entry in entries],
        lines=[entry["line"] for entry in entries],
        layers=[entry["layer"] for entry in entries],
        shapes=[entry["shape"] for entry in entries],
        sizes=np.array([np.prod(entry["shape"], dtype=np.int64) for entry in entries]),
        norms=norms,
        units=np.array([_unit(entry["dtype"]) for entry in entries]),
        alias=[],
        inputs=[],
        is_fresh=[],
    )
    for index, entry in enumerate(entries):
        _append(listing, index, entry["inputs"])
    return listing


def _append(listing: _Listing, index: int, recorded: Sequence[int]) -> None:
    """Follow what an entry reads over what only moves values."""
    aliases = {listing.alias[entry] if entry != OUTSIDE else OUTSIDE for entry in recorded}
    inputs = sorted(aliases)
    fresh = [entry != OUTSIDE and listing.is_fresh[entry] for entry in inputs]
    listing.inputs.append(inputs)
    listing.is_fresh.append(all(fresh))
    alias = index
    kind = _kind(listing.ops[index])
    if kind in SPREADING and len(inputs) == 1:
        alias = inputs[0]
    if kind in ("cast", "clone", "copy") and inputs == [OUTSIDE]:
        alias = OUTSIDE
    for entry in inputs:
        if entry == OUTSIDE or listing.sizes[entry] != listing.sizes[index]:
            continue
        norms = listing.norms[[entry, index]]
        if _distances(norms[:1], norms[1], int(listing.sizes[index]))[0] <= SAME:
            alias = entry
    listing.alias.append(alias)


def _unit(dtype: str) -> float:
    """Unit roundoff of a dtype; 0 of whole numbers and flags."""
    return unit_of_dtype(dtype) if "float" in dtype else 0.0


def _start(trace: Trace, listing: _Listing, first: Difference) -> int | None:
    """The entry that is the tensor in which the loops part, or None."""
    if first.stage == "loss":
        loss = trace.arrays.get("updates/loss")
        if loss is None:
            return None
        return _entry_of(listing, np.asarray(loss[first.update]))
    tensor = _tensor(first)
    array = trace.arrays.get(f"detail/{first.update}/forward/{tensor}")
    if array is None:
        return None
    entry = _entry_of(listing, array)
    if entry is not None or not array.ndim:
        return entry
    for size in sorted({int(size) for size in listing.sizes if 0 < size < array.size}):
        rows, rest = divmod(size * len(array), array.size)
        if not rest:  # the first of several micro-batches
            entry = _entry_of(listing, array[:rows])
            if entry is not None:
                return entry
    return None


def _tensor(first: Difference) -> str:
    """The output in which the loops part, or of which they differ in what is measured."""
    return split_name(first.array)[2] if first.array else first.tensor


def _entry_of(listing: _Listing, array: NDArray[Any]) -> int | None:
    """The first entry that holds an array's values."""
    norms = np.array(result_norms(np.asarray(array)))
    entries = np.flatnonzero(listing.sizes == array.size)
    distances = _distances(listing.norms[entries], norms, array.size)
    for entry in entries[distances <= FOUND]:
        if listing.alias[entry] != OUTSIDE:
            return int(listing.alias[entry])
    return None


def _end_of_layer(listing: _Listing, first: Difference) -> int | None:
    """The last entry of the layer in which the loops part, where its output is not recorded."""
    tensor = _tensor(first)
    entries = [entry for entry, layer in enumerate(listing.layers) if layer == tensor]
    if first.stage != "forward" or not entries or listing.alias[entries[-1]] == OUTSIDE:
        return None
    return listing.alias[entries[-1]]


# ---- what agrees


class _Match(NamedTuple):
    """What of a side agrees with the other.

    Attributes:
        partner: the other side's entry with the same result, or -1.
        error: how far each may be from its counterpart, relative to its 2-norm.
        is_unsure: whether another result may be as near by chance.
    """

    partner: NDArray[np.int64]
    error: NDArray[np.float64]
    is_unsure: NDArray[np.bool_]


def _matches(a: _Listing, b: _Listing) -> tuple[_Match, _Match]:
    """What agrees of either side."""
    of_a = _match(a, b, {})
    of_b = _match(b, a, _known(of_a))
    of_a = _match(a, b, _known(of_b))
    return of_a, _match(b, a, _known(of_a))


def _known(match: _Match) -> dict[int, tuple[int, float]]:
    """The other side's entries that have a counterpart: it, and the distance."""
    known: dict[int, tuple[int, float]] = {}
    for entry in np.flatnonzero((match.partner >= 0) & ~match.is_unsure).tolist():
        known.setdefault(int(match.partner[entry]), (entry, float(match.error[entry])))
    return known


def _match(mine: _Listing, other: _Listing, known: Mapping[int, tuple[int, float]]) -> _Match:
    """What agrees of one side, with the counterparts that the other has found already."""
    partner = np.full(len(mine.ops), -1)
    error = np.zeros(len(mine.ops))
    is_unsure = np.zeros(len(mine.ops), np.bool_)
    by_size = {int(size): np.flatnonzero(other.sizes == size) for size in set(mine.sizes.tolist())}
    for entry, size in enumerate(mine.sizes.tolist()):
        expected = _error_by_rounding(mine, error, entry)
        error[entry] = expected
        candidates = by_size[size]
        if not len(candidates):
            continue
        distances = _distances(other.norms[candidates], mine.norms[entry], size)
        nearest = int(distances.argmin())
        allowed = SAME + SAFETY * expected
        by_chance = CHANCE / np.sqrt(max(size, 1) * len(candidates))
        is_sure = distances[nearest] <= SAME or allowed <= by_chance
        reads = [source for source in mine.inputs[entry] if source != OUTSIDE]
        if distances[nearest] <= allowed and (is_sure or (partner[reads] >= 0).all()):
            partner[entry] = candidates[nearest]
            error[entry] = distances[nearest]
            is_unsure[entry] = not is_sure
        elif entry in known:
            partner[entry], error[entry] = known[entry]
    return _Match(partner, error, is_unsure)


def _distances(
    norms: NDArray[np.float64], of: NDArray[np.float64], size: int
) -> NDArray[np.float64]:
    """The distances of results (n, 4) from one (4,), all of one size; see the module."""
    scale = np.maximum(np.maximum(norms[:, 0], of[0]), np.finfo(np.float64).tiny)
    gaps = np.abs(norms[:, :3] - of[:3]) / scale[:, None]
    gaps[:, 1:] /= np.sqrt(max(size, 1))
    distances: NDArray[np.float64] = gaps.max(axis=1)
    return distances


def _error_by_rounding(listing: _Listing, error: NDArray[np.float64], entry: int) -> float:
    """How far rounding may carry a result, by what it reads and what it adds; see the module."""
    read = [source for source in listing.inputs[entry] if source != OUTSIDE]
    size = max(int(listing.sizes[entry]), 1)
    norm, _, _, largest = listing.norms[entry]
    shares = [max(float(listing.sizes[source]) / size, 1.0) for source in read]
    grown = [
        error[source] * np.sqrt(share) * _growth(listing, source, entry)
        for source, share in zip(read, shares)
    ]
    unit = float(listing.units[entry])
    carried = min(unit, unit_of_dtype("float32"))
    terms = 1 + np.sqrt(max(shares, default=1.0))
    own = terms * carried + (unit * largest / norm / 4 if norm and unit > carried else 0.0)
    return float(max(grown, default=0.0) + own)


def _growth(listing: _Listing, source: int, entry: int) -> float:
    """By how much an operation may enlarge the relative error of what it reads."""
    kind = listing.kind(entry)
    if kind in STEEP:
        return max(float(listing.norms[source, 3]), 1.0)
    if kind in CANCELLING:
        root_mean_squares = [
            listing.norms[index, 0] / np.sqrt(max(int(listing.sizes[index]), 1))
            for index in (source, entry)
        ]
        before, after = root_mean_squares
        return float(max(before / after, 1.0)) if after else 1.0
    return 1.0


# ---- the first that differs


class _Side(NamedTuple):
    """One side: its operations, which of them agree, and the one in which the loops part."""

    listing: _Listing
    match: _Match
    start: int

    def region(self) -> list[int]:
        """The entries without counterpart that lead to the start, in call order."""
        region = {self.start}
        pending = [self.start]
        while pending:
            for source in self.listing.inputs[pending.pop()]:
                if source != OUTSIDE and source not in region and self.match.partner[source] < 0:
                    region.add(source)
                    pending.append(source)
        return sorted(region)

    def ancestors(self) -> set[int]:
        """The entries that lead to the start, with it."""
        ancestors = {self.start}
        for entry in range(self.start, -1, -1):
            if entry in ancestors:
                ancestors.update(self.listing.inputs[entry])
        return ancestors

    def leading(self, region: Iterable[int]) -> list[int]:
        """The entries of a region that read more than constants and draws; all if none does."""
        leading = [entry for entry in region if not self.listing.is_fresh[entry]]
        return leading or list(region)

    def fresh_of(self, entry: int) -> list[int]:
        """The constants and draws that an entry reads, or they in turn, in call order."""
        fresh: set[int] = set()
        pending = [entry]
        while pending:
            for source in self.listing.inputs[pending.pop()]:
                if source != OUTSIDE and source not in fresh and self.listing.is_fresh[source]:
                    fresh.add(source)
                    pending.append(source)
        return sorted(fresh)

    def tokens(self, entries: Iterable[int]) -> list[Token]:
        """Kind and size of operations."""
        return [(self.listing.kind(entry), int(self.listing.sizes[entry])) for entry in entries]

    def ops(self, entries: Sequence[int]) -> str:
        """Operations in words."""
        names = list(dict.fromkeys(self.listing.ops[entry] for entry in entries))
        listed = ", ".join(names[:NAMED])
        return f"{listed} and {len(names) - NAMED} more" if len(names) > NAMED else listed

    def partners(self, entry: int) -> set[int]:
        """The counterparts of the results that an entry reads; -1 for one without."""
        read = [source for source in self.listing.inputs[entry] if source != OUTSIDE]
        return {int(self.match.partner[source]) for source in read}

    def is_unsure(self, entry: int) -> bool:
        """Whether it is unsure that what an operation reads agrees."""
        read = [source for source in self.listing.inputs[entry] if source != OUTSIDE]
        return any(bool(self.match.is_unsure[source]) for source in read)

    def is_exact(self) -> bool:
        """Whether what leads to the start reads nothing but the other side's very numbers."""
        region = self.region()
        read = {source for entry in region for source in self.listing.inputs[entry]}
        outer = sorted(read - {OUTSIDE, *region})
        return bool((self.match.error[outer] <= SAME).all())


def _first_of(a: _Side, b: _Side) -> OperationDifference | None:
    for side in (a, b):
        if any(side.is_unsure(entry) for entry in side.region()):
            return None
    agrees_a = a.match.partner[a.start] >= 0
    agrees_b = b.match.partner[b.start] >= 0
    if agrees_a and agrees_b:
        # the norms are alike, and single elements are not
        is_one = a.match.partner[a.start] == b.start and a.is_exact() and b.is_exact()
        return _aligned(a, b) if is_one else None
    if agrees_a:
        return _exchanged(_only(b, a, b.leading(b.region()), a.start))
    if agrees_b:
        return _only(a, b, a.leading(a.region()), b.start)
    return _aligned(a, b)


def _aligned(a: _Side, b: _Side) -> OperationDifference | None:
    """The first operation of what leads to the starts and has no counterpart."""
    path_a = a.leading(a.region())
    path_b = b.leading(b.region())
    tokens_a = a.tokens(path_a)
    tokens_b = b.tokens(path_b)
    if tokens_a[0] == tokens_b[0]:
        return _same_kind(a, path_a[0], b, path_b[0])
    end_a, end_b = _first_pair(tokens_a, tokens_b)
    begin_a = begin_b = 0
    if not end_b:
        begin_b, end_b = _extra_after(tokens_b, 0, tokens_a, end_a)
    elif not end_a:
        begin_a, end_a = _extra_after(tokens_a, 0, tokens_b, end_b)
    entries_a = path_a[begin_a:end_a]
    entries_b = path_b[begin_b:end_b]
    if not entries_b:
        return _only(a, b, entries_a, None)
    if not entries_a:
        return _exchanged(_only(b, a, entries_b, None))
    what = f"a has {a.ops(entries_a)} where b has {b.ops(entries_b)}"
    return _differs(a, entries_a[0], b, entries_b[0], what)


def _first_pair(a: Sequence[Token], b: Sequence[Token]) -> tuple[int, int]:
    """The places of two operations of one kind and size with the fewest before them, or of one kind
    with one before them; the ends of both where there are none.
    """
    for length, most in ((2, len(a) + len(b)), (1, 1)):
        first_in_b: dict[Any, int] = {}
        for place, token in enumerate(b):
            first_in_b.setdefault(token[:length], place)
        pairs = [
            (place, first_in_b[token[:length]])
            for place, token in enumerate(a)
            if token[:length] in first_in_b
        ]
        near = min(pairs, key=sum, default=(len(a), len(b)))
        if pairs and sum(near) <= most:
            return near
    return len(a), len(b)


def _extra_after(
    mine: Sequence[Token], at: int, other: Sequence[Token], other_at: int
) -> tuple[int, int]:
    """Where one side has an operation more, soon after a place from which on both are alike: as a
    scale of the scores in place of one of the queries. (at, at) where it has none.
    """
    for ahead in range(1, NEAR + 1):
        here = mine[at + ahead : at + ahead + 2]
        there = other[other_at + ahead : other_at + ahead + 1]
        if here[1:] == there and here[:1] != there:
            return at + ahead, at + ahead + 1
        if here[:1] != there:
            break
    return at, at


def _same_kind(a: _Side, entry_a: int, b: _Side, entry_b: int) -> OperationDifference:
    """The difference of two operations of one kind; of the constants or draws that they read, where
    these differ.
    """
    fresh_a = a.fresh_of(entry_a)
    fresh_b = b.fresh_of(entry_b)
    if a.tokens(fresh_a) == b.tokens(fresh_b):
        for mine, its in zip(fresh_a, fresh_b):
            if not _is_same(a.listing, mine, b.listing, its):
                entry_a, entry_b = mine, its
                break
    what = ""
    if a.listing.kind(entry_a) == b.listing.kind(entry_b) == "random":
        what = "each side draws for itself"
    else:
        what = _other_reads(a, entry_a, b, entry_b)
    if not what and any(word in a.listing.kind(entry_a) for word in ORDERED):
        what = f"{DIFFERS}, perhaps but for its order"
    return _differs(a, entry_a, b, entry_b, what)


def _other_reads(a: _Side, entry_a: int, b: _Side, entry_b: int) -> str:
    """What two operations read that is not the same, in words; "" where all of it agrees."""
    reads_a = [source for source in a.listing.inputs[entry_a] if source != OUTSIDE]
    reads_b = [source for source in b.listing.inputs[entry_b] if source != OUTSIDE]
    alone_a = [source for source in reads_a if not _has_counterpart(a, source, b, reads_b)]
    alone_b = [source for source in reads_b if not _has_counterpart(b, source, a, reads_a)]
    if not alone_a and not alone_b:
        return ""
    words = []
    for name, side, alone in (("a", a, alone_a), ("b", b, alone_b)):
        places = [_place(side.listing.ops[i], side.listing.lines[i]) for i in alone]
        if places:
            words.append(f"{name} reads the result of {' and '.join(places)}")
    return ", ".join(words)


def _has_counterpart(side: _Side, entry: int, other: _Side, reads: Sequence[int]) -> bool:
    """Whether a result of one side is among what the other reads, or is not known on either."""
    partner = int(side.match.partner[entry])
    if partner < 0 or partner in reads:
        return True
    return any(_is_same(side.listing, entry, other.listing, read) for read in reads)


def _is_same(a: _Listing, entry_a: int, b: _Listing, entry_b: int) -> bool:
    size = int(a.sizes[entry_a])
    return size == b.sizes[entry_b] and bool(
        _distances(a.norms[[entry_a]], b.norms[entry_b], size)[0] <= SAME
    )


def _differs(a: _Side, entry_a: int, b: _Side, entry_b: int, what: str = "") -> OperationDifference:
    return OperationDifference(
        a.listing.layers[entry_a] or b.listing.layers[entry_b],
        a.listing.ops[entry_a],
        a.listing.lines[entry_a],
        b.listing.ops[entry_b],
        b.listing.lines[entry_b],
        what or DIFFERS,
    )


def _only(a: _Side, b: _Side, extra: list[int], goes_on: int | None) -> OperationDifference | None:
    """The difference where operations of `a` have no counterpart in `b`, which goes on with the
    result of its entry `goes_on`; None: with what the first of them reads.
    """
    entry = extra[0]
    if goes_on is None:
        goes_on = max(a.partners(entry) - {-1}, default=b.start)
    elif int(b.match.partner[goes_on]) not in a.ancestors():
        return None
    new = [index for index in a.fresh_of(entry) if a.match.partner[index] < 0]
    what = f"only a has {a.ops([*new, *extra])}"
    return _differs(a, entry, b, goes_on, what)


def _exchanged(difference: OperationDifference | None) -> OperationDifference | None:
    """The difference with the sides exchanged."""
    if difference is None:
        return None
    return OperationDifference(
        difference.layer,
        difference.op_b,
        difference.line_b,
        difference.op_a,
        difference.line_a,
        difference.what.replace("only a has", "only b has", 1),
    )
