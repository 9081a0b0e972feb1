"""How a recurrent layer computes: the order of its gates, its biases, its reset, its direction."""

from collections.abc import Iterator, Mapping
from itertools import combinations, permutations
from typing import Any, NamedTuple

import numpy as np

from lockstep.diagnose.local.forms import Settings, Words, side_by_side
from lockstep.diagnose.local.layer_view import LayerView
from lockstep.oracle.arithmetic import Array

__all__ = ["RECURRENT"]

GATES = {"lstm": "ifgo", "gru": "rzn", "rnn": "h"}
MOST_STEPS = 1000
HIDDEN = ("hh", "hidden", "recurrent", "wh", "bh")
"""Parts of the names of what multiplies the hidden state, or is added to its product."""
DEFAULTS: dict[str, object] = {
    "input bias": "added",
    "hidden bias": "added",
    "reset": "after",
    "update": "old",
    "forget": 0.0,
    "direction": "forward",
    "start": "zeros",
    "candidate": "tanh",
}
OTHERS: dict[str, tuple[object, ...]] = {
    "input bias": ("missing",),
    "hidden bias": ("missing", "outside the reset"),
    "reset": ("before",),
    "update": ("new",),
    "forget": (1.0,),
    "direction": ("backward",),
    "start": ("carried",),
    "candidate": ("relu", "sigmoid"),
}
ALLOWED = {
    "lstm": ("input bias", "hidden bias", "forget", "direction", "start", "candidate"),
    "gru": ("input bias", "hidden bias", "reset", "update", "direction", "start", "candidate"),
    "rnn": ("input bias", "hidden bias", "direction", "start", "candidate"),
}
OUTPUTS = ("all", "last", "first", "mean", "largest", "all cell states", "last cell state")
PAGES = {
    "gates": "lstm-gate-order",
    "hidden bias": "gru-hidden-bias",
    "reset": "gru-hidden-bias",
}


class _Weights(NamedTuple):
    """W (G, H, D), U (G, H, H) and biases (G, H); None where there is none."""

    w: Array
    u: Array
    input_bias: Array | None
    hidden_bias: Array | None


class _Recurrent:
    """An LSTM, a GRU or a plain recurrent layer over a sequence, or one step of its cell."""

    is_by_example = False

    def settings(self, view: LayerView) -> Iterator[Settings]:
        """A layer as PyTorch and Flax have it, then one thing otherwise, then two."""
        width = view.output.shape[-1]
        frames = list(_frames(view, width))
        for deviations in (0, 1, 2):
            for frame in frames:
                kind = str(frame["cell"])
                for changed in _changes(kind, deviations):
                    yield {**DEFAULTS, "gates": GATES[kind], **frame, **changed}

    def output(self, view: LayerView, settings: Settings) -> Array | None:
        """What the layer gives, in the output's shape."""
        states = _states(view, settings, view.output.shape[-1], None)
        return None if states is None else _presented(states, settings, view.output.shape)

    def words(self, layer: str, a: Settings, b: Settings) -> Words | None:
        """The one or two things that are otherwise."""
        if a["cell"] != b["cell"]:
            return None
        names = [
            name
            for name in ("gates", *DEFAULTS, "time axis", "output", "rows")
            if a[name] != b[name]
        ]
        if names == ["hidden bias"] and "added" in (a["hidden bias"], b["hidden bias"]):
            return _hidden_bias_words(layer, str(a["cell"]), a["hidden bias"], b["hidden bias"])
        if not names:
            return None
        of_a, of_b = ([_words(name, of[name]) for name in names] for of in (a, b))
        key = f"recurrent-{names[0].replace(' ', '-')}"
        return Words(key, side_by_side(layer, of_a, of_b), PAGES.get(names[0], ""))


def _hidden_bias_words(layer: str, cell: str, a: object, b: object) -> Words:
    """That one side's hidden bias is missing, or folded into the bias of the input."""
    off, value = ("b", b) if a == "added" else ("a", a)
    page = PAGES["hidden bias"]
    if value == "missing":
        where = ", in the n gate within r * (...)" if cell == "gru" else ""
        text = f"{off} has no hidden bias in {layer}: what bias_hh adds is missing{where}"
        return Words("recurrent-hidden-bias", text, page, off)
    text = (
        f"{off} adds the hidden bias of {layer}'s n gate outside of r * (...), as if it were one "
        "with the bias of the input"
    )
    return Words("recurrent-hidden-bias", text, page)


def _words(name: str, value: Any) -> str:
    if name == "gates":
        return f"has its gates in the order {' '.join(value)}"
    if name in ("input bias", "hidden bias"):
        verb = {"added": "adds its", "missing": "has no"}.get(value)
        return f"{verb} {name}" if verb else f"adds its {name} {value}"
    if name == "reset":
        where = "after" if value == "after" else "before"
        return f"resets the hidden state {where} its product with the kernel"
    if name == "update":
        kept = "z h + (1 - z) n" if value == "old" else "(1 - z) h + z n"
        return f"takes {kept}"
    if name == "forget":
        return "adds 1 to its forget gate" if value else "adds nothing to its forget gate"
    if name == "direction":
        return "runs forward in time" if value == "forward" else "runs backward in time"
    if name == "start":
        start = "zeros" if value == "zeros" else "the state that the update before left"
        return f"starts from {start}"
    if name == "time axis":
        return f"takes axis {value} of its input for time"
    if name == "candidate":
        return f"has a candidate by {value}"
    if name == "rows":
        return f"gives its rows {value}"
    return f"gives the {value} of its states" if value != "all" else "gives all its states"


