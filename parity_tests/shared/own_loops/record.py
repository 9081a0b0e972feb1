"""Train both sides of a pair and record them."""

from pathlib import Path
from typing import NamedTuple

import jax_impl.proof.own_loops.loop
import pt_impl.proof.own_loops.loop
from lockstep import Trace
from lockstep.diagnose.names import NameMap, save_names
from lockstep.studies.prove.own_loops.right_pairs import Pair
from lockstep.studies.prove.own_loops.start import map_of
from lockstep.studies.prove.own_loops.ways import Loop

__all__ = ["Recording", "names_of", "record"]

TRAIN = {"torch": pt_impl.proof.own_loops.loop.train, "jax": jax_impl.proof.own_loops.loop.train}


class Recording(NamedTuple):
    """The traces of a pair, its name map, and its perturbed reruns."""

    a: Trace
    b: Trace
    names: NameMap | None
    noise: list[Trace]


def names_of(pair: Pair) -> NameMap | None:
    """The name map of a pair whose sides are of two frameworks; None for one framework."""
    if pair.a.framework == pair.b.framework:
        return None
    return map_of(pair.a)


def record(pair: Pair, folder: Path) -> Recording:
    """Write a.trace, b.trace, noise-<n>.trace and names.toml to `folder`."""
    a = _train(pair.a, folder / "a.trace")
    b = _train(pair.b, folder / "b.trace")
    noise: list[Trace] = []
    for seed in pair.seeds:
        noise.append(_train(pair.a, folder / f"noise-{len(noise) + 1}.trace", seed))
    names = names_of(pair)
    if names is not None:
        save_names(folder / "names.toml", names)
    return Recording(a, b, names, noise)


def _train(loop: Loop, path: Path, perturb: int | None = None) -> Trace:
    return TRAIN[loop.framework](loop, path, perturb)
