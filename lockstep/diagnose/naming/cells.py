"""The two biases of a recurrent cell against the one, or the parts, of another library's cell.

PyTorch's LSTM and GRU have a bias on the side of the input and one on the side of the hidden state.
Where both are added, other libraries have one. In a GRU they are not added in the new gate n, which
is n = tanh(W x + b_in + r * (U h + b_hn)).
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from lockstep.diagnose.naming.layouts import Arrays, Join, Layout, Source, Sum
from lockstep.diagnose.naming.search import Search
from lockstep.diagnose.naming.sides import in_numbers
from lockstep.diagnose.naming.words import read_name

__all__ = ["follow_cells"]

CELL = "two biases of a cell, by their sum"
GRU_GATES = 3
LSTM_GATES = 4


class _Cell(NamedTuple):
    """A cell with two biases: names of its own side, and of the other side's tensors that its two
    weights are made of, in the order of the gates.
    """

    input_bias: str
    hidden_bias: str
    input_weights: tuple[str, ...]
    hidden_weights: tuple[str, ...]
    gates: tuple[int, ...]


def follow_cells(search: Search) -> bool:
    """Settle pairs of biases of which the other side has one, or one for some gates. Says whether
    there was any.
    """
    settled = False
    weights_of_a = {name: _parts(source) for name, source in search.settled.items()}
    for cell in _cells(search.a.arrays, search.open_a, weights_of_a, _gates(search)):
        for label, two, one in _sums(cell, search.a.arrays, search.b.arrays, search.open_b):
            _add(search, label, Sum(two, one))
            settled = True
    weights_of_b: dict[str, tuple[str, ...]] = {}
    for name, source in search.settled.items():
        for part in dict.fromkeys(source.names):
            weights_of_b[part] = (*weights_of_b.get(part, ()), name)
    gates_of_b = {name: gates for name, gates in _gates_by_part(search).items() if gates}
    for cell in _cells(search.b.arrays, search.open_b, weights_of_b, gates_of_b):
        for label, two, one in _sums(cell, search.b.arrays, search.a.arrays, search.open_a):
            _add(search, label, Sum(*_turned_back(one, two)))
            settled = True
    return settled


def _add(search: Search, label: str, of_both: Sum) -> None:
    search.sums[label] = of_both
    search.reasons[label] = CELL


def _gates_by_part(search: Search) -> Mapping[str, tuple[int, ...]]:
    """B's weight -> the order of its gates in A."""
    return {
        source.name: source.gates
        for source in search.settled.values()
        if isinstance(source, Layout)
    }


def _turned_back(
    one: tuple[Source, ...], two: tuple[Source, ...]
) -> tuple[tuple[Source, ...], tuple[Source, ...]]:
    """The terms of A and of B, with the order of gates on B's, from whose order it leads."""
    first = one[0]
    if not isinstance(first, Layout) or not first.gates:
        return one, two
    turned = tuple(replace(term, gates=first.gates) for term in two if isinstance(term, Layout))
    return (replace(first, gates=()),), turned


def _parts(source: Source) -> tuple[str, ...]:
    return source.names


def _gates(search: Search) -> Mapping[str, tuple[int, ...]]:
    """A's weight -> the order of B's gates in it."""
    return {
        name: source.gates for name, source in search.settled.items() if isinstance(source, Layout)
    }


def _cells(
    arrays: Arrays,
    open_names: Sequence[str],
    weights: Mapping[str, tuple[str, ...]],
    gates: Mapping[str, tuple[int, ...]],
) -> list[_Cell]:
    """The cells of a side of which both biases are open, and both weights settled.

    Args:
        arrays: the side's tensors.
        open_names: its names that are not settled.
        weights: its weight -> the other side's tensors, in the order of the gates.
        gates: its weight -> the order of blocks in these.
    """
    cells = []
    biases = in_numbers({name: arrays[name] for name in open_names})
    for input_bias in biases:
        hidden_bias = _hidden(input_bias)
        if hidden_bias not in biases or arrays[input_bias].ndim != 1:
            continue
        input_weight = _weight_of(input_bias, weights)
        hidden_weight = _weight_of(hidden_bias, weights)
        if input_weight and hidden_weight:
            cells.append(
                _Cell(
                    input_bias,
                    hidden_bias,
                    weights[input_weight],
                    weights[hidden_weight],
                    gates.get(hidden_weight, ()),
                )
            )
    return cells


def _hidden(name: str) -> str:
    """The bias of the hidden state's side that goes with one of the input's side, or ""."""
    head, found, tail = name.rpartition("ih")
    if not found or read_name(name).role != "bias":
        return ""
    return f"{head}hh{tail}"