def _changes(kind: str, deviations: int) -> Iterator[dict[str, object]]:
    singles: list[dict[str, object]] = []
    if deviations:
        orders = ("".join(order) for order in permutations(GATES[kind]))
        singles += [{"gates": order} for order in orders if order != GATES[kind]]
        singles += [{name: value} for name in ALLOWED[kind] for value in OTHERS[name]]
    if deviations == 0:
        yield {}
    elif deviations == 1:
        yield from singles
    else:
        for one, other in combinations(singles, 2):
            if one.keys() != other.keys():
                yield {**one, **other}


def _frames(view: LayerView, width: int) -> Iterator[dict[str, object]]:
    """The cell, the input, its time axis, and which states the output is."""
    for source, x in view.inputs.items():
        if x.ndim not in (2, 3):
            continue
        for cell in GATES:
            weights = _weights(view, cell, x.shape[-1], width)
            if weights is None:
                continue
            biases = {
                name: "missing"
                for name, bias in (
                    ("input bias", weights.input_bias),
                    ("hidden bias", weights.hidden_bias),
                )
                if bias is None or not bias.any()
            }
            for axis in (1, 0) if x.ndim == 3 else (-1,):
                batch, steps = (len(x), 1) if x.ndim == 2 else (x.shape[1 - axis], x.shape[axis])
                if steps > MOST_STEPS:
                    continue
                frame: dict[str, object] = {"cell": cell, "input": source, "time axis": axis}
                frame.update(biases)
                for output in OUTPUTS:
                    is_all = output.startswith("all")
                    if view.output.size != batch * width * (steps if is_all else 1):
                        continue
                    for rows in ("by example", "by time") if is_all else ("by example",):
                        yield {**frame, "output": output, "rows": rows}


def _weights(view: LayerView, cell: str, given: int, width: int) -> _Weights | None:
    """The weights of a layer, as PyTorch packs them, or as Flax has them gate by gate."""
    gates = len(GATES[cell])
    packed = _packed(view.parameters, gates, given, width)
    return packed or _by_gates(view.nested, cell, given, width)


def _packed(parameters: Mapping[str, Array], gates: int, given: int, width: int) -> _Weights | None:
    w = u = input_bias = hidden_bias = None
    has_both = any("bias" in role and "hh" in role for role in parameters)
    for role, array in parameters.items():
        is_hidden = role.lower() == "u" or any(word in role for word in HIDDEN)
        if role.endswith(("_reverse",)) or any(f"_l{k}" in role for k in range(1, 10)):
            return None  # several layers, or both directions
        if array.ndim == 2:
            length = given if not is_hidden else width
            oriented = array if array.shape == (gates * width, length) else array.T
            if oriented.shape != (gates * width, length):
                continue
            cut = oriented.reshape(gates, width, length)
            w, u = (w, cut) if is_hidden else (cut, u)
        elif array.shape == (gates * width,) and not (role == "bias" and has_both):
            bias = array.reshape(gates, width)
            input_bias, hidden_bias = (input_bias, bias) if is_hidden else (bias, hidden_bias)
    if w is None or u is None:
        return None
    return _Weights(w, u, input_bias, hidden_bias)


def _by_gates(nested: Mapping[str, Array], cell: str, given: int, width: int) -> _Weights | None:
    """The weights of Flax: "ii.kernel" (D, H), "hi.kernel" (H, H), "hi.bias" (H,)."""
    if cell == "rnn":
        return None

    def stacked(side: str, role: str, shape: tuple[int, ...]) -> Array | None:
        parts = [nested.get(f"{side}{gate}.{role}") for gate in GATES[cell]]
        if all(part is None for part in parts):
            return None
        if any(part is not None and part.shape != shape for part in parts):
            return None
        return np.stack([np.zeros(shape) if part is None else part for part in parts])

    w = stacked("i", "kernel", (given, width))
    u = stacked("h", "kernel", (width, width))
    if w is None or u is None:
        return None
    biases = stacked("i", "bias", (width,)), stacked("h", "bias", (width,))
    return _Weights(w.swapaxes(1, 2), u.swapaxes(1, 2), *biases)


