"""What recording a large loop costs in time, memory and disk, and whether it finds what parts.

    python -m benchmarks.recording                  # 27 M parameters: bare against recorded loops
    python -m benchmarks.recording --size 124M      # two runs, one with a planted change, compared

Every run is a process of its own, since peak memory is a process's; rounds go through all modes in
turn, and ratios are within a round.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

__all__ = ["main"]

MODES: dict[str, dict[str, Any] | None] = {
    "bare": None,
    "scalars": {"every": 0},
    "sketches": {"every": 0, "sketches": True},
}
"""Name of a mode -> the options of its recorder; None: nothing is recorded."""
BARS = {"scalars": 1.15, "sketches": 1.3}
"""Most peak memory over that of the bare loop."""
SLOWEST = 1.1
LARGEST_MB = 5.0
CHANGED = "blocks.1.narrow.weight"
"""The tensor of which the second run changes one row."""
MIB = 2**20


class Run(NamedTuple):
    """What one process measured.

    Attributes:
        seconds: wall time of an update, the median without the first.
        cpu_seconds: of all threads, likewise.
        peak_mib: most resident memory.
        file_mb: size of the trace, in 10^6 bytes.
        parameters: of the model.
    """

    seconds: float
    cpu_seconds: float
    peak_mib: float
    file_mb: float
    parameters: int


def train(
    size: str, mode: str, updates: int, path: Path, threads: int, changed_at: int | None = None
) -> Run:
    """Train a model, recorded or not, in this process.

    Args:
        size: one of `SIZES`.
        mode: one of `MODES`.
        updates: how many.
        path: of the trace.
        threads: of PyTorch.
        changed_at: the update after which one row of one tensor is changed; None: none is.
    """
    import torch

    from benchmarks.transformer import SIZES, Transformer

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    sizes = SIZES[size]
    model = Transformer(sizes)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, weight_decay=0.1)
    recorder = _recorder(mode, path)
    if recorder is not None:
        recorder.watch(model, optimizer)
    wall, cpu = [], []
    for update in range(updates):
        begun, begun_cpu = time.perf_counter(), time.process_time()
        tokens = torch.randint(0, sizes.vocabulary, (sizes.rows, sizes.length + 1))
        logits = model(tokens[:, :-1])
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if update == changed_at:
            with torch.no_grad():
                model.get_parameter(CHANGED)[3] *= 1.1
        if recorder is not None:
            recorder.update(loss=loss)
        del logits, loss
        wall.append(time.perf_counter() - begun)
        cpu.append(time.process_time() - begun_cpu)
    if recorder is not None:
        recorder.finish()
    return Run(
        seconds=median(wall[1:] or wall),
        cpu_seconds=median(cpu[1:] or cpu),
        peak_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        file_mb=path.stat().st_size / 1e6 if path.exists() else 0.0,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
    )


def _recorder(mode: str, path: Path) -> Any:
    """The recorder of a mode; None for the bare loop, which does not import lockstep."""
    options = MODES[mode]
    if options is None:
        return None
    from lockstep.own_loops.recorder import Recorder

    return Recorder(path, backend="torch", **options)


def run_apart(options: argparse.Namespace, mode: str, path: Path, changed_at: int = -1) -> Run:
    """As `train`, in a process of its own.

    Raises:
        SystemExit: that process failed.
    """
    command = [sys.executable, "-m", "benchmarks.recording", "--one", mode, "--out", str(path)]
    command += ["--size", options.size, "--updates", str(options.updates)]
    command += ["--threads", str(options.threads), "--changed-at", str(changed_at)]
    ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if ended.returncode:
        sys.exit(ended.returncode)
    return Run(**json.loads(ended.stdout))


def weigh(options: argparse.Namespace, folder: Path) -> bool:
    """Print what every mode costs; whether all bars are met."""
    runs: dict[str, list[Run]] = {mode: [] for mode in MODES}
    for number in range(options.rounds):
        for mode in MODES:
            runs[mode].append(run_apart(options, mode, folder / f"{mode}-{number}.trace"))
    bare = runs["bare"]
    print(f"{bare[0].parameters / 1e6:.1f} M parameters, {options.updates} updates, {_machine()}")
    print(f"{options.rounds} rounds, {options.threads} threads; medians (range)")
    is_met = True
    for mode, of_mode in runs.items():
        memory = [run.peak_mib for run in of_mode]
        seconds = [run.seconds for run in of_mode]
        file_mb = max(run.file_mb for run in of_mode)
        line = f"{mode:9} {_spread(seconds, ' s')} an update, peak {_spread(memory, ' MiB', 0)}"
        if mode == "bare":
            print(line)
            continue
        ratios = [
            [getattr(run, field) / getattr(other, field) for run, other in zip(of_mode, bare)]
            for field in ("seconds", "cpu_seconds", "peak_mib")
        ]
        wall, cpu, peak = (_spread(ratio, " x", 3) for ratio in ratios)
        bars = [median(ratios[0]) <= SLOWEST, median(ratios[2]) <= BARS[mode], file_mb < LARGEST_MB]
        is_met = is_met and all(bars)
        words = ["met" if met else "missed" for met in bars]
        print(line)
        print(f"{'':9} time {wall}, bar {SLOWEST}: {words[0]}; processor time {cpu}")
        print(f"{'':9} memory {peak}, bar {BARS[mode]}: {words[1]}")
        print(f"{'':9} file {file_mb:.2f} MB, bar {LARGEST_MB:g}: {words[2]}")
    return is_met


def find_change(options: argparse.Namespace, folder: Path) -> bool:
    """Print what a comparison says of two runs, one with a planted change; whether it names it."""
    changed_at = options.updates // 2
    runs = []
    for name, at in (("first", -1), ("second", changed_at)):
        run = run_apart(options, "sketches", folder / f"{name}.trace", at)
        runs.append(run)
        print(
            f"{name}: {run.parameters / 1e6:.1f} M parameters, {options.updates} updates of "
            f"{run.seconds:.1f} s, peak {run.peak_mib:.0f} MiB, file {run.file_mb:.2f} MB"
        )
    print(f"planted: one row of {CHANGED} times 1.1 after update {changed_at}")
    command = [sys.executable, "-m", "lockstep", "compare"]
    command += [str(folder / f"{name}.trace") for name in ("first", "second")]
    begun = time.perf_counter()
    compared = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    print(compared.stdout.rstrip())
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    shown = " ".join(compared.stdout.split())
    is_named = compared.returncode == 1 and f"update {changed_at}" in shown and CHANGED in shown
    print(
        f"compared in {time.perf_counter() - begun:.1f} s; peak of all processes {peak:.0f} MiB; "
        f"the tensor is {'named' if is_named else 'NOT named'}; {_machine()}"
    )
    return is_named


def _spread(values: list[float], unit: str, digits: int = 2) -> str:
    return f"{median(values):.{digits}f}{unit} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def _machine() -> str:
    from lockstep.bench.results import machine  # the bare loop's process does without lockstep

    described = machine()
    return (
        f"torch {version('torch')}, numpy {version('numpy')}, {described['cores']} cores of "
        f"{described['processor']}"
    )


def main() -> None:
    """Read the command line; exit status 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.recording")
    parser.add_argument("--size", default="27M", choices=["1M", "27M", "124M"])
    parser.add_argument("--updates", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--find", action="store_true", help="compare two runs, as 124M does")
    parser.add_argument("--one", choices=list(MODES), help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--changed-at", type=int, default=-1, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        changed_at = options.changed_at if options.changed_at >= 0 else None
        run = train(
            options.size, options.one, options.updates, options.out, options.threads, changed_at
        )
        print(json.dumps(run._asdict()))
        return
    with tempfile.TemporaryDirectory() as folder:
        is_met = find_change if options.find or options.size == "124M" else weigh
        sys.exit(0 if is_met(options, Path(folder)) else 1)


if __name__ == "__main__":
    main()
