"""The process of one contender.

It trains once, proves what it trains, then times a run for each line that it is sent.
"""

import json
import resource
import sys
from importlib import import_module
from pathlib import Path
from time import perf_counter
from typing import Any

from lockstep.bench.prepared import Prepared, Unable
from lockstep.errors import InputError
from lockstep.tensor_file import write_tensors

__all__ = ["PARAMETERS", "main"]

PARAMETERS = "lockstep.parameters/1"
"""Schema of the file with the parameters after the proof."""

SHORTEST = 0.1
"""The least seconds that a sample takes."""


def main() -> None:
    """Read the work as one JSON line, then "prove" and "run" as a line each; answer each by a JSON
    line.
    """
    work = json.loads(sys.stdin.readline())
    begin = perf_counter()
    try:
        prepared, start = _first_run(work, begin)
        _answer(start)
        for line in sys.stdin:
            _answer(_prove(work) if json.loads(line) == "prove" else _run(prepared))
    except InputError as error:
        _answer({"error": str(error)})
    except ModuleNotFoundError as error:
        _answer({"skipped": f"{error.name} is not installed", "missing": error.name})
    except Unable as error:
        _answer({"skipped": str(error)})
    except Exception as error:
        # a compiler that is missing or fails, or an operation that is not supported
        _answer({"skipped": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"})


def _first_run(work: dict[str, Any], begin: float) -> tuple[Prepared, dict[str, Any]]:
    from lockstep.bench.registry import CONTENDERS

    import_module(CONTENDERS[work["contender"]].imports)
    imported = perf_counter()
    prepared = _prepare(work, work["recipe"], work["data"])
    prepared.reset()
    ready = perf_counter()
    prepared.run()
    first_run = perf_counter() - ready
    return prepared, {
        "import_seconds": imported - begin,
        "first_run_seconds": first_run,
        "peak_mib": _peak_mib(),
        "environment": prepared.environment | {"threads": work["threads"]},
        "trained": 0 if prepared.parameters is None else prepared.trained,
    }


def _peak_mib() -> float:
    """This process's largest resident memory until now, in MiB."""
    status = Path("/proc/self/status")
    if status.exists():  # on Linux, ru_maxrss includes the process that forked this one
        lines = status.read_text().splitlines()
        (peak_line,) = (line for line in lines if line.startswith("VmHWM:"))
        return int(peak_line.split()[1]) / 2**10
    units_in_mib = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / units_in_mib


def _prepare(work: dict[str, Any], recipe: dict[str, Any], data: list[str]) -> Prepared:
    from lockstep.bench.registry import make
    from lockstep.data_prep import PreparedData
    from lockstep.recipe import Recipe

    members = [PreparedData.load(Path(path)) for path in data]
    prepare = make(work["contender"])
    return prepare(Recipe.from_dict(recipe), members, work["device"], work["threads"])


def _prove(work: dict[str, Any]) -> dict[str, Any]:
    """Train the proof's data in float64, and write the parameters of each member to a file."""
    prepared = _prepare(work, work["proof"]["recipe"], work["proof"]["data"])
    prepared.reset()
    prepared.run()
    assert prepared.parameters is not None
    arrays: dict[str, Any] = {}
    for s, member in enumerate(prepared.parameters()):
        arrays |= {f"{s}/{name}": array for name, array in member.items()}
    write_tensors(Path(work["proof"]["out"]), PARAMETERS, {}, arrays)
    return {}


def _run(prepared: Prepared) -> dict[str, Any]:
    """The mean time of as many runs as take `SHORTEST` together.

    A shorter sample may fall between two turns of a busy machine's other processes.
    """
    seconds = 0.0
    runs = 0
    while seconds < SHORTEST:
        prepared.reset()
        begin = perf_counter()
        prepared.run()
        seconds += perf_counter() - begin
        runs += 1
    return {"seconds": seconds / runs}


def _answer(message: dict[str, Any]) -> None:
    print(json.dumps({"lockstep": message}), flush=True)


if __name__ == "__main__":
    main()
