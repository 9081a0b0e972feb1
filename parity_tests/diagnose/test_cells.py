"""Recurrent cells: PyTorch's packed gates and two biases against cells with a kernel for each gate,
and with one bias where PyTorch adds two.
"""

import numpy as np
import pytest

from lockstep.diagnose.names import apply, reduced
from lockstep.diagnose.propose import propose
from lockstep.records.trace import Trace
from parity_tests.diagnose.test_wrong_pairs import Arrays, draw, sorted_of, trace_of

INPUTS, UNITS = 3, 5


def torch_cell(gates: int) -> Arrays:
    rows = gates * UNITS
    return {
        "rnn.weight_ih_l0": draw(rows, INPUTS),
        "rnn.weight_hh_l0": draw(rows, UNITS),
        "rnn.bias_ih_l0": draw(rows),
        "rnn.bias_hh_l0": draw(rows),
        "head.weight": draw(2, UNITS),
    }


def flax_lstm(ours: Arrays) -> Arrays:
    """Flax's OptimizedLSTMCell: biases on the side of the hidden state alone."""
    theirs = {"head.kernel": ours["head.weight"].T}
    bias = ours["rnn.bias_ih_l0"] + ours["rnn.bias_hh_l0"]
    for place, gate in enumerate("ifgo"):
        rows = slice(place * UNITS, (place + 1) * UNITS)
        theirs[f"cell.i{gate}.kernel"] = ours["rnn.weight_ih_l0"][rows].T
        theirs[f"cell.h{gate}.kernel"] = ours["rnn.weight_hh_l0"][rows].T
        theirs[f"cell.h{gate}.bias"] = bias[rows]
    return theirs


def flax_gru(ours: Arrays) -> Arrays:
    """Flax's GRUCell: a bias on the side of the hidden state for the new gate alone."""
    theirs = {"head.kernel": ours["head.weight"].T}
    for place, gate in enumerate("rzn"):
        rows = slice(place * UNITS, (place + 1) * UNITS)
        theirs[f"cell.i{gate}.kernel"] = ours["rnn.weight_ih_l0"][rows].T
        theirs[f"cell.h{gate}.kernel"] = ours["rnn.weight_hh_l0"][rows].T
        of_input, of_hidden = ours["rnn.bias_ih_l0"][rows], ours["rnn.bias_hh_l0"][rows]
        theirs[f"cell.i{gate}.bias"] = of_input if gate == "n" else of_input + of_hidden
    return theirs | {"cell.hn.bias": of_hidden}


def equinox_gru(ours: Arrays) -> Arrays:
    """Equinox's GRUCell: one bias, and one more for the new gate."""
    of_input, of_hidden = ours["rnn.bias_ih_l0"], ours["rnn.bias_hh_l0"]
    added = (of_input + of_hidden)[: 2 * UNITS]
    return {
        "out.weight": ours["head.weight"],
        "cell.weight_ih": ours["rnn.weight_ih_l0"],
        "cell.weight_hh": ours["rnn.weight_hh_l0"],
        "cell.bias": np.concatenate([added, of_input[2 * UNITS :]]),
        "cell.bias_n": of_hidden[2 * UNITS :],
    }


def other_order(ours: Arrays) -> Arrays:
    """A cell with the gates i, g, f, o, as Haiku has them."""

    def reordered(array: np.ndarray) -> np.ndarray:
        blocks = np.split(array, 4)
        return np.concatenate([blocks[i] for i in (0, 2, 1, 3)])

    return {
        "out.kernel": ours["head.weight"].T,
        "cell.w": reordered(ours["rnn.weight_ih_l0"]).T,
        "cell.u": reordered(ours["rnn.weight_hh_l0"]).T,
        "cell.b": reordered(ours["rnn.bias_ih_l0"] + ours["rnn.bias_hh_l0"]),
    }


def assert_all_is_compared(a: Trace, b: Trace) -> None:
    """The map leaves nothing open, and leads from either side to the same numbers."""
    proposal = propose(a, b)
    assert not proposal.open_a
    assert not proposal.open_b
    assert not proposal.names.only_a | proposal.names.only_b
    start_a = reduced(proposal.names, a).parameters(0)
    start_b = apply(proposal.names, b).parameters(0)
    assert start_a.keys() == start_b.keys()
    for name, array in start_a.items():
        np.testing.assert_allclose(start_b[name], array, rtol=1e-6, err_msg=name)


@pytest.mark.parametrize(
    ("gates", "port"), [(4, flax_lstm), (3, flax_gru), (3, equinox_gru), (4, other_order)]
)
def test_a_cell_of_another_library_is_mapped_from_either_side(gates: int, port) -> None:  # type: ignore[no-untyped-def]
    ours = torch_cell(gates)
    a, b = trace_of(ours), trace_of(sorted_of(port(ours)))
    assert_all_is_compared(a, b)
    assert_all_is_compared(b, a)


@pytest.mark.parametrize(("gates", "port"), [(4, flax_lstm), (3, flax_gru)])
def test_gates_are_told_by_their_names_where_the_values_differ(gates: int, port) -> None:  # type: ignore[no-untyped-def]
    ours = torch_cell(gates)
    right = propose(trace_of(ours), trace_of(sorted_of(port(ours)))).names
    theirs = {name: draw(*array.shape) for name, array in port(ours).items()}
    wrong = propose(trace_of(ours), trace_of(sorted_of(theirs))).names
    assert (wrong.names, wrong.sums) == (right.names, right.sums)


def test_a_hidden_bias_that_is_missing_is_only_in_a() -> None:
    ours = torch_cell(3)
    theirs = {name: array for name, array in ours.items() if name != "rnn.bias_hh_l0"}
    names = propose(trace_of(ours), trace_of(theirs)).names
    assert (names.only_a, names.sums) == ({"rnn.bias_hh_l0"}, {})
