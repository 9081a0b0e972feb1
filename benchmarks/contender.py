"""The process of one contender: says how long it took to be ready, then times a run for each line it is sent."""

import json
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

from lockstep.errors import InputError
from lockstep.tensor_file import write_tensors

__all__ = ["main"]

PARAMETERS = "lockstep.parameters/1"


def main() -> None:
    """Read the work as one JSON line, then one line for each run; answer each with one JSON line."""
    work = json.loads(sys.stdin.readline())
    begin = perf_counter()
    try:
        _answer(_get_ready(work, begin))
    except InputError as error:
        _answer({"error": str(error)})
    except Exception as error:  # a compiler that is missing or fails, an operation that is not supported
        _answer({"skipped": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"})
    else:
        for _ in sys.stdin:
            READY[0].reset()
            begin = perf_counter()
            READY[0].run()
            _answer({"seconds": perf_counter() - begin})


READY: list[Any] = []


def _get_ready(work: dict[str, Any], begin: float) -> dict[str, Any]:
    from benchmarks.contenders import CONTENDERS
    from lockstep.data_prep import PreparedData
    from lockstep.recipe import Recipe

    package, prepare = CONTENDERS[work["contender"]]
    try:
        __import__({"torch": "pt_impl.train", "jax": "jax_impl.train"}[package])
    except ModuleNotFoundError as error:
        return {"skipped": f"{error.name} is not installed"}
    imported = perf_counter()
    recipe, data = Recipe.from_dict(work["recipe"]), PreparedData.load(Path(work["data"]))
    in_float64 = prepare(recipe.with_dtype("float64"), data, work["device"])
    in_float64.reset()
    in_float64.run()
    write_tensors(Path(work["out"]), PARAMETERS, {}, in_float64.parameters())
    prepared = prepare(recipe, data, work["device"])
    prepared.reset()
    ready = perf_counter()
    prepared.run()
    READY[:] = [prepared]
    return {
        "import_seconds": imported - begin,
        "first_run_seconds": perf_counter() - ready,
        "environment": prepared.environment,
    }


def _answer(message: dict[str, Any]) -> None:
    print(json.dumps({"lockstep": message}), flush=True)


if __name__ == "__main__":
    main()
