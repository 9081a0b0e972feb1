"""The process of one contender: says how long it took to be ready, then times a run for each line it is sent."""

import json
import sys
from importlib import import_module
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from lockstep.errors import InputError
from lockstep.tensor_file import write_tensors

if TYPE_CHECKING:
    from benchmarks.contenders import Prepared

__all__ = ["main"]

PARAMETERS = "lockstep.parameters/1"


def main() -> None:
    """Read the work as one JSON line, then one line for each run; answer each with one JSON line."""
    work = json.loads(sys.stdin.readline())
    begin = perf_counter()
    try:
        prepared, found = _get_ready(work, begin)
    except ModuleNotFoundError as error:
        return _answer({"skipped": f"{error.name} is not installed"})
    except InputError as error:
        return _answer({"error": str(error)})
    except Exception as error:  # a compiler that is missing or fails, an operation that is not supported
        return _answer({"skipped": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"})
    _answer(found)
    for _ in sys.stdin:
        prepared.reset()
        begin = perf_counter()
        prepared.run()
        _answer({"seconds": perf_counter() - begin})
    return None


def _get_ready(work: dict[str, Any], begin: float) -> tuple["Prepared", dict[str, Any]]:
    from benchmarks.contenders import CONTENDERS
    from lockstep.data_prep import PreparedData
    from lockstep.recipe import Recipe

    module, prepare = CONTENDERS[work["contender"]]
    import_module(module)
    imported = perf_counter()
    recipe, data = Recipe.from_dict(work["recipe"]), PreparedData.load(Path(work["data"]))
    prepared = prepare(recipe, data, work["device"])
    prepared.reset()
    ready = perf_counter()
    prepared.run()
    first_run = perf_counter() - ready
    in_float64 = prepare(recipe.with_dtype("float64"), data, work["device"])
    in_float64.reset()
    in_float64.run()
    write_tensors(Path(work["out"]), PARAMETERS, {}, in_float64.parameters())
    return prepared, {
        "import_seconds": imported - begin,
        "first_run_seconds": first_run,
        "environment": prepared.environment,
    }


def _answer(message: dict[str, Any]) -> None:
    print(json.dumps({"lockstep": message}), flush=True)


if __name__ == "__main__":
    main()
