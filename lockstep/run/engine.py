"""Two engines of a twin train the same: `plain`, the framework as people write it, and `fast`."""

from collections.abc import Collection, Iterator
from importlib import import_module
from typing import Any

from lockstep.data_prep import PreparedData
from lockstep.errors import InputError
from lockstep.recipe import Recipe
from lockstep.records.checkpoint import Checkpoint, Checkpoints
from lockstep.records.trace import BUDGET_MIB, Progress, Trace

__all__ = ["choose_engine", "train"]


def choose_engine(
    engine: str, detail: Collection[int] = (), synchronised: bool = False, statistics: bool = False
) -> tuple[str, str]:
    """Which engine trains, plain or fast, and why where "auto" is plain.

    "auto" is the fast one wherever it can: it has less to load and compiles about as long. Measured on a CPU, its
    updates take 0.09 (PyTorch) and 0.7 (JAX) of plain's time for the seed recipe, and 0.7 and 1 with two layers of
    512 units.

    Raises:
        InputError: "fast" where only plain can.
    """
    reason = "updates in detail are recorded" if detail else ""
    if statistics:
        reason = "statistics of every update are recorded"
    if synchronised:
        reason = "every update begins from a state that is given"
    if engine == "fast" and reason:
        raise InputError(f"--engine fast: {reason}; plain does it, and auto would pick that")
    return ("fast" if engine != "plain" and not reason else "plain"), reason if engine == "auto" else ""


def train(
    recipe: Recipe,
    data: PreparedData,
    *,
    package: str,
    engine: str = "auto",
    device: str = "cpu",
    parameters_every: int = 0,
    detail: Collection[int] = (),
    statistics: bool = False,
    progress: Progress | None = None,
    resume: Checkpoint | None = None,
    checkpoints: Checkpoints | None = None,
    synchronise: Iterator[Checkpoint] | None = None,
    budget_mib: float = BUDGET_MIB,
) -> Trace:
    """Train on the recipe's data with an engine of a twin and record the run.

    Args:
        recipe: what to train.
        data: from `lockstep.data_prep.prepare`.
        package: the twin: "pt_impl" or "jax_impl".
        engine: "plain", "fast", or "auto" for fast where it can; the trace's environment says which it was.
        device: "cpu", "gpu" or "auto".
        parameters_every: record the parameters after every so many updates too; 0: at epoch ends only.
        detail: the updates, counted from 0, to record in detail, from rows to moments.
        statistics: record mean, root mean square and largest absolute value of every tensor at every update too.
        progress: told how far the run is.
        resume: where to go on from, whichever backend wrote it; None: at the start.
        checkpoints: how often to write one, and where to; None: never.
        synchronise: states to begin every update from, as `lockstep.oracle.train.states` gives them; None: each goes on
            from the last.
        budget_mib: MiB of memory that the detail of all updates and the statistics may take.

    Raises:
        InputError: as the twin's `train.train`, or "fast" where only plain can.
    """
    chosen, reason = choose_engine(engine, detail, synchronise is not None, statistics)
    options: dict[str, Any] = {
        "device": device,
        "parameters_every": parameters_every,
        "progress": progress,
        "resume": resume,
        "checkpoints": checkpoints,
    }
    if chosen == "plain":
        options |= {
            "detail": detail,
            "statistics": statistics,
            "synchronise": synchronise,
            "budget_mib": budget_mib,
        }
    with import_module(f"{package}.io.device").few_threads(data):
        # each engine loads what it needs and no more: that takes seconds
        module = import_module(f"{package}.train" if chosen == "plain" else f"{package}.fast.train")
        trace: Trace = module.train(recipe, data, **options)
    trace.header["environment"] |= {"engine": chosen, "engine_reason": reason} if reason else {"engine": chosen}
    return trace
