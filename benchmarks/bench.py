"""Both backends timed side by side: one process each, proved equal first, interleaved in random order."""

import json
import os
import platform
import random
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks.contender import PARAMETERS
from benchmarks.contenders import CONTENDERS
from lockstep.data_prep import Parameters, PreparedData, prepare
from lockstep.diagnose.compare import SEMANTICS
from lockstep.errors import InputError
from lockstep.oracle.train import train as train_oracle
from lockstep.recipe import Recipe
from lockstep.tensor_file import read_tensors, write_file

__all__ = ["SCHEMA", "Contender", "compare_with_oracle", "median_interval", "run_bench", "short"]

SCHEMA = "lockstep.bench/1"


class Contender:
    """One contender's process."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.contender"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            # one GPU holds all contenders, and no compiler finds what an earlier process compiled
            env={**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1"},
        )

    def ask(self, message: Any) -> dict[str, Any]:
        """Send a JSON line and wait for the answer."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(message) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            return {"skipped": f"the process ended with status {self.process.wait()}"}
        for line in self.process.stdout:
            try:
                answer: dict[str, Any] = json.loads(line)["lockstep"]
            except (ValueError, KeyError, TypeError):
                continue  # a library's own print
            return answer
        return {"skipped": f"the process ended with status {self.process.wait()}"}

    def stop(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.communicate()


def run_bench(
    recipe: Recipe,
    *,
    device: str,
    rounds: int,
    out: Path | None,
    console: Console,
    contenders: Sequence[str] = tuple(CONTENDERS),
) -> int:
    """Time every contender on a recipe and print the figures.

    Args:
        recipe: what to train; timed in its dtype, compared with the oracle in float64.
        device: "cpu", "gpu" or "auto".
        rounds: how often each is timed; every round times all of them, in random order.
        out: where to write all samples as JSON, if anywhere.
        console: where to print.
        contenders: names from `CONTENDERS`.

    Returns:
        0; 1 where a contender computes something else.

    Raises:
        InputError: no such device, bad data, or a file that cannot be written.
    """
    if out is not None and not out.parent.is_dir():
        raise InputError(f"--out {out}: no folder {out.parent}")
    data = prepare(recipe)
    float64 = train_oracle(recipe.with_dtype("float64"), data, bounds=False)
    truth = float64.parameters(data.updates)
    found: dict[str, dict[str, Any]] = {}
    running: dict[str, Contender] = {}
    try:
        with tempfile.TemporaryDirectory() as folder:
            data.save(Path(folder) / "data")
            for number, name in enumerate(contenders):
                console.print(f"getting ready: {name}")
                running[name] = Contender(name)
                found[name] = _get_ready(running[name], recipe, device, Path(folder), number, truth)
                if "samples" not in found[name]:
                    running.pop(name).stop()
        order = random.Random(0)
        for _ in range(rounds):
            for name in order.sample(list(running), k=len(running)):
                answer = running[name].ask("run")
                if "seconds" not in answer:
                    raise InputError(f"{name}: {answer.get('skipped', answer)}")
                found[name]["samples"].append(answer["seconds"] / data.updates)
    finally:
        for contender in running.values():
            contender.stop()
    _print(found, recipe, data, rounds, console)
    if out is not None:
        content = {"schema": SCHEMA, "machine": machine(), "recipe": asdict(recipe), "contenders": found}
        write_file(out, json.dumps(content, indent=2).encode())
    return 1 if any("differs" in result for result in found.values()) else 0


def _get_ready(
    contender: Contender, recipe: Recipe, device: str, folder: Path, number: int, truth: Parameters
) -> dict[str, Any]:
    out = folder / f"{number}.parameters"
    answer = contender.ask(
        {
            "contender": contender.name,
            "recipe": asdict(recipe),
            "data": str(folder / "data"),
            "device": device,
            "out": str(out),
        }
    )
    if "error" in answer:
        raise InputError(answer["error"])
    if "skipped" in answer:
        return answer
    error = compare_with_oracle(read_tensors(out, PARAMETERS)[1], truth)
    if not error <= SEMANTICS:
        return answer | {"differs": error}
    return answer | {"float64_error": error, "samples": []}


def compare_with_oracle(parameters: Mapping[str, Any], truth: Parameters) -> float:
    """Largest difference of any parameter after the last float64 update, relative to its tensor's largest value;
    infinite where names or shapes differ."""
    if parameters.keys() != truth.keys() or any(parameters[name].shape != truth[name].shape for name in truth):
        return float("inf")
    errors = [np.abs(parameters[name] - truth[name]).max() / np.abs(truth[name]).max() for name in truth]
    return float(np.max(errors))


def median_interval(samples: Sequence[float]) -> tuple[float, float, float]:
    """The median, and an interval that holds the true one with at least 95 % confidence: order statistics by the
    binomial distribution (Conover, Practical Nonparametric Statistics, 3rd ed., section 3.2). With fewer than 6
    samples the interval is from the least to the greatest, and its confidence 1 - 2^(1-n) is below that."""
    ordered, n = sorted(samples), len(samples)
    pascal = [1]
    for _ in range(n):
        pascal = [a + b for a, b in zip([0, *pascal], [*pascal, 0])]
    below, outside = 0, pascal[0]
    while 2 * (outside + pascal[below + 1]) <= 0.05 * 2**n:
        below += 1
        outside += pascal[below]
    return median(ordered), ordered[below], ordered[n - 1 - below]


def short(value: float) -> str:
    """Three digits, or all those before the point."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass  # not Linux, or a processor that does not say
    return {"processor": model, "cores": os.cpu_count(), "system": platform.platform()}


def _print(found: Mapping[str, Any], recipe: Recipe, data: PreparedData, rounds: int, console: Console) -> None:
    timed = {name: result for name, result in found.items() if "samples" in result}
    fastest = min(timed, key=lambda name: median(timed[name]["samples"]), default="")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("contender", no_wrap=True)
    interval = "95 %" if rounds >= 6 else "range"  # fewer samples carry no such interval
    for header in (f"us/update\n{interval}", f"x fastest\n{interval}", "import\n", "first run\n"):
        table.add_column(header, justify="right", no_wrap=True)
    for name, result in timed.items():
        time, low, high = (1e6 * value for value in median_interval(result["samples"]))
        ratios = [a / b for a, b in zip(result["samples"], timed[fastest]["samples"])]
        ratio, ratio_low, ratio_high = median_interval(ratios)
        apart = (f"{result['import_seconds']:.1f} s", f"{result['first_run_seconds']:.1f} s")
        both = f"{short(time)}\n{short(low)}-{short(high)}", f"{short(ratio)}\n{short(ratio_low)}-{short(ratio_high)}"
        table.add_row(name, *both, *apart)
    sizes = f"{data.updates} updates of {recipe.training.batch} rows, {recipe.training.dtype}"
    console.print(f"\nTime per update, steady state: {sizes}; {rounds} interleaved rounds", highlight=False)
    console.print(table)
    console.print("steps: one update a call; first run: compiling, where there is any, and one run\n", highlight=False)
    for name, result in found.items():
        if "differs" in result:
            error = result["differs"]
            console.print(f"{name}: computes something else ({error:.1e} from the oracle in float64): not timed")
        elif "skipped" in result:
            console.print(f"{name}: skipped: {escape(result['skipped'])}", soft_wrap=True)
        else:
            settings = ", ".join(f"{key} {value}" for key, value in result["environment"].items())
            console.print(f"{name}: {settings}; float64 error {result['float64_error']:.1e}", highlight=False)
    console.print(", ".join(f"{key}: {value}" for key, value in machine().items()), highlight=False)