def _states(
    view: LayerView, settings: Settings, width: int, start: tuple[Array, Array] | None
) -> tuple[Array, Array] | None:
    """The hidden and the cell states (T, B, H)."""
    x = view.inputs.get(str(settings["input"]))
    cell = str(settings["cell"])
    axis: Any = settings["time axis"]
    weights = None if x is None else _weights(view, cell, x.shape[-1], width)
    if x is None or weights is None or x.ndim != (2 if axis == -1 else 3):
        return None
    if settings["start"] == "carried" and start is None:
        ends = None
        if view.before is not None:
            ends = _states(view.before, {**settings, "start": "zeros"}, width, None)
        if ends is None:
            return None
        start = ends[0][-1], ends[1][-1]
    x_TBD = x[None] if axis == -1 else np.moveaxis(x, axis, 0)
    if settings["direction"] == "backward":
        x_TBD = x_TBD[::-1]
    w, u, b_in, b_hidden = _in_order(weights, cell, settings)
    if b_in is None or b_hidden is None:
        return None
    h = np.zeros((x_TBD.shape[1], width))
    c = np.zeros_like(h)
    if start is not None:
        h, c = start
        if h.shape != (x_TBD.shape[1], width):
            return None
    step = {"lstm": _lstm, "gru": _gru, "rnn": _rnn}[cell]
    of_input_GTBH = np.einsum("tbd,ghd->gtbh", x_TBD, w) + b_in[:, None, None]
    hidden, cells = [], []
    for time in range(len(x_TBD)):
        h, c = step(of_input_GTBH[:, time], h, c, (u, b_hidden), settings)
        hidden.append(h)
        cells.append(c)
    if settings["direction"] == "backward":
        hidden, cells = hidden[::-1], cells[::-1]
    return np.stack(hidden), np.stack(cells)


def _in_order(
    weights: _Weights, cell: str, settings: Settings
) -> tuple[Array, Array, Array | None, Array | None]:
    """The weights with their gates in the cell's own order, and biases of 0 where these are
    missing; None for a bias that the settings ask for and that is not there.
    """
    order = [str(settings["gates"]).index(gate) for gate in GATES[cell]]
    biases: list[Array | None] = []
    for name, bias in (
        ("input bias", weights.input_bias),
        ("hidden bias", weights.hidden_bias),
    ):
        if settings[name] == "missing":
            biases.append(np.zeros(weights.w.shape[:2]))
        else:
            biases.append(bias[order] if bias is not None and bias.any() else None)
    b_in, b_hidden = biases
    if settings["hidden bias"] == "outside the reset" and b_hidden is not None:
        if cell != "gru" or b_in is None:
            return weights.w, weights.u, None, None
        b_in = b_in + b_hidden
        b_hidden = np.zeros_like(b_hidden)
    return weights.w[order], weights.u[order], b_in, b_hidden


_Hidden = tuple[Array, Array]


def _lstm(z: Array, h: Array, c: Array, hidden: _Hidden, settings: Settings) -> _Hidden:
    u, bias = hidden
    i, f, g, o = z + np.einsum("bk,ghk->gbh", h, u) + bias[:, None]
    forget: Any = settings["forget"]
    c = _sigmoid(f + forget) * c + _sigmoid(i) * _candidate(g, settings)
    return _sigmoid(o) * _candidate(c, settings), c


def _gru(x: Array, h: Array, c: Array, hidden: _Hidden, settings: Settings) -> _Hidden:
    u, bias = hidden
    r = _sigmoid(x[0] + h @ u[0].T + bias[0])
    z = _sigmoid(x[1] + h @ u[1].T + bias[1])
    if settings["reset"] == "after":
        n = _candidate(x[2] + r * (h @ u[2].T + bias[2]), settings)
    else:
        n = _candidate(x[2] + (r * h) @ u[2].T + bias[2], settings)
    if settings["update"] == "new":
        z = 1 - z
    return (1 - z) * n + z * h, c


def _rnn(x: Array, h: Array, c: Array, hidden: _Hidden, settings: Settings) -> _Hidden:
    u, bias = hidden
    return _candidate(x[0] + h @ u[0].T + bias[0], settings), c


def _sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)))


def _candidate(x: Array, settings: Settings) -> Array:
    kind = settings["candidate"]
    if kind == "relu":
        return np.maximum(x, 0.0)
    return _sigmoid(x) if kind == "sigmoid" else np.tanh(x)


def _presented(
    states: tuple[Array, Array], settings: Settings, shape: tuple[int, ...]
) -> Array | None:
    """The states that are given, in the output's shape; None where they do not fit it."""
    output = str(settings["output"])
    h_TBH = states[1] if "cell" in output else states[0]
    if settings["direction"] == "backward" and "last" in output:
        h_TBH = h_TBH[::-1]  # the state that was computed last
    if output.startswith("all"):
        axis: Any = settings["time axis"]
        if len(shape) == 3 and h_TBH.shape[0] != h_TBH.shape[1] and axis != -1:
            by_time = shape[0] == h_TBH.shape[0]
            if by_time != (settings["rows"] == "by time"):
                return None
        ordered = h_TBH if settings["rows"] == "by time" else h_TBH.swapaxes(0, 1)
        return ordered.reshape(shape) if ordered.size == np.prod(shape) else None
    taken = {
        "mean": h_TBH.mean(0),
        "largest": h_TBH.max(0),
        "first": h_TBH[0],
    }.get(output, h_TBH[-1])
    return taken.reshape(shape) if taken.size == np.prod(shape) else None


RECURRENT = _Recurrent()
