"""Two traces made ready to be held against each other, and the public functions over them."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from lockstep.data_prep import PreparedData, prepare
from lockstep.diagnose.compare import (
    Bounds,
    Comparison,
    bounds_of,
    refuse_different_runs,
    refuse_unbounded,
)
from lockstep.diagnose.compare import compare as compare_arrays
from lockstep.diagnose.diagnosis import Diagnosis
from lockstep.diagnose.diagnosis import diagnose as diagnose_arrays
from lockstep.diagnose.loops import align, is_loop, notes_on, sides_of
from lockstep.diagnose.names import NameMap, load_names
from lockstep.diagnose.noise import loop_bounds
from lockstep.diagnose.remarks import remarks_on
from lockstep.diagnose.same_bits import note_on_bits
from lockstep.errors import InputError
from lockstep.oracle.train import states, train
from lockstep.records.run_recorder import Watch
from lockstep.records.trace import Trace

__all__ = ["TracePair", "compare", "data_of", "diagnose", "make_pair", "truth_of"]

Names = NameMap | Path | str | None
"""A name map, or the TOML file that holds one."""


class TracePair(NamedTuple):
    """Two traces that can be compared, the oracle's of their recipe, the bounds on rounding, notes
    to read before their numbers, and what the bounds leave open.
    """

    a: Trace
    b: Trace
    oracle: Trace | None
    bounds: Bounds
    notes: Sequence[str]
    remarks: Sequence[str] = ()

    def notes_on(self, verdict: str) -> list[str]:
        """The notes to read before a verdict; where nothing diverges, what may still hide too."""
        return [*self.notes, *(() if verdict == "diverged" else self.remarks)]


def compare(
    a: Trace | Path | str,
    b: Trace | Path | str,
    *,
    oracle: Trace | None = None,
    names: Names = None,
    noise: Sequence[Trace] = (),
) -> Comparison:
    """Judge two traces, as `lockstep compare` does.

    Args:
        a: one trace, or its file: of `train`, or of a loop of your own, recorded by `Recorder`.
        b: the other; of the same recipe and data, or a loop as well.
        oracle: the oracle's trace of that recipe, with bounds. None: where neither side is one, it
            is trained here, which takes some ten float64 trainings.
        names: of two loops, what b calls and lays out otherwise.
        noise: of two loops, reruns or perturbed runs of either side, from which the bounds on
            rounding are measured.

    Returns:
        `verdict` is "identical", "rounding", "diverged" or "inconclusive". `first` is the first
        difference beyond its bound, None unless the traces diverge: `update` counted from 0,
        `stage`, `tensor`, `element`, both values, `difference` and `bound` in the tensor's own
        unit. `limit` says from where on nothing was judged, if anywhere.

    Raises:
        InputError: traces that cannot be read or compared: of different recipes or data, or with
            nothing in common.
    """
    pair = make_pair(_read(a), _read(b), oracle=oracle, names=names, noise=noise)
    return compare_arrays(pair.a, pair.b, pair.bounds)


def diagnose(
    a: Trace | Path | str,
    b: Trace | Path | str,
    *,
    oracle: Trace | None = None,
    names: Names = None,
    noise: Sequence[Trace] = (),
) -> Diagnosis:
    """Say where two traces first part, which of them is off, and why, as `lockstep diagnose` does.

    Updates recorded in detail (`train(..., detail=range(4))`) let more causes be tested.

    Args:
        a: one trace, or its file, as for `compare`.
        b: the other.
        oracle: as for `compare`.
        names: as for `compare`.
        noise: as for `compare`.

    Returns:
        `verdict` as of `compare`, or the graver one where a side parts from the oracle. `first` is
        the first difference in causal order; `off` is "a", "b", "both", or "" where nothing tells;
        `cause` has a `text` and the atlas `page`, and is None where no known cause explains the
        numbers.

    Raises:
        InputError: as `compare`.
    """
    pair = make_pair(_read(a), _read(b), oracle=oracle, names=names, noise=noise)
    return diagnose_arrays(pair.a, pair.b, pair.oracle, bounds=pair.bounds)


def make_pair(
    a: Trace,
    b: Trace,
    *,
    oracle: Trace | None = None,
    names: Names = None,
    noise: Sequence[Trace] = (),
) -> TracePair:
    """Find or train the oracle of two traces of a recipe; align two traces of somebody's own loops.

    Raises:
        InputError: traces that cannot be compared; options for own loops beside a recipe's trace,
            or the other way round.
    """
    if not (is_loop(a) or is_loop(b)):
        if names or noise:
            raise InputError(
                "--names and --noise are for loops of your own; a recipe has its names and its "
                "bounds"
            )
        return _pair_of_recipe(a, b, oracle)
    if oracle:
        raise InputError("--oracle is for a recipe; a loop of your own has its bounds from --noise")
    name_map = load_names(Path(names)) if isinstance(names, str | Path) else names
    sides = sides_of(list(noise), a, b, name_map)
    a, b = align(a, b, name_map)
    notes = list(filter(None, [*notes_on(a, b), note_on_bits(a, b)]))
    if not noise:
        notes.append(
            "no noise was measured (--noise): bounds are what rounding every sum once an update "
            "comes to"
        )
    bounds = loop_bounds(a, b, sides)
    return TracePair(a, b, None, bounds, notes, remarks_on(a, b, bounds))


def data_of(trace: Trace) -> PreparedData:
    """The data that a trace was trained on, prepared again.

    Raises:
        InputError: what is prepared here is not what the trace was trained on.
    """
    data = prepare(trace.recipe)
    if data.hash != trace.header["data_hash"]:
        raise InputError(
            f"the data of these traces ({trace.header['data_hash'][:12]}) cannot be prepared again "
            f"here (found {data.hash[:12]}): give the oracle's trace, which carries the rounding "
            "bounds"
        )
    return data


def truth_of(a: Trace, b: Trace, data: PreparedData) -> Trace:
    """The oracle's trace, with bounds, of all that either trace recorded."""
    intervals = [trace.header["parameters_every"] for trace in (a, b)]
    watch = Watch(
        parameters_every=min(filter(None, intervals), default=0),
        detail={*a.header["detail"], *b.header["detail"]},
        statistics=any(trace.header.get("statistics") is not None for trace in (a, b)),
        synchronise=states(a.recipe, data) if a.header["synchronised"] else None,
    )
    return train(a.recipe, data, watch=watch)


def _pair_of_recipe(a: Trace, b: Trace, oracle: Trace | None) -> TracePair:
    refuse_different_runs(a, b)
    carriers = [trace for trace in (oracle, a, b) if trace is not None and bounds_of(trace)]
    truth = carriers[0] if carriers else truth_of(a, b, data_of(a))
    refuse_different_runs(a, truth)
    refuse_unbounded(a, b, truth)
    return TracePair(a, b, truth, bounds_of(truth) or {}, [])


def _read(trace: Trace | Path | str) -> Trace:
    return trace if isinstance(trace, Trace) else Trace.load(Path(trace))