def _weight_of(bias: str, weights: Mapping[str, tuple[str, ...]]) -> str:
    """The settled weight in a bias's module, or ""."""
    module = read_name(bias).module
    beside = [name for name in weights if read_name(name).module == module]
    return beside[0] if len(beside) == 1 else ""


def _sums(
    cell: _Cell, arrays: Arrays, others: Arrays, open_others: Sequence[str]
) -> list[tuple[str, tuple[Source, ...], tuple[Source, ...]]]:
    """A name for each sum, its terms on the side with two biases, and those on the other side.

    Args:
        cell: the cell.
        arrays: the tensors of its side.
        others: the other side's.
        open_others: the other side's names that are not settled.
    """
    size = arrays[cell.input_bias].size
    biases = [name for name in open_others if _is_bias(name, others)]
    of_input = [_beside(weight, biases) for weight in cell.input_weights]
    of_hidden = [_beside(weight, biases) for weight in cell.hidden_weights]
    if len(of_input) == len(of_hidden) > 1:
        return _by_gate(cell, size, of_input, of_hidden)
    around = [
        name for name in biases if _is_around(name, (*cell.input_weights, *cell.hidden_weights))
    ]
    whole = [name for name in around if others[name].size == size]
    if len(whole) != 1:
        return []
    bias = Layout(whole[0], gates=cell.gates)
    hidden = others[next(iter(cell.hidden_weights))]
    units = min(hidden.shape)
    if size == LSTM_GATES * units:
        two = (Layout(cell.input_bias), Layout(cell.hidden_bias))
        return [(_label(two), two, (bias,))]
    of_new = [name for name in around if others[name].size == units and name != whole[0]]
    if size == GRU_GATES * units and len(of_new) == 1 and not cell.gates:
        cut = size - units
        added = _terms(cell, (0, cut))
        first, second = _terms(cell, (cut, size))
        return [
            (_label(added), added, (Layout(whole[0], span=(0, cut)),)),
            (_label((first,)), (first,), (Layout(whole[0], span=(cut, size)),)),
            (_label((second,)), (second,), (Layout(of_new[0]),)),
        ]
    return []


def _by_gate(
    cell: _Cell, size: int, of_input: Sequence[str], of_hidden: Sequence[str]
) -> list[tuple[str, tuple[Source, ...], tuple[Source, ...]]]:
    """The sums where the other side has a bias, or two, for each gate."""
    gates = len(of_input)
    units = size // gates
    has_one = [bool(first) != bool(second) for first, second in zip(of_input, of_hidden)]
    if all(has_one):
        parts = tuple(Layout(first or second) for first, second in zip(of_input, of_hidden))
        two = (Layout(cell.input_bias), Layout(cell.hidden_bias))
        return [(_label(two), two, (Join(parts),))]
    if not any(has_one) or not all(map(any, zip(of_input, of_hidden))):
        return []
    sums: list[tuple[str, tuple[Source, ...], tuple[Source, ...]]] = []
    for gate, (first, second) in enumerate(zip(of_input, of_hidden)):
        terms = _terms(cell, (gate * units, (gate + 1) * units))
        if first and second:
            for term, name in zip(terms, (first, second)):
                sums.append((_label((term,)), (term,), (Layout(name),)))
        else:
            sums.append((_label(terms), terms, (Layout(first or second),)))
    return sums


def _terms(cell: _Cell, span: tuple[int, int]) -> tuple[Layout, Layout]:
    return Layout(cell.input_bias, span=span), Layout(cell.hidden_bias, span=span)


def _label(terms: Sequence[Layout]) -> str:
    shown = [
        f"{term.name}[{term.span[0]}:{term.span[1]}]" if term.span else term.name for term in terms
    ]
    return " + ".join(shown)


def _is_bias(name: str, arrays: Arrays) -> bool:
    return arrays[name].ndim == 1 and read_name(name).role in ("bias", "")


def _beside(weight: str, biases: Sequence[str]) -> str:
    """The one bias in a weight's module, or ""."""
    beside = [name for name in biases if read_name(name).module == read_name(weight).module]
    return beside[0] if len(beside) == 1 else ""


def _is_around(name: str, weights: Sequence[str]) -> bool:
    """Whether a bias lies beside a cell's weights, in their module or in the one above."""
    above = {read_name(weight).path for weight in weights}
    above |= {path[:-1] for path in above}
    path = read_name(name).path
    return path in above or path[:-1] in above
